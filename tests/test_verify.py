"""What a compiled model is compared with: interpreters that may die, and who stands alone."""

import numpy as np
import pytest

from micronets_jax.compile import compiler, verify
from micronets_jax.compile.interpreters import InterpreterError, Reference
from support import flatbuffer_models as fm

TFLM, LITERT = "TensorFlow Lite Micro", "LiteRT with its reference kernels"


def softmax(classes: int) -> bytes:
    m = fm.Models()
    x = m.tensor([1, classes], scale=0.125, zero_point=1)
    y = m.tensor([1, classes], scale=1 / 256, zero_point=-128)
    m.operator("SOFTMAX", [x], [y], "SoftmaxOptions", beta=1.0)
    return m.build([x], [y])


def dense(rng: np.random.Generator, inputs: int, outputs: int) -> bytes:
    m = fm.Models()
    x = m.tensor([1, inputs], scale=0.05, zero_point=-3)
    weights = rng.integers(-3, 4, (outputs, inputs)).astype(np.int8)
    w = m.tensor([outputs, inputs], scale=0.01, data=weights)
    y = m.tensor([1, outputs], scale=0.0023, zero_point=4)
    m.operator("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions")
    return m.build([x], [y])


@pytest.mark.parametrize("engine", ["tflm", "litert"])
def test_an_interpreter_that_dies_is_a_sentence(engine, capfd):
    """Its softmax of a thousand equal inputs divides by more than its numbers hold, and aborts."""
    model = softmax(1000)
    entries = compiler.compile_model(model).interface()
    equal = [[np.ones((1, 1000), np.int8)]]
    with pytest.raises(InterpreterError, match="fails on this model: its process was ended by SIG"):
        Reference(model, engine).run(equal, entries)
    few = softmax(10)
    entries = compiler.compile_model(few).interface()
    outputs = Reference(few, engine).run([[np.ones((1, 10), np.int8)]] * 2, entries)
    assert [y.shape for (y,) in outputs] == [(1, 10)] * 2
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_nothing_to_compare_with():
    with pytest.raises(compiler.TFLiteError, match=f"nothing to compare with: {TFLM} fails") as e:
        verify.verify(compiler.compile_model(softmax(1000)), softmax(1000))
    assert LITERT in str(e.value)


def test_a_refusal_says_why_and_keeps_the_terminal_clean(capfd):
    m = fm.Models()
    x, y = (m.tensor([1, 4], scale=0.1) for _ in range(2))
    m.operator("ATAN2", [x, x], [y])
    entries = [{"way": "output"}]
    with pytest.raises(InterpreterError, match=f"{TFLM} refuses the model: .*ATAN2"):
        Reference(m.build([x], [y])).run([[np.zeros((1, 4), np.int8)]], entries)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_dense_layer_that_litert_rounds_once_is_a_note():
    model = dense(np.random.default_rng(0), 10, 400)
    verdict = verify.verify(compiler.compile_model(model), model)
    assert verdict.equal_to == (TFLM,)
    (note,) = verdict.notes
    assert note.startswith(f"{LITERT} stands alone: first layer that differs: 0 (conv")
    assert note.endswith("by up to 1")


def changed(compiled: compiler.Compiled, by: int) -> compiler.Compiled:
    """The same model with other biases in its first layer."""
    compiled.calls[0].fields["channels"]["bias"] += by
    return compiled


@pytest.mark.parametrize("like", verify.LIKES)
def test_who_is_wrong_alone_is_refused(like):
    model = fm.convolution(np.random.default_rng(1), (1, 6, 5, 4), 8, (3, 3))
    compiled = changed(compiler.compile_model(model), 5000)
    with pytest.raises(compiler.TFLiteError, match=rf"differs from {TFLM}; first layer.*0 \(conv"):
        verify.verify(compiled, model, like=like)


def test_tflm_alone_is_a_note_unless_it_is_to_be_followed(monkeypatch):
    """A stand-in for a fault of TFLM's: the file that it is given has other biases."""
    model = fm.convolution(np.random.default_rng(2), (1, 6, 5, 4), 8, (3, 3))
    other = fm.convolution(np.random.default_rng(3), (1, 6, 5, 4), 8, (3, 3))

    def of(_: bytes, engine: str) -> Reference:
        return Reference(other if engine == "tflm" else model, engine)

    monkeypatch.setattr(verify, "Reference", of)
    compiled = compiler.compile_model(model)
    verdict = verify.verify(compiled, model)
    assert verdict.equal_to == (LITERT,)
    assert verdict.notes[0].startswith(f"{TFLM} stands alone: first layer that differs: 0 (conv")
    with pytest.raises(compiler.TFLiteError, match=f"differs from {TFLM}"):
        verify.verify(compiled, model, like="tflm")


def test_a_wrong_plan_is_not_blamed_on_a_layer(monkeypatch):
    model = fm.convolution(np.random.default_rng(4), (1, 6, 5, 4), 8, (3, 3))
    compiled = compiler.compile_model(model)
    everything = [[(0, compiled.arena_bytes)]] * (len(compiled.accesses) + 1)
    monkeypatch.setattr(type(compiled), "dead_ranges", lambda self: everything)
    with pytest.raises(compiler.TFLiteError, match="the memory plan is wrong"):
        verify.verify(compiled, model)
