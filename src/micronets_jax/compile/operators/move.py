"""Moves: operators that only put bytes elsewhere.

Invariant: what a move does is said once, as a function of NumPy arrays. Applied to constants it
folds them; applied to arrays of positions it says where every byte of the output comes from, and
that is factored into strided copies.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from micronets_jax.compile.copies import MAX_COPIES, SOURCE, copies
from micronets_jax.compile.graph import Value
from micronets_jax.compile.operators.builder import MAX_FOLDED, Builder, picture, same_quantization
from micronets_jax.compile.operators.registry import reads
from micronets_jax.tflite import Operator, TFLiteError

Move = Callable[[list[np.ndarray], int], np.ndarray]
"""Arrays of the inputs and what padding holds -> the output, of the output's size and order."""


def value_of(b: Builder, operator: Operator, position: int) -> Value:
    """An input of any type that values have."""
    tensor = b.model.tensors[operator.inputs[position]]
    known = b.values.get(tensor.index)
    return b.input(operator, position, known.dtype if known else tensor.dtype)


def move(
    b: Builder,
    operator: Operator,
    positions: Sequence[int],
    function: Move,
    kind: str,
    shape: Sequence[int] | None = None,
    fill: int | None = None,
    output: int = 0,
    **options: Any,
) -> None:
    """Adds a move, or what is left of it: a constant, another name of its input, or copies.

    Args:
        b: the builder.
        operator: that is read.
        positions: which inputs of the operator are moved.
        function: the move of NumPy arrays.
        kind: of the node.
        shape: of the output, if it is not that of the function's result.
        fill: what padding holds, None for the output's zero point.
        output: which output of the operator is written.
        options: further options of the node.

    Raises:
        TFLiteError: the output is empty or too large to fold, or has another size or type.
    """
    if b.is_constant(operator, *positions):
        data = [b.constants[operator.inputs[i]] for i in positions]
        if sum(d.size for d in data) > MAX_FOLDED and data[0].dtype.kind != "i":
            raise TFLiteError(f"more than {MAX_FOLDED} constants")
        b.fold(operator, function(data, fill or 0), output)
        return
    values = [value_of(b, operator, i) for i in positions]
    made = function(
        [(np.arange(v.elements) + (i << SOURCE)).reshape(v.shape) for i, v in enumerate(values)], -1
    )
    if made.size == 0:
        raise TFLiteError("its output is empty")
    target = b.output(operator, made.shape if shape is None else shape, values[0].dtype, output)
    if target.elements != made.size or any(v.dtype != target.dtype for v in values):
        raise TFLiteError(f"{list(values[0].shape)} and {list(target.shape)} do not fit together")
    if (
        len(values) == 1
        and values[0].data is None
        and made.size == values[0].elements
        and same_quantization(values[0], target)
        and np.array_equal(made.reshape(-1), np.arange(made.size))
    ):
        b.roots[target.tensor] = values[0].tensor
        return
    found = copies(made)
    holes = sum(int(np.prod(c.shape)) for c in found) < made.size
    fill = (target.zero_point if fill is None else fill) if holes else None
    b.add(operator, kind, values, target, copies=found, fill=fill, **options)


def axis_of(operator: Operator, axis: int, rank: int) -> int:
    """The axis counted from 0, of one that may be negative.

    Raises:
        TFLiteError: it is out of range.
    """
    if not -rank <= axis < rank:
        raise TFLiteError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank


def _shape_of(b: Builder, operator: Operator, position: int = 0) -> tuple[int, ...]:
    index = operator.inputs[position]
    value = b.values.get(index)
    return value.shape if value else b.model.tensors[index].shape


# Other names of the same bytes -------------------------------------------------------------------


@reads("RESHAPE", "the shape must be computable before the model runs")
@reads("SQUEEZE")
@reads("EXPAND_DIMS")
def reshape(b: Builder, operator: Operator) -> None:
    """The same elements under another shape: an alias, where quantisation does not change."""
    shape = b.model.tensors[operator.outputs[0]].shape
    before = _shape_of(b, operator)
    open_ = b.model.tensors[operator.outputs[0]].open
    count = int(np.prod(before, dtype=np.int64))
    if operator.kind == "RESHAPE" and len(operator.inputs) > 1 and b.is_constant(operator, 1):
        wanted = b.integers(operator, 1, "shape")
        rest = int(np.prod([n for n in wanted if n != -1], dtype=np.int64))
        if wanted.count(-1) == 1 and rest > 0:
            wanted = [count // rest if n == -1 else n for n in wanted]
        if any(open_) and min(wanted, default=1) > 0 and math.prod(wanted) == count:
            shape = wanted
    elif any(open_) and count != int(np.prod(shape, dtype=np.int64)) and 0 not in shape:
        rest = int(np.prod([n for n, o in zip(shape, open_, strict=True) if not o], dtype=np.int64))
        shape = [count // rest if o else n for n, o in zip(shape, open_, strict=True)]
    if int(np.prod(shape, dtype=np.int64)) != count:
        raise TFLiteError(f"{list(before)} and {list(shape)} differ in size")
    move(b, operator, [0], lambda x, _: x[0].reshape(shape), "copy")


# Parts and wholes --------------------------------------------------------------------------------


@reads("STRIDED_SLICE", "begin, end and strides constant", inputs=4)
def strided_slice(b: Builder, operator: Operator) -> None:
    """Basic slicing by begin, end and strides with the masks of TensorFlow."""
    begin, end, step = (
        b.integers(operator, i, n) for i, n in enumerate(("begin", "end", "strides"), 1)
    )
    o, rank = operator.options, len(_shape_of(b, operator))
    if not len(begin) == len(end) == len(step) or 0 in step:
        raise TFLiteError(f"begin {begin}, end {end}, strides {step}")
    index: list[int | slice | EllipsisType | None] = []
    for i, (first, last, by) in enumerate(zip(begin, end, step, strict=True)):
        if o["ellipsis_mask"] >> i & 1:
            index.append(...)
        elif o["new_axis_mask"] >> i & 1:
            index.append(None)
        elif o["shrink_axis_mask"] >> i & 1:
            index.append(first)
        else:
            low = None if o["begin_mask"] >> i & 1 else first
            high = None if o["end_mask"] >> i & 1 else last
            index.append(slice(low, high, by))
    if sum(i is not None and i is not ... for i in index) > rank or index.count(...) > 1:
        raise TFLiteError(f"begin {begin} of a tensor of rank {rank}")

    def take(x: list[np.ndarray], _: object) -> np.ndarray:
        try:
            return np.asarray(x[0][tuple(index)])
        except IndexError as error:
            raise TFLiteError(f"begin {begin} lies outside of its input") from error

    move(b, operator, [0], take, "slice")


@reads("SLICE", "begin and size constant", inputs=3)
def slice_(b: Builder, operator: Operator) -> None:
    """A box of the input, from ``begin`` and of ``size`` (-1: to the end)."""
    begin, size = b.integers(operator, 1, "begin"), b.integers(operator, 2, "size")
    shape = _shape_of(b, operator)
    if not len(begin) == len(size) == len(shape):
        raise TFLiteError(f"begin {begin} and size {size} of a tensor {list(shape)}")
    ends = [n if s == -1 else a + s for a, s, n in zip(begin, size, shape, strict=True)]
    if any(not 0 <= a <= e <= n for a, e, n in zip(begin, ends, shape, strict=True)):
        raise TFLiteError(f"begin {begin} and size {size} reach beyond its input {list(shape)}")
    index = tuple(slice(a, e) for a, e in zip(begin, ends, strict=True))
    move(b, operator, [0], lambda x, _: x[0][index], "slice")


def _split(b: Builder, operator: Operator, source: int, axis: int, sizes: list[int]) -> None:
    shape = _shape_of(b, operator, source)
    axis = axis_of(operator, axis, len(shape))
    if sizes.count(-1) == 1:
        sizes = [shape[axis] - sum(sizes) - 1 if n == -1 else n for n in sizes]
    if min(sizes, default=0) < 1 or sum(sizes) != shape[axis]:
        raise TFLiteError(f"sizes {sizes} do not add up to {shape[axis]}")
    if len(sizes) != len(operator.outputs):
        raise TFLiteError(f"{len(operator.outputs)} outputs for {len(sizes)} parts")
    low = 0
    for position, n in enumerate(sizes):
        index = (slice(None),) * axis + (slice(low, low + n),)
        move(b, operator, [source], lambda x, _, index=index: x[0][index], "split", output=position)
        low += n


@reads("SPLIT", "axis constant", inputs=2, outputs=-1)
def split(b: Builder, operator: Operator) -> None:
    """Parts of equal size along an axis."""
    (axis,) = b.integers(operator, 0, "axis")[:1] or [0]
    shape = _shape_of(b, operator, 1)
    parts = len(operator.outputs)
    size = shape[axis_of(operator, axis, len(shape))]
    if not parts or size % parts:
        raise TFLiteError(f"{size} does not split into {parts} parts")
    _split(b, operator, 1, axis, [size // parts] * parts)


@reads("SPLIT_V", "sizes and axis constant", inputs=3, outputs=-1)
def split_v(b: Builder, operator: Operator) -> None:
    """Parts of given sizes along an axis, one of which may be -1: the rest."""
    sizes, axis = b.integers(operator, 1, "sizes"), b.integers(operator, 2, "axis")
    _split(b, operator, 0, axis[0] if axis else 0, sizes)


@reads("UNPACK", outputs=-1)
def unpack(b: Builder, operator: Operator) -> None:
    """The slices along an axis, one output each, without that axis."""
    shape = _shape_of(b, operator)
    axis = axis_of(operator, operator.options["axis"], len(shape))
    if len(operator.outputs) != shape[axis]:
        raise TFLiteError(f"{len(operator.outputs)} outputs for {shape[axis]} parts")
    for i in range(shape[axis]):
        move(
            b,
            operator,
            [0],
            lambda x, _, i=i: np.asarray(np.take(x[0], i, axis)),
            "split",
            output=i,
        )


def _joined(join: Callable[..., np.ndarray], axis: int) -> Move:
    def joined(x: list[np.ndarray], _: object) -> np.ndarray:
        try:
            return join(x, axis=axis)
        except ValueError as error:
            raise TFLiteError(f"inputs do not fit together along axis {axis}: {error}") from error

    return joined


def _check_parts(operator: Operator) -> None:
    if len(operator.inputs) > MAX_COPIES or -1 in operator.inputs:
        raise TFLiteError(f"{len(operator.inputs)} inputs; at most {MAX_COPIES}")


@reads("PACK")
def pack(b: Builder, operator: Operator) -> None:
    """Inputs stacked along a new axis."""
    _check_parts(operator)
    axis = axis_of(operator, operator.options["axis"], len(_shape_of(b, operator)) + 1)
    move(
        b,
        operator,
        range(len(operator.inputs)),
        _joined(np.stack, axis),
        "concatenation",
        axis=axis,
    )


@reads("CONCATENATION", "without a fused activation; bytes are copied, whatever their scales")
def concatenation(b: Builder, operator: Operator) -> None:
    """Inputs joined along an axis; their bytes are copied, whatever the scales."""
    _check_parts(operator)
    if operator.options["activation"]:
        raise TFLiteError("a fused activation is not supported")
    axis = axis_of(operator, operator.options["axis"], len(_shape_of(b, operator)))
    move(
        b, operator, range(len(operator.inputs)), _joined(np.concatenate, axis), "concatenation",
        axis=axis,
    )  # fmt: skip


@reads("GATHER", "positions constant", inputs=2)
def gather(b: Builder, operator: Operator) -> None:
    """Slices at constant positions along an axis, with batch dimensions."""
    _, at = b.constant(operator, 1, "positions", ("int32", "int64"))
    shape = _shape_of(b, operator)
    axis = axis_of(operator, operator.options["axis"], len(shape))
    batch = operator.options["batch_dims"]
    batch += len(at.shape) if batch < 0 else 0
    if at.size == 0 or at.min() < 0 or at.max() >= shape[axis]:
        raise TFLiteError(f"positions {at.reshape(-1)[:8].tolist()} of {shape[axis]}")
    if not 0 <= batch <= min(axis, len(at.shape)) or at.shape[:batch] != shape[:batch]:
        raise TFLiteError(f"positions of shape {list(at.shape)} share no {batch} batch dimensions")

    def gathered(x: list[np.ndarray], _: object) -> np.ndarray:
        examples = [np.take(x[0][i], at[i], axis - batch) for i in np.ndindex(shape[:batch])]
        return np.stack(examples).reshape(shape[:batch] + examples[0].shape)

    move(b, operator, [0], gathered, "gather")


@reads("DYNAMIC_UPDATE_SLICE", "start constant", inputs=3)
def dynamic_update_slice(b: Builder, operator: Operator) -> None:
    """A part of the first input is replaced by the second; the start is moved until it fits."""
    _, start = b.constant(operator, 2, "start", ("int32", "int64"))
    whole, part = _shape_of(b, operator), _shape_of(b, operator, 1)
    if len(whole) != len(part) or start.size != len(part) or any(np.greater(part, whole)):
        raise TFLiteError(f"{list(part)} do not fit into {list(whole)} at {start.tolist()}")
    low = np.clip(start.reshape(-1), 0, np.subtract(whole, part))
    at = tuple(slice(i, i + n) for i, n in zip(low.tolist(), part, strict=True))

    def updated(x: list[np.ndarray], _: object) -> np.ndarray:
        made = x[0].copy()
        made[at] = x[1]
        return made

    move(b, operator, [0, 1], updated, "concatenation")


@reads("GATHER_ND", "positions constant", inputs=2)
def gather_nd(b: Builder, operator: Operator) -> None:
    """Elements or slices at constant multi-dimensional positions."""
    _, at = b.constant(operator, 1, "positions", ("int32", "int64"))
    shape = _shape_of(b, operator)
    depth = at.shape[-1] if at.shape else 0
    if not 1 <= depth <= len(shape) or at.size == 0:
        raise TFLiteError(f"positions {list(at.shape)} in {list(shape)}")
    columns = np.moveaxis(at, -1, 0)
    if any(c.min() < 0 or c.max() >= n for c, n in zip(columns, shape, strict=False)):
        raise TFLiteError(f"its positions lie outside of {list(shape)}")
    move(b, operator, [0], lambda x, _: x[0][tuple(columns)], "gather")


# Borders -----------------------------------------------------------------------------------------


def _paddings(b: Builder, operator: Operator) -> list[tuple[int, int]]:
    _, pads = b.constant(operator, 1, "paddings", ("int32", "int64"))
    rank = len(_shape_of(b, operator))
    if pads.shape != (rank, 2) or (pads < 0).any() or (pads > 1 << 14).any():
        raise TFLiteError(f"paddings {pads.tolist()}")
    return [(int(low), int(high)) for low, high in pads]


def _pad(b: Builder, operator: Operator, fill: int | None) -> None:
    pads = _paddings(b, operator)
    shape = [n + low + high for n, (low, high) in zip(_shape_of(b, operator), pads, strict=True)]
    if int(np.prod(shape, dtype=np.int64)) != b.model.tensors[operator.outputs[0]].size:
        raise TFLiteError(f"the output should have shape {shape}")  # before it is made
    before = [low for low, _ in pads] if fill is None else None
    move(
        b, operator, [0], lambda x, value: np.pad(x[0], pads, constant_values=value), "pad",
        fill=fill, before=before,
    )  # fmt: skip


@reads("PAD", "paddings constant", inputs=2)
def pad(b: Builder, operator: Operator) -> None:
    """Padding with the zero point."""
    _pad(b, operator, None)


@reads("PADV2", "paddings and value constant", inputs=3)
def pad_v2(b: Builder, operator: Operator) -> None:
    """Padding with a constant of the file."""
    _, value = b.constant(operator, 2, "value", ("int8", "uint8", "int32"))
    if value.size != 1:
        raise TFLiteError(f"{value.size} values to pad with")
    _pad(b, operator, int(value.reshape(())))


@reads("MIRROR_PAD", "paddings constant", inputs=2)
def mirror_pad(b: Builder, operator: Operator) -> None:
    """Padding with the input reflected at its borders, without or with the border itself."""
    pads, mode = _paddings(b, operator), operator.options["mode"]
    for n, two in zip(_shape_of(b, operator), pads, strict=True):
        if mode not in (0, 1) or max(two) > n - (mode == 0):
            raise TFLiteError(f"paddings {pads} in mode {mode} reach beyond its input")
    how = "reflect" if mode == 0 else "symmetric"
    move(b, operator, [0], lambda x, _: np.pad(x[0], pads, mode=how), "pad", before=None)


@reads("BROADCAST_TO", "shape constant", inputs=2)
def broadcast_to(b: Builder, operator: Operator) -> None:
    """The input repeated along axes of size 1 to a constant shape."""
    shape = tuple(b.integers(operator, 1, "shape"))
    if int(np.prod(shape, dtype=np.int64)) != b.model.tensors[operator.outputs[0]].size:
        raise TFLiteError(f"the output should have shape {list(shape)}")

    def broadcast(x: list[np.ndarray], _: object) -> np.ndarray:
        try:
            return np.broadcast_to(x[0], shape)
        except ValueError as error:
            raise TFLiteError(str(error)) from error

    move(b, operator, [0], broadcast, "copy")


# Orders ------------------------------------------------------------------------------------------


@reads("TRANSPOSE", "permutation constant", inputs=2)
def transpose(b: Builder, operator: Operator) -> None:
    """Axes permuted."""
    order, rank = b.integers(operator, 1, "permutation"), len(_shape_of(b, operator))
    if sorted(a % rank if -rank <= a < rank else -1 for a in order) != list(range(rank)):
        raise TFLiteError(f"{order} is not a permutation of {rank} dimensions")
    move(b, operator, [0], lambda x, _: x[0].transpose(order), "transpose")


@reads("REVERSE_V2", "axes constant", inputs=2)
def reverse(b: Builder, operator: Operator) -> None:
    """The order along some axes reversed."""
    rank = len(_shape_of(b, operator))
    axes = tuple(axis_of(operator, a, rank) for a in b.integers(operator, 1, "axes"))
    move(b, operator, [0], lambda x, _: np.flip(x[0], axes), "copy")


def _block(operator: Operator) -> int:
    block = operator.options["block_size"]
    if not 1 <= block <= 1 << 10:
        raise TFLiteError(f"block size {block}")
    return block


@reads("SPACE_TO_DEPTH")
def space_to_depth(b: Builder, operator: Operator) -> None:
    """Blocks of rows and columns moved to channels."""
    n, rows, columns, depth = picture(value_of(b, operator, 0))
    s = _block(operator)
    if rows % s or columns % s:
        raise TFLiteError(f"{rows} x {columns} does not divide into blocks of {s}")
    inner = (n, rows // s, s, columns // s, s, depth)
    move(
        b, operator, [0], lambda x, _: x[0].reshape(inner).transpose(0, 1, 3, 2, 4, 5), "transpose",
        (n, rows // s, columns // s, s * s * depth),
    )  # fmt: skip


@reads("DEPTH_TO_SPACE")
def depth_to_space(b: Builder, operator: Operator) -> None:
    """Channels moved to blocks of rows and columns."""
    n, rows, columns, depth = picture(value_of(b, operator, 0))
    s = _block(operator)
    if depth % (s * s):
        raise TFLiteError(f"{depth} channels do not divide into blocks of {s}")
    inner = (n, rows, columns, s, s, depth // (s * s))
    move(
        b, operator, [0], lambda x, _: x[0].reshape(inner).transpose(0, 1, 3, 2, 4, 5), "transpose",
        (n, rows * s, columns * s, depth // (s * s)),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Blocks of space as batches: ``block`` and ``borders`` (before, after) of each dimension."""

    shape: tuple[int, ...]  # of the input
    block: tuple[int, ...]
    borders: tuple[tuple[int, int], ...]


def _blocks(b: Builder, operator: Operator, what: str) -> Blocks:
    shape, block = _shape_of(b, operator), b.integers(operator, 1, "block shape")
    _, borders = b.constant(operator, 2, what, ("int32", "int64"))
    if (
        len(shape) not in (3, 4)
        or len(block) != len(shape) - 2
        or borders.shape != (len(block), 2)
        or (borders < 0).any()
        or (borders > 1 << 14).any()
        or not 1 <= min(block) <= max(block) <= 1 << 10
    ):
        raise TFLiteError(f"block {block} and {what} {borders.tolist()} of {list(shape)}")
    return Blocks(shape, tuple(block), tuple((int(low), int(high)) for low, high in borders))


@reads("SPACE_TO_BATCH_ND", "block and paddings constant; folded into dilation where it is that", 3)
def space_to_batch(b: Builder, operator: Operator) -> None:
    """Padded, then every d-th row and column as a batch of its own."""
    made = _blocks(b, operator, "paddings")
    batch, *size, depth = made.shape
    size = [n + low + high for n, (low, high) in zip(size, made.borders, strict=True)]
    if any(n % s for n, s in zip(size, made.block, strict=True)):
        raise TFLiteError(f"{size} does not divide into blocks {list(made.block)}")
    if int(np.prod(size)) * batch * depth > MAX_FOLDED << 8:
        raise TFLiteError(f"{size} is too large")
    counts = [n // s for n, s in zip(size, made.block, strict=True)]
    inner = [batch, *(n for pair in zip(counts, made.block, strict=True) for n in pair), depth]
    spatial = range(1, 2 * len(counts) + 1)
    order = [*spatial[1::2], 0, *spatial[::2], len(inner) - 1]
    pads = [(0, 0), *made.borders, (0, 0)]
    move(
        b,
        operator,
        [0],
        lambda x, value: np.pad(x[0], pads, constant_values=value).reshape(inner).transpose(order),
        "space_to_batch",
        (batch * int(np.prod(made.block)), *counts, depth),
        blocks=made,
    )


@reads("BATCH_TO_SPACE_ND", "block and crops constant; folded into dilation where it is that", 3)
def batch_to_space(b: Builder, operator: Operator) -> None:
    """Batches interleaved as rows and columns, then cropped."""
    made = _blocks(b, operator, "crops")
    batch, *counts, depth = made.shape
    count = int(np.prod(made.block))
    if batch % count:
        raise TFLiteError(f"{batch} batches do not divide into blocks {list(made.block)}")
    inner = [*made.block, batch // count, *counts, depth]
    dims = len(counts)
    order = [dims, *(a for i in range(dims) for a in (dims + 1 + i, i)), len(inner) - 1]
    sizes = [n * s for n, s in zip(counts, made.block, strict=True)]
    keep = [slice(low, n - high) for n, (low, high) in zip(sizes, made.borders, strict=True)]
    move(
        b, operator, [0],
        lambda x, _: (
            x[0].reshape(inner).transpose(order).reshape(batch // count, *sizes, depth)[
                (slice(None), *keep)
            ]
        ),
        "batch_to_space", blocks=made,
    )  # fmt: skip


@reads("TILE", "multiples constant", inputs=2)
def tile(b: Builder, operator: Operator) -> None:
    """The input repeated a constant number of times along each axis."""
    times, shape = b.integers(operator, 1, "multiples"), _shape_of(b, operator)
    if len(times) != len(shape) or min(times, default=1) < 1 or max(times, default=1) > 1 << 14:
        raise TFLiteError(f"multiples {times} of {list(shape)}")
    if math.prod(times) * math.prod(shape) > MAX_FOLDED << 7:
        raise TFLiteError(f"multiples {times} of {list(shape)} are too many")
    move(b, operator, [0], lambda x, _: np.tile(x[0], times), "copy")


@reads("FILL", "of constants", inputs=2)
def fill(b: Builder, operator: Operator) -> None:
    """A constant of a constant shape, folded."""
    shape = b.integers(operator, 0, "shape")
    _, value = b.constant(operator, 1, "value", ("int8", "uint8", "int32", "int64"))
    if value.size != 1 or min(shape, default=1) < 0 or math.prod(shape) > MAX_FOLDED:
        raise TFLiteError(f"it fills {shape}, more than {MAX_FOLDED} elements")
    b.fold(operator, np.full(shape, value.reshape(-1)[0], value.dtype))


@reads("ZEROS_LIKE", "the byte 0 everywhere")
def zeros_like(b: Builder, operator: Operator) -> None:
    """A constant 0 of the input's shape, folded."""
    shape, dtype = _shape_of(b, operator), b.model.tensors[operator.outputs[0]].dtype
    if dtype not in ("int8", "int32", "int64") or math.prod(shape) > MAX_FOLDED:
        raise TFLiteError(f"{dtype} of {list(shape)}; at most {MAX_FOLDED} integers")
    b.fold(operator, np.zeros(shape, dtype))


@reads("BROADCAST_ARGS", "of constants, which compute shapes", inputs=2)
def broadcast_args(b: Builder, operator: Operator) -> None:
    """The shape that two constant shapes broadcast to, folded."""
    shapes = [b.integers(operator, i, "shape") for i in (0, 1)]
    try:
        made = np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise TFLiteError(str(error)) from error
    b.fold(operator, np.array(made, np.int32))


@reads("SHAPE")
def shape(b: Builder, operator: Operator) -> None:
    """The input's shape, folded to int32."""
    b.fold(operator, np.array(_shape_of(b, operator), np.int32))


@reads("RESIZE_NEAREST_NEIGHBOR", "size constant", inputs=2)
def resize_nearest_neighbor(b: Builder, operator: Operator) -> None:
    """The nearest source pixel of each output pixel; rows and columns are found separately."""
    value = b.input(operator)
    batch, rows, columns, channels = picture(value)
    size = output_size(b, operator)
    output = b.output(operator, (batch, *size, channels))
    flags = [bool(operator.options[n]) for n in ("align_corners", "half_pixel_centers")]
    b.add(
        operator, "resize", [value], output, batch=batch,
        rows=_nearest(rows, size[0], *flags), columns=_nearest(columns, size[1], *flags),
    )  # fmt: skip


def output_size(b: Builder, operator: Operator) -> list[int]:
    """Rows and columns that a picture is resized to."""
    size = b.integers(operator, 1, "size")
    if len(size) != 2 or min(size) < 1 or max(size) > 1 << 14:
        raise TFLiteError(f"size {size}")
    return size


def _nearest(size: int, out_size: int, align: bool, half: bool) -> list[int]:
    """Source index of every output index, in the reference's single precision."""
    f = np.float32
    ratio = f(size - 1) / f(out_size - 1) if align and out_size > 1 else f(size) / f(out_size)
    offset = f(0.5) if half else f(0)
    sources = []
    for i in range(out_size):
        x = (f(i) + offset) * ratio
        source = int(np.floor(x + f(0.5))) if align else int(np.floor(x))
        sources.append(max(0, min(source, size - 1)))
    return sources
