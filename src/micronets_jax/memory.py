"""Lifetimes of tensors in the exported file, and the greedy placement of other runtimes.

Invariant: buffers that live at the same time do not overlap; one greedy planner serves every
foreign runtime that places greedily.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax.counts import Counts, align, maximum, stacked
from micronets_jax.network import INPUT, Count, Layer, Network, consumers, output_sizes
from micronets_jax.operators import OPERATORS

ALIGNMENT = 16
"""Bytes: each buffer starts at a multiple of it."""


# ---------------------------------------------------------------- operators of the exported file


class Operator(NamedTuple):
    """A layer as TFLite runs it.

    Attributes:
        layer: what it computes; ``layer.name`` is the tensor it makes.
        kind: TFLite's name of the operator.
        reads: names of the tensors read.
        in_bytes: int8 elements of each tensor read.
        out_bytes: int8 elements of the tensor made.
    """

    layer: Layer
    kind: str
    reads: tuple[str, ...]
    in_bytes: tuple[Count, ...]
    out_bytes: Count


def operators(network: Network, reshapes: bool = True) -> list[Operator]:
    """The operators of the exported file in order, absent ones and mixes' branches included.

    Reshaping a single pixel before a dense layer vanishes, as TFLite's converter has it; without
    ``reshapes`` so does any other, as where a reshaped tensor is the same bytes.
    """
    sizes, readers = output_sizes(network), consumers(network)
    elements: dict[str, Count] = {INPUT: math.prod(network.input_shape)}
    alias = {INPUT: INPUT}
    result = []
    for layer in network:
        source = layer.inputs[0]
        elements[layer.name] = math.prod(sizes[layer.name]) * layer.out_channels
        alias[layer.name] = layer.name
        if layer.kind == "mix":
            continue
        single_pixel = layer.kind == "reshape" and sizes[source] == (1, 1)
        kinds = {network[reader].kind for reader in readers[layer.name]}
        if (single_pixel and kinds == {"dense"}) or (layer.kind == "reshape" and not reshapes):
            alias[layer.name] = alias[source]
            continue
        reads = tuple(alias[name] for name in layer.inputs)
        result.append(
            Operator(
                layer,
                OPERATORS[layer.kind].name,
                reads,
                tuple(elements[name] for name in reads),
                elements[layer.name],
            )
        )
    return result


def padded(size: Count) -> Count:
    """Bytes that a buffer of this size takes."""
    return align(size, ALIGNMENT)


# ---------------------------------------------------------------- tensors and their lives


class Buffer(NamedTuple):
    """A stretch of the arena: ``name`` is a tensor, or an operator's scratch.

    It lives from operator ``first`` to operator ``last``, both included; ``latest`` is the greatest
    that ``last`` can be, whatever is decided.
    """

    name: str
    bytes: Count
    first: int
    last: Count
    latest: int
    presence: Count


def peak_bytes(
    network: Network,
    scratch: Callable[[Operator], Count],
    rounding: Callable[[Count], Count] = padded,
) -> Count:
    """Most bytes alive during any operator: its inputs, output and scratch, and what later ones
    read; ``rounding`` gives the bytes that a buffer takes."""
    xp, column = columns(all(isinstance(leaf, int) for leaf in jax.tree.leaves(network)))
    listed = operators(network)
    if is_chain(network):
        outputs, inputs = [o.out_bytes for o in listed], [o.in_bytes[0] for o in listed]
        tensors = [rounding(column(outputs)), rounding(column(inputs))]
    else:
        tensors = [alive(tensors_of(network, listed), len(listed), rounding)]
    live = sum(tensors, rounding(column([scratch(operator) for operator in listed])))
    peak = xp.max(live * column([operator.layer.presence for operator in listed]))
    return int(peak) if xp is np else peak


def alive(tensors: list[Buffer], turns: int, rounding: Callable[[Count], Count]) -> Counts:
    """Bytes of the tensors alive while each operator runs, [turns]."""
    xp, column = columns(all(isinstance(v, int) for tensor in tensors for v in tensor[1:]))
    size = rounding(column([t.bytes for t in tensors])) * column([t.presence for t in tensors])
    last = column([t.last for t in tensors])
    turn = np.arange(turns)[:, None]
    alive = (np.asarray([t.first for t in tensors])[None] <= turn) & (turn <= last[None])
    return xp.sum(xp.where(alive, size[None], 0), axis=1)


def columns(known: bool) -> tuple[ModuleType, Callable[[list[Count]], Counts]]:
    """The array library for known or traced counts, and what makes one array of many."""
    return (np, np.asarray) if known else (jnp, stacked)


def tensors_of(network: Network, listed: list[Operator]) -> list[Buffer]:
    """Tensors with their lives, before bytes are padded; times are positions in ``listed``."""
    makers = makers_of(network, {operator.layer.name for operator in listed})
    first = {INPUT: 0} | {o.layer.name: i for i, o in enumerate(listed)}
    sizes: dict[str, Count] = {INPUT: math.prod(network.input_shape)}
    presence = {INPUT: 1}
    last: dict[str, Count] = dict(first)
    latest = dict(first)
    for i, operator in enumerate(listed):
        sizes[operator.layer.name] = operator.out_bytes
        presence[operator.layer.name] = operator.layer.presence
        for name in operator.reads:
            for maker, share in makers[name].items():
                last[maker] = maximum([last[maker], i * operator.layer.presence * share])
                latest[maker] = i
    for maker, share in makers[network.layers[-1].name].items():
        last[maker] = maximum([last[maker], (len(listed) - 1) * share])
        latest[maker] = len(listed) - 1
    return [Buffer(n, sizes[n], first[n], last[n], latest[n], presence[n]) for n in first]


def makers_of(network: Network, made: set[str]) -> dict[str, dict[str, Count]]:
    """For each name the tensors that it may stand for, each with its presence, 1 or 0."""
    presence = {layer.name: layer.presence for layer in network}
    makers: dict[str, dict[str, Count]] = {INPUT: {INPUT: 1}}
    for layer in network:
        if layer.kind != "mix":
            known = layer.name in made
            makers[layer.name] = {layer.name: 1} if known else makers[layer.inputs[0]]
            continue
        first, second = layer.inputs
        makers[layer.name] = {
            name: presence[first] * makers[first].get(name, 0)
            + (1 - presence[first]) * makers[second].get(name, 0)
            for name in {**makers[first], **makers[second]}
        }
    return makers


def is_chain(network: Network) -> bool:
    """Whether each tensor has one reader, not counting branches of which a mix takes one."""
    readers = consumers(network)
    allowed = dict.fromkeys(readers, 1)
    for layer in network:
        if layer.kind == "mix":
            branch = layer.inputs[1]
            only_here = branch != INPUT and len(readers[branch]) == 1
            if only_here and network[branch].kind != "mix":  # a layer that stands in for the block
                branch = network[branch].inputs[0]
            allowed[branch] += 1
        elif len(layer.inputs) > 1:
            return False
    return all(len(names) <= allowed[tensor] for tensor, names in readers.items())


# ---------------------------------------------------------------- where a greedy planner puts them


def greedy(
    size: Counts,
    first: Counts,
    last: Counts,
    order: Counts,
    near: np.ndarray,
    tail: Counts | None = None,
    halved: Counts | None = None,
) -> Counts:
    """Greedy placement: in a given order, each buffer at the lowest gap that fits among the placed
    ones whose lives overlap its own.

    Possible neighbours are static, so that traced sizes cost one pass over them a buffer.

    Args:
        size: bytes of each, 0 of absent ones, [buffers]; NumPy, or traced int32.
        first: operator from which each lives, [buffers].
        last: operator to which each lives, included.
        order: buffers in the order of placement.
        near: see :func:`neighbours`.
        tail: bytes that stay occupied after operator ``halved``; None: all of them.
        halved: the operator after which ``tail`` holds.

    Returns:
        First byte of each buffer, [buffers], in the kind of array that ``size`` is.
    """
    xp = np if isinstance(size, np.ndarray) else jnp
    beside = xp.asarray(near)

    def step(turn: Count, state: tuple[Counts, Counts]) -> tuple[Counts, Counts]:
        start, placed = state
        mine = order[turn]
        others = beside[mine]
        begin, length, own = start[others], size[others], size[mine]
        met = xp.maximum(first[mine], first[others])
        if tail is not None and halved is not None:
            # Both only shrink, so they are closest where their lives begin to overlap.
            own = xp.where(met > halved[mine], tail[mine], own)
            length = xp.where(met > halved[others], tail[others], length)
        together = (met <= last[mine]) & (met <= last[others])
        taken = placed[others] & together & (length > 0) & (own > 0) & (others != mine)
        end = xp.where(taken, begin + length, 0)
        at = xp.append(end, 0)  # each end is a candidate, and so is the arena's start
        own = xp.broadcast_to(own, begin.shape)
        below, above = at[:, None] + own[None] <= begin[None], at[:, None] >= end[None]
        clear = xp.all(below | above | ~taken[None], axis=1)
        lowest = xp.min(xp.where(clear, at, xp.sum(size)))
        if xp is jnp:
            return start.at[mine].set(lowest), placed.at[mine].set(True)
        start[mine], placed[mine] = lowest, True
        return start, placed

    state = xp.zeros_like(size), xp.zeros(len(size), bool)
    if xp is jnp:
        return jax.lax.fori_loop(0, len(size), step, state)[0]
    for turn in range(len(size)):
        state = step(turn, state)
    return state[0]


def neighbours(first: np.ndarray, latest: np.ndarray) -> np.ndarray:
    """For each buffer, those whose lives may overlap its own, [buffers, most], padded with
    itself."""
    beside = (first[:, None] <= latest[None]) & (first[None] <= latest[:, None])
    np.fill_diagonal(beside, False)
    rows = [np.flatnonzero(row) for row in beside]
    table = np.repeat(np.arange(len(first))[:, None], max(1, *map(len, rows)), axis=1)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


# ---------------------------------------------------------------- for people to look at


@dataclasses.dataclass(frozen=True)
class Block:
    """A tensor, or a kernel's scratch, in the arena.

    Attributes:
        name: the layer that made the tensor, ``"input"``, or ``"<layer> scratch"``.
        start: first byte.
        bytes: length, padded to 16.
        first: index of the operator that makes it.
        last: index of the last operator that reads it.
    """

    name: str
    start: int
    bytes: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Step:
    """An operator that runs: the layer's name, TFLite's kind, and the blocks alive meanwhile."""

    name: str
    kind: str
    live: tuple[Block, ...]

    @property
    def live_bytes(self) -> int:
        """Bytes of all blocks alive, gaps between them not counted."""
        return sum(block.bytes for block in self.live)
