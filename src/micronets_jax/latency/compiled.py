"""Steps of the C that ``compile`` writes: what the kernels of ``csrc`` repeat, and how often.

Invariant: a step is a stretch of instructions that the kernel runs the same way each time, so that
one number per step and core holds for every shape.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from micronets_jax.counts import parts, quotient, ragged, remainder, where
from micronets_jax.kernels import LANES, Depthwise, conv_quads
from micronets_jax.latency.terms import Term
from micronets_jax.network import Count, Layer
from micronets_jax.windows import Window


def terms(layer: Layer, window: Window, channels: Count) -> Iterator[Term]:
    """What the kernels of ``csrc`` do for a layer that reads ``channels`` channels."""
    if layer.kind in ("conv", "dense"):
        yield from _conv(layer, window, channels)
    elif layer.kind == "depthwise":
        yield from _depthwise(layer, window)
    elif layer.kind == "avg_pool":
        yield from _pool(layer, window)
    elif layer.kind == "add":
        yield Term(1, {"add": 1})
        yield Term(layer.out_channels, {"add_element": window.pixels})
    elif layer.kind == "pad":
        uneven = ragged(layer.in_channels, 4) | ragged(layer.out_channels, 4)
        yield Term(1, {"pad": 1, "pad_pixel": window.pixels})
        yield Term(where(uneven, layer.in_channels, 0), {"pad_copy_uneven": window.pixels})
        yield Term(layer.in_channels, {"pad_copy": window.pixels})
        yield Term(layer.out_channels, {"pad_fill": window.pixels})


def _conv(layer: Layer, window: Window, channels: Count) -> Iterator[Term]:
    dense = layer.kind == "dense"
    taps = window.taps
    groups, singles = divmod(window.pixels, LANES)
    quads = conv_quads(window, channels)
    pairs = parts(layer.out_channels, 2)
    signed = int(layer.activation == "linear")
    yield Term(1, {"conv": 1, "conv_group": groups, "conv_single": singles})
    yield Term(quads * pairs, {"conv_group_product": groups, "conv_single_product": singles})
    yield Term(
        pairs,
        {
            "conv_group_pair": groups,
            "conv_group_signed": signed * groups,
            "conv_single_pair": singles,
        },
    )
    yield Term(quads, {"conv_widen": window.pixels})
    if not dense:
        pointwise = taps == 1 and layer.stride == (1, 1)
        laid = ragged(channels, 4) if pointwise else True
        for term in _lay(layer, window, channels):
            yield Term(where(laid, term.count, 0), term.steps)


def _lay(layer: Layer, window: Window, channels: Count) -> Iterator[Term]:
    """Laying out patches: straight into words where channels fill quads, else by way of bytes."""
    rows, columns = layer.kernel
    lines = sum(window.inside(0))  # rows of patches inside the picture
    border = Counter(n for n in window.inside(1) if n < columns)
    interior = Counter(n for n in window.inside(1) if n == columns)
    uneven = ragged(channels, 4)
    yield Term(1, {"lay_pixel": window.pixels, "lay_row": window.pixels * rows})
    yield Term(where(uneven, 0, 1), {"lay_tap": border.total() * lines * columns})
    for gathered, runs in ((uneven, border), (ragged(columns * channels, 4), interior)):
        pixels = runs.total() * window.out[0]
        steps = {"gather_pixel": pixels, "gather_row": runs.total() * lines}
        yield Term(where(gathered, 1, 0), steps)
        copied = sum(run * count for run, count in runs.items()) * lines
        padded = pixels * rows * columns - copied
        yield Term(where(gathered, channels, 0), {"gather_fill": padded})
        for run, count in runs.items():
            words, rest = quotient(run * channels, 4), remainder(run * channels, 4)
            yield Term(where(gathered, words, 0), {"gather_word": count * lines})
            yield Term(where(gathered, rest, 0), {"gather_byte": count * lines})


def _depthwise(layer: Layer, window: Window) -> Iterator[Term]:
    walked = Depthwise.over(window)
    (rows, columns), kernel, stride = walked.window.out, walked.window.kernel, walked.window.stride
    read, plane = walked.read, math.prod(walked.plane)
    if walked.fast:
        pairs = rows * -(-columns // 2)
        signed = int(layer.activation == "linear")
        outputs = {
            f"depthwise_pair_{kernel[0]}_{stride[1]}": pairs,
            "depthwise_pair_signed": signed * pairs,
            f"depthwise_channel_{kernel[0]}": 1,
            "depthwise_row": rows,
        }
    else:
        outputs = {
            "depthwise_output": rows * columns,
            "depthwise_kernel_row": rows * columns * kernel[0],
            "depthwise_tap": rows * columns * math.prod(kernel),
            "depthwise_channel": 1,
        }
    yield Term(1, {"depthwise": 1, "depthwise_fill": plane})
    yield Term(
        layer.out_channels,
        {
            **outputs,
            "depthwise_gather_row": read[0],
            "depthwise_gather_four": read[0] * (read[1] // 4),
            "depthwise_gather_one": read[0] * (read[1] % 4),
        },
    )


def _pool(layer: Layer, window: Window) -> Iterator[Term]:
    rows, columns = sum(window.inside(0)), sum(window.inside(1))
    yield Term(1, {"pool": 1, "pool_pixel": window.pixels})
    yield Term(
        layer.in_channels,
        {
            "pool_output": window.pixels,
            "pool_row": rows * window.out[1],
            "pool_tap": rows * columns,
        },
    )
