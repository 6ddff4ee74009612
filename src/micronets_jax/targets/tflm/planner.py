"""TFLM's greedy memory planner: addresses of tensors and scratch in the head of its arena.

Invariant: the peak is to the byte that of TFLM's own planner.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax.counts import Condition, Counts, is_soft, maximum, minimum, rounded, where
from micronets_jax.memory import (
    Buffer,
    Operator,
    columns,
    greedy,
    is_chain,
    neighbours,
    operators,
    padded,
    peak_bytes,
    tensors_of,
)
from micronets_jax.network import INPUT, Count, Network, output_sizes
from micronets_jax.targets.tflm import scratch as rules


def scratch_bytes(operator: Operator, cmsis_nn: bool = True) -> Count:
    """Working memory that an operator's kernel asks for: CMSIS-NN's, or the reference's."""
    layer, kind = operator.layer, operator.kind
    bits = layer.weight_bits
    if cmsis_nn:
        return rules.cmsis_nn(kind, layer.kernel, layer.in_channels, weight_bits=bits)
    return rules.reference(kind, layer.kernel, layer.in_channels, layer.out_channels, bits)


def head_bytes(network: Network, scratch: bool) -> Count:
    """Bytes of the arena's head, where tensors and scratch are: the planner's highest end.

    ``scratch`` says whether kernels ask for working memory as those of CMSIS-NN do, or as the
    reference's, for 4-bit weights only. The layout depends on the order of sizes, so it has no
    useful slope: floats get the head of the rounded network and the slope of the most bytes alive
    at once.
    """
    if not is_soft(network):
        return _head(network, scratch)

    def work(operator: Operator) -> Count:
        return scratch_bytes(operator, scratch)

    peak, head = peak_bytes(network, work), _head(network, scratch)
    return peak + jax.lax.stop_gradient(head - peak).astype(peak.dtype)


def _head(network: Network, scratch: bool) -> Count:
    if is_chain(network) and _scratch_is_small(network, scratch):
        return _chain_head(rounded(network), scratch)
    start, size = _planned(_claims(network, scratch))
    head = (start + size).max()
    return int(head) if isinstance(head, np.integer) else head


def buffers(network: Network, scratch: bool) -> list[Buffer]:
    """Everything that the planner places, in the order in which it is given: tensors, then scratch.

    Any wiring: a tensor lives until its last present reader, also where mixes rename it.
    """
    return [claim._replace(bytes=padded(claim.bytes)) for claim in _claims(network, scratch)]


def _claims(network: Network, scratch: bool) -> list[Buffer]:
    """:func:`buffers` before their bytes are padded."""
    listed = operators(network)
    result = tensors_of(network, listed)
    for i, operator in enumerate(listed):
        size = scratch_bytes(operator, scratch)
        if not (isinstance(size, int) and size == 0):
            name = f"{operator.layer.name} scratch"
            result.append(Buffer(name, size, i, i, i, operator.layer.presence))
    return result


def place(listed: list[Buffer]) -> list[Count]:
    """Where TFLM's greedy planner puts each buffer: its first byte.

    Buffers come largest first, of equals the one told last; each goes to the lowest gap among those
    already placed that live at the same time.
    """
    start, _ = _planned(listed)
    return [int(x) for x in start] if isinstance(start, np.ndarray) else list(start)


def _planned(listed: list[Buffer]) -> tuple[Counts, Counts]:
    """Start and padded size of each buffer, 0 of absent ones; floats are rounded."""
    xp, column = columns(all(isinstance(v, int) for b in listed for v in b[1:]))

    def whole(counts: list[Count]) -> Counts:
        array = column(counts)
        return array if xp is np else jax.lax.stop_gradient(jnp.round(array)).astype(jnp.int32)

    size = padded(whole([b.bytes for b in listed])) * whole([b.presence for b in listed])
    first, latest = (np.asarray([getattr(b, name) for b in listed]) for name in ("first", "latest"))
    order = len(listed) - 1 - xp.argsort(-size[::-1], stable=True)
    last = whole([b.last for b in listed])
    return greedy(size, xp.asarray(first), last, order, neighbours(first, latest)), size


class _Placed(NamedTuple):
    """A stretch of the arena, from ``start`` to before ``end``, that others must avoid."""

    start: Count
    end: Count

    @property
    def size(self) -> Count:
        return self.end - self.start


_NOWHERE = _Placed(2**30, 0)
"""A sentinel without neighbours: it starts behind every buffer and ends at 0."""


def _chain_head(network: Network, scratch: bool) -> Count:
    """:func:`place` for a chain of operators, where a tensor meets only its two neighbours.

    The larger neighbour goes first, so a tensor's place follows from a run of ever larger ones on
    its left, another on its right, or both. One pass over the layers in each direction finds them,
    with no sorting: this is what makes a million architectures a second possible. Scratch comes
    last, which :func:`_scratch_is_small` allows.
    """
    listed = {operator.layer.name: operator for operator in operators(network)}
    size: dict[str, Count] = {INPUT: padded(math.prod(network.input_shape))}
    size |= {name: padded(operator.out_bytes) for name, operator in listed.items()}

    # From the output back: where each tensor lies if only its right neighbour is larger.
    right = dict.fromkeys(size, _NOWHERE)  # the next tensor, by the name of the one before
    for layer in reversed(network.layers):
        after = right.get(layer.name, _NOWHERE)
        if layer.kind == "mix":
            right |= dict.fromkeys(layer.inputs, after)
        elif layer.name in listed:
            own = size[layer.name]
            placed = _lowest(own, _if(after.size >= own, after))
            (source,) = listed[layer.name].reads
            right[source] = _select(layer.presence > 0, placed, right.get(source, _NOWHERE))

    # From the input on: likewise with the left neighbour, then both.
    own, after = size[INPUT], right[INPUT]
    left = {INPUT: _Placed(0, own)}
    final = {INPUT: _lowest(own, _if(after.size >= own, after))}
    ends = [final[INPUT].end]
    for layer in network:
        if layer.kind == "mix":
            first, second = layer.inputs
            kept = network[first].presence > 0
            for placed in (left, final):
                placed[layer.name] = _select(kept, placed[first], placed[second])
        elif layer.name in listed:
            operator, own = listed[layer.name], size[layer.name]
            (source,) = operator.reads
            before, after = left[source], right[layer.name]
            before = _if(before.size > own, before)
            left[layer.name] = _lowest(own, before)
            final[layer.name] = _lowest(own, before, _if(after.size >= own, after))
            ends.append(layer.presence * final[layer.name].end)
            room = padded(scratch_bytes(operator, scratch))
            if not (isinstance(room, int) and room == 0):
                both = final[source], final[layer.name]
                ends.append(layer.presence * _lowest(room, *both).end)
    return maximum(ends)


def _scratch_is_small(network: Network, cmsis_nn: bool) -> bool:
    """Whether placing scratch after tensors comes to the same head, whatever is decided.

    It does where scratch is smaller than what its operator reads and makes: of the convolution that
    reads the network's input where one channel of either is larger, and of a pooling, with 4 bytes
    a channel, that reads more than 4 pixels and makes more than 4 or the vectors of the classifier,
    which are too small to matter.
    """
    sizes = output_sizes(network)
    areas = {name: math.prod(size) for name, size in sizes.items()}
    followers = {layer.name: network.layers[i:] for i, layer in enumerate(network)}
    for operator in operators(network):
        scratch, name = scratch_bytes(operator, cmsis_nn), operator.layer.name
        if isinstance(scratch, int) and scratch == 0:
            continue
        read, made = areas[operator.layer.inputs[0]], areas[name]
        if operator.kind == "AVERAGE_POOL_2D":
            vectors = all(areas[layer.name] == 1 for layer in followers[name])
            if read <= 4 or (made <= 4 and not vectors):
                return False
        elif not isinstance(scratch, int) or padded(scratch) >= padded(min(read, made)):
            return False
    return True


def _lowest(size: Count, a: _Placed, b: _Placed | None = None) -> _Placed:
    """The lowest place where ``size`` bytes overlap neither ``a`` nor ``b``."""
    if b is None:
        start = where(size <= a.start, 0, a.end)
        return _Placed(start, start + size)
    # Before both, else between them, else after both.
    first, low, high = minimum(a.start, b.start), minimum(a.end, b.end), maximum([a.end, b.end])
    second = where(a.end < b.end, b.start, a.start)
    start = where(size <= first, 0, where(low + size <= second, low, high))
    return _Placed(start, start + size)


def _if(condition: Condition, placed: _Placed) -> _Placed:
    return _select(condition, placed, _NOWHERE)


def _select(condition: Condition, a: _Placed, b: _Placed) -> _Placed:
    return _Placed(*(where(condition, x, y) for x, y in zip(a, b, strict=True)))
