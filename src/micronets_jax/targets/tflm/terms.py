"""Steps of TensorFlow Lite Micro with CMSIS-NN on cores with the DSP extension, and how often.

Invariant: a step is a stretch of instructions of one loop of CMSIS-NN, so that one number per step
and core holds for every shape. Which kernel runs is decided as CMSIS-NN's wrappers decide it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from micronets_jax.counts import quotient, ragged, remainder, where
from micronets_jax.network import Count, Layer
from micronets_jax.steps import Term
from micronets_jax.windows import Window


def terms(layer: Layer, window: Window, channels: Count, old: bool = False) -> Iterator[Term]:
    """What TFLM does for a layer that reads ``channels`` channels.

    Args:
        layer: decided or expected.
        window: how its kernel walks.
        channels: that it reads.
        old: whether CMSIS-NN is that of October 2020, whose 1x1 kernel knew no groups of four
            inputs and did not take channels that are no multiple of 4, and whose dense layers had
            one scale.

    Yields:
        Steps by name, with how often each runs.
    """
    if layer.kind == "conv":
        if layer.kernel != (1, 1):
            yield from _conv(layer, window, channels)
        elif not old:
            yield from _pointwise(layer, window, channels, (16, 4))
        else:
            uneven = True if layer.stride != (1, 1) else ragged(channels, 4)
            for term in _conv(layer, window, channels):
                yield Term(where(uneven, term.count, 0), term.steps)
            for term in _pointwise(layer, window, channels, (16,)):
                yield Term(where(uneven, 0, term.count), term.steps)
    elif layer.kind == "depthwise":
        small = layer.kernel == (3, 3) and max(window.before) <= 1
        yield from (_depthwise_3x3 if small else _depthwise)(layer, window)
    elif layer.kind == "dense":
        yield from _old_dense(layer, channels) if old else _dense(layer, channels)
    elif layer.kind == "avg_pool":
        yield from _pool(layer, window)
    elif layer.kind == "add":
        yield Term(1, {"add": 1})
        yield Term(layer.out_channels, {"add_element": window.pixels})
    elif layer.kind == "pad":
        yield Term(1, {"pad": 1, "pad_pixel": window.pixels})
        yield Term(layer.in_channels, {"pad_copy": window.pixels})
        yield Term(layer.out_channels - layer.in_channels, {"pad_fill": window.pixels})
    elif layer.kind == "reshape":
        yield Term(1, {"reshape": 1})
        yield Term(layer.out_channels, {"reshape_element": 1})


def pace(layer: Layer) -> Fraction:
    """Cycles of an instruction of a layer, as a share of a board's cycles per instruction.

    An instruction of a 1x1 convolution, hardly more than products of what lies in registers, takes
    0.9 of the cycles of any other: fitted to published latencies of eight boards and builds
    (benchmarks/boards.py). Shares about 1 leave a board's number that of a network which spends
    half of its instructions there, as published networks do.
    """
    return Fraction(19 if layer.kind == "conv" and layer.kernel == (1, 1) else 21, 20)


def _pointwise(
    layer: Layer, window: Window, channels: Count, groups: tuple[int, ...]
) -> Iterator[Term]:
    """Two pixels and two output channels at a time; inputs by groups, then one by one.

    A stride makes every row of outputs a product of its own.
    """
    calls = 1 if layer.stride == (1, 1) else window.out[0]
    twos, single = divmod(window.pixels // calls, 2)
    pairs, odd = quotient(layer.out_channels, 2), remainder(layer.out_channels, 2)
    yield Term(1, {"pointwise": 1, "pointwise_call": calls})
    yield Term(pairs, {"pointwise_pair": calls})
    yield Term(pairs * channels, {"pointwise_sum": calls})
    for rows, count, what in (
        (pairs, calls * twos, "pointwise_two"),
        (pairs, calls * single, "pointwise_one"),
        (odd, window.pixels, "pointwise_odd"),
    ):
        yield Term(rows, {what: count})
        left = channels
        for size in groups:
            yield Term(rows * quotient(left, size), {f"{what}_{size}": count})
            left = remainder(left, size)
        yield Term(rows * left, {f"{what}_rest": count})


def _conv(layer: Layer, window: Window, channels: Count) -> Iterator[Term]:
    """Patches of two pixels, widened, against two output channels at a time."""
    taps = math.prod(layer.kernel)
    twos, single = divmod(window.pixels, 2)
    depth = taps * channels
    yield Term(1, {"conv": 1, "conv_pixel": window.pixels, "conv_tap": window.pixels * taps})
    yield Term(channels, {"conv_byte": window.pixels * taps})
    pairs, odd = quotient(layer.out_channels, 2), remainder(layer.out_channels, 2)
    for rows, count, what in (
        (pairs, twos, "conv_two"),
        (odd, twos, "conv_odd"),
        (layer.out_channels, single, "conv_one"),
    ):
        yield Term(rows, {what: count})
        yield Term(rows * quotient(depth, 4), {f"{what}_four": count})
        yield Term(rows * remainder(depth, 4), {f"{what}_rest": count})


def _depthwise_3x3(layer: Layer, window: Window) -> Iterator[Term]:
    """Position by position, four channels at a time, then one by one."""
    rows, columns = sum(window.inside(0)), sum(window.inside(1))
    yield Term(1, {"depthwise3": 1, "depthwise3_pixel": window.pixels})
    for count, what in (
        (quotient(layer.out_channels, 4), "depthwise3_four"),
        (remainder(layer.out_channels, 4), "depthwise3_rest"),
    ):
        yield Term(
            count,
            {
                what: window.pixels,
                f"{what}_row": rows * window.out[1],
                f"{what}_tap": rows * columns,
            },
        )


def _depthwise(layer: Layer, window: Window) -> Iterator[Term]:
    """Patches of a position as bytes, then four channels at a time, then one by one."""
    taps = window.pixels * math.prod(layer.kernel)
    inside = sum(window.inside(0)) * sum(window.inside(1))
    yield Term(
        1,
        {
            "depthwise": 1,
            "depthwise_pixel": window.pixels,
            "depthwise_copy": inside,
            "depthwise_fill": taps - inside,
        },
    )
    yield Term(
        layer.out_channels,
        {"depthwise_byte": inside, "depthwise_fill_byte": taps - inside},
    )
    yield Term(
        quotient(layer.out_channels, 4),
        {"depthwise_four": window.pixels, "depthwise_four_tap": taps},
    )
    yield Term(
        remainder(layer.out_channels, 4),
        {"depthwise_rest": window.pixels, "depthwise_rest_tap": taps},
    )


def _dense(layer: Layer, channels: Count) -> Iterator[Term]:
    """Two outputs at a time over four inputs at a time, then what is left of either one by one.

    ``dense_scale`` is what an output takes to fetch a scale of its own, as those of ``export`` have
    it; a file whose layer has one scale for all takes none of these.
    """
    pairs, odd = quotient(layer.out_channels, 2), remainder(layer.out_channels, 2)
    fours, rest = quotient(channels, 4), remainder(channels, 4)
    yield Term(1, {"dense": 1})
    yield Term(layer.out_channels, {"dense_scale": 1})
    for count, what in ((pairs, "dense_pair"), (odd, "dense_odd")):
        yield Term(count, {what: 1})
        yield Term(count * fours, {f"{what}_four": 1})
        yield Term(count * rest, {f"{what}_rest": 1})


def _old_dense(layer: Layer, channels: Count) -> Iterator[Term]:
    """As above, fitted as if each output took the same."""
    yield Term(1, {"dense": 1})
    yield Term(layer.out_channels, {"dense_output": 1})
    yield Term(layer.out_channels * quotient(channels, 4), {"dense_four": 1})
    yield Term(layer.out_channels * remainder(channels, 4), {"dense_rest": 1})


def _pool(layer: Layer, window: Window) -> Iterator[Term]:
    taps = sum(window.inside(0)) * sum(window.inside(1))
    yield Term(1, {"pool": 1, "pool_pixel": window.pixels, "pool_tap": taps})
    yield Term(layer.out_channels, {"pool_output": window.pixels, "pool_byte": taps})
