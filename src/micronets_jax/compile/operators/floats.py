"""Functions of float32, element by element, between DEQUANTIZE and QUANTIZE: tables of 256 bytes.

Invariant: numbers are rounded to float32 where the reference's are. Exponentials and the like are
rounded from double precision, which a good library's single precision equals but for a last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Value
from micronets_jax.compile.operators.builder import Builder
from micronets_jax.compile.operators.registry import FLOAT_FUNCTIONS, ROWS, FloatFunction, reads
from micronets_jax.tflite import Operator, TFLiteError

LIMITS = "in float32, element by element between DEQUANTIZE and QUANTIZE"


def dequantized(value: Value) -> np.ndarray:
    """The 256 real values of a tensor's bytes, by their bit patterns."""
    levels = np.arange(256, dtype=np.uint8)
    signed = levels.view(np.int8) if value.dtype == "int8" else levels
    return np.float32(value.scale) * (signed.astype(np.float32) - np.float32(value.zero_point))


def quantized(reals: np.ndarray, output: Value) -> arithmetic.Table:
    """The nearest levels, halves away from zero, as bit patterns; what is no number as zero."""
    low, high = (-128, 127) if output.dtype == "int8" else (0, 255)
    with np.errstate(all="ignore"):
        levels = np.nan_to_num(reals / np.float32(output.scale), posinf=1e9, neginf=-1e9)
    rounded = np.trunc(levels + np.copysign(np.float32(0.5), levels))
    # x + 0.5 rounds up just below a half
    rounded = np.where(np.abs(levels - np.trunc(levels)) < 0.5, np.trunc(levels), rounded)
    limited = np.clip(np.clip(rounded, -1e6, 1e6) + output.zero_point, low, high)
    return tuple(int(level) & 255 for level in limited)


def _function(name: str, function: FloatFunction) -> None:
    FLOAT_FUNCTIONS[name] = function
    if name not in ROWS:

        @reads(name, LIMITS)
        def read(b: Builder, operator: Operator) -> None:
            raise TFLiteError(f"it is computed only {LIMITS}")


def _in_double(function: Callable[[np.ndarray], np.ndarray]) -> FloatFunction:
    return lambda x, **_: function(x.astype(np.float64)).astype(np.float32)


def _clamped(y: np.ndarray, activation: int) -> np.ndarray:
    low, high = {1: (0, np.inf), 2: (-1, 1), 3: (0, 6)}.get(activation, (-np.inf, np.inf))
    return np.clip(y, np.float32(low), np.float32(high))


def _binary(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> FloatFunction:
    return lambda x, y, activation=0, **_: _clamped(function(x, y), activation)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _leaky_relu(x: np.ndarray, alpha: float, **_: object) -> np.ndarray:
    return np.where(x > 0, x, x * np.float32(alpha))


_function("NEG", lambda x, **_: -x)
_function("SQUARE", lambda x, **_: x * x)
_function("SQRT", lambda x, **_: np.sqrt(x))
_function("FLOOR", lambda x, **_: np.floor(x))
_function("CEIL", lambda x, **_: np.ceil(x))
_function("ROUND", lambda x, **_: np.round(x))
_function("EXP", _in_double(np.exp))
_function("LOG", _in_double(np.log))
_function("SIN", _in_double(np.sin))
_function("COS", _in_double(np.cos))
FLOAT_FUNCTIONS.update(
    ABS=lambda x, **_: np.abs(x),
    RSQRT=lambda x, **_: np.float32(1) / np.sqrt(x),
    RELU=lambda x, **_: np.maximum(x, np.float32(0)),
    RELU6=lambda x, **_: np.clip(x, np.float32(0), np.float32(6)),
    LEAKY_RELU=_leaky_relu,
    ELU=_in_double(lambda x: np.where(x < 0, np.expm1(x), x)),
    TANH=_in_double(np.tanh),
    LOGISTIC=_in_double(_logistic),
    ADD=_binary(np.add),
    SUB=_binary(np.subtract),
    MUL=_binary(np.multiply),
    DIV=_binary(np.divide),
    MAXIMUM=_binary(np.maximum),
    MINIMUM=_binary(np.minimum),
    SQUARED_DIFFERENCE=_binary(lambda x, y: (x - y) * (x - y)),
)
