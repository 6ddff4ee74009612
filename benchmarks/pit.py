"""Widths that PIT learns, to compare with: Pruning In Time (Risso et al., 2022), by PLiNIO.

Invariant: nothing else needs it. PyTorch comes with the extra ``peers``; PLiNIO is in no package
index, so a checkout of it (github.com/eml-eda/plinio; used here: 3d6b5e0) has to be on PYTHONPATH.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import torch
from plinio.cost import ops
from plinio.methods import PIT
from torch import nn

from micronets_jax import cost
from micronets_jax.budgets import Budget
from micronets_jax.network import Network
from micronets_jax.search import proposals
from micronets_jax.search.proposals import Layout
from micronets_jax.spaces import DSCNN

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Weights of the network's cost, as a share of the unpruned network's, beside cross entropy. Of the
networks that they lead to, the one is taken whose operations are nearest to the budget, and scaled
to it: no accuracy is looked at."""

WARM_UP = 1 / 3
"""Share of the steps that train weights alone."""


def found(
    space: DSCNN,
    budget: Budget,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    learning_rate: float,
    seed: int,
) -> Network:
    """The network of the widths that PIT learns, at the largest factor at which it fits.

    Args:
        space: whose largest network is pruned.
        budget: limits; ``mops`` is one of them.
        batches: inputs [batch, rows, columns, channels] and targets of each step.
        learning_rate: of Adam, for weights; half of it for masks, as in PLiNIO's example.
        seed: of the initial weights.
    """
    assert budget.mops is not None
    keep = [True] * space.num_blocks
    learned = [widths(space, batches, learning_rate, strength, seed) for strength in STRENGTHS]

    def distance(channels: Sequence[int]) -> float:
        nearest = [min(space.widths, key=lambda w, c=c: abs(w - c)) for c in channels]
        return abs(np.log(cost.ops(space.member(nearest, keep)) * 1e-6 / budget.mops))

    best = {"width": jnp.asarray(min(learned, key=distance), float)}
    others = {"keep": space.choice([space.widths[0]] * len(best["width"]), keep)["keep"]}
    (proposal,) = proposals.fitting(space, budget, [Layout("pit", best, others)])
    return space.decode(proposal.choice)


def widths(
    space: DSCNN,
    batches: Sequence[tuple[np.ndarray, np.ndarray]],
    learning_rate: float,
    strength: float,
    seed: int,
) -> list[int]:
    """Channels that are left of each convolution, the stem's first.

    Args:
        space, batches, learning_rate, seed: see :func:`found`.
        strength: of the cost.

    Returns:
        Channel counts of the stem and of each block.
    """
    torch.manual_seed(seed)
    rows, columns, channels = space.input_shape
    model = PIT(
        _network(space), cost=ops, input_shape=(channels, rows, columns), discrete_cost=True,
        train_rf=False, train_dilation=False,
    )  # fmt: skip
    whole = float(model.cost.detach())
    weights = torch.optim.Adam(model.net_parameters(), lr=learning_rate)
    masks = torch.optim.Adam(model.nas_parameters(), lr=learning_rate / 2)
    model.train()
    for step, (x, targets) in enumerate(batches):
        inputs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        loss = nn.functional.cross_entropy(model(inputs), torch.from_numpy(targets.copy()))
        searching = step >= WARM_UP * len(batches)
        if searching:
            loss = loss + strength * model.cost / whole
        weights.zero_grad()
        masks.zero_grad()
        loss.backward()
        weights.step()
        if searching:
            masks.step()
    stem, *pairs = [m for m in model.export().modules() if isinstance(m, nn.Conv2d)]
    return [stem.out_channels, *(pointwise.out_channels for pointwise in pairs[1::2])]


def _network(space: DSCNN) -> nn.Module:
    """The largest network of the space."""
    width, (rows, columns) = space.widths[-1], space.stem_kernel

    def block(*convolution: object, **options: object) -> list[nn.Module]:
        layer = nn.Conv2d(*convolution, bias=False, **options)  # type: ignore[arg-type]
        return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()]

    def around(kernel: tuple[int, int], size: int) -> tuple[int, int]:
        return kernel[0] // 2, kernel[1] // 2 if size > 1 else 0

    stem = {"stride": space.stem_stride, "padding": around((rows, columns), 1)}
    layers = block(space.input_shape[2], width, (rows, columns), **stem)
    columns = -(-space.input_shape[1] // space.stem_stride[1])
    for stride in space.strides:
        steps = (stride, stride if columns > 1 else 1)
        pad = around(space.kernel, columns)
        layers += block(width, width, space.kernel, stride=steps, padding=pad, groups=width)
        layers += block(width, width, 1)
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, space.num_classes)
    )
