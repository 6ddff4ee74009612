"""Moves: the copies they become are what NumPy does, and what TensorFlow Lite Micro does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micronets_jax import compile as compiler
from micronets_jax import tflite
from micronets_jax.compile import verify
from micronets_jax.compile.copies import positions
from micronets_jax.compile.operators import move
from support import flatbuffer_models as fm
from support.move_models import dilated, model_of, moves, space_to_batch


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_moves_in_the_interpreter(seed):
    for name, model in moves(np.random.default_rng(seed)):
        compiled = compiler.compile_model(model)
        flags = ("-O1", *verify.SANITIZE)
        assert verify.verify(compiled, model, 2, flags).cases == 6, name


def test_every_move_compiles_to_copies():
    for _, model in moves(np.random.default_rng(9)):
        assert {call.function for call in compiler.compile_model(model).calls} <= {
            "mn_copy",
            "mn_fill",
        }


def execute(found, inputs, output):
    """What mn_copy does, from its description."""
    for copy in found:
        index = np.indices(copy.shape).reshape(len(copy.shape), -1)
        read = np.array(copy.in_steps, int) @ index + copy.in_at
        output[np.array(copy.out_steps, int) @ index + copy.out_at] = inputs[copy.source][read]
    return output


@given(st.integers(0, 2**32 - 1))
def test_copies_are_the_function(seed):
    """Chains of NumPy's own moves, of one and of two arrays, with holes."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 5, 3))
    sizes = [int(np.prod(shape))] * 2
    arrays = [np.arange(n).reshape(shape) + (i << move.SOURCE) for i, n in enumerate(sizes)]
    x = np.concatenate(arrays, axis=int(rng.integers(3))) if rng.random() < 0.5 else arrays[0]
    for _ in range(int(rng.integers(1, 4))):
        chosen = int(rng.integers(5))
        if chosen == 0:
            x = x.transpose(rng.permutation(x.ndim))
        elif chosen == 1:
            x = np.pad(
                x, [(int(rng.integers(2)), int(rng.integers(3)))] * x.ndim, constant_values=-1
            )
        elif chosen == 2:
            x = x[tuple(slice(None, None, int(rng.choice([-1, 1, 2]))) for _ in range(x.ndim))]
        elif chosen == 3:
            x = np.take(x, rng.integers(0, x.shape[0], 3), axis=0)
        else:
            x = x.reshape(x.shape[0], -1, 1)
    try:
        found = move.copies(x)
    except tflite.TFLiteError:
        return
    inputs = [rng.integers(0, 100, n) for n in sizes]
    flat = np.concatenate(inputs)
    source, place = x.reshape(-1) >> move.SOURCE, x.reshape(-1) & ((1 << move.SOURCE) - 1)
    want = np.where(
        x.reshape(-1) < 0, -1, flat[np.minimum(source * sizes[0] + place, len(flat) - 1)]
    )
    np.testing.assert_array_equal(execute(found, inputs, np.full(x.size, -1)), want)
    np.testing.assert_array_equal(positions(found, x.size), np.maximum(x.reshape(-1), -1))


def test_a_slice_is_one_copy_and_a_reshape_none():
    assert len(move.copies(np.arange(60).reshape(3, 4, 5)[:, 1:3])) == 1
    assert len(move.copies(np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1))) == 1
    model = model_of("SQUEEZE", (1, 3, 1), [(3,)], options="SqueezeOptions")
    assert compiler.compile_model(model).calls == []


LAYERS = pytest.mark.parametrize(("depthwise", "columns_only"), [(0, 0), (0, 1), (1, 0), (1, 1)])


@LAYERS
def test_batches_of_space_are_dilation(depthwise, columns_only):
    """One call, the same whether the batch is open or the file says how many blocks there are."""
    calls = []
    for is_open in (False, True):
        compiled = compiler.compile_model(dilated(depthwise, columns_only, is_open))
        (call,) = compiled.calls
        assert call.kind == ("depthwise" if depthwise else "conv")
        calls.append((call.fields, compiled.arena_bytes))
    for name, value in calls[0][0].items():
        np.testing.assert_array_equal(value, calls[1][0][name])
    assert calls[0][1] == calls[1][1]


def check_against_litert(model: bytes, folder) -> None:
    host = verify.Host(compiler.compile_model(model), folder, ("-O1", *verify.SANITIZE))
    cases = verify.cases(host.entries, 4)
    for case, got, again in zip(cases, host.run(cases), host.run_poisoned(cases), strict=True):
        np.testing.assert_array_equal(got[0], fm.litert(model, case)[0])
        np.testing.assert_array_equal(got[0], again[0])


@pytest.mark.slow
@LAYERS
def test_dilation_is_the_references(depthwise, columns_only, tmp_path):
    """TensorFlow Lite Micro pads SPACE_TO_BATCH_ND with whatever its memory holds, so here LiteRT
    is the judge, which pads with zeros."""
    check_against_litert(dilated(depthwise, columns_only, False), tmp_path)


@pytest.mark.slow
def test_space_to_batch_with_borders(tmp_path):
    check_against_litert(space_to_batch((1, 4, 3, 5), [[1, 3], [2, 4]]), tmp_path)
