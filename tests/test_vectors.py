"""Kernels of the vector extension on an emulated Cortex-M55: bytes of TensorFlow Lite Micro."""

import numpy as np
import pytest

from micronets_jax import firmware, sizes
from support import flatbuffer_models as fm
from support.row_models import Net, ended, mixed

pytestmark = pytest.mark.slow


def run(model: bytes, folder, **plan) -> firmware.Run:
    firmware.write(model, "mps3-an547", folder, **plan)
    ran = firmware.run(folder)
    assert ran.differing_outputs == 0
    assert ran.stack_bytes <= ran.stack_reserved - sizes.INTERRUPT_BYTES
    return ran


@pytest.mark.parametrize("shape", [(1, 13, 11, 12), (1, 4, 19, 37), (1, 3, 2, 5)])
def test_layers(shape, tmp_path):
    """Patches that end within a vector, channels that leave a pair or one alone, groups of one to
    four pixels; squares in rows of one output and more, padded on all sides, and other windows."""
    net = Net(shape, seed=sum(shape))
    x = net.input
    convolutions = [
        net.conv(x, 7, 1),
        net.conv(x, 8, 1, 2),
        net.conv(x, 5, 3, relu=3),
        net.conv(x, 9, 2, 2),
    ]
    depthwise = [net.depthwise(x, kernel=k, stride=s) for k in (3, 5, 7) for s in (1, 2)]
    others = [net.depthwise(x, kernel=(2, 1), relu=3), net.pool("AVERAGE_POOL_2D", x, 2, 1)]
    run(net.build(*convolutions, *depthwise, *others), tmp_path, plan="whole")


def test_rows(tmp_path):
    run(mixed(2), tmp_path, plan="memory", rows=True)


@pytest.mark.parametrize(
    ("shape", "outs", "options"),
    [
        ((4, 3, 5), 7, {}),
        ((3, 8, 6), 10, {"lowest": -128}),
        ((5, 1, 3), 1, {"gain": 1e4}),
        ((2, 31, 33), 6, {"lowest": -128, "gain": 30.0, "relu": 3}),
    ],
)
def test_dense_layers_by_rows(shape, outs, options, tmp_path):
    """Rows that end within a vector and are shorter than one; groups of four and of two."""
    net = Net((1, *shape), seed=outs)
    model = net.build(net.flat_dense(net.input, outs, scales=outs, **options))
    run(model, tmp_path, plan="memory", rows=True)


def test_a_dense_end(tmp_path):
    run(ended(21), tmp_path, plan="memory", rows=True)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 7, 6, 10), {"channels": 11, "kernel": (3, 3), "activation": 3}),
        ((1, 7, 6, 10), {"channels": 1, "kernel": (3, 3), "activation": 3, "depthwise": True}),
        ((1, 1, 3, 47), {"channels": 14, "kernel": (1, 1)}),
        ((1, 5, 5, 33), {"channels": 6, "kernel": (3, 2), "dilation": (2, 1)}),
    ],
)
def test_wide_channels(shape, options, tmp_path):
    """Scales of 1/2 and more among others, with a clamp."""
    model = fm.convolution(np.random.default_rng(1), shape, gain=0.02, **options)
    run(model, tmp_path)


@pytest.mark.parametrize("inputs", [8, 27, 640])
def test_dense_layers(inputs, tmp_path):
    model = fm.convolution(np.random.default_rng(inputs), (1, 1, 2, inputs), 10, (1, 1))
    run(model, tmp_path)


def test_weights_stored_as_int16_are_read_too(tmp_path):
    model = fm.convolution(np.random.default_rng(3), (1, 6, 5, 9), 7, (3, 3))
    run(model, tmp_path, flash_budget=1 << 20)


def test_sums_of_operands_that_are_exact_and_not(tmp_path):
    net = Net((1, 5, 7, 3))
    scaled = net.conv(net.input, 3, 1, relu=3)
    same = net.conv(net.input, 3, 1)
    sums = [net.binary("ADD", *pair) for pair in ((same, same), (scaled, same), (same, scaled))]
    run(net.build(*sums, net.binary("SUB", scaled, same)), tmp_path)
