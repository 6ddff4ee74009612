"""Training of one network: float, fine-tuned, distilled or quantisation-aware, by one loop.

Invariant: a state and the seed determine everything that follows, so a run continued from any
round's state ends with the same bits.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num

from micronets_jax import accelerators, quantize, recipes
from micronets_jax.losses import CROSS_ENTROPY, Loss, agreement
from micronets_jax.network import Network
from micronets_jax.supernet import Supernet

ALL = slice(None)

Variables = dict[str, Any]
Progress = Callable[[int, int, dict[str, int | float]], None]
"""Called with steps done, steps in all and the latest metrics."""


@runtime_checkable
class Examples(Protocol):
    """Labelled raw examples; ``data.Split`` is one."""

    def __len__(self) -> int: ...

    def num_batches(self, batch_size: int) -> int:
        """Whole batches in an epoch."""
        ...

    def batches(
        self, batch_size: int, seed: int, epoch: int, rows: slice = ALL
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The whole batches of one epoch, an order made from seed and epoch alone.

        Args:
            batch_size: of every batch.
            seed: of the order.
            epoch: of the order.
            rows: of each batch, those that are read; a host that computes with others reads its
                share.

        Yields:
            Raw examples [rows, ...] and labels [rows, ...].
        """
        ...


Inputs = Callable[
    [Key[Array, ""], Num[Array, "batch ..."], Num[Array, "batch ..."]],
    tuple[Float[Array, "batch ..."], Num[Array, "batch ..."]],
]
"""From raw examples and labels to what the network reads and the targets, augmentation included.

Targets are classes [batch], shares of each class [batch, classes], or whatever else the loss
compares outputs with. Pure and jittable."""


class Model(NamedTuple):
    """What is trained: ``forward(trainable, stats, x) -> logits, stats`` in training mode."""

    forward: Callable[[Variables, Variables, Array], tuple[Array, Variables]]


class Prepared(NamedTuple):
    """Examples as a network sees them, step after step: made once, read by many trainings.

    Attributes:
        steps: inputs and targets of each.
        per_epoch: steps of a whole pass over the examples.
    """

    steps: list[tuple[np.ndarray, np.ndarray]]
    per_epoch: int

    def __len__(self) -> int:
        return sum(len(labels) for _, labels in self.steps[: self.per_epoch])

    def num_batches(self, batch_size: int) -> int:
        """Batches of an epoch, of the size that was chosen when they were made."""
        return self.per_epoch

    def batches(
        self, batch_size: int, seed: int, epoch: int, rows: slice = ALL
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of an epoch, in the order that was chosen when they were made.

        Args:
            batch_size: of every batch, that of the preparation.
            seed: not used.
            epoch: which.
            rows: of each batch, those that are read.

        Returns:
            Inputs [rows, ...] and targets [rows, ...] of each step.
        """
        of_epoch = self.steps[epoch * self.per_epoch : (epoch + 1) * self.per_epoch]
        return ((x[rows], targets[rows]) for x, targets in of_epoch)


def prepare(examples: Examples, inputs: Inputs, recipe: recipes.Training, *, seed: int) -> Prepared:
    """What :func:`fit` would feed a network, computed ahead; fit it with :func:`as_prepared`.

    Args:
        examples: raw training examples.
        inputs: front end and augmentation.
        recipe: batch size and steps.
        seed: of the order of examples and of augmentation.

    Returns:
        Inputs and targets of every step, in memory.
    """
    seen = batches(examples, inputs, recipe, seed)
    steps = [(np.asarray(x), np.asarray(targets)) for x, targets in seen]
    return Prepared(steps, examples.num_batches(recipe.batch_size))


def batches(
    examples: Examples,
    inputs: Inputs,
    recipe: recipes.Training,
    seed: int,
    mesh: jax.sharding.Mesh | None = None,
    first: int = 0,
) -> Generator[tuple[Array, Array], None, None]:
    """What a network sees from step ``first`` to the last: ``inputs`` as a step would compute.

    Args:
        examples: raw training examples.
        inputs: front end and augmentation.
        recipe: batch size and steps.
        seed: of the order of examples and of augmentation.
        mesh: over which examples are laid; None computes all of them here.
        first: step to begin with.

    Yields:
        Inputs [batch, ...] and targets [batch, ...] of each step.
    """
    compute, key = jax.jit(inputs), jax.random.key(seed)
    per_epoch = examples.num_batches(recipe.batch_size)
    rows = accelerators.share(mesh, recipe.batch_size)
    steps = range(first, recipe.num_steps(per_epoch))
    epoch, skipped = divmod(first, per_epoch)
    raw = itertools.chain.from_iterable(
        examples.batches(recipe.batch_size, seed, number, rows) for number in itertools.count(epoch)
    )

    def prepared(numbered: tuple[int, tuple[np.ndarray, np.ndarray]]) -> tuple[Array, Array]:
        step, batch = numbered
        placed = accelerators.place(batch, mesh, "data")
        return compute(jax.random.fold_in(key, step), *placed)

    return computed_ahead(
        prepared, zip(steps, itertools.islice(raw, skipped, None), strict=False), mesh
    )


MOST_ROUNDS = 40
"""Rounds of a training whose length is given in steps."""


def rounds(recipe: recipes.Training, per_epoch: int) -> list[int]:
    """The step at which each round of a training ends, after which its state is yielded.

    A round is an epoch, or several where steps are given and passes over the data are short.

    Args:
        recipe: epochs or steps.
        per_epoch: steps of an epoch.
    """
    total = recipe.num_steps(per_epoch)
    count = recipe.epochs or min(max(total // per_epoch, 1), MOST_ROUNDS)
    return [total * number // count for number in range(1, count + 1)]


Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items, each computed in another thread while the one before it is in use.

    A step of a small network keeps one core busy, and so does the front end.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


Made = TypeVar("Made")


def computed_ahead(
    compute: Callable[[Item], Made], raw: Iterator[Item], mesh: jax.sharding.Mesh | None
) -> Generator[Made, None, None]:
    """``compute(item)`` of each item, read and computed while the one before it is in use.

    Hosts that compute together have to begin their programs in the same order, which two threads
    do not keep; so there only reading is done in another thread.
    """
    if not accelerators.spans_hosts(mesh):
        yield from ahead(jax.block_until_ready(compute(item)) for item in raw)
        return
    with contextlib.closing(ahead(raw)) as read:
        for item in read:
            yield compute(item)


def as_prepared(key: Key[Array, ""], x: Array, targets: Array) -> tuple[Array, Array]:
    """The ``inputs`` of prepared examples: nothing is left to do."""
    return x, targets


class State(NamedTuple):
    """Everything a training step reads and writes."""

    step: Int[Array, ""]
    trainable: Variables
    stats: Variables
    optimizer: optax.OptState


def float_model(network: Network, bits: int | None = None, precision: str = "float32") -> Model:
    """The network in float with batch norm; ``bits``, ``precision`` as of ``supernet.Supernet``."""

    def forward(trainable: Variables, stats: Variables, x: Array) -> tuple[Array, Variables]:
        outputs: Any = Supernet(network, bits, precision).apply(
            {"params": trainable, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        logits, changed = outputs
        return logits, changed["batch_stats"]

    return Model(forward)


def quantized_model(network: Network) -> Model:
    """The int8 network simulated: ``trainable`` holds ``folded`` weights and ``ranges``."""

    def forward(trainable: Variables, stats: Variables, x: Array) -> tuple[Array, Variables]:
        return quantize.apply(network, trainable["folded"], trainable["ranges"], x), stats

    return Model(forward)


def kernels_only(trainable: Variables) -> Variables:
    """True at kernels, False at all else, for weight decay."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) == "kernel", trainable
    )


def init(trainable: Variables, stats: Variables, recipe: recipes.Training, num_steps: int) -> State:
    """The state before the first step.

    Args:
        trainable: first weights.
        stats: first batch-norm moments.
        recipe: of the optimiser.
        num_steps: of the whole training, for the schedule.

    Returns:
        Step 0, the variables given and the optimiser's first state.
    """
    optimizer = accelerators.once(_optimizer(recipe, num_steps).init, trainable)
    return State(jnp.zeros((), jnp.int32), trainable, stats, optimizer)


def make_step(
    model: Model,
    inputs: Inputs,
    recipe: recipes.Training,
    num_steps: int,
    key: Key[Array, ""],
    loss: Loss = CROSS_ENTROPY,
) -> Callable[[State, Array, Array], tuple[State, Float[Array, " metrics"]]]:
    """One step of training, pure and not yet jitted.

    Args:
        model: what is trained.
        inputs: front end and augmentation.
        recipe: of the optimiser, and the smoothing of targets.
        num_steps: of the whole training, for the schedule.
        key: of augmentation; the step's number is folded in.
        loss: what is minimised.

    Returns:
        ``step(state, raw, labels) -> state, metrics``; metrics, float32 [metrics], are those that
        :func:`logged` names.

    Raises:
        ValueError: targets are to be smoothed that are no classes; raised by the step.
    """
    optimizer = _optimizer(recipe, num_steps)

    def objective(trainable: Variables, stats: Variables, x: Array, targets: Array):
        outputs, stats = model.forward(trainable, stats, x)
        value = loss.value(outputs, loss.smoothed(outputs, targets, recipe.label_smoothing), x)
        others = [agreement(outputs, targets)] if loss.of_classes else []
        return value, (stats, others)

    def step(state: State, raw: Array, labels: Array) -> tuple[State, Array]:
        x, targets = inputs(jax.random.fold_in(key, state.step), raw, labels)
        (value, (stats, others)), gradient = jax.value_and_grad(objective, has_aux=True)(
            state.trainable, state.stats, x, targets
        )
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.trainable)
        trainable: Any = optax.apply_updates(state.trainable, updates)
        return State(state.step + 1, trainable, stats, opt_state), jnp.stack([value, *others])

    return step


def fit(
    model: Model,
    state: State,
    examples: Examples,
    inputs: Inputs,
    recipe: recipes.Training,
    *,
    seed: int,
    loss: Loss = CROSS_ENTROPY,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[State, dict[str, int | float]]]:
    """Train from ``state`` to the end of the recipe, round by round.

    A round is an epoch or several, see
    :func:`rounds`.

    Args:
        model: what is trained.
        state: from :func:`init`, or yielded by an earlier, interrupted call.
        examples: raw training examples.
        inputs: front end and augmentation.
        recipe: how.
        seed: of the order of examples and of augmentation.
        loss: what is minimised; distillation by ``losses.distilled``.
        mesh: from ``accelerators.mesh``, over whose axis ``data`` examples are laid.
        progress: called now and then.

    Yields:
        State after each round and its mean metrics by name, among them the ``epoch`` in which it
        ended, from 1 on.
    """
    per_epoch = examples.num_batches(recipe.batch_size)
    total = recipe.num_steps(per_epoch)
    step = jax.jit(
        make_step(model, as_prepared, recipe, total, jax.random.key(seed), loss),
        out_shardings=accelerators.replicated(mesh),
    )
    state = accelerators.place(state, mesh)
    done = int(state.step)
    with contextlib.closing(batches(examples, inputs, recipe, seed, mesh, first=done)) as ready:
        for end in rounds(recipe, per_epoch):
            seen = []
            for batch in itertools.islice(ready, max(end - done, 0)):
                state, metrics = step(state, *batch)
                seen.append(metrics)
                done += 1
                if progress and (done % 10 == 0 or done == end):
                    progress(done, total, logged(loss, np.asarray(seen[-1])))
            if seen:
                mean = logged(loss, np.mean(np.asarray(seen), axis=0))
                yield state, {"epoch": -(-end // per_epoch), **mean}


def logged(loss: Loss, values: Float[np.ndarray, " metrics"]) -> dict[str, int | float]:
    """The metrics of a step by name: the loss, and of classes the accuracy."""
    names = ("loss", "accuracy") if loss.of_classes else ("loss",)
    return dict(zip(names, values.tolist(), strict=True))


def predict(
    apply: Callable[[Any, Array], Float[Array, "batch classes"]],
    variables: Any,
    x: Float[np.ndarray, "n ..."],
    batch_size: int = 256,
) -> Float[np.ndarray, "n classes"]:
    """``apply(variables, x)`` over all of ``x`` in batches of one shape.

    Compiled once for all calls with the same function.

    Args:
        apply: pure, from variables and a batch to logits.
        variables: of the network.
        x: inputs.
        batch_size: of every batch; the last one is padded.

    Returns:
        Outputs [n, classes], in the order of ``x``.
    """
    compiled = jax.jit(apply)
    out = []
    for start in range(0, len(x), batch_size):
        part = x[start : start + batch_size]
        padded = np.pad(part, [(0, batch_size - len(part))] + [(0, 0)] * (x.ndim - 1))
        out.append(np.asarray(compiled(variables, padded))[: len(part)])
    return np.concatenate(out)


def accuracy(logits: Num[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """Share of examples whose largest logit is at their label, in [0, 1]."""
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def validation(
    loss: Loss,
    outputs: Float[np.ndarray, "n outputs"],
    labels: Num[np.ndarray, "n ..."],
    x: Float[np.ndarray, "n rows columns channels"],
) -> dict[str, float]:
    """What is logged of outputs on examples that are not trained on.

    Args:
        loss: what is minimised.
        outputs: of the network.
        labels: the targets.
        x: inputs.

    Returns:
        ``validation_accuracy`` in [0, 1] of classes, ``validation_loss`` of all else.
    """
    if loss.of_classes:
        return {"validation_accuracy": accuracy(outputs, labels)}
    value = loss.value(jnp.asarray(outputs), jnp.asarray(labels), jnp.asarray(x))
    return {"validation_loss": float(value)}


def _optimizer(recipe: recipes.Training, num_steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        recipe.learning_rate,
        max(num_steps // 20, 1),
        max(num_steps, 2),
        recipe.final_learning_rate,
    )
    if recipe.optimizer == "sgd":
        return optax.chain(
            optax.add_decayed_weights(recipe.weight_decay, kernels_only),
            optax.sgd(schedule, momentum=0.9, nesterov=True),
        )
    return optax.adamw(schedule, weight_decay=recipe.weight_decay, mask=kernels_only)
