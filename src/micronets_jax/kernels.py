"""Memory of the C kernels: order of reads and writes, scratch, and the least arena of a program.

Invariant: written once, for the compiler, which plans calls, and for costs of undecided networks.
Positions are static; channel counts may be ints or traced (``counts``).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from micronets_jax.counts import (
    Count,
    align,
    folded,
    maximum,
    minimum,
    parts,
    ragged,
    where,
)
from micronets_jax.windows import Window

ALIGNMENT = 4
"""Bytes; addresses and sizes of tensors and scratch are multiples of it."""

PROGRESS_BYTES = 12
"""Size of ``struct mn_progress``: the state of a stretch between two pushes of rows."""

LANES = 4
"""Pixels whose patches (im2col) a convolution lays out side by side."""

NOWHERE, _ANYWHERE = 1 << 40, -(1 << 30)


# ---------------------------------------------------------------- order of access


class Spans(NamedTuple):
    """At step s units ``[read_low[s], read_high[s])`` of the input are read, and only then units
    ``[write_low[s], write_high[s])`` of the output written."""

    read_low: np.ndarray
    read_high: np.ndarray
    write_low: np.ndarray
    write_high: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """Spans, made on demand: there is one step for each group of pixels, or for each byte."""

    make: Callable[[], Spans]

    @functools.cached_property
    def spans(self) -> Spans:
        """All steps."""
        return self.make()

    @functools.cached_property
    def frontier(self) -> tuple[tuple[int, int], ...]:
        """Pairs (w, r): w units are written while from unit r on some are not read yet.

        Of all steps those that can decide how far apart input and output must lie, whatever the
        bytes of a unit: the corners of the convex hull towards many written and few read.
        """
        unread = np.minimum.accumulate(self.spans.read_low[::-1])[::-1][1:]
        written = np.maximum.accumulate(self.spans.write_high)[:-1]
        corners: list[tuple[int, int]] = []
        for w, r in sorted(zip(written.tolist(), unread.tolist(), strict=True)):
            if w <= 0 or r >= NOWHERE:  # nothing is written yet, or all is read
                continue
            while corners and r <= corners[-1][1]:
                corners.pop()
            while len(corners) > 1 and _above(corners[-2], corners[-1], (w, r)):
                corners.pop()
            corners.append((w, r))
        return tuple(corners)


def _above(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Whether ``b`` lies on or above the line from ``a`` to ``c``: it never decides then."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])


@dataclasses.dataclass(frozen=True)
class Order:
    """In which order a call reads one input and writes its output.

    Either ``steps``, in units of ``read`` and ``write`` bytes; ``bytewise`` where the two are alike
    and a step takes its units byte after byte. Or ``classes`` = c: at step s < c the call reads all
    bytes b with b mod c = s, then writes output bytes with b mod c = s.
    """

    steps: Steps | None = None
    read: Count = 1
    write: Count = 1
    bytewise: bool = False
    classes: Count = 0

    @property
    def lead(self) -> Count:
        """Least distance in bytes from the output's start up to the input's, for an order by steps:
        bytes that are read after a step lie above all that are written up to it. Far below 0 where
        there are no such bytes."""
        assert self.steps is not None
        leads = [self.write * w - self.read * r for w, r in self.steps.frontier]
        return maximum([0 if self.bytewise else _ANYWHERE, *leads])

    @property
    def offset(self) -> Count:
        """:attr:`lead` in whole words; 0 in an order by classes, where addresses are the same."""
        return 0 if self.steps is None else align(self.lead, ALIGNMENT)

    def overlap(self, source: Count, target: Count) -> Count:
        """Bytes that an output of ``target`` bytes can share with a dying input of ``source``."""
        joint = maximum([target, source + maximum([0, self.offset])])
        return maximum([0, source + target - joint])

    def spans(self) -> Spans:
        """The steps in bytes; channels must be known."""
        assert self.steps is not None
        low, high, begin, end = self.steps.spans
        if not self.bytewise:
            return Spans(low * self.read, high * self.read, begin * self.write, end * self.write)
        byte = np.arange(self.read)
        rows = (low, high - 1, begin, end - 1)
        low, high, begin, end = ((row[:, None] * self.read + byte).reshape(-1) for row in rows)
        return Spans(low, high + 1, begin, end + 1)


def elementwise(count: int, read: Count = 1, write: Count = 1) -> Order:
    """Element after element: read ``read`` bytes, write ``write`` bytes."""
    return Order(_elements(count), read, write)


def whole(read: Count, write: Count) -> Order:
    """All ``read`` bytes of the input are read until the last of the ``write`` bytes is written."""
    twice = np.zeros(2, int)
    return Order(Steps(lambda: Spans(twice, twice + 1, twice, twice + 1)), read, write)


@functools.lru_cache(maxsize=256)
def _elements(count: int) -> Steps:
    def make() -> Spans:
        i = np.arange(count)
        return Spans(i, i + 1, i, i + 1)

    return Steps(make)


# ---------------------------------------------------------------- convolution


def is_direct(window: Window) -> bool:
    """Whether a convolution is computed as a dense layer, without im2col: there are fewer than
    ``LANES`` pixels, and their patches are the whole input, one after the other."""
    patch = (1, 1) if window.taps == 1 else (window.kernel[0], window.size[1])
    return (
        window.pixels < LANES
        and window.kernel == patch
        and window.before == (0, 0)
        and window.dilation == (1, 1)
        and window.size == (window.out[0] * patch[0], window.out[1] * patch[1])
        and (window.pixels == 1 or window.stride == (1, 1))
    )


def adds_up(window: Window) -> bool:
    """Whether rows of the input may be added up as they come: all of them, and there are several,
    make one pixel. A dense layer over a map is such a convolution."""
    return window.size[0] > 1 and window.pixels == 1 and is_direct(window)


def row_sum_bytes(channels: Count) -> Count:
    """Bytes of what waits between rows of a convolution that adds them up: int32 for each channel,
    which are computed in pairs."""
    return 4 * align(channels, 2)


def conv_quads(window: Window, in_channels: Count) -> Count:
    """Groups of four inputs in a patch, the last one padded."""
    return parts(window.taps * in_channels, 4)


def conv_scratch(window: Window, in_channels: Count) -> Count:
    """Scratch bytes of im2col: the patches of a group of pixels as int16, and one patch as bytes
    where channels are no multiple of four; 0 where patches are read in place."""
    if is_direct(window):
        return 0
    quads = conv_quads(window, in_channels)
    lanes = LANES if window.pixels >= LANES else 1
    return 8 * lanes * quads + where(ragged(in_channels, 4), 4 * quads, 0)


def conv_row_scratch(window: Window, in_channels: Count) -> Count:
    """As :func:`conv_scratch` for one row of outputs, whose last group may have fewer pixels."""
    quads, lanes = conv_quads(window, in_channels), min(LANES, window.out[1])
    return 8 * lanes * quads + where(ragged(in_channels, 4), 4 * quads, 0)


def conv_order(window: Window, in_channels: Count, out_channels: Count) -> Order:
    """Groups of four pixels, then single ones; the patches of a group are read before its outputs
    are written. Where patches are read in place, the whole input is read until the last write."""
    if is_direct(window):
        return whole(window.size[0] * window.size[1] * in_channels, window.pixels * out_channels)
    return Order(_conv_steps(window), in_channels, out_channels)


@functools.lru_cache(maxsize=256)
def _conv_steps(window: Window) -> Steps:
    return Steps(functools.partial(_conv_spans, window))


def _conv_spans(window: Window) -> Spans:
    top, bottom = _inside(window, 0)
    left, right = _inside(window, 1)
    pixels = window.pixels
    y, x = np.divmod(np.arange(pixels), window.out[1])
    low = top[y] * window.size[1] + left[x]
    high = bottom[y] * window.size[1] + right[x] + 1
    outside = (top > bottom)[y] | (left > right)[x]  # a window in the padding reads nothing
    low, high = np.where(outside, NOWHERE, low), np.where(outside, -1, high)
    single = pixels - pixels % LANES
    starts = np.concatenate([np.arange(0, single, LANES), np.arange(single, pixels)])
    ends = np.append(starts[1:], pixels)
    return Spans(np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts), starts, ends)


def _inside(window: Window, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last row (or column) of the input that each window touches, or first > last."""
    n, kernel, dilation = window.size[axis], window.kernel[axis], window.dilation[axis]
    start = np.arange(window.out[axis]) * window.stride[axis] - window.before[axis]
    first = start + np.maximum(0, -(start // dilation)) * dilation
    taps = np.minimum(kernel - 1, (n - 1 - start) // dilation)
    return first, start + taps * dilation


def taps_inside(window: Window, axis: int) -> list[int]:
    """Rows (or columns) of the kernel that lie in the picture, for each row (column) of outputs."""
    first, last = _inside(window, axis)
    return np.maximum(0, (last - first) // window.dilation[axis] + 1).tolist()


# ---------------------------------------------------------------- depthwise convolution


class Depthwise(NamedTuple):
    """How a depthwise convolution of multiplier 1 is computed, channel by channel.

    Attributes:
        window: as it is walked, rows and columns exchanged where that takes less time.
        transposed: whether they are.
        fast: whether two outputs at a time are computed from whole words.
        plane: rows and columns of a channel, padded and widened to int16, in scratch.
        read: rows and columns of the input that are copied there.
    """

    window: Window
    transposed: bool
    fast: bool
    plane: tuple[int, int]
    read: tuple[int, int]

    @staticmethod
    def over(window: Window) -> Depthwise:
        """The cheaper of the picture and its transpose."""
        given = window
        window = min(given, given.transposed(), key=_row_cost)
        (rows, columns), fast = window.needed, is_fast(window)
        if fast:  # whole words are read, beyond the last output
            even = window.out[1] + window.out[1] % 2
            columns = window.stride[1] * even + window.kernel[1] - 1
        read_rows, read_columns = (
            max(0, min(n, need - before))
            for n, need, before in zip(window.size, window.needed, window.before, strict=True)
        )
        plane = rows, columns + columns % 2
        return Depthwise(window, window is not given, fast, plane, (read_rows, read_columns))

    @property
    def scratch(self) -> int:
        """Bytes of the plane."""
        return 2 * self.plane[0] * self.plane[1]


def is_fast(window: Window) -> bool:
    """Whether depthwise.h computes outputs by twos or fours: of squares of 3, 5 and 7, and of one
    row of as many."""
    rows, columns = window.kernel
    return columns in (3, 5, 7) and rows in (1, columns) and window.stride[1] in (1, 2)


def is_line(window: Window) -> bool:
    """Whether the window is one row, whose weights depthwise.h keeps in registers."""
    return window.kernel[0] == 1


def takes_fours(window: Window) -> bool:
    """Whether depthwise.h computes four outputs at a time instead of two."""
    return window.kernel == (3, 3) and window.stride[1] == 1 and window.out[1] >= 3


def _row_cost(window: Window) -> int:
    """Pairs of outputs, with a factor where pairs are not possible."""
    return window.out[0] * -(-window.out[1] // 2) * (1 if is_fast(window) else 4)


def depthwise_row_pairs(window: Window) -> int:
    """Pairs of neighbouring outputs in a row that depthwise_row.h computes together: squares of 3,
    5 and 7 at stride 1 and 2, where the window lies inside of the picture; a single pair would not
    pay for unpacking its weights."""
    side = window.kernel[1]
    if window.kernel != (side, side) or side not in (3, 5, 7) or window.stride[1] not in (1, 2):
        return 0
    first, last = _inside(window, 1)
    pairs = int((last - first == side - 1).sum()) // 2 if window.dilation == (1, 1) else 0
    return pairs if pairs > 1 else 0


def takes_threes(window: Window) -> bool:
    """Whether depthwise_row.h computes all of a short row for four channels at once: 3 x 3 at
    stride 1, padded by a column on either side."""
    columns = window.out[1]
    return (
        window.kernel == (3, 3)
        and (window.stride[1], window.before[1], window.dilation) == (1, 1, (1, 1))
        and columns == window.size[1]
        and 2 <= columns <= 8
    )


def depthwise_row_scratch(window: Window, channels: Count) -> Count:
    """Bytes that a row of outputs needs: two offsets for every tap, where four channels at once are
    computed."""
    return where(channels >= 4, 8 * window.taps, 0)


def depthwise_order(channels: Count) -> Order:
    """Channel by channel, each read whole before its output is written."""
    return Order(classes=channels)


# ---------------------------------------------------------------- pooling


def pool_order(window: Window, channels: Count) -> Order:
    """Output after output, the channels of a pixel one by one."""
    return Order(_pool_steps(window), channels, channels, bytewise=True)


@functools.lru_cache(maxsize=256)
def _pool_steps(window: Window) -> Steps:
    def make() -> Spans:
        y, x = np.divmod(np.arange(window.pixels), window.out[1])
        y = y * window.stride[0] - window.before[0]
        x = x * window.stride[1] - window.before[1]
        bottom = np.minimum(window.size[0], y + window.kernel[0]) - 1
        right = np.minimum(window.size[1], x + window.kernel[1]) - 1
        low = np.maximum(0, y) * window.size[1] + np.maximum(0, x)
        write = np.arange(window.pixels)
        return Spans(low, bottom * window.size[1] + right + 1, write, write + 1)

    return Steps(make)


# ---------------------------------------------------------------- the least arena


class Turn(NamedTuple):
    """What a call asks of the arena.

    Attributes:
        total: bytes of all that lives meanwhile, scratch included, if nothing is shared.
        shared: as many of them as outputs can share with inputs that die.
        presence: 0 where the call does not run.
        source, target: bytes of the one input that dies and that the output may lie over, and of
            the output; 0 where there is no such input or there are several.
        offset: of their order.
        over: whether there is such an input; where wiring is decided later, 1 or 0.
        follows: whether the output is the ``source`` of the next call that runs.
        same: whether the output may lie over the input at the input's own address alone;
            :func:`least_arena` takes such a call for one that writes as it reads.
    """

    total: Count
    shared: Count
    presence: Count = 1
    source: Count = 0
    target: Count = 0
    offset: Count = 0
    over: Count = 0
    follows: int = 0
    same: bool = False


def most_alive(turns: Sequence[Turn]) -> Count:
    """Bytes of the call that needs most, whatever lies where."""
    return maximum([turn.presence * (turn.total - turn.shared) for turn in turns])


def least_arena(turns: Sequence[Turn]) -> Count:
    """The least arena of calls one after the other, in bytes; of ints, or int32 inside ``jit``.

    Each call needs room for its live bytes. Where outputs overwrite inputs call after call, their
    offsets add up: each input lies above the output by its offset, the output is the next call's
    input, and none may reach beyond the arena. From the last call to the first, ``floor`` is the
    lowest address left for a call's input. A run of such calls ends where the arena has room for
    an input beside the output.

    So the bytes needed fall in steps as the arena grows, and only sizes from which on a call of the
    run has more room have to be tried. Traced counts get what is needed in the smallest arena that
    holds what lives: enough, and for 97 in 100 members of the characterised spaces the least.

    One effect is ignored: later calls may force an output to a low address, below which an input
    that fits beside it does not fit. Of 300 members of the space of words one needs 0.7 % more.
    """
    bound = most_alive(turns)

    def tried(arena: Count) -> tuple[Count, Count]:
        """Bytes needed in an arena of this size, and the next larger size that may need less."""

        def call(state: tuple[Count, ...], turn: Turn) -> tuple[Count, ...]:
            floor, run, need, larger = state
            rest = turn.total - turn.source - turn.target
            low = turn.follows * floor
            high = maximum([0, low + turn.offset])
            # All else lies above the two, or if there is no room, below.
            outer = maximum([low + turn.target, high + turn.source]) + rest
            low = where(outer <= arena, low, maximum([low, rest]))
            high = where(outer <= arena, high, maximum([rest, low + turn.offset]))
            top = maximum([low + turn.target, high + turn.source])
            tight = turn.presence * turn.over * where(turn.total <= arena, 0, 1)
            sizes = where(turn.follows > 0, run, _NEVER)
            for size in (turn.total, outer):
                sizes = where(tight * size > arena, minimum(sizes, size), sizes)
            larger = where(tight * top > need, sizes, larger)
            need = maximum([need, tight * top])
            runs = turn.presence > 0
            return where(runs, tight * high, floor), where(runs, sizes, run), need, larger

        _, _, need, larger = folded(call, (0, _NEVER, bound, _NEVER), turns)
        return need, larger

    arena, (need, larger) = bound, tried(bound)
    if not isinstance(need, int):
        return need
    while need > arena:
        arena = min(need, larger)
        need, larger = tried(arena)
    return arena


_NEVER = 1 << 30


# ---------------------------------------------------------------- parameters

CSRC = pathlib.Path(__file__).parent / "csrc"

SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "float": 4}
"""Bytes of C's types."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A member of a struct of kernels.h."""

    name: str
    ctype: str
    pointer: bool
    length: int


@functools.cache
def structs() -> dict[str, list[Field]]:
    """The parameter structs of kernels.h: the header is the one place that defines them."""
    text = re.sub(r"/\*.*?\*/", "", (CSRC / "kernels.h").read_text(), flags=re.S)
    found: dict[str, list[Field]] = {}
    for name, body in re.findall(r"struct (mn_\w+) \{(.*?)\};", text, flags=re.S):
        found[name] = []
        for ctype, names in re.findall(r"\s*((?:const )?(?:struct )?\w+)\s+(.*?);", body, re.S):
            for star, field, length in re.findall(r"(\*?)(\w+)(?:\[(\d+)\])?", names):
                found[name].append(Field(field, ctype, bool(star), int(length or 1)))
    return found


def struct_bytes(name: str, table: dict[str, list[Field]]) -> tuple[int, int]:
    """Size and alignment on a 32-bit core (pointers of 4 bytes)."""
    size = align = 1
    at = 0
    for field in table[name]:
        if field.pointer:
            size, step = 4, 4
        elif field.ctype.startswith("struct "):
            size, step = struct_bytes(field.ctype.split()[-1], table)
        else:
            size = step = SIZES[field.ctype]
        at = -(-at // step) * step + size * field.length
        align = max(align, step)
    return -(-at // align) * align, align


CHANNEL_BYTES = 16
"""``struct mn_channel``."""
