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

import jax.numpy as jnp

from micronets_jax.counts import align, is_float, maximum, stacked, summed, total
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
    return summed(
        lambda pixels, presence, *kernel: presence * (pixels * _elements(*kernel)),
        (
            (math.prod(sizes[layer.name]), layer.presence, *_kernel(layer))
            for layer in network
            if any(_taps(layer))
        ),
    )


def ops(network: Network) -> Count:
    """Operations as the papers count them: two for each multiply-accumulate."""
    return 2 * macs(network)


def weights(network: Network) -> Count:
    """Elements of all kernels; biases are not counted."""
    return summed(
        lambda presence, *kernel: presence * _elements(*kernel),
        ((layer.presence, *_kernel(layer)) for layer in network if any(_taps(layer))),
    )


def kernel_elements(layer: Layer) -> Count:
    """Elements of a layer's kernel, 0 where it has none."""
    return _elements(*_kernel(layer)) if any(_taps(layer)) else 0


def _taps(layer: Layer) -> tuple[int, int]:
    """Weights of each pair of an input and an output channel, and of each output channel alone."""
    rows, columns = layer.kernel
    if layer.kind in ("conv", "dense"):
        return rows * columns, 0
    return 0, rows * columns if layer.kind == "depthwise" else 0


def _kernel(layer: Layer) -> tuple[int, int, Count, Count]:
    return *_taps(layer), layer.in_channels, layer.out_channels


def _elements(pair: Count, single: Count, inputs: Count, outputs: Count) -> Count:
    return pair * (inputs * outputs) + single * outputs


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
    present = {
        kind: [operator.layer.presence for operator in listed if operator.kind == kind]
        for kind in _FILE_BYTES_PER_OPERATOR
    }
    weighted, others = [], []
    for layer, kind, *_ in listed:
        size = _FILE_BYTES_PER_OPERATOR[kind] + _name_bytes(layer.name)
        if kind in WEIGHTED:
            weighted.append((layer.presence, size, 8 // layer.weight_bits, *_kernel(layer)))
        else:
            others.append((layer.presence, size))

    def with_weights(presence: Count, size: Count, per_byte: Count, *kernel: Count) -> Count:
        channels = kernel[-1]
        held = _kernel_bytes(per_byte, *kernel) + padded(4 * channels)
        return presence * (held + _FILE_BYTES_PER_CHANNEL * channels + size)

    return total(
        [
            _FILE_BYTES + _name_bytes(INPUT),
            summed(with_weights, weighted),
            summed(lambda presence, size: presence * size, others),
            *(_FILE_BYTES_PER_KIND * _any(kind) for kind in present.values()),
        ]
    )


def _any(present: list[Count]) -> Count:
    """1 if any is; of probabilities, the largest."""
    if any(is_float(presence) for presence in present):
        return jnp.max(stacked(present))
    return maximum([0, *present])


def _kernel_bytes(per_byte: Count, *kernel: Count) -> Count:
    """Of a kernel in the file with this many weights in a byte, padded."""
    elements = align(_elements(*kernel), ALIGNMENT * per_byte)
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
    rows = []
    for operator in operators(network):
        layer, kind = operator.layer, operator.kind
        constants = 2 if kind in WEIGHTED else int(kind in ("RESHAPE", "PAD"))
        size = runtime.operator[kind] + runtime.kernel[kind] + runtime.tensor * (1 + constants)
        # The fixed part, which was fitted, has the few pointers of 8-bit convolutions.
        if kind == "AVERAGE_POOL_2D" or layer.weight_bits == 4:
            room = scratch_bytes(operator, runtime.scratch)
            if not (isinstance(room, int) and room == 0):
                size = size + runtime.pointer
        # Of each output channel an int32 multiplier and an int32 shift.
        rows.append((layer.presence, size, 2 * (kind in WEIGHTED), 4 * layer.out_channels))
    held = summed(
        lambda presence, size, arrays, array: presence * (size + arrays * padded(array)), rows
    )
    return runtime.fixed + runtime.tensor + held  # one for the network's input


def _paper_arena(network: Network) -> Arena:
    """The rule fitted to the paper's tables: no padding, 18 bytes a channel in depthwise layers.

    It counts a convolution as one whatever its input, a reshape as an operator, and a sum as two,
    its ADD and a PAD, whether or not one is needed.
    """

    def scratch(operator: Operator) -> Count:
        return 18 * operator.layer.in_channels if operator.layer.kind == "depthwise" else 0

    live = peak_bytes(network, scratch, rounding=lambda size: size)
    rows = [
        (
            layer.presence,
            8 * (layer.kind in ("conv", "depthwise", "dense")),
            layer.out_channels,
            160 * (2 if layer.kind == "add" else 1),
        )
        for layer in network
        if layer.kind not in ("mix", "pad")
    ]
    persistent = summed(
        lambda presence, each, channels, size: presence * (each * channels + size), rows
    )
    return Arena(live, persistent)
