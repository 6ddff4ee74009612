"""The reserve for TFLM's interpreter: code, state and stack besides arena and model.

Invariant: facts measured with arm-none-eabi-gcc 12.2.1 and newlib 3.3, each here alone; JAX is not
loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from micronets_jax.counts import Count, maximum

STACK_BYTES = 4096
"""Reserved for it: its start needs about 1.5 KiB; runs report what was used."""


def arena_reserved(predicted: Count) -> Count:
    """Reserved for an arena that is predicted: 1 % and 256 bytes more, a multiple of 16."""
    return -(-(predicted + -(-predicted // 100) + 256) // 16) * 16


# Measured: TFLM of August 2026 (90b983c) with CMSIS-NN (99f736a), target cortex_m_generic, default
# build, arm-none-eabi-gcc 12.2.1, newlib-nano. Linked with each operator alone and with some 50
# sets of up to six; least squares of what each adds and of what several share, within 700 bytes of
# each set. PACK, SHAPE, SQUEEZE, STRIDED_SLICE were linked for the M4 only. Bytes for M4, M7.
_INTERPRETER = (29772, 29431)
_OPERATOR = {
    "ADD": (11514, 11550),
    "AVERAGE_POOL_2D": (2790, 2754),
    "CONCATENATION": (6111, 5463),
    "CONV_2D": (24507, 24812),
    "DEPTHWISE_CONV_2D": (18095, 18349),
    "DEQUANTIZE": (1400, 0),
    "FULLY_CONNECTED": (16599, 16500),
    "HARD_SWISH": (4418, 2145),
    "LOGISTIC": (5275, 5601),
    "MAX_POOL_2D": (2866, 2782),
    "MEAN": (2247, 116),
    "MUL": (11154, 10723),
    "PACK": (1404, 1404),
    "PAD": (5318, 5048),
    "QUANTIZE": (4563, 2023),
    "RELU": (4360, 2091),
    "RELU6": (1943, 1094),
    "RESHAPE": (1780, 1755),
    "RESIZE_NEAREST_NEIGHBOR": (3553, 3486),
    "SHAPE": (380, 380),
    "SOFTMAX": (9114, 9421),
    "SQUEEZE": (926, 926),
    "STRIDED_SLICE": (13513, 13513),
    "SUB": (9376, 11449),
    "SUM": (2099, 0),
    "TRANSPOSE": (2633, 2928),
}
"""What an operator adds."""

_SCALED = frozenset(
    ("ADD", "SUB", "MUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "SUM")
) | {"SOFTMAX", "LOGISTIC"}
_POOLS = frozenset(("AVERAGE_POOL_2D", "MAX_POOL_2D"))
_SHARED: tuple[tuple[frozenset[str], tuple[int, int]], ...] = (
    (_SCALED | _POOLS, (1405, 501)),
    (_SCALED, (1446, 167)),
    (_POOLS, (1413, 1383)),
    (frozenset(("CONV_2D", "DEPTHWISE_CONV_2D")), (2098, 1801)),
    (frozenset(("CONV_2D", "FULLY_CONNECTED")), (2910, 2995)),
    (frozenset(("ADD", "SUB", "MUL")), (924, 853)),
    (frozenset(("ADD", "SUB")), (393, 371)),
    (frozenset(("MEAN", "SUM")), (3378, 5510)),
    (frozenset(("QUANTIZE", "DEQUANTIZE")), (1250, 1237)),
)
"""What operators add together, once, if any of these is there."""

_UNKNOWN = (5000, 5000)
_CORES = {
    "cortex-m4": 0, "cortex-m7": 1, "cortex-m33": 0, "cortex-m55": 0, "cortex-m3": 0,
    "cortex-m0plus": 0,
}  # fmt: skip
"""The column of a core; of all but the first two it is that of the Cortex-M4, for they were not
measured."""


def code_bytes(kinds: Iterable[str] | Mapping[str, Count], core: str) -> Count:
    """Flash of interpreter, kernels and compiler's library, by the table.

    Args:
        kinds: TFLite's names of the operators, or for each 1 if the network has it, else 0.
        core: of the board.
    """
    present = kinds if isinstance(kinds, Mapping) else dict.fromkeys(kinds, 1)
    column = _CORES[core]
    size = _INTERPRETER[column]
    for kind, there in present.items():
        size = size + there * _OPERATOR.get(kind, _UNKNOWN)[column]
    for members, shared in _SHARED:
        there = [count for kind, count in present.items() if kind in members]
        size = size + shared[column] * maximum([0, *there])
    return size


def state_bytes(num_operators: Count) -> Count:
    """Of RAM besides the arena: interpreter, resolver, message, the C library's state."""
    return 484 + 36 * num_operators
