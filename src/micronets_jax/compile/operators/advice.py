"""What to tell a person whose model does not compile: what the file is, all that is in the way, and
what helps somebody who wrote Keras or PyTorch.

Invariant: a sentence names operators as TensorFlow Lite does, with their index in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from micronets_jax.tflite import Model, Operator, Tensor, TFLiteError

_CONVERT = (
    "convert the trained model with tf.lite.TFLiteConverter: optimizations = "
    "[tf.lite.Optimize.DEFAULT], representative_dataset = a generator of inputs, and "
    "target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]"
)

_SIXTEEN = (
    "this is a model with 16-bit activations (16x8 quantisation): {}; only 8-bit activations "
    "compile: use TFLITE_BUILTINS_INT8 instead of "
    "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
)

HELP = {
    "LSTM": "keras.layers.LSTM converts to UNIDIRECTIONAL_SEQUENCE_LSTM if its input has a fixed "
    "batch of 1 and the converter is given a concrete function",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "use keras.layers.LSTM instead of SimpleRNN",
    "BIDIRECTIONAL_SEQUENCE_LSTM": "use two keras.layers.LSTM, one with go_backwards=True",
    "WHILE": "the converter kept a loop: for keras.layers.LSTM or GRU use unroll=True, or an LSTM "
    "with a fixed batch of 1",
    "IF": "choose the branch before converting",
    "ADD_N": "write x + y, which becomes ADD (TensorFlow Lite Micro counts a zero point too many "
    "in the sum of a list)",
    "POW": "write x * x, which becomes MUL",
    "CONV_3D": "use Conv2D on frames side by side in channels",
    "TOPK_V2": "take the logits and sort them in the application",
    "NON_MAX_SUPPRESSION_V4": "end the model at boxes and scores; suppress in the application",
    "NON_MAX_SUPPRESSION_V5": "end the model at boxes and scores; suppress in the application",
    "RELU_N1_TO_1": "use ReLU6 or tanh",
    "EMBEDDING_LOOKUP": "look embeddings up in the application and give their int8 rows as input",
    **dict.fromkeys(
        ("SELECT", "WHERE"), "use tf.where with three arguments, which becomes SELECT_V2"
    ),
    "L2_POOL_2D": "use average pooling",
    "LOCAL_RESPONSE_NORMALIZATION": "use keras.layers.BatchNormalization, which folds away",
}

_CUSTOM = (
    ("ethos-u", "was compiled by Vela for an Ethos-U accelerator; give the .tflite that Vela read"),
    ("edgetpu", "was compiled for an Edge TPU; give the .tflite that edgetpu_compiler read"),
    (
        "Flex",
        "uses TensorFlow operators that TensorFlow Lite lacks (SELECT_TF_OPS); replace them by "
        "Keras layers that convert with TFLITE_BUILTINS_INT8 alone",
    ),
    (
        "CIRCULAR_BUFFER",
        "streams by CIRCULAR_BUFFER, which runs part of the model and not every time; export the "
        "streaming model with variables (READ_VARIABLE, ASSIGN_VARIABLE) instead",
    ),
    (
        "Signal",
        "computes a front end on samples (the signal operators of TensorFlow Lite Micro); compile "
        "the int8 model behind it and compute features in the application",
    ),
    (
        "TFLite_Detection_PostProcess",
        "ends in post-processing of a detector; export it without (boxes and scores as outputs)",
    ),
)

_COMPUTING = frozenset(
    [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "TRANSPOSE_CONV",
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    ]
)


def unsupported(kind: str) -> str:
    """Why an operator that has no row is refused, and what helps."""
    if kind.startswith("CUSTOM"):
        for word, what in _CUSTOM:
            if word in kind:
                return f"is a custom operator: the file {what}"
        return "is a custom operator, which only its author's runtime computes; replace it"
    if kind.startswith("STABLEHLO"):
        return (
            "is an operator of StableHLO, which TensorFlow Lite Micro does not compute; convert "
            "PyTorch with ai_edge_torch.convert and its int8 quantiser, JAX by way of jax2tf"
        )
    return f"is not supported: {HELP.get(kind, 'replace it by operators of `micronets operators`')}"


def sentence(refused: list[tuple[Operator, str]], inputs: Sequence[str] = ()) -> str:
    """All refusals in one sentence, those for one reason together.

    Args:
        refused: operators, and why.
        inputs: what is wrong with inputs of the model.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for operator, reason in refused:
        groups.setdefault(reason, {}).setdefault(operator.kind, []).append(operator.index)
    parts = []
    for reason, kinds in groups.items():
        joint = " " if reason.startswith("is ") else ": "
        who = ", ".join(f"{_listed(indices)} ({kind})" for kind, indices in kinds.items())
        if sum(map(len, kinds.values())) == 1:
            parts.append(f"operator {who}{joint}{reason}")
        else:
            reason = reason.replace("is a custom operator", "are custom operators", 1)
            reason = f"are{reason[2:]}" if reason.startswith("is ") else reason
            parts.append(f"operators {who}{joint}{reason}")
    head = f"{len(refused)} operators are in the way: " if len(parts) > 1 else ""
    return "; ".join([*inputs, *([head + "; ".join(parts)] if parts else [])])


def _listed(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:8]))
    return shown if len(indices) <= 8 else f"{shown} and {len(indices) - 8} more"


def refuse_by_kind_of_file(model: Model) -> None:
    """Refuses files that as a whole are something else than an int8 model.

    Raises:
        TFLiteError: what the file is, and which settings of the converter give an int8 one.
    """
    computing = [(o, list(_types(model, o))) for o in model.operators if o.kind in _COMPUTING]
    in_float = [o for o, types in computing if types[:1] == ["float32"]]
    if in_float and any(types[:1] == ["int8"] for _, types in computing):
        raise TFLiteError(
            f"this model is quantised in part: {len(in_float)} of {len(computing)} layers with "
            f"weights compute in float32, the first {in_float[0].label}; convert all of it, with "
            "target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8], which "
            "leaves nothing in float, and a representative_dataset that reaches every layer"
        )
    for operator, types in computing:
        source, weights = types[:2] if len(types) > 1 else ("", "")
        where = f"{operator.label} computes with {source} activations and {weights} weights"
        if source == "float32" and weights in ("int8", "uint8", "int4"):
            raise TFLiteError(
                f"this is a model with quantised weights only (dynamic-range quantisation): {where}"
                f"; give the converter a representative_dataset too: {_CONVERT}"
            )
        if source == "float32":
            half = any(t.dtype == "float16" for t in model.tensors.values())
            raise TFLiteError(
                f"this is a float{16 if half else 32} model, which needs full integer quantisation:"
                f" {where}; {_CONVERT}"
            )
        if source == "uint8":
            raise TFLiteError(
                f"this is a model in uint8, the quantisation of TensorFlow 1: {where}; TensorFlow "
                "Lite Micro and this compiler compute int8 alone, so convert the trained model anew"
                " with TensorFlow 2 (inference_input_type = tf.int8), or take the int8 edition of a"
                " published one"
            )
        if source == "int16":
            raise TFLiteError(_SIXTEEN.format(where))
    if not any(t.dtype == "int8" for t in model.tensors.values()) and not any(
        o.kind.startswith("CUSTOM") for o in model.operators
    ):
        first = model.tensors[model.inputs[0]]
        if first.dtype == "int16":
            raise TFLiteError(_SIXTEEN.format(f"its input {first.label} is int16"))
        raise TFLiteError(
            f"this model has no int8 tensor, so nothing to compile (its input is {first.dtype}); "
            f"{_CONVERT}"
        )


def _types(model: Model, operator: Operator) -> Iterator[str]:
    tensors: list[Tensor] = [model.tensors[i] for i in operator.inputs if i >= 0]
    if operator.kind == "TRANSPOSE_CONV":  # its first input is a shape, its third what it reads
        tensors = tensors[2:3] + tensors[1:2]
    yield from (tensor.dtype for tensor in tensors)
