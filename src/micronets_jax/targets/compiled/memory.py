"""The arena of a program that ``compile`` writes, from the network alone.

Invariant: what is counted of a decided network is what the compiler plans for its file, to the
byte: one rule (``kernels.least_arena``) is the compiler's goal and the formula here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from micronets_jax import kernels, memory
from micronets_jax.counts import align, is_soft, minimum, rounded, straight, total, where
from micronets_jax.kernels import ALIGNMENT, Depthwise, Order, Turn
from micronets_jax.memory import Operator
from micronets_jax.network import Count, Network, output_sizes, window
from micronets_jax.windows import Window


def arena_bytes(network: Network) -> Count:
    """Bytes of the arena: tensors and scratch, outputs over inputs that die.

    Ints give the exact int, int32 the same inside ``jit`` or a little more (see
    ``kernels.least_arena``); floats the arena of the rounded network, and the slope of most bytes
    alive if none were shared, in proportion: XLA takes minutes for the slope of the exact rule.
    """
    if not is_soft(network):
        return kernels.least_arena(_turns(network))
    exact = kernels.least_arena(_turns(rounded(network)))
    alive = memory.peak_bytes(network, lambda operator: 0, padded)
    return straight(alive * jax.lax.stop_gradient(exact / alive), exact)


class Access(NamedTuple):
    """Scratch of a call, and the order in which it reads its inputs and writes its output."""

    scratch: Count
    order: Order | None


def access(operator: Operator, walked: Window) -> Access:
    """Scratch of an operator's kernel, and its order if outputs may lie over inputs."""
    layer = operator.layer
    if layer.kind in ("conv", "dense"):
        # Of a dense layer every row of inputs is one pixel.
        inputs = layer.in_channels
        order = kernels.conv_order(walked, inputs, layer.out_channels)
        return Access(kernels.conv_scratch(walked, inputs), order)
    if layer.kind == "depthwise":
        order = kernels.depthwise_order(layer.out_channels)
        return Access(Depthwise.over(walked).scratch, order)
    if layer.kind == "avg_pool":
        return Access(0, kernels.pool_order(walked, layer.out_channels))
    if layer.kind == "add":
        pixel = layer.out_channels
        return Access(0, kernels.elementwise(walked.pixels, pixel, pixel))
    return Access(0, None)  # zeros are laid out first, then the input is copied


def _turns(network: Network) -> list[Turn]:
    """The demands of each call on the arena, in order."""
    sizes, listed = output_sizes(network), memory.operators(network, reshapes=False)
    held, dies = _lives(network, listed)
    makers = memory.makers_of(network, {operator.layer.name for operator in listed})
    turns: list[Turn] = []
    following: set[str] = set()  # what the next call that runs may lie over
    for operator, alive in zip(reversed(listed), reversed(held), strict=True):
        layer = operator.layer
        scratch, order = access(operator, window(layer, sizes))
        total_bytes, made = alive + padded(scratch), padded(operator.out_bytes)
        turn = Turn(total_bytes, 0, layer.presence)
        if order is not None:
            sources = [padded(size) for size in operator.in_bytes]
            dying = [dies(name, layer.name) for name in operator.reads]
            shared = total(
                dead * order.overlap(source, made)
                for dead, source in zip(dying, sources, strict=True)
            )
            turn = turn._replace(shared=minimum(shared, made))
            if len(sources) == 1:
                turn = turn._replace(
                    source=sources[0],
                    target=made,
                    offset=order.offset,
                    over=dying[0],
                    follows=int(layer.name in following),
                )
        turns.append(turn)
        if isinstance(layer.presence, int):
            following = set()
        if order is not None and len(operator.reads) == 1:
            following |= set(makers[operator.reads[0]])
    return turns[::-1]


def padded(size: Count) -> Count:
    """A size as the compiler places it."""
    return align(size, ALIGNMENT)


def _lives(
    network: Network, listed: list[Operator]
) -> tuple[list[Count], Callable[[str, str], Count]]:
    """Bytes of all tensors alive while each operator runs; and whether a tensor that an operator
    reads is read by nobody after it, 1 or 0, by their names."""
    if memory.is_chain(network):  # no operator that is present leaves anything behind
        both = [padded(o.in_bytes[0]) + padded(o.out_bytes) for o in listed]
        return both, lambda name, reader: 1
    tensors = memory.tensors_of(network, listed)
    alive = memory.alive(tensors, len(listed), padded)
    held = alive.tolist() if isinstance(alive, np.ndarray) else list(alive)
    names = [operator.layer.name for operator in listed]
    turn = {name: i for i, name in enumerate(names)}
    last = {tensor.name: tensor.last for tensor in tensors}
    makers = memory.makers_of(network, set(names))

    def dies(name: str, reader: str) -> Count:
        return total(
            share * where(last[maker] <= turn[reader], 1, 0)
            for maker, share in makers[name].items()
        )

    return held, dies
