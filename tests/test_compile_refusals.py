"""What is said of a model that does not compile: what it is, all that is in the way, what helps."""

from typing import Any

import numpy as np
import pytest

from micronets_jax import compile as compiler
from micronets_jax import tflite
from micronets_jax.compile.operators import ROWS, advice
from support import flatbuffer_models as fm

Q: dict[str, Any] = {"scale": 0.1, "zero_point": -7}


def dense(activations: str, weights: str) -> bytes:
    """One dense layer of the given types."""
    m = fm.Models()
    zero = {"uint8": 128, "int16": 0}.get(activations, -7)
    q: dict[str, Any] = {} if activations == "float32" else {"scale": 0.1, "zero_point": zero}
    x, y = m.tensor([1, 4], activations, **q), m.tensor([1, 2], activations, **q)
    q = {} if weights == "float32" else {"scale": 0.1}
    w = m.tensor([2, 4], weights, **q, data=np.ones((2, 4), weights))
    m.operator("FULLY_CONNECTED", [x, w], [y], "FullyConnectedOptions")
    return m.build([x], [y])


def chain(*kinds: str, custom: str = "") -> bytes:
    """Operators one behind the other, each from one int8 tensor to the next."""
    m = fm.Models()
    x = first = m.tensor([1, 4], **Q)
    for kind in kinds:
        y = m.tensor([1, 4], **Q)
        m.operator(kind, [x], [y])
        x = y
    return m.build([first], [x], custom=custom)


def refusal(model: bytes) -> str:
    with pytest.raises(tflite.TFLiteError) as caught:
        compiler.compile_model(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("activations", "weights", "says"),
    [
        ("float32", "float32", ("float32 model", "TFLITE_BUILTINS_INT8", "representative_dataset")),
        ("float32", "int8", ("dynamic-range quantisation", "representative_dataset")),
        ("uint8", "uint8", ("in uint8", "TensorFlow 1", "inference_input_type = tf.int8")),
        ("int16", "int8", ("16x8", "TFLITE_BUILTINS_INT8 instead of EXPERIMENTAL")),
    ],
)
def test_kinds_of_files_are_named(activations, weights, says):
    sentence = refusal(dense(activations, weights))
    assert "operator 0 (FULLY_CONNECTED)" in sentence
    assert all(word in sentence for word in says)
    if activations == "uint8":
        assert "full integer quantisation" not in sentence  # it is fully quantised


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("ethos-u", "compiled by Vela for an Ethos-U accelerator"),
        ("edgetpu-custom-op", "Edge TPU"),
        ("FlexErf", "SELECT_TF_OPS"),
        ("TFLite_Detection_PostProcess", "boxes and scores"),
        ("CIRCULAR_BUFFER", "with variables (READ_VARIABLE"),
        ("MyOwn", "only its author's runtime computes"),
    ],
)
def test_custom_operators_are_named(code, says):
    sentence = refusal(chain("CUSTOM", custom=code))
    assert f"operator 0 (CUSTOM '{code}')" in sentence and says in sentence


def test_all_operators_in_the_way_at_once():
    """By name and index, those of a kind together, and nothing of what only follows from them."""
    sentence = refusal(chain("POW", "RELU", "CONV_3D", "POW", "STABLEHLO_ADD"))
    assert sentence.startswith("4 operators are in the way: operators 0, 3 (POW) are not supported")
    assert "operator 2 (CONV_3D) is not supported: use Conv2D on frames" in sentence
    assert "operator 4 (STABLEHLO_ADD) is an operator of StableHLO" in sentence
    assert "RELU)" not in sentence.replace("(POW)", "")


def test_reasons_of_supported_operators_are_collected_too():
    m = fm.Models()
    x, y = m.tensor([1, 4], **Q), m.tensor([1, 4], **Q)
    m.operator("SOFTMAX", [x], [y], "SoftmaxOptions", beta=1.0)
    z = m.tensor([1, 4], **Q)
    m.operator("UNIQUE", [x], [z])
    sentence = refusal(m.build([x], [y, z]))
    assert "operator 0 (SOFTMAX): its output needs scale 1/256" in sentence
    assert "operator 1 (UNIQUE) is not supported" in sentence


@pytest.mark.parametrize("end", ["input", "output"])
def test_ends_of_bool_are_named(end):
    m = fm.Models()
    a, b, y = m.tensor([1, 4], **Q), m.tensor([1, 4], "bool"), m.tensor([1, 4], **Q)
    m.operator("GREATER", [a, a], [b], "GreaterOptions")
    m.operator("SELECT_V2", [b, a, a], [y], "SelectV2Options")
    model = m.build([a], [y, b]) if end == "output" else m.build([b], [y])
    assert f"{end} tensor 1 (t1) is bool; " in refusal(model)


def test_16_bits_in_the_middle_are_named():
    """At an end they compile."""
    m = fm.Models()
    x, y, z = m.tensor([1, 4], **Q), m.tensor([1, 4], "int16", scale=0.001), m.tensor([1, 4], **Q)
    m.operator("QUANTIZE", [x], [y], "QuantizeOptions")
    m.operator("RELU", [y], [z])
    assert "operator 1 (RELU): its input tensor 1 (t1) is int16, not int8" in (
        refusal(m.build([x], [z]))
    )


def test_16_bit_activations_without_weights_are_named():
    m = fm.Models()
    x, y = (m.tensor([1, 4], "int16", scale=0.001) for _ in range(2))
    m.operator("ADD", [x, x], [y], "AddOptions")
    assert "16-bit activations (16x8 quantisation): its input tensor 0" in refusal(
        m.build([x], [y])
    )


def test_inputs_and_operators_in_the_way_at_once():
    """As a front end on samples has them: int16 in, operators of the signal library."""
    m = fm.Models()
    x, y, z = m.tensor([1, 4], "int16"), m.tensor([1, 4], "int16"), m.tensor([1, 4], **Q)
    m.operator("CUSTOM", [x], [y])
    m.operator("POW", [y], [z])
    sentence = refusal(m.build([x], [z], custom="SignalWindow"))
    assert (
        "tensor 0 (t0) is int16 without a scale" in sentence
        and "operator 1 (POW) is not supported" in sentence
    )
    assert "operator 0 (CUSTOM 'SignalWindow') is a custom operator: the file computes a front" in (
        sentence
    )


def test_one_reason_is_said_once():
    """Of operators of several kinds, too."""
    m = fm.Models()
    tensors = [m.tensor([1, 4], **Q) for _ in range(4)]
    for kind, x, y in zip(("RANK", "MATRIX_DIAG", "RANK"), tensors, tensors[1:], strict=False):
        m.operator(kind, [x], [y])
    sentence = refusal(m.build([tensors[0]], [tensors[-1]]))
    assert sentence.startswith("operators 0, 2 (RANK), 1 (MATRIX_DIAG) are not supported: replace")
    assert sentence.count("replace") == 1


def test_an_input_without_a_scale_is_named():
    m = fm.Models()
    x, y = m.tensor([1, 4], "uint8"), m.tensor([1, 4], **Q)
    m.operator("QUANTIZE", [x], [y], "QuantizeOptions")
    assert "is uint8 without a scale; convert with inference_input" in refusal(m.build([x], [y]))


def test_models_quantised_in_part_are_named():
    m = fm.Models()
    x, y = m.tensor([1, 4], **Q), m.tensor([1, 4], **Q)
    w = m.tensor([4, 4], scale=0.1, data=np.ones((4, 4), np.int8))
    m.operator("FULLY_CONNECTED", [x, w], [y], "FullyConnectedOptions")
    real, out = m.tensor([1, 4], "float32"), m.tensor([1, 2], "float32")
    m.operator("DEQUANTIZE", [y], [real])
    v = m.tensor([2, 4], "float32", data=np.ones((2, 4), np.float32))
    m.operator("FULLY_CONNECTED", [real, v], [out], "FullyConnectedOptions")
    sentence = refusal(m.build([x], [out]))
    assert "in part: 1 of 2 layers with weights compute in float32, the first operator 2" in (
        sentence
    )


def test_help_is_for_operators_that_do_not_compile():
    assert not set(advice.HELP) & set(ROWS)


def test_every_operator_has_a_name():
    """None is "builtin operator 82": names come from the schema, all of it."""
    for name, code in vars(fm.schema.BuiltinOperator).items():
        if not name.startswith("_") and name != "PLACEHOLDER_FOR_GREATER_OP_CODES":
            assert tflite.OPERATORS[code] == name


def test_what_nothing_uses_may_be_anything():
    m = fm.Models()
    x, y = m.tensor([1, 4], **Q), m.tensor([1, 4], **Q)
    m.operator("RELU", [x], [y])
    for shape, kind in (
        ([-1, 4], "int8"),
        ([0], "float32"),
        ([2], "resource"),
        ([1 << 30], "int8"),
    ):
        m.tensor(shape, kind)
    m.tensors[m.tensor([2, 2])].type = 99
    other = m.another()
    a = other.tensor([-1], "resource")
    other.operator("WHILE", [a], [a])
    assert compiler.compile_model(m.build([x], [y], other)).calls


def test_a_constant_output_is_copied_but_an_operand_is_none():
    m = fm.Models()
    x, y = m.tensor([1, 4], **Q), m.tensor([1, 4], **Q)
    data = np.arange(4, dtype=np.int8).reshape(1, 4)
    known = m.tensor([1, 4], **Q, data=data)
    m.operator("RELU", [x], [y])
    compiled = compiler.compile_model(m.build([x], [y, known]))
    assert [call.kind for call in compiled.calls] == ["table", "constant"]
    z = m.tensor([1, 4], **Q)
    m.operator("ADD", [y, known], [z], "AddOptions")
    assert "is a constant that operator 1 (ADD) reads" in refusal(m.build([x], [z, known]))


CASES = {  # what `micronets compile` must do with the small files of the reference folder
    "bias_axis3": "", "const_out": "", "conv_groups4": "", "dense_chain_wide": "",
    "fc_depth40000": "", "fuzz_alias_output": "a constant that operator 9", "globalmax2d": "",
    "keras_Conv1D": "", "keras_Conv1D_gmax": "", "keras_Conv2D_dil": "",
    "keras_TimeDistributedDense": "", "keras_floatio": "", "softmax1000": "", "two_in_two_out": "",
    "unused_dyn": "", "unused_empty": "", "unused_uint64": "", "weight_zero_scale": "",
}  # fmt: skip


def test_cases(reference):
    folder = reference / "models" / "cases"
    assert {path.stem for path in folder.glob("*.tflite")} == set(CASES)
    for name, says in CASES.items():
        model = (folder / f"{name}.tflite").read_bytes()
        if says:
            assert says in refusal(model)
        else:
            assert compiler.compile_model(model).arena_bytes
    wide = compiler.compile_model(folder / "dense_chain_wide.tflite")
    assert wide.arena_bytes <= 5184  # TensorFlow Lite Micro's
