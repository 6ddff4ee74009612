"""The arena that TensorFlow Lite Micro needs for a file on a 32-bit core with CMSIS-NN's kernels.

Invariant: one planner (``memory.place``) and one table of structures (``cost.RUNTIMES``) serve
networks that were searched and files of anybody; here is only what foreign files hold besides.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from micronets_jax import tflite


class Arena(NamedTuple):
    """Bytes: tensors and scratch where the planner puts them; the interpreter's structures; and
    what the planner works with before the model runs, where activations lie later."""

    activations: int
    persistent: int
    planning: int

    @property
    def total(self) -> int:
        return max(self.activations, self.planning) + self.persistent


# Structures of operators that ``cost`` does not know: node, registration, parameters and a kernel's
# own data. Read from the interpreter on the emulated core, one operator at a time (TFLM of August
# 2026), where alignment moves each by up to 15.
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

_RECORDING = 96  # what the recording interpreter, with which ``cost`` was fitted, takes for itself


def predict(model: tflite.Model) -> Arena:
    """What the interpreter will take for a model."""
    from micronets_jax import cost, memory

    tensors, scratch = _tensors(model), _scratch(model)
    buffers = [
        memory.Buffer(name, memory.padded(size), first, last, last, 1)
        for name, size, first, last in [*tensors, *scratch]
    ]
    ends = [at + b.bytes for at, b in zip(memory.place(buffers), buffers, strict=True)]
    runtime = cost.RUNTIMES["tflm_cortex_m"]
    assert runtime is not None
    persistent = runtime.fixed - _RECORDING + runtime.tensor * model.tensors_in_file
    for operator in model.operators:
        kind = operator.kind
        if kind in runtime.operator:
            persistent += runtime.operator[kind] + runtime.kernel[kind]
        else:
            persistent += _STRUCTURES.get(kind, _UNKNOWN)
        persistent += 4 * len(_scratch_bytes(model, operator))
        persistent += _per_channel(model, operator)
    planning = _LIFETIME * (model.tensors_in_file + len(scratch)) + _PLACEMENT * len(buffers)
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
    """What CMSIS-NN's kernels ask for; see ``memory.scratch_bytes``."""
    out = model.tensors[operator.outputs[0]]
    if operator.kind == "AVERAGE_POOL_2D":
        return [4 * out.shape[-1]]
    if operator.kind in ("MEAN", "SUM"):
        source, axes = (model.tensors[t] for t in operator.inputs[:2])
        return [4 * len(source.shape), 4 * max(1, axes.size), 4 * out.size]
    if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        source, weights = (model.tensors[t] for t in operator.inputs[:2])
        rows, columns = weights.shape[1:3]
        elements = int(np.prod(weights.shape[1:]))
        if operator.kind == "CONV_2D":
            return [] if (rows, columns) == (1, 1) else [4 * (-(-elements // 4) * 4)]
        if source.shape[-1] == out.shape[-1] and (rows, columns) != (3, 3):
            return [2 * rows * columns * source.shape[-1]]
    return []
