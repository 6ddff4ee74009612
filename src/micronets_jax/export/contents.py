"""What a TFLite file of a network holds: its operators, tensors and numbers, found by name.

Invariant: nothing here changes a file. Source: TensorFlow Lite's schema.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int8, UInt8

from micronets_jax.memory import operators
from micronets_jax.network import INPUT, Layer
from micronets_jax.quantize import QuantizedNetwork

SOFTMAX = "softmax"
"""Name of the output where a softmax is asked for; its scale is always 1 / 256."""


def load_schema() -> ModuleType:
    """TensorFlow Lite's schema as classes, loaded when it is first needed."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def parse(data: bytes) -> Any:
    """The model of a file, as objects of the schema."""
    return load_schema().ModelT.InitFromPackedBuf(data, 0)


def expected_operators(
    quantized: QuantizedNetwork, softmax: bool
) -> list[tuple[str, str, list[str]]]:
    """What the file must compute, in order: tensor made, operator, activations read."""
    expected = [(o.layer.name, o.kind, list(o.reads)) for o in operators(quantized.network)]
    return [*expected, (SOFTMAX, "SOFTMAX", [expected[-1][0]])] if softmax else expected


def match_operators(model: Any, quantized: QuantizedNetwork, softmax: bool) -> dict[str, Any]:
    """The file's operators by the tensor they make, in the network's order.

    The converter hoists operators that nothing holds back, such as the PAD of a shortcut.

    Raises:
        RuntimeError: the operators, or what they read, are not those of the network.
    """
    schema, graph = load_schema(), model.subgraphs[0]
    kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    left = [(kinds[model.operatorCodes[o.opcodeIndex].builtinCode], o) for o in graph.operators]
    found, expected = [kind for kind, _ in left], expected_operators(quantized, softmax)
    index, matched = {INPUT: graph.inputs[0]}, {}
    for name, kind, reads in expected:
        wanted = [index[source] for source in reads]
        fitting = [o for k, o in left if k == kind and list(o.inputs[: len(reads)]) == wanted]
        if not fitting or len(found) != len(expected):
            raise RuntimeError(
                f"the converter made {found} of the network, expected {[k for _, k, _ in expected]}"
                f", where {name!r} reads {reads}; check the installed TensorFlow against the lock "
                "file"
            )
        matched[name] = fitting[0]
        left = [(k, o) for k, o in left if o is not fitting[0]]
        index[name] = fitting[0].outputs[0]
    return matched


def tensors_by_name(model: Any, quantized: QuantizedNetwork, softmax: bool) -> dict[str, Any]:
    """The file's tensors: activations by layer, weights as ``layer/kernel`` and ``layer/bias``.

    A bias may be ``None``: the converter drops one that is all zeros.
    """
    graph = model.subgraphs[0]
    tensors = {INPUT: graph.tensors[graph.inputs[0]]}
    for name, operator in match_operators(model, quantized, softmax).items():
        tensors[name] = graph.tensors[operator.outputs[0]]
        if name in quantized.layers:
            kernel, bias = (*operator.inputs[1:], -1)[:2]
            tensors[f"{name}/kernel"] = graph.tensors[kernel]
            tensors[f"{name}/bias"] = graph.tensors[bias] if bias >= 0 else None
    return tensors


def kernel_in_file(layer: Layer, kernel: np.ndarray) -> tuple[np.ndarray, int]:
    """A kernel as TFLite orders it, and the axis of its output channels."""
    if layer.kind == "dense":
        return kernel.T, 0
    if layer.kind == "conv":
        return kernel.transpose(3, 0, 1, 2), 0
    return kernel.transpose(2, 0, 1, 3), 3


def activation_scale(quantized: QuantizedNetwork, name: str) -> tuple[np.float32, int]:
    """Scale and zero point of an activation."""
    if name == SOFTMAX:
        return np.float32(1 / 256), -128
    return quantized.scales[name], quantized.zero_points[name]


def pad_amounts(layer: Layer) -> np.ndarray:
    """What PAD reads beside the tensor: places before and after, by axis."""
    paddings = np.zeros((4, 2), np.int32)
    paddings[3, 1] = layer.out_channels - layer.in_channels
    return paddings


def packed(values: Int8[np.ndarray, ...]) -> UInt8[np.ndarray, " bytes"]:
    """4-bit numbers two to a byte, the first in its lower half, as TensorFlow Lite stores int4."""
    flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8)).view(np.uint8) & 15
    return flat[0::2] | flat[1::2] << 4


def unpacked(data: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` 4-bit numbers of these bytes, as int8."""
    pairs = data.view(np.int8)[:, None] << np.asarray([4, 0], np.int8)
    return (pairs >> 4).reshape(-1)[:count]
