"""The reader: a TFLite flatbuffer as tensors, operators and constants.

Invariant: the file is not trusted. Every offset and length is checked against the file before it is
followed, the work is bounded by the file's size, and whatever is wrong is a :class:`TFLiteError`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import struct
from typing import Any

import numpy as np

MAX_ACTIVATION = 1 << 23
"""Activations of more elements are refused: no microcontroller holds them."""

MAX_RANK = 8
MAX_OPERATORS = 2000


class TFLiteError(ValueError):
    """The file is not a model, or not one that can be read; the sentence says why."""


@dataclasses.dataclass(frozen=True)
class Quantization:
    """real = scale * (integer - zero_point), one pair for all or one per index of ``axis``."""

    scales: np.ndarray  # float32 [n]
    zero_points: np.ndarray  # int64 [n]
    axis: int

    @property
    def scale(self) -> float:
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        return int(self.zero_points[0])


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor; ``data`` is set for constants (int4 unpacked to int8, ``dtype`` says int4)."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None
    data: np.ndarray | None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def label(self) -> str:
        return f"tensor {self.index} ({self.name[:60]})" if self.name else f"tensor {self.index}"


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator; an absent optional input is -1."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]

    @property
    def label(self) -> str:
        return f"operator {self.index} ({self.kind})"


@dataclasses.dataclass(frozen=True)
class Model:
    """A model with one subgraph, operators in the order of the file."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


# Names and numbers of TensorFlow Lite's schema (version 3).
_TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool",
    7: "int16", 8: "complex64", 9: "int8", 10: "float64", 15: "uint32", 16: "uint16", 17: "int4",
}  # fmt: skip
_NUMPY = {
    "float32": "<f4", "int32": "<i4", "uint8": "u1", "int64": "<i8", "int16": "<i2", "int8": "i1",
    "bool": "u1", "float16": "<f2",
}  # fmt: skip
_OPERATORS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D",
    5: "DEPTH_TO_SPACE", 6: "DEQUANTIZE", 7: "EMBEDDING_LOOKUP", 8: "FLOOR", 9: "FULLY_CONNECTED",
    11: "L2_NORMALIZATION", 12: "L2_POOL_2D", 14: "LOGISTIC", 16: "LSTM", 17: "MAX_POOL_2D",
    18: "MUL", 19: "RELU", 20: "RELU_N1_TO_1", 21: "RELU6", 22: "RESHAPE", 23: "RESIZE_BILINEAR",
    24: "RNN", 25: "SOFTMAX", 26: "SPACE_TO_DEPTH", 27: "SVDF", 28: "TANH", 32: "CUSTOM",
    34: "PAD", 36: "GATHER", 37: "BATCH_TO_SPACE_ND", 38: "SPACE_TO_BATCH_ND", 39: "TRANSPOSE",
    40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE", 44: "UNIDIRECTIONAL_SEQUENCE_LSTM",
    45: "STRIDED_SLICE", 47: "EXP", 49: "SPLIT", 50: "LOG_SOFTMAX", 53: "CAST", 54: "PRELU",
    55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM", 60: "PADV2", 65: "SLICE", 67: "TRANSPOSE_CONV",
    70: "EXPAND_DIMS", 74: "SUM", 75: "SQRT", 76: "RSQRT", 77: "SHAPE", 78: "POW", 83: "PACK",
    88: "UNPACK", 92: "SQUARE", 94: "FILL", 97: "RESIZE_NEAREST_NEIGHBOR", 98: "LEAKY_RELU",
    99: "SQUARED_DIFFERENCE", 101: "ABS", 102: "SPLIT_V", 111: "ELU", 114: "QUANTIZE",
    117: "HARD_SWISH", 118: "IF", 119: "WHILE", 126: "BATCH_MATMUL", 142: "VAR_HANDLE",
    150: "GELU",
}  # fmt: skip

# Fields of the option tables: name -> (slot, format, default).
_WINDOW = {"padding": (0, "b", 0), "stride_w": (1, "i", 0), "stride_h": (2, "i", 0)}
_POOL = {**_WINDOW, "filter_w": (3, "i", 0), "filter_h": (4, "i", 0), "activation": (5, "b", 0)}
_ACTIVATION = {"activation": (0, "b", 0)}
_OPTIONS: dict[str, dict[str, tuple[int, str, Any]]] = {
    "CONV_2D": {
        **_WINDOW,
        "activation": (3, "b", 0),
        "dilation_w": (4, "i", 1),
        "dilation_h": (5, "i", 1),
    },
    "DEPTHWISE_CONV_2D": {
        **_WINDOW,
        "multiplier": (3, "i", 0),
        "activation": (4, "b", 0),
        "dilation_w": (5, "i", 1),
        "dilation_h": (6, "i", 1),
    },
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "FULLY_CONNECTED": {**_ACTIVATION, "weights_format": (1, "b", 0)},
    "ADD": _ACTIVATION,
    "SUB": _ACTIVATION,
    "MUL": _ACTIVATION,
    "CONCATENATION": {"axis": (0, "i", 0), "activation": (1, "b", 0)},
    "SOFTMAX": {"beta": (0, "f", 0.0)},
    "RESIZE_NEAREST_NEIGHBOR": {"align_corners": (0, "b", 0), "half_pixel_centers": (1, "b", 0)},
    "STRIDED_SLICE": {
        "begin_mask": (0, "i", 0),
        "end_mask": (1, "i", 0),
        "ellipsis_mask": (2, "i", 0),
        "new_axis_mask": (3, "i", 0),
        "shrink_axis_mask": (4, "i", 0),
    },
    "PACK": {"values_count": (0, "i", 0), "axis": (1, "i", 0)},
}


class _Flatbuffer:
    """Checked access to a flatbuffer; positions are absolute."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        # Tables may be shared, so that a small file can describe much work: count it.
        self._budget = 64 * len(data) + 4096

    def scalar(self, form: str, at: int) -> Any:
        size = struct.calcsize("<" + form)
        if at < 0 or at + size > len(self.data):
            raise TFLiteError(f"not a readable TFLite file: offset {at} lies outside of it")
        return struct.unpack_from("<" + form, self.data, at)[0]

    def follow(self, at: int) -> int:
        return at + self.scalar("I", at)

    def field(self, table: int, slot: int) -> int:
        """Position of a field's value, or 0 where the table lacks it."""
        vtable = table - self.scalar("i", table)
        length = self.scalar("H", vtable)
        entry = 4 + 2 * slot
        if entry + 2 > length:
            return 0
        offset = self.scalar("H", vtable + entry)
        return table + offset if offset else 0

    def value(self, table: int, slot: int, form: str, default: Any) -> Any:
        at = self.field(table, slot)
        return self.scalar(form, at) if at else default

    def vector(self, table: int, slot: int, size: int) -> tuple[int, int]:
        """Position of the first element and number of elements of ``size`` bytes."""
        at = self.field(table, slot)
        if not at:
            return 0, 0
        at = self.follow(at)
        count = self.scalar("I", at)
        if count * size > len(self.data) - at - 4:
            raise TFLiteError(f"not a readable TFLite file: a vector at {at} runs past its end")
        return at + 4, count

    def spend(self, work: int) -> None:
        self._budget -= work
        if self._budget < 0:
            raise TFLiteError("not a sensible TFLite file: it refers to its own parts too often")

    def numbers(self, table: int, slot: int, dtype: str) -> np.ndarray:
        size = np.dtype(dtype).itemsize
        at, count = self.vector(table, slot, size)
        self.spend(count * size)
        return np.frombuffer(self.data, dtype, count, at)

    def tables(self, table: int, slot: int) -> list[int]:
        at, count = self.vector(table, slot, 4)
        self.spend(count * 4)
        return [self.follow(at + 4 * i) for i in range(count)]

    def text(self, table: int, slot: int) -> str:
        at, count = self.vector(table, slot, 1)
        return self.data[at : at + min(count, 512)].decode("utf-8", "replace")


def read(source: str | pathlib.Path | bytes) -> Model:
    """Reads a model from a file or from its bytes.

    Raises:
        TFLiteError: the file is absent, is no TFLite model, or uses more than one subgraph, sparse
            or variable tensors, dynamic shapes or unknown types.
    """
    if isinstance(source, bytes):
        data = source
    else:
        try:
            data = pathlib.Path(source).read_bytes()
        except OSError as error:
            raise TFLiteError(f"cannot read {source}: {error.strerror or error}") from error
    try:
        return _read(data)
    except (struct.error, OverflowError, MemoryError) as error:
        raise TFLiteError(f"not a readable TFLite file: {error}") from error


def _read(data: bytes) -> Model:
    if len(data) < 8 or data[4:8] != b"TFL3":
        came = "an empty file" if not data else f"a file that starts with {data[:8]!r}"
        raise TFLiteError(f"not a TFLite model: {came}; expected the identifier 'TFL3' at offset 4")
    buffer = _Flatbuffer(data)
    root = buffer.follow(0)
    subgraphs = buffer.tables(root, 2)
    if len(subgraphs) != 1:
        raise TFLiteError(
            f"the model has {len(subgraphs)} subgraphs; one is supported: convert one "
            "signature, without control flow"
        )
    kinds = [_operator_kind(buffer, code) for code in buffer.tables(root, 1)]
    buffers = buffer.tables(root, 4)
    graph = subgraphs[0]
    tensors = tuple(
        _tensor(buffer, index, table, buffers)
        for index, table in enumerate(buffer.tables(graph, 0))
    )
    tables = buffer.tables(graph, 3)
    if len(tables) > MAX_OPERATORS:
        raise TFLiteError(f"the model has {len(tables)} operators; at most {MAX_OPERATORS}")
    operators = tuple(
        _operator(buffer, index, table, kinds, len(tensors)) for index, table in enumerate(tables)
    )
    ends = []
    for slot, what in ((1, "input"), (2, "output")):
        indices = tuple(int(i) for i in buffer.numbers(graph, slot, "<i4"))
        if not indices:
            raise TFLiteError(f"the model has no {what}")
        if any(not 0 <= i < len(tensors) for i in indices):
            raise TFLiteError(f"an {what} of the model is a tensor that does not exist: {indices}")
        ends.append(indices)
    return Model(tensors, operators, ends[0], ends[1])


def _operator_kind(buffer: _Flatbuffer, table: int) -> str:
    # Codes above 127 do not fit the old byte field; the larger of the two is the truth.
    code = max(buffer.value(table, 0, "b", 0), buffer.value(table, 3, "i", 0))
    if code == 32:
        return f"CUSTOM {buffer.text(table, 1)[:40]!r}"
    return _OPERATORS.get(code, f"builtin operator {code}")


def _operator(
    buffer: _Flatbuffer, index: int, table: int, kinds: list[str], num_tensors: int
) -> Operator:
    code = buffer.value(table, 0, "I", 0)
    if code >= len(kinds):
        raise TFLiteError(f"operator {index} has code {code}, but there are {len(kinds)} codes")
    kind = kinds[code]
    inputs = tuple(int(i) for i in buffer.numbers(table, 1, "<i4"))
    outputs = tuple(int(i) for i in buffer.numbers(table, 2, "<i4"))
    if any(not -1 <= i < num_tensors for i in inputs) or any(
        not 0 <= i < num_tensors for i in outputs
    ):
        raise TFLiteError(f"operator {index} ({kind}) names a tensor that does not exist")
    at = buffer.field(table, 4)
    options: dict[str, Any] = {}
    for name, (slot, form, default) in _OPTIONS.get(kind, {}).items():
        options[name] = buffer.value(buffer.follow(at), slot, form, default) if at else default
    return Operator(index, kind, inputs, outputs, options)


def _tensor(buffer: _Flatbuffer, index: int, table: int, buffers: list[int]) -> Tensor:
    name = buffer.text(table, 3)
    shape = tuple(int(n) for n in buffer.numbers(table, 0, "<i4"))
    label = f"tensor {index} ({name[:60]})"
    if len(shape) > MAX_RANK:
        raise TFLiteError(f"{label} has {len(shape)} dimensions; at most {MAX_RANK} are supported")
    signature = buffer.numbers(table, 7, "<i4")
    # The batch may be left open; one example at a time is what a microcontroller computes.
    if any(n < 0 for n in shape) or any(int(n) < 0 for n in signature[1:]):
        shown = [int(n) for n in signature] or list(shape)
        raise TFLiteError(
            f"{label} has the dynamic shape {shown}; fix all sizes but the batch before converting"
        )
    if 0 in shape:
        raise TFLiteError(f"{label} is empty: its shape is {list(shape)}")
    code = buffer.value(table, 1, "b", 0)
    dtype = _TYPES.get(code)
    if dtype is None:
        raise TFLiteError(f"{label} has the unknown type number {code}")
    if buffer.value(table, 5, "b", 0):
        raise TFLiteError(f"{label} is a variable; convert a model without state")
    if buffer.field(table, 6):
        raise TFLiteError(f"{label} is stored sparse; convert it dense")
    size = 1
    for n in shape:
        size *= n
    number = buffer.value(table, 2, "I", 0)
    data = None
    if number:
        if number >= len(buffers):
            raise TFLiteError(f"{label} refers to buffer {number} of {len(buffers)}")
        data = _constant(buffer, buffers[number], label, dtype, shape, size)
    if data is None and size > MAX_ACTIVATION:
        raise TFLiteError(
            f"{label} of shape {list(shape)} has {size} elements; at most {MAX_ACTIVATION} are "
            "supported"
        )
    return Tensor(index, name, shape, dtype, _quantization(buffer, table, label, shape), data)


def _constant(
    buffer: _Flatbuffer, table: int, label: str, dtype: str, shape: tuple[int, ...], size: int
) -> np.ndarray | None:
    at, count = buffer.vector(table, 0, 1)
    if not count:
        if buffer.value(table, 1, "Q", 0) > 1:
            raise TFLiteError(f"{label} lies outside the flatbuffer (a model of more than 2 GB)")
        return None
    raw = buffer.data[at : at + count]
    if dtype == "int4":
        if count != (size + 1) // 2:
            raise TFLiteError(f"{label} holds {count} bytes; {list(shape)} needs {(size + 1) // 2}")
        buffer.spend(count)
        packed = np.frombuffer(raw, np.int8)
        low, high = (packed << 4).astype(np.int8) >> 4, packed >> 4
        return np.stack([low, high], axis=-1).reshape(-1)[:size].reshape(shape)
    if dtype not in _NUMPY:
        raise TFLiteError(f"{label} is a constant of the unsupported type {dtype}")
    kind = np.dtype(_NUMPY[dtype])
    if count != size * kind.itemsize:
        raise TFLiteError(
            f"{label} holds {count} bytes; {dtype} {list(shape)} needs {size * kind.itemsize}"
        )
    return np.frombuffer(raw, kind).reshape(shape)


def _quantization(
    buffer: _Flatbuffer, table: int, label: str, shape: tuple[int, ...]
) -> Quantization | None:
    at = buffer.field(table, 4)
    if not at:
        return None
    at = buffer.follow(at)
    scales = buffer.numbers(at, 2, "<f4")
    if not len(scales):
        return None
    zero_points = buffer.numbers(at, 3, "<i8")
    if not len(zero_points):
        zero_points = np.zeros(len(scales), np.int64)
    axis = buffer.value(at, 6, "i", 0)
    if len(zero_points) != len(scales):
        raise TFLiteError(f"{label}: {len(scales)} scales but {len(zero_points)} zero points")
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise TFLiteError(f"{label}: a scale is not a positive number")
    if (np.abs(zero_points) > 1 << 31).any():
        raise TFLiteError(f"{label}: a zero point is out of range")
    if len(scales) > 1 and not (0 <= axis < len(shape) and shape[axis] == len(scales)):
        raise TFLiteError(
            f"{label}: {len(scales)} scales along axis {axis} do not fit the shape {list(shape)}"
        )
    return Quantization(scales, zero_points, axis)
