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
        """The scale, of a tensor that has one."""
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        """The zero point, of a tensor that has one."""
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
    open: tuple[bool, ...] = ()
    """Which dimensions the file leaves open; ``shape`` says 1 there. () where it leaves none."""
    variable: bool = False
    """Whether it keeps its value from one run to the next."""

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def label(self) -> str:
        """Name and index for messages."""
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
        """Kind and index for messages."""
        return f"operator {self.index} ({self.kind})"


@dataclasses.dataclass(frozen=True)
class Model:
    """One subgraph, operators in the order of the file.

    Attributes:
        tensors: by their index in the file; only those that an operator, input or output names.
        called: other subgraphs by their index: those that a CALL_ONCE of this one names.
        tensors_in_file: how many tensors the subgraph has, those that nothing names included.
    """

    tensors: dict[int, Tensor]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    called: dict[int, Model] = dataclasses.field(default_factory=dict)
    tensors_in_file: int = 0


# Names and numbers of TensorFlow Lite's schema (version 3).
_TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool",
    7: "int16", 8: "complex64", 9: "int8", 10: "float64", 11: "complex128", 12: "uint64",
    13: "resource", 14: "variant", 15: "uint32", 16: "uint16", 17: "int4", 18: "bfloat16",
    19: "int2", 20: "uint4",
}  # fmt: skip
_NUMPY = {
    "float32": "<f4", "int32": "<i4", "uint8": "u1", "int64": "<i8", "int16": "<i2", "int8": "i1",
    "bool": "u1", "float16": "<f2", "float64": "<f8", "uint32": "<u4", "uint16": "<u2",
    "uint64": "<u8",
}  # fmt: skip
# By their numbers, 0, 1, 2, ...
OPERATORS = (
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE",
    "DEQUANTIZE", "EMBEDDING_LOOKUP", "FLOOR", "FULLY_CONNECTED", "HASHTABLE_LOOKUP",
    "L2_NORMALIZATION", "L2_POOL_2D", "LOCAL_RESPONSE_NORMALIZATION", "LOGISTIC",
    "LSH_PROJECTION", "LSTM", "MAX_POOL_2D", "MUL", "RELU", "RELU_N1_TO_1", "RELU6", "RESHAPE",
    "RESIZE_BILINEAR", "RNN", "SOFTMAX", "SPACE_TO_DEPTH", "SVDF", "TANH", "CONCAT_EMBEDDINGS",
    "SKIP_GRAM", "CALL", "CUSTOM", "EMBEDDING_LOOKUP_SPARSE", "PAD",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "GATHER", "BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND",
    "TRANSPOSE", "MEAN", "SUB", "DIV", "SQUEEZE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "STRIDED_SLICE",
    "BIDIRECTIONAL_SEQUENCE_RNN", "EXP", "TOPK_V2", "SPLIT", "LOG_SOFTMAX", "DELEGATE",
    "BIDIRECTIONAL_SEQUENCE_LSTM", "CAST", "PRELU", "MAXIMUM", "ARG_MAX", "MINIMUM", "LESS",
    "NEG", "PADV2", "GREATER", "GREATER_EQUAL", "LESS_EQUAL", "SELECT", "SLICE", "SIN",
    "TRANSPOSE_CONV", "SPARSE_TO_DENSE", "TILE", "EXPAND_DIMS", "EQUAL", "NOT_EQUAL", "LOG",
    "SUM", "SQRT", "RSQRT", "SHAPE", "POW", "ARG_MIN", "FAKE_QUANT", "REDUCE_PROD", "REDUCE_MAX",
    "PACK", "LOGICAL_OR", "ONE_HOT", "LOGICAL_AND", "LOGICAL_NOT", "UNPACK", "REDUCE_MIN",
    "FLOOR_DIV", "REDUCE_ANY", "SQUARE", "ZEROS_LIKE", "FILL", "FLOOR_MOD", "RANGE",
    "RESIZE_NEAREST_NEIGHBOR", "LEAKY_RELU", "SQUARED_DIFFERENCE", "MIRROR_PAD", "ABS", "SPLIT_V",
    "UNIQUE", "CEIL", "REVERSE_V2", "ADD_N", "GATHER_ND", "COS", "WHERE", "RANK", "ELU",
    "REVERSE_SEQUENCE", "MATRIX_DIAG", "QUANTIZE", "MATRIX_SET_DIAG", "ROUND", "HARD_SWISH", "IF",
    "WHILE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "SCATTER_ND", "SELECT_V2",
    "DENSIFY", "SEGMENT_SUM", "BATCH_MATMUL", "PLACEHOLDER_FOR_GREATER_OP_CODES", "CUMSUM",
    "CALL_ONCE", "BROADCAST_TO", "RFFT2D", "CONV_3D", "IMAG", "REAL", "COMPLEX_ABS", "HASHTABLE",
    "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "REDUCE_ALL", "CONV_3D_TRANSPOSE",
    "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "BROADCAST_ARGS", "RANDOM_STANDARD_NORMAL",
    "BUCKETIZE", "RANDOM_UNIFORM", "MULTINOMIAL", "GELU", "DYNAMIC_UPDATE_SLICE", "RELU_0_TO_1",
    "UNSORTED_SEGMENT_PROD", "UNSORTED_SEGMENT_MAX", "UNSORTED_SEGMENT_SUM", "ATAN2",
    "UNSORTED_SEGMENT_MIN", "SIGN", "BITCAST", "BITWISE_XOR", "RIGHT_SHIFT", "STABLEHLO_LOGISTIC",
    "STABLEHLO_ADD", "STABLEHLO_DIVIDE", "STABLEHLO_MULTIPLY", "STABLEHLO_MAXIMUM",
    "STABLEHLO_RESHAPE", "STABLEHLO_CLAMP", "STABLEHLO_CONCATENATE", "STABLEHLO_BROADCAST_IN_DIM",
    "STABLEHLO_CONVOLUTION", "STABLEHLO_SLICE", "STABLEHLO_CUSTOM_CALL", "STABLEHLO_REDUCE",
    "STABLEHLO_ABS", "STABLEHLO_AND", "STABLEHLO_COSINE", "STABLEHLO_EXPONENTIAL",
    "STABLEHLO_FLOOR", "STABLEHLO_LOG", "STABLEHLO_MINIMUM", "STABLEHLO_NEGATE", "STABLEHLO_OR",
    "STABLEHLO_POWER", "STABLEHLO_REMAINDER", "STABLEHLO_RSQRT", "STABLEHLO_SELECT",
    "STABLEHLO_SUBTRACT", "STABLEHLO_TANH", "STABLEHLO_SCATTER", "STABLEHLO_COMPARE",
    "STABLEHLO_CONVERT", "STABLEHLO_DYNAMIC_SLICE", "STABLEHLO_DYNAMIC_UPDATE_SLICE",
    "STABLEHLO_PAD", "STABLEHLO_IOTA", "STABLEHLO_DOT_GENERAL", "STABLEHLO_REDUCE_WINDOW",
    "STABLEHLO_SORT", "STABLEHLO_WHILE", "STABLEHLO_GATHER", "STABLEHLO_TRANSPOSE", "DILATE",
    "STABLEHLO_RNG_BIT_GENERATOR", "REDUCE_WINDOW", "STABLEHLO_COMPOSITE", "STABLEHLO_SHIFT_LEFT",
    "STABLEHLO_CBRT", "STABLEHLO_CASE",
)  # fmt: skip

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
    "DIV": _ACTIVATION,
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
    "UNPACK": {"num": (0, "i", 0), "axis": (1, "i", 0)},
    "CUMSUM": {"exclusive": (0, "?", False), "reverse": (1, "?", False)},
    "GATHER": {"axis": (0, "i", 0), "batch_dims": (1, "i", 0)},
    "SPACE_TO_DEPTH": {"block_size": (0, "i", 0)},
    "DEPTH_TO_SPACE": {"block_size": (0, "i", 0)},
    "MIRROR_PAD": {"mode": (0, "b", 0)},
    "LEAKY_RELU": {"alpha": (0, "f", 0.0)},
    "GELU": {"approximate": (0, "b", 0)},
    "RESIZE_BILINEAR": {"align_corners": (2, "b", 0), "half_pixel_centers": (3, "b", 0)},
    "TRANSPOSE_CONV": {**_WINDOW, "activation": (3, "b", 0)},
    "BATCH_MATMUL": {"adj_x": (0, "b", 0), "adj_y": (1, "b", 0)},
    "L2_NORMALIZATION": _ACTIVATION,
    "CALL_ONCE": {"init_subgraph_index": (0, "i", 0)},
    "VAR_HANDLE": {"container": (0, "s", ""), "shared_name": (1, "s", "")},
    "SVDF": {"rank": (0, "i", 0), "activation": (1, "b", 0)},
    "UNIDIRECTIONAL_SEQUENCE_LSTM": {
        "activation": (0, "b", 0),
        "cell_clip": (1, "f", 0.0),
        "proj_clip": (2, "f", 0.0),
        "time_major": (3, "b", 0),
    },
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
        TFLiteError: the file is absent, is no TFLite model, or an operator uses a tensor that is
            sparse, empty, larger than memory could be or of an unknown type.
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
    if not (subgraphs := buffer.tables(root, 2)):
        raise TFLiteError("not a TFLite model: it has no subgraph")
    kinds = [_operator_kind(buffer, code) for code in buffer.tables(root, 1)]
    buffers = buffer.tables(root, 4)
    main = _subgraph(buffer, subgraphs[0], kinds, buffers)
    for what, indices in (("input", main.inputs), ("output", main.outputs)):
        if not indices:
            raise TFLiteError(f"the model has no {what}")
    called = {}
    for operator in main.operators:
        if operator.kind == "CALL_ONCE":
            index = operator.options["init_subgraph_index"]
            if not 0 < index < len(subgraphs):
                raise TFLiteError(f"{operator.label} names subgraph {index} of {len(subgraphs)}")
            called[index] = _subgraph(buffer, subgraphs[index], kinds, buffers)
    return dataclasses.replace(main, called=called)


def _subgraph(buffer: _Flatbuffer, graph: int, kinds: list[str], buffers: list[int]) -> Model:
    tables = buffer.tables(graph, 0)
    codes = buffer.tables(graph, 3)
    if len(codes) > MAX_OPERATORS:
        raise TFLiteError(f"the model has {len(codes)} operators; at most {MAX_OPERATORS}")
    operators = tuple(
        _operator(buffer, index, table, kinds, len(tables)) for index, table in enumerate(codes)
    )
    ends = []
    for slot, what in ((1, "input"), (2, "output")):
        indices = tuple(int(i) for i in buffer.numbers(graph, slot, "<i4"))
        if any(not 0 <= i < len(tables) for i in indices):
            raise TFLiteError(f"an {what} of the model is a tensor that does not exist: {indices}")
        ends.append(indices)
    # a tensor that nothing names may be anything
    named = {i for indices in ends for i in indices}
    named.update(i for o in operators for i in (*o.inputs, *o.outputs) if i >= 0)
    tensors = {index: _tensor(buffer, index, tables[index], buffers) for index in sorted(named)}
    return Model(tensors, operators, *ends, tensors_in_file=len(tables))


def _operator_kind(buffer: _Flatbuffer, table: int) -> str:
    # Codes above 127 do not fit the old byte field; the larger of the two is the truth.
    code = max(buffer.value(table, 0, "b", 0), buffer.value(table, 3, "i", 0))
    if code == 32:
        return f"CUSTOM {buffer.text(table, 1)[:40]!r}"
    if not 0 <= code < len(OPERATORS):
        return f"builtin operator {code}"
    return OPERATORS[code]


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
        if not at:
            options[name] = default
        elif form == "s":
            options[name] = buffer.text(buffer.follow(at), slot)
        else:
            options[name] = buffer.value(buffer.follow(at), slot, form, default)
    return Operator(index, kind, inputs, outputs, options)


def _tensor(buffer: _Flatbuffer, index: int, table: int, buffers: list[int]) -> Tensor:
    name = buffer.text(table, 3)
    shape = tuple(int(n) for n in buffer.numbers(table, 0, "<i4"))
    label = f"tensor {index} ({name[:60]})"
    if len(shape) > MAX_RANK:
        raise TFLiteError(f"{label} has {len(shape)} dimensions; at most {MAX_RANK} are supported")
    if any(n < 0 for n in shape):
        raise TFLiteError(f"{label} has the dynamic shape {list(shape)}")
    signature = buffer.numbers(table, 7, "<i4")
    is_open = tuple(bool(n < 0) for n in signature) if len(signature) == len(shape) else ()
    code = buffer.value(table, 1, "b", 0)
    dtype = _TYPES.get(code)
    if dtype is None:
        raise TFLiteError(f"{label} has the unknown type number {code}")
    if buffer.field(table, 6):
        raise TFLiteError(f"{label} is stored sparse; convert it dense")
    size = 1
    for n in shape:
        size *= n
    number = buffer.value(table, 2, "I", 0)
    data = None
    if 0 in shape:
        data = np.zeros(shape, _NUMPY.get(dtype, "i1"))
    elif number:
        if number >= len(buffers):
            raise TFLiteError(f"{label} refers to buffer {number} of {len(buffers)}")
        data = _constant(buffer, buffers[number], label, dtype, shape, size)
    if data is None and size > MAX_ACTIVATION:
        raise TFLiteError(
            f"{label} of shape {list(shape)} has {size} elements; at most {MAX_ACTIVATION} are "
            "supported"
        )
    variable = bool(buffer.value(table, 5, "b", 0))
    quantization = _quantization(buffer, table, label)
    return Tensor(index, name, shape, dtype, quantization, data, is_open, variable)


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
    if dtype not in _NUMPY:  # no operator computes with these
        return None
    kind = np.dtype(_NUMPY[dtype])
    if count != size * kind.itemsize:
        raise TFLiteError(
            f"{label} holds {count} bytes; {dtype} {list(shape)} needs {size * kind.itemsize}"
        )
    return np.frombuffer(raw, kind).reshape(shape)


def _quantization(buffer: _Flatbuffer, table: int, label: str) -> Quantization | None:
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
    if not np.isfinite(scales).all():
        raise TFLiteError(f"{label}: a scale is not a finite number")
    if (np.abs(zero_points) > 1 << 31).any():
        raise TFLiteError(f"{label}: a zero point is out of range")
    return Quantization(scales, zero_points, axis)
