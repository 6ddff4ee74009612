"""The front end: against published models, a NumPy twin, and itself under transformations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import data
from micronets_jax.data import frontends
from micronets_jax.data.frontends import log_mel
from micronets_jax.data.sources import speech_commands
from support.derivatives import check_gradient


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
    total = jax.jit(lambda x: frontend(x).sum())
    check_gradient(total, clips, jax.jit(jax.grad(total))(clips), step=3e-4, rel=0.03)


def test_int16_and_float_clips_give_the_same_features():
    clip = np.random.default_rng(1).integers(-3000, 3000, 16_000).astype(np.int16)
    frontend = data.MFCC()
    np.testing.assert_array_equal(frontend(clip), frontend(clip.astype(np.float32) / 32768))


@pytest.mark.parametrize(
    "frontend",
    [data.MFCC(num_mels=32, high_hz=7000.0), data.LogMelPatches(patch_hop=10, mean_db=-25.0)],
)
def test_front_ends_survive_json(frontend):
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


# --- patches -------------------------------------------------------------------------------------


def test_slaney_triangles_have_unit_area_where_the_scale_says():
    triangles = log_mel.slaney_triangles(64, 1024, 16_000, 0.0, 8000.0)
    assert triangles.shape == (513, 64)
    # 8000 Hz are 15 + 27 ln 8 / ln 6.4 = 45.245 mel; the first edges lie 45.245 / 65 mel apart,
    # 46.405 Hz, and a triangle of area 1 over 92.81 Hz is 1 / 46.405 high.
    edge = (15 + 27 * np.log(8) / np.log(6.4)) / 65 / 0.015
    assert edge == pytest.approx(46.405, abs=1e-3)
    at = np.interp(edge, np.arange(513) * 15.625, triangles[:, 0])
    assert at == pytest.approx(1 / edge, rel=0.05)
    area = triangles.sum(axis=0) * 15.625
    np.testing.assert_allclose(area[20:], 1, atol=0.02)


def test_a_tone_lies_in_its_band_at_its_level():
    # A sine of amplitude a under a Hann window of n samples has a peak power of (a n / 4)^2, and
    # the bins beside it a quarter each: 1.5 times that in all, under triangles of 2 / width.
    frontend = data.LogMelPatches(thinning=1)
    hz, amplitude = 64 * 15.625, 0.1
    sound = amplitude * np.sin(2 * np.pi * hz / 16_000 * np.arange(60_000))
    patches = frontend.patches(sound)
    assert patches.shape == (3, 64, 64, 1)  # 116 frames: patches from frames 0, 20, 40
    triangles = log_mel.slaney_triangles(64, 1024, 16_000, 0.0, 8000.0)
    band = int(np.argmax(triangles[64]))
    powers = np.square(amplitude * 1024 / 4) * np.array([0.25, 1, 0.25])
    np.testing.assert_allclose(
        patches[:, band, :, 0], 10 * np.log10(powers @ triangles[63:66, band]), atol=0.01
    )
    assert patches[0, :, 0, 0].argmax() == band


def test_patches_are_thinned_shifted_and_complete():
    x = np.random.default_rng(0).integers(-3000, 3000, 60_000).astype(np.int16)
    whole, thin = data.LogMelPatches(thinning=1), data.LogMelPatches()
    assert thin.shape == (32, 32, 1) and thin.num_samples == 33_280
    np.testing.assert_array_equal(thin.patches(x), whole.patches(x)[:, ::2, ::2])
    late = whole.patches(x[20 * 512 :])
    np.testing.assert_allclose(late, whole.patches(x)[1:], atol=1e-3)
    np.testing.assert_array_equal(thin(thin.patches(x)), thin.patches(x) + 30)
    np.testing.assert_allclose(thin.patches(np.zeros(33_280)), -100, atol=1e-4)  # the floor
    with pytest.raises(ValueError, match="33279 samples: a patch needs 33280"):
        thin.patches(x[:33_279])


@pytest.mark.parametrize("wrong", [{"patch_hop": 0}, {"high_hz": 9000.0}, {"thinning": 65}])
def test_impossible_patches_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        data.LogMelPatches(**wrong)


def test_a_warp_moves_a_tone_along_the_mel_axis_and_keeps_the_band():
    mfcc = data.MFCC()
    t = np.arange(16_000) / 16_000
    hz = np.array([400.0, 1000.0, 2000.0])
    tones = jnp.asarray(0.1 * np.sin(2 * np.pi * hz[:, None] * t), jnp.float32)

    def peak(warp):
        warps = None if warp is None else jnp.full(3, warp)
        mel = np.asarray(mfcc.mel(tones, warps)).mean(axis=1)
        band = (mel * np.arange(1, 41)).sum(axis=1) / mel.sum(axis=1)
        ends = 2595 * np.log10(1 + np.array([20.0, 4000.0]) / 700)
        return 700 * (10 ** ((ends[0] + band * np.diff(ends) / 41) / 2595) - 1)

    np.testing.assert_allclose(peak(1.0), peak(None), rtol=1e-4)
    np.testing.assert_allclose(peak(1.2) / peak(None), 1.2, rtol=0.05)
    np.testing.assert_allclose(peak(0.85) / peak(None), 0.85, rtol=0.05)
