"""The front end: against published models, a NumPy twin, and itself under transformations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import data
from micronets_jax.data import frontends, speech_commands


def twin(clip: np.ndarray, f: data.MFCC) -> np.ndarray:
    """The same features, written as the definition reads: frame by frame, triangle by triangle."""
    n = np.arange(f.frame_length)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / f.frame_length)

    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    edge = np.linspace(mel(f.low_hz), mel(f.high_hz), f.num_mels + 2)
    hz = mel(np.arange(f.fft_length // 2 + 1) * f.sample_rate / f.fft_length)
    out = np.zeros(f.shape)
    for t in range(f.num_frames):
        frame = clip[t * f.hop_length : t * f.hop_length + f.frame_length]
        magnitude = np.abs(np.fft.rfft(frame * window, f.fft_length))
        logs = []
        for m in range(f.num_mels):
            low, centre, high = edge[m : m + 3]
            rising, falling = (hz - low) / (centre - low), (high - hz) / (high - centre)
            weight = np.clip(np.minimum(rising, falling), 0, None)
            logs.append(np.log(max(weight @ magnitude, f.log_floor)))
        for k in range(f.num_coefficients):
            angles = np.pi * k * (np.arange(f.num_mels) + 0.5) / f.num_mels
            out[t, k, 0] = np.sqrt(2 / f.num_mels) * np.dot(np.cos(angles), logs)
    return out


@pytest.mark.parametrize(
    "frontend",
    [
        data.MFCC(),
        data.MFCC(frame_length=480, hop_length=320, fft_length=512, num_coefficients=13),
        data.MFCC(num_samples=4000, frame_length=1024, hop_length=512, high_hz=8000.0, num_mels=20),
    ],
    ids=["published", "short", "long"],
)
def test_features_equal_the_definition(frontend):
    rng = np.random.default_rng(0)
    clip = rng.normal(0, 0.1, frontend.num_samples) + 0.02
    np.testing.assert_allclose(
        jax.jit(frontend)(jnp.asarray(clip, jnp.float32)), twin(clip, frontend), atol=2e-4
    )


def test_silence_lies_on_the_floor():
    # All 40 logarithms are ln(1e-6): the first coefficient is sqrt(2 / 40) * 40 * ln(1e-6).
    features = np.asarray(data.MFCC()(np.zeros(16_000, np.int16)))
    assert features.shape == (49, 10, 1)
    np.testing.assert_allclose(features[:, 0], -123.569, atol=1e-2)
    np.testing.assert_allclose(features[:, 1:], 0, atol=1e-3)


@pytest.mark.parametrize(("word", "confidence"), [("down", 0.987), ("yes", 0.997)])
def test_the_published_network_recognises_real_recordings(reference, word, confidence):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(
        str(reference / "models" / "micronet_kws_m.tflite")
    )
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    clip = data.read_clip(reference / "data" / "speech" / f"{word}.wav")
    scale, zero = entry["quantization"]
    levels = np.clip(np.round(np.asarray(data.MFCC()(clip)) / scale) + zero, -128, 127)
    interpreter.set_tensor(entry["index"], levels[None].astype(np.int8))
    interpreter.invoke()
    scale, zero = exit_["quantization"]
    logits = (interpreter.get_tensor(exit_["index"])[0].astype(np.float64) - zero) * scale
    probabilities = np.exp(logits) / np.exp(logits).sum()
    names = (*speech_commands.TARGETS, "silence", "unknown")
    assert names[probabilities.argmax()] == word
    assert probabilities.max() == pytest.approx(confidence, abs=5e-4)


def test_jit_vmap_and_grad_agree_with_the_plain_call():
    frontend = data.MFCC()
    clips = jax.random.normal(jax.random.key(0), (3, 16_000)) * 0.1
    traced = jax.jit(chex.assert_max_traces(lambda x: frontend(x), n=1))
    expected = frontend(clips)
    np.testing.assert_allclose(traced(clips), expected, atol=1e-4)
    np.testing.assert_allclose(traced(clips + 0), expected, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(frontend)(clips), expected, atol=1e-4)
    gradient = jax.grad(lambda x: frontend(x).sum())(clips)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_int16_and_float_clips_give_the_same_features():
    clip = np.random.default_rng(1).integers(-3000, 3000, 16_000).astype(np.int16)
    frontend = data.MFCC()
    np.testing.assert_array_equal(frontend(clip), frontend(clip.astype(np.float32) / 32768))


def test_front_end_survives_json():
    frontend = data.MFCC(num_mels=32, high_hz=7000.0)
    assert frontends.from_json(frontends.to_json(frontend)) == frontend


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not the text of a front end"),
        ('{"kind": "wavelet"}', "known kind"),
        ('{"kind": "mfcc", "colour": 1}', "colour"),
    ],
)
def test_json_of_something_else_is_refused(text, part):
    with pytest.raises(ValueError, match=part):
        frontends.from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_length": 641},
        {"frame_length": 2048},
        {"high_hz": 9000.0},
        {"low_hz": 5000.0},
        {"num_coefficients": 41},
        {"log_floor": 0.0},
    ],
)
def test_impossible_parameters_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        data.MFCC(**wrong)


def test_clips_of_another_length_are_refused():
    with pytest.raises(ValueError, match="16000 samples"):
        data.MFCC()(np.zeros(8000, np.int16))
