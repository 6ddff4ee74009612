"""From nodes to calls of the C kernels: constants laid out, scratch sized, access order declared.

Invariant: a call is complete. What it reads and writes, in which order, and every constant it needs
are in it; the planner and the emitter know nothing about arithmetic or layouts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from micronets_jax.compile.graph import Graph, Node
from micronets_jax.tflite import TFLiteError


class Spans(NamedTuple):
    """At step s bytes ``[read_low[s], read_high[s])`` of the input are read, and only then bytes
    ``[write_low[s], write_high[s])`` of the output written."""

    read_low: np.ndarray
    read_high: np.ndarray
    write_low: np.ndarray
    write_high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Order:
    """In which order a call reads one input and writes its output.

    Either ``spans`` (made on demand: there is one step per group of pixels, or per byte); or
    ``classes`` = c: at step s < c the call reads all bytes b with b mod c = s, then writes output
    bytes with b mod c = s.
    """

    spans: Callable[[], Spans] | None = None
    classes: int = 0


@dataclasses.dataclass
class Call:
    """One call: ``function(&struct, table, leading, inputs, output, scratch, trailing)``, of which
    only what is set is there."""

    name: str
    kind: str
    macs: int
    operator: int
    function: str
    source: str  # file in csrc
    inputs: list[int]
    output: int
    struct: str | None = None  # C type of the parameters
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # numbers or arrays
    leading: list[str] = dataclasses.field(default_factory=list)
    trailing: list[str] = dataclasses.field(default_factory=list)
    table: np.ndarray | None = None
    scratch: int = 0
    orders: dict[int, Order] = dataclasses.field(default_factory=dict)  # input tensor -> order
    template: str = ""  # macro call that makes `function`
    byte_offset: int = 0  # where in the output it writes
    continues: bool = False  # a further call of the operator before it


def lower(graph: Graph) -> list[Call]:
    """The calls of all nodes in order; some nodes take several calls."""
    calls = []
    for node in graph.nodes:
        made = _LOWER[node.kind](graph, node)
        for position, call in enumerate(made):
            call.continues = position > 0
        calls.extend(made)
    return calls


def _call(node: Node, function: str, source: str, **kw: Any) -> Call:
    return Call(
        node.name, node.kind, node.macs, node.operator, function, source, list(node.inputs),
        node.output, **kw,
    )  # fmt: skip


def _int16(node: Node, **fields: int) -> dict[str, int]:
    for name, value in fields.items():
        if not -(1 << 15) <= value < 1 << 15:
            raise TFLiteError(
                f"operator {node.operator} ({node.name}): {name} = {value} exceeds 16 bits"
            )
    return fields


# Requantisation ---------------------------------------------------------------------------------

POSITIVE, SIGNED, WIDE = "MN_POSITIVE", "MN_SIGNED", "MN_WIDE"
CHANNEL = np.dtype([("bias", "<i4"), ("multiplier", "<i4"), ("offset", "<i4"), ("shift", "<i4")])


def _channels(graph: Graph, node: Node, weights: np.ndarray) -> tuple[np.ndarray, str]:
    """Table of one row per channel (padded to an even number) and the rounding that suits all.

    Args:
        weights: [channels, ...].
    """
    o = node.options
    zero_in = graph.values[node.inputs[0]].zero_point
    zero_out = graph.values[node.output].zero_point
    flat = weights.reshape(len(weights), -1).astype(np.int64)
    bias = o["bias"] - zero_in * flat.sum(axis=1)
    largest = np.abs(bias) + 128 * np.abs(flat).sum(axis=1)
    if largest.max() >= 1 << 31:
        raise TFLiteError(f"operator {node.operator} ({node.name}): its sums exceed 32 bits")
    shift = -o["exponent"]
    usual = np.clip(shift, 1, 30)
    offset = (1 << (usual - 1)) + zero_out * (1 << usual)
    fits = (shift >= 1) & (shift <= 30) & (largest < 1 << 30)
    fits &= largest + np.abs(offset) + 2 < 1 << 31
    if fits.all():
        rounding = POSITIVE if o["min"] >= zero_out else SIGNED
    else:
        rounding, offset = WIDE, np.full_like(bias, zero_out)
    table = np.zeros(len(bias) + len(bias) % 2, CHANNEL)
    for name, column in (
        ("bias", bias), ("multiplier", o["multiplier"]), ("offset", offset), ("shift", shift),
    ):  # fmt: skip
        table[name][: len(bias)] = column
    return table, rounding


# Convolution ------------------------------------------------------------------------------------


def pack_pairs(weights: np.ndarray) -> np.ndarray:
    """[channels, inputs] as pairs of channels and quads of inputs: a0 b0 a2 b2 a1 b1 a3 b3."""
    channels, depth = weights.shape
    padded = np.zeros((channels + channels % 2, depth + -depth % 4), np.int8)
    padded[:channels, :depth] = weights
    quads = padded.reshape(len(padded) // 2, 2, -1, 4)[:, :, :, [0, 2, 1, 3]]
    return np.ascontiguousarray(quads.transpose(0, 2, 3, 1)).reshape(-1)


def widen_weights(calls: list[Call], budget: int) -> None:
    """Stores weights of convolutions as int16, those first that are used for most pixels, as long
    as ``budget`` bytes allow: the inner loop takes 11 instead of 13 instructions then."""
    convolutions = [call for call in calls if call.function == "mn_conv"]
    for call in sorted(convolutions, key=lambda call: -call.fields["pixels"]):
        narrow = call.fields["weights"]
        if call.fields["pixels"] >= 4 and narrow.nbytes <= budget:
            budget -= narrow.nbytes
            pairs = narrow.reshape(-1, 2, 2).transpose(0, 2, 1)  # a0 b0 a2 b2 -> a0 a2 b0 b2
            call.fields["weights"] = np.ascontiguousarray(pairs).reshape(-1).astype(np.int16)
            call.fields["wide"] = 1


def _conv(graph: Graph, node: Node) -> list[Call]:
    o, weights = node.options, node.options["weights"]
    value = graph.values[node.inputs[0]]
    count, (kr, kc), depth = len(weights), o["kernel"], weights.shape[3]
    table, rounding = _channels(graph, node, weights)
    if o.get("dense"):  # every row of inputs is a pixel
        rows, columns = o["size"]
    else:
        rows, columns = node.in_shapes[0][1:3]
    quads = -(-weights[0].size // 4)
    pixels = o["size"][0] * o["size"][1]
    fields = {
        "weights": pack_pairs(weights.reshape(count, -1)),
        "channels": table,
        "pixels": pixels,
        **_int16(
            node, out_channels=count, quads=quads, in_rows=rows, in_columns=columns,
            in_channels=depth, out_columns=o["size"][1], kernel_rows=kr, kernel_columns=kc,
            stride_rows=o["stride"][0], stride_columns=o["stride"][1], pad_top=o["pads"][0],
            pad_left=o["pads"][1], dilation_rows=o["dilation"][0],
            dilation_columns=o["dilation"][1],
        ),
        "pad_value": value.zero_point, "min": o["min"], "max": o["max"], "rounding": rounding,
        "wide": 0,
    }  # fmt: skip
    lanes = 4 if pixels >= 4 else 1
    scratch = 8 * lanes * quads
    if depth % 4:
        scratch += 4 * quads
    call = _call(
        node, "mn_conv", "conv.c", struct="mn_conv", fields=fields, scratch=scratch,
    )  # fmt: skip
    call.orders[node.inputs[0]] = Order(functools.partial(_conv_spans, fields, o["size"]))
    return [call]


def _conv_spans(f: dict[str, Any], size: tuple[int, int]) -> Spans:
    """Groups of four pixels, then single ones; a group is read whole before it is written."""
    out_rows, out_columns = size
    pixel = f["in_channels"]
    y, x = np.divmod(np.arange(out_rows * out_columns), out_columns)
    top, bottom = _inside(
        f["in_rows"], np.arange(out_rows) * f["stride_rows"] - f["pad_top"],
        f["kernel_rows"], f["dilation_rows"],
    )  # fmt: skip
    left, right = _inside(
        f["in_columns"], np.arange(out_columns) * f["stride_columns"] - f["pad_left"],
        f["kernel_columns"], f["dilation_columns"],
    )  # fmt: skip
    low = (top[y] * f["in_columns"] + left[x]) * pixel
    high = (bottom[y] * f["in_columns"] + right[x] + 1) * pixel
    outside = (top > bottom)[y] | (left > right)[x]  # a window in the padding reads nothing
    low, high = np.where(outside, 1 << 40, low), np.where(outside, -1, high)
    pixels = len(y)
    starts = np.concatenate([np.arange(0, pixels - 3, 4), np.arange(pixels - pixels % 4, pixels)])
    ends = np.append(starts[1:], pixels)
    return Spans(
        np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts),
        starts * f["out_channels"], ends * f["out_channels"],
    )  # fmt: skip


def _inside(n: int, start: np.ndarray, kernel: int, dilation: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last index inside 0..n-1 that windows from ``start`` touch, or first > last."""
    first = start + np.maximum(0, -(start // dilation)) * dilation
    taps = np.minimum(kernel - 1, (n - 1 - start) // dilation)
    return first, start + taps * dilation


# Depthwise --------------------------------------------------------------------------------------


def _depthwise(graph: Graph, node: Node) -> list[Call]:
    o = node.options
    value = graph.values[node.inputs[0]]
    rows, columns, depth = node.in_shapes[0][1:]
    weights = o["weights"][0]  # [kernel rows, kernel columns, channels]
    count = weights.shape[2]
    table, rounding = _channels(graph, node, np.moveaxis(weights, 2, 0))
    if count != depth or o["dilation"] != (1, 1):
        return [_depthwise_any(graph, node, weights, table, rounding)]
    size, kernel, stride, pads = o["size"], o["kernel"], o["stride"], o["pads"]
    steps_in, steps_out = (columns * depth, depth), (size[1] * depth, depth)
    weights = np.moveaxis(weights, 2, 0)
    if _row_cost(size[::-1], kernel[::-1], stride[::-1]) < _row_cost(size, kernel, stride):
        rows, columns = columns, rows
        size, kernel, stride, pads = size[::-1], kernel[::-1], stride[::-1], pads[::-1]
        steps_in, steps_out = steps_in[::-1], steps_out[::-1]
        weights = weights.transpose(0, 2, 1)
    needed = [(n - 1) * s + k for n, s, k in zip(size, stride, kernel, strict=True)]
    plane_columns = needed[1] + needed[1] % 2
    if _fast(kernel, stride):  # two outputs at a time read whole words
        even = size[1] + size[1] % 2
        plane_columns = stride[1] * (even - 2) + kernel[1] + 2 * stride[1] - 1
        plane_columns += plane_columns % 2
    clamp = int(o["min"] > -128 or o["max"] < 127)
    fast = _fast(kernel, stride) and rounding != WIDE
    macro = "MN_DEPTHWISE_FAST" if fast else "MN_DEPTHWISE"
    name = "depthwise_{}x{}_s{}{}_{}{}".format(
        *kernel, *stride, rounding[3:].lower(), "_clamp" if clamp else ""
    )
    fields = {
        "weights": np.ascontiguousarray(weights).reshape(-1),
        "channels": table,
        **_int16(
            node, num_channels=count, in_rows=max(0, min(rows, needed[0] - pads[0])),
            in_columns=max(0, min(columns, needed[1] - pads[1])), out_rows=size[0],
            out_columns=size[1], pad_top=pads[0], pad_left=pads[1], plane_rows=needed[0],
            plane_columns=plane_columns, kernel_rows=kernel[0], kernel_columns=kernel[1],
            stride_rows=stride[0], stride_columns=stride[1],
        ),
        "in_row_step": steps_in[0], "in_column_step": steps_in[1],
        "out_row_step": steps_out[0], "out_column_step": steps_out[1],
        "pad_value": value.zero_point, "min": o["min"], "max": o["max"], "rounding": rounding,
    }  # fmt: skip
    call = _call(
        node, name, "depthwise.h", struct="mn_depthwise", fields=fields,
        scratch=2 * needed[0] * plane_columns,
        template=f"{macro}({name}, {kernel[0]}, {kernel[1]}, {stride[0]}, {stride[1]}, {rounding}, "
        f"{clamp})",
    )  # fmt: skip
    call.orders[node.inputs[0]] = Order(classes=count)
    return [call]


def _fast(kernel: tuple[int, int], stride: tuple[int, int]) -> bool:
    return kernel in ((3, 3), (5, 5), (7, 7)) and stride[1] in (1, 2)


def _row_cost(size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> int:
    """Pairs of outputs, with a factor where pairs are not possible."""
    return size[0] * -(-size[1] // 2) * (1 if _fast(kernel, stride) else 4)


def _depthwise_any(
    graph: Graph, node: Node, weights: np.ndarray, table: np.ndarray, rounding: str
) -> Call:
    o = node.options
    value = graph.values[node.inputs[0]]
    rows, columns, depth = node.in_shapes[0][1:]
    fields = {
        "weights": np.ascontiguousarray(weights).reshape(-1),
        "channels": table,
        **_int16(
            node, in_rows=rows, in_columns=columns, in_channels=depth, out_rows=o["size"][0],
            out_columns=o["size"][1], multiplier=weights.shape[2] // depth,
            kernel_rows=o["kernel"][0], kernel_columns=o["kernel"][1], stride_rows=o["stride"][0],
            stride_columns=o["stride"][1], pad_top=o["pads"][0], pad_left=o["pads"][1],
            dilation_rows=o["dilation"][0], dilation_columns=o["dilation"][1],
        ),
        "zero_point": value.zero_point, "min": o["min"], "max": o["max"], "rounding": rounding,
    }  # fmt: skip
    return _call(
        node, "mn_depthwise_any", "depthwise_any.c", struct="mn_depthwise_any", fields=fields
    )


# The rest ---------------------------------------------------------------------------------------


def _elementwise(read: int, write: int, count: int) -> Order:
    """Element after element: read ``read`` bytes, write ``write`` bytes."""

    def spans() -> Spans:
        i = np.arange(count)
        return Spans(i * read, (i + 1) * read, i * write, (i + 1) * write)

    return Order(spans)


def _pool(graph: Graph, node: Node) -> list[Call]:
    o, _value = node.options, graph.values[node.inputs[0]]
    rows, columns, depth = node.in_shapes[0][1:]
    fields = {
        **_int16(
            node, in_rows=rows, in_columns=columns, channels=depth, out_rows=o["size"][0],
            out_columns=o["size"][1], kernel_rows=o["kernel"][0], kernel_columns=o["kernel"][1],
            stride_rows=o["stride"][0], stride_columns=o["stride"][1], pad_top=o["pads"][0],
            pad_left=o["pads"][1],
        ),
        "min": o["min"], "max": o["max"],
    }  # fmt: skip
    call = _call(node, "mn_" + node.kind, "pool.c", struct="mn_pool", fields=fields)
    call.orders[node.inputs[0]] = Order(functools.partial(_pool_spans, fields))
    return [call]


def _pool_spans(f: dict[str, Any]) -> Spans:
    """Output after output, the channels of a pixel one by one."""
    y, x = np.divmod(np.arange(f["out_rows"] * f["out_columns"]), f["out_columns"])
    y, x = y * f["stride_rows"] - f["pad_top"], x * f["stride_columns"] - f["pad_left"]
    bottom = np.minimum(f["in_rows"], y + f["kernel_rows"]) - 1
    right = np.minimum(f["in_columns"], x + f["kernel_columns"]) - 1
    channel, columns = np.arange(f["channels"]), f["in_columns"]
    low = ((np.maximum(0, y) * columns + np.maximum(0, x)) * f["channels"])[:, None] + channel
    high = ((bottom * columns + right) * f["channels"])[:, None] + channel + 1
    write = np.arange(low.size)
    return Spans(low.reshape(-1), high.reshape(-1), write, write + 1)


def _merge(shape: Sequence[int], *steps: list[int]) -> tuple[list[int], list[list[int]]]:
    """Neighbouring dimensions that every operand walks without a jump, merged."""
    dims: list[int] = []
    merged: list[list[int]] = [[] for _ in steps]
    for i, n in enumerate(shape):
        if n == 1:
            continue
        if dims and all(m[-1] == s[i] * n for m, s in zip(merged, steps, strict=True)):
            dims[-1] *= n
            for m, s in zip(merged, steps, strict=True):
                m[-1] = s[i]
        else:
            dims.append(n)
            for m, s in zip(merged, steps, strict=True):
                m.append(s[i])
    return dims, merged


def _strides(shape: tuple[int, ...]) -> list[int]:
    steps, step = [], 1
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return steps[::-1]


def _fill(node: Node, dims: list[int], size: int, value: int) -> list[int]:
    if len(dims) > size:
        raise TFLiteError(
            f"operator {node.operator} ({node.name}) walks {len(dims)} separate dimensions; at most"
            f" {size} are supported"
        )
    return [value] * (size - len(dims)) + dims


def _broadcast(graph: Graph, node: Node) -> tuple[dict[str, Any], list[int]]:
    """Dimensions and steps of a binary operation; inputs that are walked in order."""
    output = graph.values[node.output]
    walks = []
    for shape in node.in_shapes:
        shape = (1,) * (len(node.out_shape) - len(shape)) + shape
        steps = _strides(shape)
        walks.append([0 if n == 1 else s for n, s in zip(shape, steps, strict=True)])
    dims, merged = _merge(node.out_shape, *walks)
    fields: dict[str, Any] = {
        "dims": _fill(node, dims, 4, 1),
        "left_steps": _fill(node, merged[0], 4, 0),
        "right_steps": _fill(node, merged[1], 4, 0),
    }
    in_order = [
        index
        for index in node.inputs
        if graph.values[index].elements == output.elements and graph.values[index].data is None
    ]
    return fields, in_order


def _operand(scale: tuple[int, int], zero_point: int) -> list[int]:
    """Fields of mn_operand. Exponent 0 only comes with a multiplier of exactly 1/2, where nothing
    is rounded: there the kernel doubles the operand and halves the result."""
    multiplier, exponent = scale
    shift = max(1, -exponent)
    return [multiplier, 1 << (shift - 1), shift, zero_point, 1 << (21 if exponent < 0 else 22)]


def _add(graph: Graph, node: Node) -> list[Call]:
    o, zero_out = node.options, graph.values[node.output].zero_point
    left, right = (graph.values[i] for i in node.inputs)
    shapes, in_order = _broadcast(graph, node)
    multiplier, exponent = o["result"]
    shift = -exponent
    fields = {
        "left": _operand(o["left"], left.zero_point),
        "right": _operand(o["right"], right.zero_point),
        "multiplier": multiplier, "offset": 1 << (shift - 1), "shift": shift,
        "zero_point": zero_out, **shapes, "min": o["min"], "max": o["max"],
        "subtract": int(o["subtract"]),
    }  # fmt: skip
    call = _call(node, "mn_add", "binary.c", struct="mn_add", fields=fields)
    order = _elementwise(1, 1, graph.values[node.output].elements)
    call.orders = {index: order for index in in_order}
    return [call]


def _mul(graph: Graph, node: Node) -> list[Call]:
    o = node.options
    left, right = (graph.values[i] for i in node.inputs)
    shapes, in_order = _broadcast(graph, node)
    multiplier, exponent = o["result"]
    fields = {
        "left_zero_point": left.zero_point, "right_zero_point": right.zero_point,
        "zero_point": graph.values[node.output].zero_point, "multiplier": multiplier,
        "shift": -exponent, **shapes, "min": o["min"], "max": o["max"],
    }  # fmt: skip
    call = _call(node, "mn_mul", "binary.c", struct="mn_mul", fields=fields)
    order = _elementwise(1, 1, graph.values[node.output].elements)
    call.orders = {index: order for index in in_order}
    return [call]


def _reduce(graph: Graph, node: Node) -> list[Call]:
    o, value = node.options, graph.values[node.inputs[0]]
    shape = node.in_shapes[0]
    steps = _strides(shape)
    parts = []
    for wanted in (False, True):
        axes = [i for i in range(len(steps)) if (i in o["axes"]) == wanted]
        dims, (walk,) = _merge([shape[i] for i in axes], [steps[i] for i in axes])
        parts += [_fill(node, dims, 4, 1), _fill(node, walk, 4, 0)]
    fields = {
        "zero_point_sum": value.zero_point * o["count"], "multiplier": o["multiplier"],
        "shift": -o["exponent"], "zero_point": graph.values[node.output].zero_point,
        "kept": parts[0], "kept_steps": parts[1], "reduced": parts[2], "reduced_steps": parts[3],
    }  # fmt: skip
    return [_call(node, "mn_reduce", "reduce.c", struct="mn_reduce", fields=fields)]


def _table(graph: Graph, node: Node) -> list[Call]:
    table, count = node.options["table"], graph.values[node.output].elements
    if table == tuple(byte ^ 0x80 for byte in range(256)):
        call = _call(node, "mn_flip", "table.c", trailing=[str(count)])
    else:
        call = _call(
            node, "mn_table", "table.c", trailing=[str(count)], table=np.array(table, np.uint8)
        )
    call.orders[node.inputs[0]] = _elementwise(1, 1, count)
    return [call]


def _softmax(graph: Graph, node: Node) -> list[Call]:
    shape = node.out_shape
    columns = shape[-1] if shape else 1
    table = np.array(node.options["exponentials"], np.int32)
    fields = {
        "exponentials": table, "num_exponentials": len(table),
        "rows": graph.values[node.output].elements // columns, "columns": columns,
    }  # fmt: skip
    call = _call(node, "mn_softmax", "softmax.c", struct="mn_softmax", fields=fields)
    call.orders[node.inputs[0]] = _elementwise(columns, columns, fields["rows"])
    return [call]


def _copy_call(
    node: Node,
    index: int,
    shape: Sequence[int],
    in_steps: list[int],
    out_steps: list[int],
    at: int,
) -> Call:
    dims, (source, target) = _merge(shape, in_steps, out_steps)
    if not dims or source[-1] != 1 or target[-1] != 1:  # bytes, then, one by one
        dims, source, target = [*dims, 1], [*source, 1], [*target, 1]
    fields = {
        "dims": _fill(node, dims, 6, 1), "in_steps": _fill(node, source, 6, 0),
        "out_steps": _fill(node, target, 6, 0),
    }  # fmt: skip
    call = _call(node, "mn_copy", "copy.c", struct="mn_copy", fields=fields)
    call.inputs, call.byte_offset = [index], at
    return call


def _pad(graph: Graph, node: Node) -> list[Call]:
    _value, output = graph.values[node.inputs[0]], graph.values[node.output]
    fill = _call(
        node,
        "mn_fill",
        "copy.c",
        leading=[str(output.zero_point)],
        trailing=[str(output.elements)],
    )
    fill.inputs = []
    out_steps = _strides(node.out_shape)
    at = sum(b * s for b, s in zip(node.options["before"], out_steps, strict=True))
    shape = node.in_shapes[0]
    return [fill, _copy_call(node, node.inputs[0], shape, _strides(shape), out_steps, at)]


def _transpose(graph: Graph, node: Node) -> list[Call]:
    _value, _output = graph.values[node.inputs[0]], graph.values[node.output]
    steps = _strides(node.in_shapes[0])
    walk = [steps[axis] for axis in node.options["order"]]
    return [_copy_call(node, node.inputs[0], node.out_shape, walk, _strides(node.out_shape), 0)]


def _concatenation(graph: Graph, node: Node) -> list[Call]:
    graph.values[node.output]
    steps, axis = _strides(node.out_shape), node.options["axis"]
    calls, at = [], 0
    for index, shape in zip(node.inputs, node.in_shapes, strict=True):
        calls.append(_copy_call(node, index, shape, _strides(shape), steps, at))
        at += shape[axis] * steps[axis]
    return calls


def _resize(graph: Graph, node: Node) -> list[Call]:
    o, _value = node.options, graph.values[node.inputs[0]]
    fields = {
        "rows": np.array(o["rows"], np.int16), "columns": np.array(o["columns"], np.int16),
        **_int16(
            node, out_rows=len(o["rows"]), out_columns=len(o["columns"]),
            in_columns=node.in_shapes[0][2], channels=node.in_shapes[0][3],
        ),
    }  # fmt: skip
    return [_call(node, "mn_resize", "resize.c", struct="mn_resize", fields=fields)]


def _float(x: float) -> str:
    return float(np.float32(x)).hex() + "f"


def _quantize(graph: Graph, node: Node) -> list[Call]:
    value = graph.values[node.output]
    call = _call(
        node, "mn_quantize", "ends.c", leading=[_float(value.scale), str(value.zero_point)],
        trailing=[str(value.elements)],
    )  # fmt: skip
    call.orders[node.inputs[0]] = _elementwise(4, 1, value.elements)
    return [call]


def _dequantize(graph: Graph, node: Node) -> list[Call]:
    value = graph.values[node.inputs[0]]
    function = "mn_dequantize" if value.dtype == "int8" else "mn_dequantize_u8"
    call = _call(
        node, function, "ends.c", leading=[_float(value.scale), str(value.zero_point)],
        trailing=[str(value.elements)],
    )  # fmt: skip
    call.orders[node.inputs[0]] = _elementwise(1, 4, value.elements)
    return [call]


_LOWER: dict[str, Callable[[Graph, Node], list[Call]]] = {
    "conv": _conv, "depthwise": _depthwise, "average_pool": _pool, "max_pool": _pool, "add": _add,
    "mul": _mul, "reduce": _reduce, "table": _table, "softmax": _softmax, "pad": _pad,
    "transpose": _transpose, "concatenation": _concatenation, "resize": _resize,
    "quantize": _quantize, "dequantize": _dequantize,
}  # fmt: skip
