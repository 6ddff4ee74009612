"""What is refused: networks that no interpreter would run so, files that hold other numbers.

Invariant: an error names the layer, or the tensor and the channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from micronets_jax.export.contents import (
    activation_scale,
    kernel_in_file,
    load_schema,
    tensors_by_name,
    unpacked,
)
from micronets_jax.memory import operators
from micronets_jax.network import Network
from micronets_jax.quantize import RANGED, WEIGHT_MAX, QuantizedNetwork

_TOLERANCE = 1e-5  # relative; of the converter's numbers before they are set to the trained ones


def require_runnable(network: Network) -> None:
    """Refuse bits that TensorFlow Lite Micro does not run, or would compute otherwise."""
    for layer, kind, *_ in operators(network):
        if kind == "FULLY_CONNECTED" and layer.weight_bits != 8:
            raise ValueError(
                f"layer {layer.name!r} has weight_bits={layer.weight_bits}, but TensorFlow Lite "
                "Micro runs FULLY_CONNECTED with 8-bit weights only: give it 8, or make it a 1x1 "
                "convolution"
            )
        owns = layer.kind in RANGED and layer.activation_bits != 8
        if owns and layer.activation == "linear":
            raise ValueError(
                f"layer {layer.name!r} has activation_bits={layer.activation_bits} and no ReLU, "
                "so nothing would cut its int8 tensor to 16 levels from below: give it 8, or an "
                "activation"
            )


def compare(model: Any, quantized: QuantizedNetwork, softmax: bool, exact: bool) -> None:
    """Every number of the file against the trained one.

    Args:
        model: the file, parsed.
        quantized: what was trained.
        softmax: whether the file ends in a softmax.
        exact: False for a file as the converter left it, whose scales are right up to rounding, and
            biases up to what follows from that.

    Raises:
        RuntimeError: a number differs; the tensor and the channel are named.
    """
    tensors, int4 = tensors_by_name(model, quantized, softmax), load_schema().TensorType.INT4

    def values(tensor: Any, dtype: type) -> np.ndarray:
        data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
        if tensor.type == int4:
            return unpacked(data, int(np.prod(tensor.shape)))
        return data.view(dtype)

    def close(got: np.ndarray, want: np.ndarray | np.floating) -> np.ndarray:
        return got == want if exact else np.abs(got - want) <= _TOLERANCE * want

    for name, tensor in tensors.items():
        if "/" in name:
            continue
        got, want = tensor.quantization, activation_scale(quantized, name)
        if not close(got.scale, want[0]).all() or (got.zeroPoint != want[1]).any():
            raise RuntimeError(
                f"tensor {name!r}: the file has scale {got.scale} and zero point {got.zeroPoint}, "
                f"trained were {want[0]!r} and {want[1]}"
            )
    for name, weights in quantized.layers.items():
        kernel, axis = kernel_in_file(quantized.network[name], weights.kernel)
        tensor, bias = tensors[f"{name}/kernel"], tensors[f"{name}/bias"]
        levels = values(tensor, np.int8).reshape(kernel.shape) == kernel
        bias = np.zeros_like(weights.bias) if bias is None else values(bias, np.int32)
        got = tensor.quantization.scale
        slack = 0 if exact else 1 + np.abs(weights.bias) * _TOLERANCE
        good = {
            "scale": close(got, weights.scales),
            "weights": levels.all(axis=tuple(i for i in range(kernel.ndim) if i != axis)),
            "bias": np.abs(bias.astype(np.int64) - weights.bias) <= slack,
        }
        # Where no weight reaches 127 the converter has no scale to find: there it is only set.
        peaks = np.abs(weights.kernel).reshape(-1, len(weights.scales)).max(axis=0)
        checked = np.ones_like(peaks, bool) if exact else peaks == WEIGHT_MAX
        for what, right in good.items():
            wrong = np.flatnonzero(checked & ~right)
            if wrong.size:
                raise RuntimeError(
                    f"tensor {name!r}, channel {wrong[0]}: the file's {what} differs from what was "
                    f"trained (scale {got[wrong[0]]} against {weights.scales[wrong[0]]})"
                )
