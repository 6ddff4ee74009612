"""Dense layers that read the input as it lies: the layout of weights, and the bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micronets_jax import compile as compiler
from micronets_jax import firmware, kernels
from micronets_jax.compile import verify
from micronets_jax.compile.kernels import pack_dense
from micronets_jax.firmware.inputs import noise
from micronets_jax.windows import Window
from support import flatbuffer_models as fm
from support.compiled import check


def dense(depth: int, count: int, batch: int = 1, seed: int = 0, extreme: bool = False) -> bytes:
    """One layer; ``extreme`` weights are the largest and smallest there are."""
    rng = np.random.default_rng(seed)
    m = fm.Models()
    x = m.tensor([batch, depth], scale=0.05, zero_point=int(rng.integers(-128, 128)))
    w = rng.integers(-128, 128, (count, depth))
    if extreme:
        w = rng.choice([-128, -127, 127], (count, depth), p=[0.01, 0.49, 0.5])
        w[-1] = -127
    scales = rng.uniform(0.001, 0.02, count)
    bias = rng.integers(-9999, 9999, count).astype(np.int32)
    inputs = [
        x,
        m.tensor(w.shape, "int8", scales, 0, w.astype(np.int8)),
        m.tensor([count], "int32", 0.05 * scales, 0, bias),
    ]
    y = m.tensor([batch, count], scale=float(np.sqrt(depth)), zero_point=-3)
    activation = int(rng.choice([0, 1, 3]))
    m.operator(
        "FULLY_CONNECTED", inputs, [y], "FullyConnectedOptions", fusedActivationFunction=activation
    )
    return m.build([x], [y])


# Layout -----------------------------------------------------------------------------------------


def test_pairs_by_hand():
    """Two bytes are a + 256 b: a negative a borrows from its b."""
    packed, odd = pack_dense(np.array([[1, -2, 3, -4], [5, 6, -7, -128]], np.int8))
    assert packed.tolist() == [1, 5, 3, -7, -2, 5, -4, 127]
    assert odd.tolist() == [False, True]
    words = packed.view(np.int16).tolist()
    assert words[:3] == [1 + 256 * 5, 3 - 256 * 7, -2 + 256 * 6]


@given(st.integers(1, 11), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_weight_is_found_again(count, depth, seed):
    """Where :c:func:`plain` looks for them."""
    weights = np.random.default_rng(seed).integers(-128, 128, (count, depth)).astype(np.int8)
    packed, odd = pack_dense(weights)
    quads = -(-depth // 4)
    assert packed.size == 8 * quads * -(-count // 2)
    for channel in range(count):
        pair = channel // 2
        step = 16 if (pair | 1) * 2 < count else 8
        for i in range(depth):
            at = pair // 2 * 16 * quads + pair % 2 * 8 + i // 4 * step + (i & 1) * 4 + (i & 2)
            a, b = int(packed[at]), int(packed[at + 1])
            found = (b + (a < 0) + 128) % 256 - 128 if channel % 2 else a
            assert found == weights[channel, i]
    negative = weights[0::2] < 0
    unfit = negative[: len(weights[1::2])] & (weights[1::2] == -128)
    assert odd[1::2].tolist() == unfit.any(axis=1).tolist()


@pytest.mark.parametrize(
    ("size", "out", "kernel", "stride", "before", "direct"),
    [
        ((1, 1), (1, 1), (1, 1), (1, 1), (0, 0), True),
        ((1, 3), (1, 3), (1, 1), (1, 1), (0, 0), True),
        ((1, 4), (1, 4), (1, 1), (1, 1), (0, 0), False),  # four pixels are computed together
        ((5, 7), (1, 1), (5, 7), (1, 1), (0, 0), True),
        ((5, 7), (1, 1), (5, 6), (1, 1), (0, 0), False),  # a patch with gaps
        ((6, 7), (1, 1), (5, 7), (2, 2), (0, 0), False),
        ((4, 7), (1, 1), (5, 7), (1, 1), (1, 0), False),  # padding
        ((3, 3), (2, 1), (1, 1), (2, 3), (0, 0), False),
    ],
)
def test_whose_patches_lie_in_the_input(size, out, kernel, stride, before, direct):
    window = Window(size, out, kernel, stride, before, (1, 1))
    assert kernels.is_direct(window) == direct
    assert (kernels.conv_scratch(window, 8) == 0) == direct
    if direct:
        order = kernels.conv_order(window, 8, 5)
        assert order.overlap(size[0] * size[1] * 8, 5 * window.pixels) == 0


def test_no_copy_of_the_input():
    """Input and output, nothing else; batches of four and more copy if outputs are larger."""
    for batch, count, arena in ((1, 10, 110), (3, 10, 330), (4, 10, 440), (8, 200, 8 * 200 + 832)):
        compiled = compiler.compile_model(dense(100, count, batch))
        assert compiled.arena_bytes <= arena + 4, (batch, count)


def test_layers_of_more_inputs_than_16_bits_count():
    (call,) = compiler.compile_model(dense(40_000, 2)).calls
    assert (call.function, call.fields["inputs"]) == ("mn_dense", 40_000)


# Bytes ------------------------------------------------------------------------------------------

SHAPES = [
    (1, 1, 1), (3, 2, 1), (4, 3, 2), (5, 4, 3), (500, 6, 1), (505, 7, 1), (1010, 5, 1), (12, 9, 5),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_on_this_machine(shape, extreme):
    check(dense(*shape, seed=sum(shape), extreme=extreme))


ON_CORES = [(shape, extreme, "cortex-m4") for shape in SHAPES for extreme in (False, True)] + [
    ((505, 7, 1), False, "cortex-m0plus"), ((1010, 5, 1), True, "cortex-m0plus"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "extreme", "core"), ON_CORES)
def test_bytes_on_a_core(shape, extreme, core, tmp_path):
    """Sums that only just fit, ends of quads, odd channels; bytes that do not fit."""
    depth, _, batch = shape
    model = dense(*shape, seed=sum(shape), extreme=extreme)
    compiled = compiler.compile_model(model)
    compiler.write(compiled, tmp_path / "model")
    lowest = np.full((batch, depth), -128, np.int8)
    for i, case in enumerate((noise(batch * depth, 5).view(np.int8).reshape(batch, depth), lowest)):
        np.save(tmp_path / f"{i}.npy", case)
        ran = firmware.run(tmp_path / "model", str(tmp_path / f"{i}.npy"), core=core)
        want = verify.Reference(model).run([[case]], compiled.interface())
        np.testing.assert_array_equal(ran.outputs[0], want[0][0])
