"""TFLM's arena: the head, with tensors and scratch, and the tail, the interpreter's structures.

Invariant: one formula. Ints give exact ints, int32 exact int32 inside ``jit``, floats expectations.
Source: TFLM's recording interpreter; constants stand with the tables below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from micronets_jax.counts import summed
from micronets_jax.memory import Operator, operators, padded, peak_bytes
from micronets_jax.network import Count, Network
from micronets_jax.operators import NAMED
from micronets_jax.targets.tflm.planner import head_bytes, scratch_bytes


@dataclasses.dataclass(frozen=True)
class Build:
    """How an interpreter of TFLM is built: bytes of its own structures (the persistent part).

    Attributes:
        fixed: the interpreter, its allocator and planner, the descriptions of input and output.
        operator: node, registration and parameters by kind, packed.
        kernel: a kernel's own data by kind, already a multiple of 16.
        tensor: each tensor of the file, weights included.
        pointer: to the working memory that a kernel asks for.
        cmsis_nn: whether its kernels compute, which ask for working memory, or the reference's.
    """

    fixed: int
    operator: Mapping[str, int]
    kernel: Mapping[str, int]
    tensor: int
    pointer: int
    cmsis_nn: bool


# Sizes of TfLiteNode + registration (28 + 4 and 56 + 8 bytes), of TfLite*Params (28, 28, 40, 5, 36;
# 8 of an ADD) and of OpData*; the fixed part is what remains, the same for every network (to 4
# bytes on the 32-bit target, to 16 with 64-bit pointers). Both were read from TFLM's recording
# interpreter.
CORTEX_M = Build(
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
    cmsis_nn=True,
)  # fmt: skip
"""32-bit pointers and CMSIS-NN's kernels."""

HOST = Build(
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
    cmsis_nn=False,
)  # fmt: skip
"""64-bit pointers and the reference kernels, as in the tflite-micro wheel."""


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


def arena_bytes(network: Network, build: Build = CORTEX_M) -> Count:
    """Bytes of memory that one inference needs, everything of the interpreter included.

    For floats the value of a network whose choice is one-hot is exact, and its gradient is that of
    the operator with the most live bytes.
    """
    return arena(network, build).total


def arena(network: Network, build: Build = CORTEX_M) -> Arena:
    """:func:`arena_bytes` in its two parts."""
    return Arena(head_bytes(network, build.cmsis_nn), _persistent(network, build))


def _persistent(network: Network, build: Build) -> Count:
    rows = []
    for operator in operators(network):
        layer, kind = operator.layer, operator.kind
        row = NAMED[kind]
        size = build.operator[kind] + build.kernel[kind] + build.tensor * (1 + row.constants)
        # The fixed part, which was fitted, has the few pointers of 8-bit convolutions.
        if kind == "AVERAGE_POOL_2D" or layer.weight_bits == 4:
            room = scratch_bytes(operator, build.cmsis_nn)
            if not (isinstance(room, int) and room == 0):
                size = size + build.pointer
        # Of each output channel an int32 multiplier and an int32 shift.
        rows.append((layer.presence, size, 2 * row.weighted, 4 * layer.out_channels))
    held = summed(
        lambda presence, size, arrays, array: presence * (size + arrays * padded(array)), rows
    )
    return build.fixed + build.tensor + held  # one for the network's input


def published(network: Network) -> Arena:
    """The rule fitted to the tables of MicroNets (Banbury et al., 2021).

    No padding, 18 bytes a channel in depthwise layers. It counts a convolution as one whatever its
    input, a reshape as an operator, and a sum as two, its ADD and a PAD, whether or not one is
    needed.
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
