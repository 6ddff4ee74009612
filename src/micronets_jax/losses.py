"""Losses: what networks are trained by, and what is known of their outputs by it.

Invariant: a loss is a pure function of outputs, targets and inputs of a batch, its mean over these;
nothing else in a run knows what a network is trained for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Num

Outputs = Literal["classes", "numbers", "inputs"]
"""What a network's outputs are: logits of classes, numbers, or its own inputs again."""

Value = Callable[[Array, Array, Array], Float[Array, ""]]
"""Of outputs [batch, outputs], targets [batch, ...] and inputs [batch, rows, columns, channels]."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a network is trained by.

    Attributes:
        name: what it is called in a sentence.
        value: the mean over a batch.
        outputs: what the outputs are. Of classes accuracy is logged beside the loss, and targets
            may be smoothed and distilled; of all else the loss alone is logged.
    """

    name: str
    value: Value
    outputs: Outputs = "classes"

    @property
    def of_classes(self) -> bool:
        """Whether outputs are logits of classes."""
        return self.outputs == "classes"

    def smoothed(
        self, logits: Float[Array, "batch classes"], targets: Num[Array, "batch ..."], share: float
    ) -> Num[Array, "batch ..."]:
        """Shares of classes [batch, classes] with this share of the uniform distribution; the
        targets as they are where it is 0.

        Raises:
            ValueError: there are no classes to smooth.
        """
        if not share:
            return targets
        self.require_classes(f"label_smoothing={share:g}")
        return optax.smooth_labels(shares(targets, logits.shape[-1]), share)

    def require_classes(self, option: str) -> None:
        """Raise a ValueError that names the option unless outputs are logits of classes."""
        if not self.of_classes:
            raise ValueError(f"{option}: the loss is the {self.name}, which has no classes; give 0")


# ---------------------------------------------------------------- classes


def shares(targets: Num[Array, "batch ..."], classes: int) -> Float[Array, "batch classes"]:
    """Targets as shares of each class: one-hot where they are classes [batch]."""
    return jax.nn.one_hot(targets, classes) if targets.ndim == 1 else targets


def cross_entropy(
    logits: Float[Array, "batch classes"], targets: Num[Array, "batch ..."]
) -> Float[Array, ""]:
    """Mean over the batch of the cross entropy, in nats.

    Args:
        logits: of the network.
        targets: classes [batch], or shares of each class [batch, classes] that sum to 1.
    """
    return optax.softmax_cross_entropy(logits, shares(targets, logits.shape[-1])).mean()


def agreement(
    logits: Float[Array, "batch classes"], targets: Num[Array, "batch ..."]
) -> Float[Array, ""]:
    """Share of the batch whose largest logit is at the class, or at its largest share."""
    classes = targets if targets.ndim == 1 else jnp.argmax(targets, -1)
    return jnp.mean(jnp.argmax(logits, -1) == classes)


def distilled(
    loss: Loss,
    teacher: Callable[[Array], Float[Array, "batch classes"]],
    coefficient: float = 0.5,
    temperature: float = 4.0,
) -> Loss:
    """A loss that also follows a teacher's logits (Hinton et al., 2015).

    ``(1 - coefficient) * loss + coefficient * temperature**2 * KL(teacher || student)``, the
    divergence between both softened by the temperature.

    Args:
        loss: of classes.
        teacher: from inputs to logits.
        coefficient: weight of the teacher.
        temperature: what logits are divided by before they are compared.

    Returns:
        A loss of classes, whose name is the other's with ``, distilled`` behind.

    Raises:
        ValueError: the loss is not of classes.
    """
    loss.require_classes(f"distillation={coefficient:g}")

    def value(logits: Array, targets: Array, x: Array) -> Array:
        soft = jax.nn.softmax(jax.lax.stop_gradient(teacher(x)) / temperature)
        student = jax.nn.log_softmax(logits / temperature)
        divergence = optax.kl_divergence(student, soft).mean() * temperature**2
        return (1 - coefficient) * loss.value(logits, targets, x) + coefficient * divergence

    return Loss(f"{loss.name}, distilled", value)


# ---------------------------------------------------------------- numbers


def squared_error(
    outputs: Float[Array, "batch outputs"], targets: Num[Array, "batch ..."]
) -> Float[Array, ""]:
    """Mean over batch and outputs of the squared difference.

    Raises:
        ValueError: the shapes differ.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"outputs of the network are {list(outputs.shape)}, targets {list(targets.shape)}: "
            "the mean squared error compares arrays of one shape, so give labels [examples, "
            "outputs], or a space with as many outputs"
        )
    return jnp.mean(jnp.square(outputs - targets))


def reconstruction_error(
    outputs: Float[Array, "batch outputs"], x: Float[Array, "batch rows columns channels"]
) -> Float[Array, ""]:
    """Mean squared difference of outputs and the inputs that they repeat, in row-major order.

    Raises:
        ValueError: they are not as many.
    """
    return squared_error(outputs, x.reshape(len(x), -1))


CROSS_ENTROPY = Loss("cross entropy", lambda logits, targets, x: cross_entropy(logits, targets))
"""Of classifiers; labels are classes."""

SQUARED_ERROR = Loss(
    "mean squared error", lambda outputs, targets, x: squared_error(outputs, targets), "numbers"
)
"""Of regressions; labels are floats [examples, outputs]."""

RECONSTRUCTION = Loss(
    "reconstruction error", lambda outputs, targets, x: reconstruction_error(outputs, x), "inputs"
)
"""Of autoencoders, whose outputs are their inputs again; labels are not read."""
