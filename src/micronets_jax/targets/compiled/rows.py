"""The least arena of a program that ``compile`` writes, over all its plans, from the network alone.

Invariant: what is counted is what ``compile --plan memory`` plans for the network's file, to the
byte: both list the same operations, and ``micronets_jax.rows`` plans them; ``streams`` is that plan
as arithmetic on channel counts.
"""

from __future__ import annotations

import functools
import math

import jax

from micronets_jax import memory
from micronets_jax.memory import Operator
from micronets_jax.network import INPUT, Count, Network, output_sizes, prune, window
from micronets_jax.rows import MAX_TAPS, ByRows, Call, Operation, Reads, Steps
from micronets_jax.targets.compiled import streams
from micronets_jax.targets.compiled.memory import access, arena_bytes
from micronets_jax.windows import Window


def least_arena_bytes(network: Network, pushed: bool = False) -> Count:
    """Bytes of the arena of the plan that needs least.

    Ints give the exact int. Int32 inside ``jit`` and floats give what :func:`streams.arena_bytes`
    says, which counts no chain of offsets. Of traced networks that are no chain whole tensors are
    counted, which is never less.

    Args:
        network: decided, traced or expected.
        pushed: the input comes row by row and is never whole; of decided networks alone.

    Raises:
        ValueError: ``pushed`` of a network that is not decided.
    """
    decided = all(isinstance(leaf, int) for leaf in jax.tree.leaves(network))
    if pushed and not decided:
        raise ValueError("pushed=True: the network is not decided; decode the choice")
    if decided:
        return _exact(prune(network), pushed)
    found = streams.arena_bytes(network)
    return arena_bytes(network) if found is None else found


@functools.lru_cache(maxsize=4096)
def _exact(network: Network, pushed: bool) -> int:
    return steps(network, pushed).planned()


def steps(network: Network, pushed: bool = False) -> Steps:
    """All steps that a plan of the network may consist of; tensors are numbered as they are made,
    the input is 0, as is the operation that makes it where it is ``pushed``.

    Raises:
        ValueError: as :func:`least_arena_bytes`.
    """
    for layer in network:
        decided = isinstance(layer.out_channels, int) and isinstance(layer.presence, int)
        if not decided or layer.kind == "mix" or not layer.presence:
            raise ValueError(
                f"layer {layer.name!r} is not decided; decode the choice, or prune the network"
            )
    sizes, listed = output_sizes(network), memory.operators(network, reshapes=False)
    number = {INPUT: 0} | {o.layer.name: i for i, o in enumerate(listed, 1)}
    count = {0: math.prod(network.input_shape)}
    operations = [_push(network)] if pushed else []
    for operator in listed:
        made, layer = number[operator.layer.name], operator.layer
        reads = tuple(number[name] for name in operator.reads)
        walked = window(layer, sizes)
        scratch, order = access(operator, walked)
        call = Call(scratch, reads, made, {} if order is None else dict.fromkeys(reads, order))
        count[made] = operator.out_bytes
        rows = streams.map_rows(network, operator, sizes)
        by_rows = _by_rows(operator, walked, made, reads, rows)
        operations.append(
            Operation(
                made, reads, (call,), by_rows, 0 if rows else streams.row_scratch(operator, walked),
                streams.sum_bytes(operator) if by_rows and by_rows.accumulates else 0,
            )
        )  # fmt: skip
    last = memory.makers_of(network, set(number))[network.layers[-1].name]
    return Steps(operations, count, {number[name] for name in last})


def _push(network: Network) -> Operation:
    rows, columns, channels = network.input_shape
    return Operation(0, (), (), ByRows(0, (), rows, rows, columns * channels))


def _by_rows(
    operator: Operator, walked: Window, made: int, reads: tuple[int, ...], added: int
) -> ByRows | None:
    """``added``: rows of the map that it adds up, see :func:`streams.map_rows`."""
    layer, rows = operator.layer, walked.size[0]
    if added:
        return ByRows(
            made, (Reads(reads[0], 0, added),), added, 1, operator.out_bytes, accumulates=True
        )
    if layer.kind == "dense":
        return None
    out_rows = walked.out[0]
    row = operator.out_bytes // out_rows
    if layer.kind == "add":
        both = tuple(Reads(t, i, rows, stride=int(rows > 1)) for i, t in enumerate(reads))
        return ByRows(made, both, out_rows, out_rows, row, in_place=reads)
    if layer.kind == "pad":
        return ByRows(made, (Reads(reads[0], 0, rows),), out_rows, out_rows, row)
    if walked.kernel[0] > MAX_TAPS:
        return None
    read = Reads(reads[0], 0, rows, walked.kernel[0], walked.stride[0], walked.before[0])
    return ByRows(made, (read,), out_rows, out_rows, row)
