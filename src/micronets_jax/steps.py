"""Steps of the C kernels: stretches of their instructions, and how often each runs.

Invariant: a step takes the same instructions each time, so that one number for each step and core
holds for every shape; ``devices.fitted`` has them. Written once, for ``latency`` of undecided
networks and for the compiler, which compares plans. Counts are Python numbers; only channels, which
multiply them, may be traced.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from micronets_jax.counts import Condition, Count, parts, quotient, ragged, remainder, where
from micronets_jax.kernels import LANES, Depthwise, conv_quads, is_line, takes_fours
from micronets_jax.windows import Window


class Term(NamedTuple):
    """Steps that a layer takes ``count`` times as often as ``steps`` says.

    Attributes:
        count: a product of channels, which may be traced.
        steps: how often by name of the step, Python numbers that follow from the static shape.
    """

    count: Count
    steps: Mapping[str, float]


# ---------------------------------------------------------------- conv.c


_WIDE_INPUTS = 2340
"""From so many on the magnitudes of a channel's weights usually add up to what makes the compiler
store them as int16: a normal variable is 0.22 of the largest of so many in the mean, 28 of 127."""


def conv(window: Window, channels: Count, outputs: Count, signed: bool) -> Iterator[Term]:
    """Patches laid out, then multiplied.

    Args:
        window: how the kernel walks over the picture.
        channels: of the input.
        outputs: channels of the output.
        signed: whether an output may lie below its zero point, as behind a ReLU it does not.

    Yields:
        Steps by name, with how often each runs.
    """
    wide = window.taps * channels >= _WIDE_INPUTS if window.taps > 1 else False
    yield Term(1, {"conv": 1})
    yield from products(
        *divmod(window.pixels, LANES), conv_quads(window, channels), outputs, signed, wide
    )
    yield from lay(window, channels)


def products(
    groups: int, singles: int, quads: Count, outputs: Count, signed: bool, wide: Condition = False
) -> Iterator[Term]:
    """All outputs of groups of four pixels, two output channels at a time, and of single pixels,
    four at a time.

    Args:
        groups: of four pixels.
        singles: pixels beside the groups.
        quads: groups of four inputs in a patch.
        outputs: output channels.
        signed: whether an output may lie below its zero point.
        wide: whether weights are stored as int16.

    Yields:
        Steps by name, with how often each runs.
    """
    pairs, fours, rest = parts(outputs, 2), quotient(outputs, 4), parts(remainder(outputs, 4), 2)
    yield Term(1, {"conv_group": groups, "conv_single": singles})
    yield Term(outputs, {"conv_group_output": groups, "conv_group_signed": signed * groups})
    yield Term(where(wide, pairs * quads, 0), {"conv_group_quad_wide": groups})
    yield Term(where(wide, 0, pairs * quads), {"conv_group_quad": groups})
    yield Term(fours * quads, {"conv_four_quad": singles})
    yield Term(rest * quads, {"conv_pair_quad": singles})
    for name, count, unrolled, pixels in (
        ("conv_group", pairs, 4, groups),
        ("conv_four", fours, 2, singles),
        ("conv_pair", rest, 2, singles),
    ):
        yield Term(count, {name + "_begin": pixels})
        yield Term(count * parts(quads, unrolled), {name + "_turn": pixels})


class _Patches(NamedTuple):
    """How often, at pixels that are computed in groups and at single ones.

    Attributes:
        interior: rows inside the picture of patches whose columns are all inside.
        border: positions inside the picture of patches that have columns outside.
        outside: rows outside the picture.
        beside: positions outside the picture in rows inside.
    """

    interior: tuple[int, int]
    border: tuple[int, int]
    outside: tuple[int, int]
    beside: tuple[int, int]


@functools.lru_cache(maxsize=256)
def _patches(window: Window) -> _Patches:
    rows, columns = (np.array(window.inside(axis)) for axis in (0, 1))
    (kr, kc), grouped = window.kernel, window.pixels // LANES * LANES

    def split(rows: np.ndarray, columns: np.ndarray) -> tuple[int, int]:
        table = np.outer(rows, columns).reshape(-1)
        return int(table[:grouped].sum()), int(table[grouped:].sum())

    return _Patches(
        split(rows, columns == kc),
        split(rows, columns * (columns < kc)),
        split(kr - rows, columns >= 0),
        split(rows, kc - columns),
    )


def lay(window: Window, channels: Count) -> Iterator[Term]:
    """im2col: straight into words where channels are a multiple of four, else through bytes."""
    quads, uneven = conv_quads(window, channels), ragged(channels, 4)
    pixels, rows = window.pixels, window.out[0]
    whole = pixels // LANES * LANES, pixels % LANES
    laid = {"lay": pixels, "lay_row": rows, "lay_line": rows * window.kernel[0]}
    if window.taps == 1 and window.stride == (1, 1):  # a pixel is its own patch
        yield from _widen(whole, quads)
        yield Term(where(uneven, 1, 0), laid)
        yield from _where(uneven, _bytes(window, channels), ())
    else:
        yield Term(1, laid)
        by_bytes = (*_bytes(window, channels), *_widen(whole, quads))
        yield from _where(uneven, by_bytes, _words(window, channels))


def _where(condition: Condition, one: Iterable[Term], other: Iterable[Term]) -> Iterator[Term]:
    """The terms of ``one`` where the condition holds, else those of ``other``."""
    for term in one:
        yield Term(where(condition, term.count, 0), term.steps)
    for term in other:
        yield Term(where(condition, 0, term.count), term.steps)


def _words(window: Window, channels: Count) -> Iterator[Term]:
    """Patches of whole quads: runs of a row, or position by position at the picture's sides."""
    found, (rows, columns) = _patches(window), window.kernel
    run, one = quotient(columns * channels, 4), quotient(channels, 4)
    yield Term(1, {"lay_run": window.pixels * rows})
    yield from _widen(found.interior, run)
    yield from _widen(found.border, one)
    yield Term(1, {"value": sum(found.outside) + sum(found.beside)})
    yield Term(run, {"value_quad": sum(found.outside)})
    yield Term(one, {"value_quad": sum(found.beside)})


def _bytes(window: Window, channels: Count) -> Iterator[Term]:
    """Patches copied as bytes, padding first."""
    rows, columns = window.kernel
    inside, lines = window.inside(1), sum(window.inside(0))
    lacking = window.out[0] * rows - lines
    border = window.out[0] * sum(run < columns for run in inside)
    yield Term(1, {"bytes": window.pixels, "bytes_border": border})
    yield Term(conv_quads(window, channels), {"bytes_pads": border})
    for run, times in sorted(Counter(run for run in inside if run).items()):
        yield Term(1, {"bytes_run": times * lines, "bytes_outside": times * lacking})
        yield Term(quotient(run * channels, 4), {"bytes_word": times * lines})
        yield Term(remainder(run * channels, 4), {"bytes_one": times * lines})
        yield Term(run * channels, {"bytes_fill": times * lacking})


def _widen(calls: tuple[int, int], quads: Count) -> Iterator[Term]:
    """So many calls for pixels in groups and for single ones, each of these quads."""
    grouped, single = calls
    yield Term(1, {"widen": grouped, "widen_single": single})
    yield Term(quotient(quads, 4), {"widen_four": grouped})
    yield Term(remainder(quads, 4), {"widen_one": grouped})
    yield Term(quads, {"widen_single_quad": single})


# ---------------------------------------------------------------- dense.c

_MOST_QUADS = 125
"""So many are summed at once: MOST_BYTES of dense.c."""


def dense(pixels: int, inputs: Count, outputs: Count) -> Iterator[Term]:
    """Pixels one after the other, as they lie, four output channels at a time; one or two that are
    left are computed as two, three as four."""
    quads, tail = quotient(inputs, 4), remainder(inputs, 4)
    fours = quotient(outputs + 1, 4)
    sums = quotient(quads + (_MOST_QUADS - 1), _MOST_QUADS)
    yield Term(1, {"dense": 1, "dense_pixel": pixels})
    yield Term(tail, {"dense_last": pixels})
    yield Term(outputs, {"dense_output": pixels})
    yield Term(where(ragged(outputs, 4), 1, 0), {"dense_rest": pixels})
    yield Term(remainder(outputs, 4), {"dense_rest_output": pixels})
    for name, groups in (("dense_four", fours), ("dense_two", parts(outputs, 4) - fours)):
        yield Term(groups, {name: pixels})
        yield Term(groups * quads, {name + "_quad": pixels})
        yield Term(groups * parts(quads, 2), {"dense_turn": pixels})
        yield Term(groups * sums, {"dense_sum": pixels})
        filled = where(ragged(inputs, 4), groups, 0)
        yield Term(filled, {"dense_tail": pixels, name + "_quad": pixels})


# ---------------------------------------------------------------- depthwise.h


def depthwise(walked: Depthwise, channels: Count, signed: bool) -> Iterator[Term]:
    """Channel by channel: gathered into a plane, then computed by fours or by twos. What other
    windows than squares and rows of 3, 5 and 7 take behind that has not been measured, and is left
    out."""
    (rows, columns), kernel, stride = walked.window.out, walked.window.kernel, walked.window.stride
    read, plane = walked.read, math.prod(walked.plane)
    if walked.fast and takes_fours(walked.window):
        groups = rows * -(-columns // 4)
        outputs = {
            "depthwise_four": groups,
            "depthwise_four_signed": signed * groups,
            "depthwise_four_channel": 1,
            "depthwise_four_row": rows,
            "depthwise_four_rest": rows * (columns % 4 > 0),
        }
    elif walked.fast:
        pairs, shape = rows * -(-columns // 2), f"{'line_' * is_line(walked.window)}{kernel[1]}"
        outputs = {
            f"depthwise_pair_{shape}_{stride[1]}": pairs,
            "depthwise_pair_signed": signed * pairs,
            f"depthwise_channel_{shape}": 1,
            "depthwise_row": rows,
            "depthwise_row_odd": rows * (columns % 2),
        }
    else:
        outputs = {}
    yield Term(1, {"depthwise": 1, "depthwise_fill": plane})
    yield Term(
        channels,
        {
            **outputs,
            "depthwise_gather_row": read[0],
            "depthwise_gather_four": read[0] * (read[1] // 4),
            "depthwise_gather_turn": read[0] * -(-(read[1] // 4) // 2),
            "depthwise_gather_one": read[0] * (read[1] % 4),
        },
    )


# ---------------------------------------------------------------- pool.c, binary.c, copy.c


def pool(window: Window, channels: Count) -> Iterator[Term]:
    """Average pooling, output by output."""
    rows, columns = sum(window.inside(0)), sum(window.inside(1))
    yield Term(1, {"pool": 1, "pool_pixel": window.pixels})
    yield Term(
        channels,
        {
            "pool_output": window.pixels,
            "pool_row": rows * window.out[1],
            "pool_tap": rows * columns,
        },
    )


def add(pixels: int, channels: Count) -> Iterator[Term]:
    """The sum of two tensors alike in shape."""
    yield Term(1, {"add": 1})
    yield Term(channels, {"add_element": pixels})


def pad(pixels: int, count: Count, outputs: Count) -> Iterator[Term]:
    """Channels of zeros behind ``count`` of a pixel. All is filled, then pixels are copied, as
    newlib's memmove does it: 16 bytes and more in blocks and words where both sides lie at whole
    words, else byte by byte."""
    yield Term(1, {"pad": 1, "pad_pixel": pixels})
    yield Term(outputs, {"pad_fill": pixels})
    yield Term(count, {"pad_byte": pixels})
    blocks, rest = quotient(count, 16), remainder(count, 4)
    words = quotient(remainder(count, 16), 4)
    odd, uneven = (ragged(count, n) | ragged(outputs, n) for n in (2, 4))
    quarter, half = where(odd, 1, 0), where(uneven, where(odd, 0, 1), 0)
    for share, apart in ((quarter, 4), (half, 2), (1 - quarter - half, 1)):
        aligned, holds = -(-pixels // apart), share * where(count >= 16, 1, 0)
        yield Term(holds, {"pad_aligned": aligned})
        yield Term(holds * blocks, {"pad_block": aligned})
        yield Term(holds * words, {"pad_word": aligned})
        yield Term(holds * (rest - count), {"pad_byte": aligned})
