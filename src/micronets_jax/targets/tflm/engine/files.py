"""The arena that TensorFlow Lite Micro needs for a file on a 32-bit core with CMSIS-NN's kernels.

Invariant: one planner (``planner.place``), one rule of scratch and one table of structures
(``arena.CORTEX_M``) serve networks that were searched and files of anybody; here is only what
foreign files hold besides.
"""

from __future__ import annotations

from typing import NamedTuple

from micronets_jax import tflite
from micronets_jax.targets.tflm import scratch


class Arena(NamedTuple):
    """Bytes: tensors and scratch where the planner puts them; the interpreter's structures; and
    what the planner works with before the model runs, where activations lie later."""

    activations: int
    persistent: int
    planning: int

    @property
    def total(self) -> int:
        """Bytes of the arena: activations or what planning takes, and structures."""
        return max(self.activations, self.planning) + self.persistent


# Structures of operators that ``arena`` does not know: node, registration, parameters and what
# a kernel keeps. Read from the interpreter on the emulated core, one operator at a time (TFLM of
# August 2026), where alignment moves each by up to 15.
_STRUCTURES = {
    "MAX_POOL_2D": 120, "SUB": 92, "MUL": 76, "MEAN": 80, "SUM": 80, "SOFTMAX": 104, "LOGISTIC": 56,
    "RELU": 72, "RELU6": 56, "HARD_SWISH": 56, "QUANTIZE": 56, "DEQUANTIZE": 52, "TRANSPOSE": 28,
    "CONCATENATION": 72, "RESIZE_NEAREST_NEIGHBOR": 28,
}  # fmt: skip
_UNKNOWN = 64

# On a 32-bit core: AllocationInfo of every tensor and scratch; and what GreedyMemoryPlanner keeps
# of each that it places: its requirements, three places in sorted lists, an offset.
_LIFETIME = 24
_PLACEMENT = 40

_RECORDING = 96  # what the recording interpreter, with which ``arena`` was fitted, takes for itself


def predict(model: tflite.Model) -> Arena:
    """What the interpreter will take for a model."""
    from micronets_jax import memory
    from micronets_jax.targets.tflm.arena import CORTEX_M
    from micronets_jax.targets.tflm.planner import place

    tensors, working = _tensors(model), _scratch(model)
    buffers = [
        memory.Buffer(name, memory.padded(size), first, last, last, 1)
        for name, size, first, last in [*tensors, *working]
    ]
    ends = [at + b.bytes for at, b in zip(place(buffers), buffers, strict=True)]
    persistent = CORTEX_M.fixed - _RECORDING + CORTEX_M.tensor * model.tensors_in_file
    for operator in model.operators:
        kind = operator.kind
        if kind in CORTEX_M.operator:
            persistent += CORTEX_M.operator[kind] + CORTEX_M.kernel[kind]
        else:
            persistent += _STRUCTURES.get(kind, _UNKNOWN)
        persistent += CORTEX_M.pointer * len(_scratch_bytes(model, operator))
        persistent += _per_channel(model, operator)
    planning = _LIFETIME * (model.tensors_in_file + len(working)) + _PLACEMENT * len(buffers)
    return Arena(int(max(ends, default=0)), int(persistent), planning)


def _per_channel(model: tflite.Model, operator: tflite.Operator) -> int:
    """Multipliers and shifts of each channel, both int32."""
    if operator.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return 0
    weights = model.tensors[operator.inputs[1]]
    channels = weights.shape[-1 if operator.kind == "DEPTHWISE_CONV_2D" else 0]
    if operator.kind == "FULLY_CONNECTED" and (
        weights.quantization is None or len(weights.quantization.scales) == 1
    ):
        return 0
    return 2 * (-(-4 * channels // 16) * 16)


def _tensors(model: tflite.Model) -> list[tuple[str, int, int, int]]:
    """Name, bytes, first and last operator of each tensor that is planned, in the file's order."""
    first: dict[int, int] = dict.fromkeys(model.inputs, 0)
    last: dict[int, int] = dict.fromkeys(model.inputs, 0)
    for i, operator in enumerate(model.operators):
        for tensor in operator.outputs:
            first.setdefault(tensor, i)
            last[tensor] = i
        for tensor in operator.inputs:
            if tensor >= 0 and model.tensors[tensor].data is None:
                last[tensor] = i
    for tensor in model.outputs:
        last[tensor] = len(model.operators) - 1
    sizes = {"float32": 4, "int32": 4, "int64": 8, "int16": 2}
    return [
        (t.name, t.size * sizes.get(t.dtype, 1), first[t.index], last[t.index])
        for t in model.tensors.values()
        if t.index in first
    ]


def _scratch(model: tflite.Model) -> list[tuple[str, int, int, int]]:
    return [
        (f"scratch of {operator.label}", size, i, i)
        for i, operator in enumerate(model.operators)
        for size in _scratch_bytes(model, operator)
    ]


def _scratch_bytes(model: tflite.Model, operator: tflite.Operator) -> list[int]:
    """What CMSIS-NN's kernels ask for, and those that the reference has for reductions."""
    out, kind = model.tensors[operator.outputs[0]], operator.kind
    if kind in ("MEAN", "SUM"):
        source, axes = (model.tensors[t] for t in operator.inputs[:2])
        return [4 * len(source.shape), 4 * max(1, axes.size), 4 * out.size]
    rows, columns, regular, bits, options = 1, 1, True, 8, operator.options
    channels = model.tensors[operator.inputs[0]].shape[-1:]
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        weights = model.tensors[operator.inputs[1]]
        (rows, columns), bits = weights.shape[1:3], 4 if weights.dtype == "int4" else 8
        regular = channels == (weights.shape[-1:] if kind == "CONV_2D" else out.shape[-1:])
    asked = scratch.cmsis_nn(
        kind,
        (rows, columns),
        channels[0] if channels else 0,
        weight_bits=bits,
        dilated=max(options.get("dilation_h", 1), options.get("dilation_w", 1)) > 1,
        regular=regular,
    )
    return [asked] if asked else []
