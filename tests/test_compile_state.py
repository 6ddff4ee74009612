"""State: variables, SVDF and LSTM, run after run, against TensorFlow Lite Micro."""

from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile

from micronets_jax import compile as compiler
from micronets_jax import data, devices, firmware, protocol, tflite
from micronets_jax.compile import verify
from micronets_jax.data import frontends
from micronets_jax.firmware import execute
from micronets_jax.firmware.inputs import noise
from support import flatbuffer_models as fm
from support.state_models import MODELS, Q, lstm, streaming, svdf


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_runs_in_a_row(name):
    """Cases are runs of one instance, so state goes on from each to the next."""
    model = MODELS[name]()
    compiled, flags = compiler.compile_model(model), ("-O1", *verify.SANITIZE)
    verdict = verify.verify(compiled, model, 12, flags, like="tflm")
    assert verdict.cases == 16 and "TensorFlow Lite Micro" in verdict.equal_to


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring with beginnings", "svdf", "lstm"])
def test_first_run_on_a_core(name, tmp_path):
    """The firmware keeps the state and begins with it reset."""
    model = MODELS[name]()
    compiled = compiler.compile_model(model)
    compiler.write(compiled, tmp_path / "out")
    ran = firmware.run(tmp_path / "out", "lcg:5", core="cortex-m4")
    shape = compiled.interface()[0]["shape"]
    case = noise(int(np.prod(shape)), 5).view(np.int8).reshape(shape)
    want = verify.Reference(model).run([[case]], compiled.interface())
    np.testing.assert_array_equal(ran.outputs[0], want[0][0])


def streamed(folder, source) -> firmware.Run:
    """A firmware that ran once for each input of a file, and gave what the interpreter gives."""
    ran = firmware.run(folder, str(source))
    assert ran.differing_outputs == 0
    np.testing.assert_array_equal(ran.outputs[0], ran.stream[-1][0])
    return ran


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring with beginnings", "svdf, wide", "lstm"])
def test_a_firmware_takes_frames_as_they_come(name, tmp_path):
    """One run a frame, each from the state that the last one left; a reset begins anew."""
    model = MODELS[name]()
    compiled = compiler.compile_model(model)
    shape = compiled.interface()[0]["shape"]
    frames = noise(5 * int(np.prod(shape)), 3).view(np.int8).reshape(5, *shape)
    np.save(tmp_path / "frames.npy", frames)
    firmware.write(model, "mps2-an386", tmp_path / "firmware")
    ran = streamed(tmp_path / "firmware", tmp_path / "frames.npy")
    assert len(ran.stream) == 5
    host = verify.Host(compiled, tmp_path)
    for (ours,), (here,) in zip(ran.stream, host.run([[x] for x in frames]), strict=True):
        np.testing.assert_array_equal(ours, here)
    board = devices.device("mps2-an386")
    elf = tmp_path / "firmware" / "build" / "firmware.elf"
    with execute.emulated(elf, board, 60.0) as port:
        assert port.hello()["remembers"] == "yes"
        first, second = (port.run(x.tobytes()).output for x in (frames[0], frames[0]))
        assert first != second  # it remembers
        port.forget()
        assert port.run(frames[0].tobytes()).output == first


@pytest.mark.slow
def test_a_firmware_takes_audio_as_it_comes(tmp_path):
    """A frame of sound for each run, of a recording that lasts for 24 of them."""
    record = data.MFCC(num_samples=640, num_coefficients=4)
    samples = np.random.default_rng(0).integers(-9000, 9000, 640 + 23 * 320 + 100, np.int16)
    scipy.io.wavfile.write(tmp_path / "long.wav", 16_000, samples)
    firmware.write(
        streaming(True), "mps2-an386", tmp_path / "firmware", frontend=frontends.to_json(record)
    )
    ran = streamed(tmp_path / "firmware", tmp_path / "long.wav")
    assert (len(ran.stream), ran.feature_steps) == (24, 0)
    assert len({outputs[0].tobytes() for outputs in ran.stream}) == 24


@pytest.mark.slow
def test_other_models_keep_nothing(tmp_path):
    m = fm.Models()
    x, y = m.tensor([1, 4], **Q), m.tensor([1, 4], **Q)
    m.operator("RELU", [x], [y])
    firmware.write(m.build([x], [y]), "mps2-an386", tmp_path / "firmware", title="small")
    firmware.check(tmp_path / "firmware")
    elf = tmp_path / "firmware" / "build" / "firmware.elf"
    with (
        execute.emulated(elf, devices.device("mps2-an386"), 60.0) as port,
        pytest.raises(protocol.ProtocolError, match="the model small keeps nothing between runs"),
    ):
        port.forget()
    np.save(tmp_path / "frames.npy", np.zeros((2, 1, 4), np.int8))
    with pytest.raises(firmware.FirmwareError, match=r"\[2, 1, 4\] came; input 0"):
        firmware.run(tmp_path / "firmware", str(tmp_path / "frames.npy"))


def test_state_is_the_callers():
    compiled = compiler.compile_model(streaming(True))
    assert [value.name for value, _ in compiled.states] == ["/first", "/second"]
    assert compiled.state_bytes == 2 * 12
    files = compiled.files()
    assert "#define MODEL_STATE_BYTES 24" in files["model.h"]
    assert "int model_run(void *arena, void *state);" in files["model.h"]
    assert "memcpy(s + 12, model_data_" in files["model.c"]
    plain = compiler.compile_model(svdf(np.random.default_rng(0), False)).files()["model.c"]
    assert "memset(s + 0," in plain


def test_states_are_read_where_they_lie():
    """No copy before the joining, and none behind the slice, which comes last of all readers."""
    kinds = [call.kind for call in compiler.compile_model(streaming(False)).calls]
    assert "read_state" not in kinds and "write_state" not in kinds
    assert kinds.count("slice") == 2  # into the state


def test_models_without_state_have_no_trace_of_it():
    m = fm.Models()
    x, y = m.tensor([1, 4], **Q), m.tensor([1, 4], **Q)
    m.operator("RELU", [x], [y])
    files = compiler.compile_model(m.build([x], [y])).files()
    for name in ("model.h", "model.c", "weights.c"):
        assert "state" not in files[name] and "STATE" not in files[name]


def test_state_of_an_lstm_is_named():
    model = lstm(np.random.default_rng(0), power=-11)
    with pytest.raises(tflite.TFLiteError, match=r"LSTM.: its cell state has scale 0.3"):
        odd: Any = fm.schema.ModelT.InitFromObj(fm.schema.Model.GetRootAs(model, 0))
        odd.subgraphs[0].tensors[14].quantization.scale = [0.3]
        builder = fm.flatbuffers.Builder(0)
        builder.Finish(odd.Pack(builder), b"TFL3")
        compiler.compile_model(bytes(builder.Output()))
