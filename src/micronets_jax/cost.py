"""What a network costs, from its layers alone: arithmetic, file, memory.

Invariant: one formula per cost. Python ints give exact Python ints, int32 exact arrays inside
``jit``, floats differentiable expectations, equal to the exact cost where the choice is one-hot.

Sizes are those of the TFLite file that ``export`` writes and of what TensorFlow Lite Micro (TFLM)
allocates for it. Absent layers cost nothing, and a mix is only a second name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

from micronets_jax.counts import align, is_float, maximum, total
from micronets_jax.memory import (
    ALIGNMENT,
    Operator,
    head_bytes,
    operators,
    padded,
    peak_bytes,
    scratch_bytes,
)
from micronets_jax.network import INPUT, Count, Layer, Network, output_sizes

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators with a kernel and a bias."""


# ---------------------------------------------------------------- arithmetic


def macs(network: Network) -> Count:
    """Multiply-accumulates of one inference; pooling, which only adds, counts none."""
    sizes = output_sizes(network)
    return total(
        layer.presence * (math.prod(sizes[layer.name]) * kernel_elements(layer))
        for layer in network
    )


def ops(network: Network) -> Count:
    """Operations as the papers count them: two for each multiply-accumulate."""
    return 2 * macs(network)


def weights(network: Network) -> Count:
    """Elements of all kernels; biases are not counted."""
    return total(layer.presence * kernel_elements(layer) for layer in network)


def kernel_elements(layer: Layer) -> Count:
    """Elements of a layer's kernel, 0 where it has none."""
    rows, columns = layer.kernel
    if layer.kind == "conv":
        return rows * columns * (layer.in_channels * layer.out_channels)
    if layer.kind == "depthwise":
        return rows * columns * layer.out_channels
    if layer.kind == "dense":
        return layer.in_channels * layer.out_channels
    return 0


# ---------------------------------------------------------------- flash

_FILE_BYTES = 234
_FILE_BYTES_PER_KIND = 54
_FILE_BYTES_PER_OPERATOR = {
    "DEPTHWISE_CONV_2D": 296,
    "CONV_2D": 257,
    "AVERAGE_POOL_2D": 154,
    "FULLY_CONNECTED": 303,
    "RESHAPE": 69,
    "ADD": 122,
    "PAD": 202,
}
"""Tables of the file itself, of each kind of operator, and of each operator with its tensors, their
names aside: fitted to 51 exported files, which they predict within 0.8 %."""

_FILE_BYTES_PER_CHANNEL = 12
"""A float32 scale and an int64 zero point of a kernel's channel."""


def flash_bytes(network: Network) -> Count:
    """Size of the TFLite file: what is stored of the model, without code.

    Each kernel (int8, or two weights a byte) and bias (int32) padded to 16 bytes, scales and zero
    points of each channel, the names of activations, and the tables around them.
    """
    listed = operators(network)
    sizes: list[Count] = [_FILE_BYTES + _name_bytes(INPUT)]
    for layer, kind, *_ in listed:
        size: Count = _FILE_BYTES_PER_OPERATOR[kind] + _name_bytes(layer.name)
        if kind in WEIGHTED:
            size = size + _kernel_bytes(layer) + padded(4 * layer.out_channels)
            size = size + _FILE_BYTES_PER_CHANNEL * layer.out_channels
        sizes.append(layer.presence * size)
    for kind in _FILE_BYTES_PER_OPERATOR:
        present = [operator.layer.presence for operator in listed if operator.kind == kind]
        sizes.append(_FILE_BYTES_PER_KIND * maximum([0, *present]))
    return total(sizes)


def _kernel_bytes(layer: Layer) -> Count:
    """Of a kernel in the file, padded."""
    per_byte = 8 // layer.weight_bits
    elements = align(kernel_elements(layer), ALIGNMENT * per_byte)
    return elements / per_byte if is_float(elements) else elements // per_byte


def _name_bytes(name: str) -> int:
    return align(4 + len(name) + 1, 4)  # its length, the characters, a closing zero


# ---------------------------------------------------------------- memory


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How an interpreter of TFLM is built: bytes of its own structures (the persistent part).

    Attributes:
        fixed: the interpreter, its allocator and planner, the descriptions of input and output.
        operator: node, registration and parameters by kind, packed.
        kernel: a kernel's own data by kind, already a multiple of 16.
        tensor: each tensor of the file, weights included.
        pointer: to the working memory that a kernel asks for.
        scratch: whether kernels of CMSIS-NN ask for working memory.
    """

    fixed: int
    operator: Mapping[str, int]
    kernel: Mapping[str, int]
    tensor: int
    pointer: int
    scratch: bool


# Sizes of TfLiteNode + registration (28 + 4 and 56 + 8 bytes), of TfLite*Params (28, 28, 40, 5, 36;
# 8 of an ADD) and of OpData*; the fixed part is what remains, the same for every network (to 4
# bytes on the 32-bit target, to 16 with 64-bit pointers). Both were read from TFLM's recording
# interpreter.
_CORTEX_M = Runtime(
    fixed=356,
    operator={
        "CONV_2D": 60, "DEPTHWISE_CONV_2D": 60, "AVERAGE_POOL_2D": 72, "FULLY_CONNECTED": 40,
        "RESHAPE": 68, "ADD": 40, "PAD": 32,
    },
    kernel={
        "CONV_2D": 64, "DEPTHWISE_CONV_2D": 64, "AVERAGE_POOL_2D": 48, "FULLY_CONNECTED": 80,
        "RESHAPE": 0, "ADD": 64, "PAD": 64,
    },
    tensor=12,
    pointer=4,
    scratch=True,
)  # fmt: skip
_HOST = Runtime(
    fixed=752,
    operator={
        "CONV_2D": 92, "DEPTHWISE_CONV_2D": 92, "AVERAGE_POOL_2D": 104, "FULLY_CONNECTED": 80,
        "RESHAPE": 100, "ADD": 72, "PAD": 64,
    },
    kernel={
        "CONV_2D": 80, "DEPTHWISE_CONV_2D": 80, "AVERAGE_POOL_2D": 32, "FULLY_CONNECTED": 64,
        "RESHAPE": 0, "ADD": 64, "PAD": 64,
    },
    tensor=24,
    pointer=8,
    scratch=False,
)  # fmt: skip

RUNTIMES: dict[str, Runtime | None] = {
    "tflm_cortex_m": _CORTEX_M,
    "tflm_host": _HOST,
    "tflm_paper": None,
}
"""What ``runtime`` may be. ``tflm_cortex_m``: 32-bit pointers and CMSIS-NN's kernels;
``tflm_host``: 64-bit pointers and the reference kernels, as in the tflite-micro wheel;
``tflm_paper``: the rule that fits the tables of MicroNets (Banbury et al., 2021)."""


class Arena(NamedTuple):
    """Bytes of TFLM's one block of memory.

    ``activations`` is its head: tensors and scratch, where the greedy planner puts them.
    ``persistent`` is its tail: per-channel multipliers and shifts, structures.
    """

    activations: Count
    persistent: Count

    @property
    def total(self) -> Count:
        """Both parts."""
        return self.activations + self.persistent


def sram_bytes(network: Network, runtime: str = "tflm_cortex_m") -> Count:
    """Bytes of memory that one inference needs, everything of the interpreter included.

    For floats the value of a network whose choice is one-hot is exact, and its gradient is that of
    the operator with the most live bytes.

    Raises:
        ValueError: ``runtime`` is not in :data:`RUNTIMES`.
    """
    return arena(network, runtime).total


def arena(network: Network, runtime: str = "tflm_cortex_m") -> Arena:
    """:func:`sram_bytes` in its two parts."""
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} is unknown; use one of {', '.join(RUNTIMES)}")
    model = RUNTIMES[runtime]
    if model is None:
        return _paper_arena(network)
    return Arena(head_bytes(network, model.scratch), _persistent(network, model))


def _persistent(network: Network, runtime: Runtime) -> Count:
    sizes: list[Count] = [runtime.fixed + runtime.tensor]  # one for the network's input
    for operator in operators(network):
        layer, kind = operator.layer, operator.kind
        constants = 2 if kind in WEIGHTED else int(kind in ("RESHAPE", "PAD"))
        size: Count = (
            runtime.operator[kind] + runtime.kernel[kind] + runtime.tensor * (1 + constants)
        )
        if kind in WEIGHTED:
            size = size + 2 * padded(4 * layer.out_channels)  # int32 multipliers, int32 shifts
        # The fixed part, which was fitted, has the few pointers of 8-bit convolutions.
        if kind == "AVERAGE_POOL_2D" or layer.weight_bits == 4:
            room = scratch_bytes(operator, runtime.scratch)
            if not (isinstance(room, int) and room == 0):
                size = size + runtime.pointer
        sizes.append(layer.presence * size)
    return total(sizes)


def _paper_arena(network: Network) -> Arena:
    """The rule fitted to the paper's tables: no padding, 18 bytes a channel in depthwise layers.

    It counts a convolution as one whatever its input, a reshape as an operator, and a sum as two,
    its ADD and a PAD, whether or not one is needed.
    """

    def scratch(operator: Operator) -> Count:
        return 18 * operator.layer.in_channels if operator.layer.kind == "depthwise" else 0

    live = peak_bytes(network, scratch, rounding=lambda size: size)
    channels, count = [], []
    for layer in network:
        if layer.kind in ("conv", "depthwise", "dense"):
            channels.append(layer.presence * layer.out_channels)
        if layer.kind not in ("mix", "pad"):
            count.append(layer.presence * (2 if layer.kind == "add" else 1))
    return Arena(live, 8 * total(channels) + 160 * total(count))
