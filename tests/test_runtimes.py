"""The interpreters: their common face, the arena, and files that are not models."""

import os

import numpy as np
import pytest

from micronets_jax import export, runtimes
from support.networks import SPACE, trained

NETWORK = SPACE.member([12, 4, 4, 4], [False, False, False])
BOTH = pytest.mark.parametrize("runtime", [runtimes.TFLM, runtimes.LiteRT])


@pytest.fixture(scope="module")
def model():
    return export.to_tflite(NETWORK, *trained(NETWORK))


@BOTH
def test_the_ends_of_a_model(model, runtime):
    runtime = runtime(model)
    assert runtime.input_details.shape == (1, 49, 10, 1)
    assert runtime.output_details.shape == (1, 12)
    assert runtime.input_details.dtype == runtime.output_details.dtype == np.int8
    assert 0 < runtime.input_details.scale < 1


@BOTH
def test_predictions_do_not_depend_on_what_came_before(model, runtime):
    x = np.random.default_rng(0).integers(-128, 128, (5, 49, 10, 1)).astype(np.int8)
    whole = runtime(model).predict(x)
    assert whole.shape == (5, 12) and whole.dtype == np.int8
    np.testing.assert_array_equal(runtime(model).predict(x[3:]), whole[3:])
    assert runtime(model).predict(x[:0]).shape == (0, 12)


@pytest.mark.parametrize(
    ("name", "accuracy"),
    [
        ("mlperf_kws_dscnn", 0.904),  # 0.906 with XNNPACK, which rounds differently
        pytest.param("micronet_kws_m", 0.914, marks=pytest.mark.slow),
    ],
)
def test_published_keyword_spotters_score_as_known(reference, name, accuracy):
    """On half of the benchmark's clips, as the folder of reference numbers says."""
    clips = np.load(reference / "data" / "kws01_even.npz")
    runtime = runtimes.TFLM((reference / "models" / f"{name}.tflite").read_bytes())
    real = runtimes.dequantize(clips["features"][..., None], 0.5847029, 83)
    ends = runtime.input_details
    x = runtimes.quantize_input(real, ends.scale, ends.zero_point)
    assert np.mean(runtime.predict(x).argmax(-1) == clips["labels"]) == pytest.approx(accuracy)


def test_the_activation_part_of_the_arena_is_known(reference):
    """Measured on a 32-bit core in the same interpreter; its head is the same here."""
    runtime = runtimes.TFLM((reference / "models" / "micronet_kws_m.tflite").read_bytes())
    assert runtime.arena().activation_bytes == 86112


def test_the_arena_adds_up_and_does_not_depend_on_what_is_given(model, capfd):
    arena = runtimes.TFLM(model).arena()
    assert arena.total_bytes == arena.activation_bytes + arena.persistent_bytes
    assert arena.activation_bytes >= 49 * 10 * (1 + 12)
    assert arena == runtimes.TFLM(model, arena_bytes=50_001).arena()
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_quantize_input_by_hand():
    x = np.asarray([-9.0, -0.26, 0.0, 0.24, 0.25, 70.0], np.float32)
    np.testing.assert_array_equal(runtimes.quantize_input(x, 0.5, -3), [-21, -4, -3, -3, -2, 127])
    np.testing.assert_array_equal(
        runtimes.dequantize(np.asarray([-4, 127], np.int8), 0.5, -3), [-0.5, 65]
    )


@BOTH
def test_what_is_not_a_model_is_refused(model, runtime):
    for bad in (
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        model[:20],
        model[:-4],
        model[: len(model) // 2],
    ):
        with pytest.raises(ValueError, match=r"not a (sound )?TFLite file"):
            runtime(bad)


@BOTH
def test_wrong_inputs_are_refused(model, runtime):
    with pytest.raises(ValueError, match=r"float32 \(1, 49, 10, 1\); the model takes int8"):
        runtime(model).predict(np.zeros((1, 49, 10, 1), np.float32))
    with pytest.raises(ValueError, match=r"shape \(n, 49, 10, 1\)"):
        runtime(model).predict(np.zeros((1, 49, 10), np.int8))


def test_too_small_an_arena_is_refused(model):
    with pytest.raises(ValueError, match="larger arena"):
        runtimes.TFLM(model, arena_bytes=4000)
