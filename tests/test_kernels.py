"""Kernels of ``csrc`` and memory: how far an output may overlay its input, known and traced."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micronets_jax import kernels
from micronets_jax.kernels import Depthwise, Order
from micronets_jax.windows import Window

WINDOWS = [
    Window.over(size, kernel, stride, padding)
    for size in ((1, 1), (7, 5), (12, 9), (49, 10))
    for kernel in ((1, 1), (3, 3), (10, 4), (2, 5))
    for stride in ((1, 1), (2, 2), (3, 1))
    for padding in ("SAME", "VALID")
    if padding == "SAME" or (kernel[0] <= size[0] and kernel[1] <= size[1])
]
CHANNELS = st.integers(1, 9)


def least_lead(order: Order) -> int:
    """The twin, from the definition: byte by byte, each step against all later ones."""
    spans = order.spans()
    leads = [
        written - read
        for s, written in enumerate(spans.write_high[:-1])
        for read in spans.read_low[s + 1 :]
    ]
    return max(leads, default=-(1 << 30))


@pytest.mark.parametrize("made", [kernels.conv_order, kernels.pool_order], ids=["conv", "pool"])
@given(window=st.sampled_from(WINDOWS), reads=CHANNELS, makes=CHANNELS)
def test_lead_is_the_least_that_any_later_read_allows(made, window, reads, makes):
    if made is kernels.conv_order:
        order = made(window, reads, makes)
        if not kernels.is_direct(window):
            assert len(order.spans().read_low) == window.pixels // 4 + window.pixels % 4
    else:
        order, makes = made(window, reads), reads
    source, target = (np.prod(size) * n for size, n in ((window.size, reads), (window.out, makes)))
    assert max(0, order.lead) == max(0, least_lead(order))
    twin = -(-max(0, least_lead(order)) // 4) * 4  # addresses are words
    assert order.overlap(source, target) == max(0, source + target - max(target, source + twin))


def test_traced_channels_overlap_as_known_ones_do():
    window = Window.over((12, 9), (3, 3), (2, 1), "SAME")

    def overlaps(reads, makes):
        source, target = 108 * reads, window.pixels * makes
        return [
            kernels.conv_order(window, reads, makes).overlap(source, target),
            kernels.pool_order(window, reads).overlap(source, window.pixels * reads),
            kernels.depthwise_order(reads).overlap(source, window.pixels * reads),
            kernels.conv_scratch(window, reads),
        ]

    pairs = [(1, 1), (1, 40), (3, 2), (8, 8), (30, 4)]
    traced = jax.vmap(jax.jit(overlaps))(*np.asarray(pairs, np.int32).T)
    assert np.asarray(traced).T.tolist() == [overlaps(*pair) for pair in pairs]
    slope = jax.grad(lambda makes: overlaps(8.0, makes)[0])(4.0)
    assert slope == overlaps(8, 5)[0] - overlaps(8, 4)[0]


def test_by_hand():
    pointwise = Window.over((4, 4), (1, 1), (1, 1), "SAME")
    # Groups of four pixels: the last outputs of a group lie just below what the next one reads.
    assert kernels.conv_order(pointwise, 8, 8).overlap(128, 128) == 128
    assert kernels.conv_order(pointwise, 8, 4).overlap(128, 64) == 64
    # Twice as wide: after 12 pixels 192 bytes are written, and 96 were read.
    assert kernels.conv_order(pointwise, 8, 16).lead == 12 * 16 - 12 * 8
    assert kernels.conv_scratch(pointwise, 8) == 4 * 8 * 2
    assert kernels.conv_scratch(pointwise, 7) == 4 * 8 * 2 + 8
    assert kernels.elementwise(9).overlap(9, 9) == 9
    # 3 x 3 over 8 x 2: a plane is 10 x 4, of words read two outputs ahead 10 x 6.
    square = Depthwise.over(Window.over((8, 2), (3, 3), (1, 1), "SAME"))
    assert square.transposed is False and square.plane == (10, 4) and square.scratch == 80
