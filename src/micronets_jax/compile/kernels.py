"""From nodes to calls of the C kernels: constants laid out, scratch and access order looked up.

Invariant: a call is complete. What it reads and writes, in which order, and every constant it needs
are in it; the planner and the emitter know nothing about arithmetic or layouts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from micronets_jax import kernels
from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import MOVES, Copy, Graph, Node
from micronets_jax.kernels import Order, Spans, Steps, elementwise
from micronets_jax.tflite import TFLiteError
from micronets_jax.windows import Window


@dataclasses.dataclass
class Call:
    """One call: ``function(&struct, table, leading, inputs, states, output, scratch, trailing)``,
    of which only what is set is there."""

    name: str
    kind: str
    macs: int
    operator: int
    function: str
    source: str  # file in csrc that holds it
    inputs: list[int]
    output: int
    states: list[int] = dataclasses.field(default_factory=list)  # after the inputs, written too
    struct: str | None = None  # C type of the parameters
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)  # numbers or arrays
    leading: list[str] = dataclasses.field(default_factory=list)
    trailing: list[str] = dataclasses.field(default_factory=list)
    table: np.ndarray | None = None
    scratch: int = 0
    orders: dict[int, Order] = dataclasses.field(default_factory=dict)  # input tensor -> order
    template: str = ""  # macro call that makes `function`
    in_type: str = "int8_t"  # what its pointers point to
    out_type: str = "int8_t"
    in_offset: int = 0  # bytes from the inputs' beginnings to where it reads
    byte_offset: int = 0  # where in the output it writes
    repeats: int = 1  # it is called so often, each time this many bytes further:
    in_step: int = 0
    out_step: int = 0
    continues: bool = False  # a further call of the operator before it
    headers: tuple[str, ...] = ()  # further files in csrc that model.c includes

    @property
    def outputs(self) -> list[int]:
        """The tensors that it writes."""
        return [self.output]

    @property
    def local(self) -> list[tuple[str, int]]:
        """Name and bytes of what lives during the call alone."""
        return [(f"scratch of {self.name}", self.scratch)] if self.scratch else []


def lower(graph: Graph) -> list[Call]:
    """The calls of all nodes in order; some nodes take several calls."""
    return [call for node in graph.nodes for call in lower_node(graph, node)]


def lower_node(graph: Graph, node: Node) -> list[Call]:
    """The calls of one node on whole tensors."""
    made = _LOWER[node.kind](graph, node)
    for position, call in enumerate(made):
        call.continues = position > 0
        _repeat(graph, node, call)
        # only what lies in the arena can share its bytes
        call.orders = {t: o for t, o in call.orders.items() if graph.values[t].in_arena}
    return made


def _repeat(graph: Graph, node: Node, call: Call) -> None:
    """Kernels of pictures take one; a batch of them is one call after the other."""
    batch = node.options.get("batch", 1)
    if batch == 1:
        return
    call.repeats = batch
    (source,) = node.inputs
    call.in_step = graph.values[source].bytes // batch
    call.out_step = graph.values[node.output].bytes // batch
    call.orders = {
        tensor: dataclasses.replace(order, steps=_repeated(order, call))
        for tensor, order in call.orders.items()
        if order.steps is not None
    }


def _repeated(order: Order, call: Call) -> Steps:
    def make() -> Spans:
        assert order.steps is not None
        time = np.arange(call.repeats)[:, None]
        read, write = time * (call.in_step // order.read), time * (call.out_step // order.write)
        low, high, begin, end = order.steps.spans
        return Spans(
            *(
                (way + x).reshape(-1)
                for way, x in ((read, low), (read, high), (write, begin), (write, end))
            )
        )

    return Steps(make)


def _call(node: Node, function: str, source: str, **kw: Any) -> Call:
    return Call(
        node.name, node.kind, node.macs, node.operator, function, source, list(node.inputs),
        node.output, list(node.states), **kw,
    )  # fmt: skip


def _int16(node: Node, **fields: int) -> dict[str, int]:
    for name, value in fields.items():
        if not -(1 << 15) <= value < 1 << 15:
            raise TFLiteError(
                f"operator {node.operator} ({node.name}): {name} = {value} exceeds 16 bits"
            )
    return fields


# Requantisation ---------------------------------------------------------------------------------

POSITIVE, SIGNED, MIXED = "MN_POSITIVE", "MN_SIGNED", "MN_MIXED"
CHANNEL = np.dtype(
    [("bias", "<i4"), ("multiplier", "<i4"), ("offset", "<i4"), ("shift", "<i2"), ("wide", "<i2")]
)


def channel_table(
    graph: Graph, node: Node, folded: bool = True, odd: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Requantisation of a layer, channel by channel.

    A channel is wide where two folded constants cannot stand for the reference's two roundings:
    a scale of 1/2 and more, a negative one, or sums beyond 30 bits; and where ``odd`` says so.

    Args:
        graph: the model.
        node: a layer with weights and one scale or one for each output channel.
        folded: whether the input's zero point goes into the biases; else the kernel subtracts it.
        odd: channels that are wide whatever their scale, bool [channels].

    Returns:
        One :data:`CHANNEL` for each output channel, padded to an even number, and the rounding of
        the layer: :data:`POSITIVE`, :data:`SIGNED` or :data:`MIXED`.
    """
    o, zero_out = node.options, graph.values[node.output].zero_point
    weights, sums, reach = o["weights"].astype(np.int64), o["sums"], o["reach"]
    axes = (0, 1, 2) if node.kind == "depthwise" else (1, 2, 3)
    zero_in = graph.values[node.inputs[0]].zero_point
    bias = o["bias"] - (zero_in * weights.sum(axis=axes) if folded else 0)
    shift = -o["exponent"]
    usual = np.clip(shift, 1, 30)
    offset = (1 << (usual - 1)) + zero_out * (1 << usual)
    largest = np.maximum(np.abs(sums.low), np.abs(sums.high))
    wide = (shift < 1) | (shift > 30) | (largest >= 1 << 30) | (o["multiplier"] < 0)
    wide |= largest + np.abs(offset) + 2 >= 1 << 31
    furthest = 128 if folded else 255
    wide |= np.abs(bias) + furthest * np.abs(weights).sum(axis=axes) >= 1 << 31
    if odd is not None:
        wide |= odd
    rounding = MIXED if (wide & ~reach.constant).any() else SIGNED
    if rounding == SIGNED and o["min"] >= zero_out:
        rounding = POSITIVE
    table = np.zeros(len(bias) + len(bias) % 2, CHANNEL)
    for name, column, constant in (
        ("bias", (bias + (1 << 31)) % (1 << 32) - (1 << 31), 0),  # wraps as sums do
        ("multiplier", o["multiplier"], 0),
        ("offset", np.where(wide, zero_out, offset), 2 * reach.low),
        ("shift", shift, 1),
        ("wide", wide, 0),
    ):
        table[name][: len(bias)] = np.where(reach.constant, constant, column)
    return table, rounding


# Convolution ------------------------------------------------------------------------------------


def pack_pairs(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[channels, inputs] as pairs a, b of channels and quads of inputs, a0 B0 a2 B2 a1 B1 a3 B3,
    where B is b, less one where a is negative: as an int16, the two bytes are a + 256 b.

    Also of which channels the byte does not fit: those of an odd number with a weight of -128
    beside a negative one. Bytes wrap there.
    """
    channels, depth = weights.shape
    padded = np.zeros((channels + channels % 2, depth + -depth % 4), np.int16)
    padded[:channels, :depth] = weights
    padded[1::2] -= padded[::2] < 0
    odd = np.any(padded < -128, axis=1)[:channels]
    quads = padded.astype(np.int8).reshape(len(padded) // 2, 2, -1, 4)[:, :, :, [0, 2, 1, 3]]
    return np.ascontiguousarray(quads.transpose(0, 2, 3, 1)).reshape(-1), odd


def pack_dense(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """:func:`pack_pairs` as ``mn_dense`` reads them, two pairs of channels for each quad."""
    packed, odd = pack_pairs(weights)
    pairs = packed.reshape(-(-len(weights) // 2), -1, 8)
    full = len(pairs) // 2 * 2
    groups = pairs[:full].reshape(full // 2, 2, pairs.shape[1], 8).transpose(0, 2, 1, 3)
    return np.concatenate([groups.reshape(-1), pairs[full:].reshape(-1)]), odd


MOST_SUM = 1 << 16
"""Of the magnitudes of a channel's weights: beyond, a sum b times 256 may not fit into 32 bits, and
weights are stored as int16."""


def widen_weights(calls: list[Call], budget: int) -> None:
    """Stores weights of convolutions as int16, those first that are used for most pixels, as long
    as ``budget`` bytes allow: the inner loop takes 11 instead of 12 instructions then."""
    convolutions = [call for call in calls if call.function in ("mn_conv", "mn_conv_row")]
    for call in sorted(convolutions, key=lambda call: -call.fields["pixels"]):
        narrow = call.fields["weights"]
        if call.fields["pixels"] >= 4 and not call.fields["wide"] and narrow.nbytes <= budget:
            budget -= narrow.nbytes
            call.fields |= {"weights": _widened(narrow), "wide": 1}


def _widened(packed: np.ndarray) -> np.ndarray:
    """What :func:`pack_pairs` packed, as int16: a0 a2 b0 b2 a1 a3 b1 b3."""
    pairs = packed.reshape(-1, 2, 2).transpose(0, 2, 1)
    first, second = pairs[:, 0], pairs[:, 1] + (pairs[:, 0] < 0).astype(np.int8)
    return np.stack([first, second], axis=1).reshape(-1).astype(np.int16)


def _conv(graph: Graph, node: Node) -> list[Call]:
    o, weights = node.options, node.options["weights"]
    window = _conv_window(node)
    scratch = kernels.conv_scratch(window, weights.shape[3])
    # batches of four and more: only where patches take no more than the outputs, next to which
    # the input stays otherwise
    costly = bool(o.get("dense")) and scratch > window.pixels * len(weights)
    if kernels.is_direct(window) or costly:
        return [_direct(graph, node, window)]
    return [patches(graph, node)]


def _conv_window(node: Node) -> Window:
    """Of a dense layer every row of inputs is a pixel."""
    o = node.options
    return window_of(node, o["size"] if o.get("dense") else node.in_shapes[0][1:3])


def patches(graph: Graph, node: Node) -> Call:
    """A convolution of four pixels at a time, whose patches are laid out side by side."""
    o, weights = node.options, node.options["weights"]
    value = graph.values[node.inputs[0]]
    count, (kr, kc), depth = len(weights), o["kernel"], weights.shape[3]
    window = _conv_window(node)
    flat = weights.reshape(count, -1)
    packed, odd = pack_pairs(flat)
    wide = bool((np.abs(flat[1::2].astype(np.int32)).sum(axis=1) >= MOST_SUM).any())
    if wide:
        packed, odd = _widened(packed), None
    table, rounding = channel_table(graph, node, odd=odd)
    quads = kernels.conv_quads(window, depth)
    fields = {
        "weights": packed,
        "channels": table,
        "pixels": window.pixels,
        **_int16(
            node, out_channels=count, quads=quads, in_rows=window.size[0],
            in_columns=window.size[1],
            in_channels=depth, out_columns=o["size"][1], kernel_rows=kr, kernel_columns=kc,
            stride_rows=o["stride"][0], stride_columns=o["stride"][1], pad_top=o["pads"][0],
            pad_left=o["pads"][1], dilation_rows=o["dilation"][0],
            dilation_columns=o["dilation"][1],
        ),
        "pad_value": value.zero_point, "min": o["min"], "max": o["max"], "rounding": rounding,
        "wide": int(wide),
    }  # fmt: skip
    call = _call(
        node, "mn_conv", "conv.c", struct="mn_conv", fields=fields,
        scratch=kernels.conv_scratch(window, depth),
    )  # fmt: skip
    call.orders[node.inputs[0]] = kernels.conv_order(window, depth, count)
    return call


def _direct(graph: Graph, node: Node, window: Window) -> Call:
    """One pixel after the other, read as they lie."""
    o, count = node.options, len(node.options["weights"])
    weights, odd = pack_dense(o["weights"].reshape(count, -1))
    table, rounding = channel_table(graph, node, odd=odd)
    fields = {
        "weights": weights, "channels": table, "inputs": o["weights"][0].size,
        "pixels": window.pixels, **_int16(node, out_channels=count), "min": o["min"],
        "max": o["max"], "rounding": rounding,
    }  # fmt: skip
    call = _call(node, "mn_dense", "dense.c", struct="mn_dense", fields=fields)
    read = graph.values[node.inputs[0]].bytes // o.get("batch", 1)
    call.orders[node.inputs[0]] = kernels.whole(read, window.pixels * count)
    return call


def dense_rows(graph: Graph, node: Node, rows: int) -> Call:
    """One pixel whose input comes in so many rows: the weights of each are a layer of their own."""
    call = _direct(graph, node, _conv_window(node))
    flat = node.options["weights"].reshape(len(node.options["weights"]), rows, -1)
    weights = [pack_dense(np.ascontiguousarray(flat[:, row]))[0] for row in range(rows)]
    call.fields |= {
        "weights": np.concatenate(weights), "inputs": flat.shape[2], "pixels": rows,
    }  # fmt: skip
    call.function = "mn_dense_row"
    return call


def window_of(node: Node, size: tuple[int, ...]) -> Window:
    """How the node's kernel walks over a picture of these rows and columns."""
    o = node.options
    dilation = o.get("dilation", (1, 1))
    rows, columns = size
    return Window((rows, columns), o["size"], o["kernel"], o["stride"], o["pads"], dilation)


# Depthwise --------------------------------------------------------------------------------------


def _depthwise(graph: Graph, node: Node) -> list[Call]:
    o = node.options
    value = graph.values[node.inputs[0]]
    rows, columns, depth = node.in_shapes[0][1:]
    weights = o["weights"][0]  # [kernel rows, kernel columns, channels]
    count = weights.shape[2]
    table, rounding = channel_table(graph, node)
    if count != depth or o["dilation"] != (1, 1):
        return [depthwise_any(graph, node, weights, table, rounding)]
    steps_in, steps_out = (columns * depth, depth), (o["size"][1] * depth, depth)
    weights = np.moveaxis(weights, 2, 0)
    walked = kernels.Depthwise.over(window_of(node, (rows, columns)))
    if walked.transposed:
        steps_in, steps_out = steps_in[::-1], steps_out[::-1]
        weights = weights.transpose(0, 2, 1)
    size, kernel, stride = walked.window.out, walked.window.kernel, walked.window.stride
    clamp = int(o["min"] > -128 or o["max"] < 127)
    fours, line = kernels.takes_fours(walked.window), kernels.is_line(walked.window)
    fast = "_FOURS" if fours else "_LINE" if line else "_FAST"
    macro = "MN_DEPTHWISE" + fast * walked.fast
    name = "depthwise_{}x{}_s{}{}_{}{}{}".format(
        *kernel, *stride, rounding[3:].lower(), "_clamp" if clamp else "", "_fours" * fours
    )
    fields = {
        "weights": np.ascontiguousarray(weights).reshape(-1),
        "channels": table,
        **_int16(
            node, num_channels=count, in_rows=walked.read[0], in_columns=walked.read[1],
            out_rows=size[0], out_columns=size[1], pad_top=walked.window.before[0],
            pad_left=walked.window.before[1], plane_rows=walked.plane[0],
            plane_columns=walked.plane[1], kernel_rows=kernel[0], kernel_columns=kernel[1],
            stride_rows=stride[0], stride_columns=stride[1],
        ),
        "in_row_step": steps_in[0], "in_column_step": steps_in[1],
        "out_row_step": steps_out[0], "out_column_step": steps_out[1],
        "pad_value": value.zero_point, "min": o["min"], "max": o["max"], "rounding": rounding,
    }  # fmt: skip
    call = _call(
        node, name, "depthwise.h", struct="mn_depthwise", fields=fields,
        scratch=walked.scratch,
        template=f"{macro}({name}, {kernel[0]}, {kernel[1]}, {stride[0]}, {stride[1]}, {rounding}, "
        f"{clamp})",
    )  # fmt: skip
    call.orders[node.inputs[0]] = kernels.depthwise_order(count)
    return [call]


def depthwise_any(
    graph: Graph, node: Node, weights: np.ndarray, table: np.ndarray, rounding: str
) -> Call:
    """A depthwise convolution of any kernel and stride, channel by channel.

    Args:
        graph: the model.
        node: a depthwise convolution.
        weights: int8 [kernel rows, kernel columns, channels].
        table: of :func:`channel_table`.
        rounding: of :func:`channel_table`.

    Returns:
        The call of ``mn_depthwise_any`` with its constants.
    """
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


def _grouped(graph: Graph, node: Node) -> list[Call]:
    o, weights = node.options, node.options["weights"]
    rows, columns, depth = node.in_shapes[0][1:]
    table, rounding = channel_table(graph, node)
    # a constant channel is its offset alone
    weights = np.where(o["reach"].constant[:, None, None, None], 0, weights)
    fields = {
        "weights": np.ascontiguousarray(weights).reshape(-1),
        "channels": table,
        **_int16(
            node, in_rows=rows, in_columns=columns, in_channels=depth, out_rows=o["size"][0],
            out_columns=o["size"][1], out_channels=len(weights), group_inputs=weights.shape[3],
            group_outputs=len(weights) * weights.shape[3] // depth, kernel_rows=o["kernel"][0],
            kernel_columns=o["kernel"][1], stride_rows=o["stride"][0],
            stride_columns=o["stride"][1], pad_top=o["pads"][0], pad_left=o["pads"][1],
            dilation_rows=o["dilation"][0], dilation_columns=o["dilation"][1],
        ),
        "zero_point": graph.values[node.inputs[0]].zero_point, "min": o["min"], "max": o["max"],
        "rounding": rounding,
    }  # fmt: skip
    return [_call(node, "mn_grouped", "grouped.c", struct="mn_grouped", fields=fields)]


def _transpose_conv(graph: Graph, node: Node) -> list[Call]:
    o, weights = node.options, node.options["weights"]
    _, rows, columns, depth = node.in_shapes[0]
    fields = {
        "weights": np.ascontiguousarray(weights).reshape(-1),
        "bias": o["bias"].astype(np.int32), "multipliers": o["multiplier"].astype(np.int32),
        "shifts": -o["exponent"].astype(np.int32),
        **_int16(
            node, in_rows=rows, in_columns=columns, in_channels=depth, out_rows=o["size"][0],
            out_columns=o["size"][1], out_channels=len(weights), kernel_rows=weights.shape[1],
            kernel_columns=weights.shape[2], stride_rows=o["stride"][0],
            stride_columns=o["stride"][1], pad_top=o["pads"][0], pad_left=o["pads"][1],
        ),
        "in_zero_point": graph.values[node.inputs[0]].zero_point,
        "zero_point": graph.values[node.output].zero_point, "min": o["min"], "max": o["max"],
    }  # fmt: skip
    return [
        _call(
            node, "mn_transpose_conv", "transpose_conv.c", struct="mn_transpose_conv", fields=fields
        )
    ]


# The rest ---------------------------------------------------------------------------------------


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
    call.orders[node.inputs[0]] = kernels.pool_order(window_of(node, (rows, columns)), depth)
    return [call]


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


def _broadcast(
    graph: Graph, node: Node, names: tuple[str, ...] = ("left", "right")
) -> tuple[dict[str, Any], list[int]]:
    """Dimensions, and steps of operands that broadcast; inputs that are walked in order."""
    output = graph.values[node.output]
    walks = []
    for shape in node.in_shapes:
        shape = (1,) * (len(node.out_shape) - len(shape)) + shape
        steps = _strides(shape)
        walks.append([0 if n == 1 else s for n, s in zip(shape, steps, strict=True)])
    dims, merged = _merge(node.out_shape, *walks)
    fields: dict[str, Any] = {"dims": _fill(node, dims, 4, 1)}
    for name, steps in zip(names, merged, strict=True):
        fields[f"{name}_steps"] = _fill(node, steps, 4, 0)
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
    order = elementwise(graph.values[node.output].elements)
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
    order = elementwise(graph.values[node.output].elements)
    call.orders = {index: order for index in in_order}
    return [call]


def _pairs(graph: Graph, node: Node) -> list[Call]:
    left, right = (graph.values[i] for i in node.inputs)
    shapes, in_order = _broadcast(graph, node)
    scales = [*node.options["scales"], *[(0, 0)] * 3][:3]
    fields = {
        "reciprocals": node.options.get("reciprocals", "0"),
        "left_zero_point": left.zero_point, "right_zero_point": right.zero_point,
        "zero_point": node.options.get("opposite", graph.values[node.output].zero_point),
        "multipliers": [m for m, _ in scales], "shifts": [-e for _, e in scales], **shapes,
        "min": node.options.get("min", -128), "max": node.options.get("max", 127),
    }  # fmt: skip
    call = _call(node, f"mn_{node.kind}", "pairs.c", struct="mn_pairs", fields=fields)
    order = elementwise(graph.values[node.output].elements)
    call.orders = {index: order for index in in_order}
    return [call]


def _select(graph: Graph, node: Node) -> list[Call]:
    fields, in_order = _broadcast(graph, node, ("condition", "left", "right"))
    call = _call(node, "mn_select", "pairs.c", struct="mn_select", fields=fields)
    order = elementwise(graph.values[node.output].elements)
    call.orders = {index: order for index in in_order}
    return [call]


def _reduced(node: Node) -> dict[str, list[int]]:
    """Dimensions and steps of the axes that are kept and of those that are reduced."""
    shape, steps = node.in_shapes[0], _strides(node.in_shapes[0])
    fields = {}
    for name, wanted in (("kept", False), ("reduced", True)):
        axes = [i for i in range(len(steps)) if (i in node.options["axes"]) == wanted]
        dims, (walk,) = _merge([shape[i] for i in axes], [steps[i] for i in axes])
        fields[name] = _fill(node, dims, 4, 1)
        fields[f"{name}_steps"] = _fill(node, walk, 4, 0)
    return fields


def _extreme(graph: Graph, node: Node) -> list[Call]:
    fields = {**_reduced(node), "sign": node.options["sign"]}
    return [_call(node, "mn_extreme", "extreme.c", struct="mn_extreme", fields=fields)]


def _arg(graph: Graph, node: Node) -> list[Call]:
    shape, axis = node.in_shapes[0], node.options["axis"]
    fields = {
        "outer": math.prod(shape[:axis]),
        "count": shape[axis],
        "inner": math.prod(shape[axis + 1 :]),
        "sign": node.options["sign"],
    }
    return [_call(node, "mn_arg", "extreme.c", struct="mn_arg", fields=fields, out_type="int32_t")]


def _cumsum(graph: Graph, node: Node) -> list[Call]:
    shape, o = node.in_shapes[0], node.options
    value, output = graph.values[node.inputs[0]], graph.values[node.output]
    fields = {
        "outer": math.prod(shape[: o["axis"]]), "count": shape[o["axis"]],
        "inner": math.prod(shape[o["axis"] + 1 :]), "exclusive": int(o["exclusive"]),
        "reverse": int(o["reverse"]), "in_zero_point": value.zero_point,
        "out_zero_point": output.zero_point, "multiplier": o["multiplier"], "shift": -o["exponent"],
    }  # fmt: skip
    return [_call(node, "mn_cumsum", "cumsum.c", struct="mn_cumsum", fields=fields)]


def _reduce(graph: Graph, node: Node) -> list[Call]:
    o, value = node.options, graph.values[node.inputs[0]]
    fields = {
        "zero_point_sum": value.zero_point * o["count"],
        "multiplier": o["multiplier"],
        "shift": -o["exponent"],
        "zero_point": graph.values[node.output].zero_point,
        **_reduced(node),
    }
    return [_call(node, "mn_reduce", "reduce.c", struct="mn_reduce", fields=fields)]


def _table(graph: Graph, node: Node) -> list[Call]:
    table, count = node.options["table"], graph.values[node.output].elements
    if table == tuple(byte ^ 0x80 for byte in range(256)):
        call = _call(node, "mn_flip", "table.c", trailing=[str(count)])
    else:
        call = _call(
            node, "mn_table", "table.c", trailing=[str(count)], table=np.array(table, np.uint8)
        )
    call.in_type = call.out_type = "uint8_t"
    call.orders[node.inputs[0]] = elementwise(count)
    return [call]


def _rows(node: Node) -> dict[str, int]:
    """Vectors along the last axis, and their length."""
    columns = node.out_shape[-1] if node.out_shape else 1
    return {"rows": math.prod(node.out_shape) // columns, "columns": columns}


def _row_by_row(node: Node, kind: str, fields: dict[str, Any]) -> list[Call]:
    call = _call(node, f"mn_{kind}", f"{kind}.c", struct=f"mn_{kind}", fields=fields)
    call.orders[node.inputs[0]] = elementwise(fields["rows"], fields["columns"], fields["columns"])
    return [call]


def _softmax(graph: Graph, node: Node) -> list[Call]:
    table = np.array(node.options["exponentials"], np.int32)
    fields = {"exponentials": table, "num_exponentials": len(table), **_rows(node)}
    if node.kind == "log_softmax":
        (multiplier, exponent), (reverse, back) = node.options["scales"]
        fields.update(
            multiplier=multiplier, shift=-exponent, reverse_multiplier=reverse, reverse_shift=-back
        )
    if graph.values[node.output].dtype == "int16":
        call = _call(node, "mn_softmax16", "softmax16.c", struct="mn_softmax", fields=fields)
        call.out_type = "int16_t"
        return [call]
    return _row_by_row(node, node.kind, fields)


def _rescale(graph: Graph, node: Node) -> list[Call]:
    value, output = graph.values[node.inputs[0]], graph.values[node.output]
    bits = {"int8": 8, "int16": 16, "int32": 32}
    fields = {
        "in_zero_point": value.zero_point,
        "out_zero_point": node.options["zero_point"],
        "multiplier": node.options["multiplier"],
        "shift": -node.options["exponent"],
        "count": value.elements,
    }
    function = f"mn_rescale_{bits[value.dtype]}_{bits[output.dtype]}"
    call = _call(node, function, "rescale.c", struct="mn_rescale", fields=fields)
    call.in_type, call.out_type = f"{value.dtype}_t", f"{output.dtype}_t"
    return [call]


def _l2_norm(graph: Graph, node: Node) -> list[Call]:
    zero_point = graph.values[node.inputs[0]].zero_point
    return _row_by_row(node, "l2_norm", {"zero_point": zero_point, **_rows(node)})


def _matmul(graph: Graph, node: Node) -> list[Call]:
    """Factors as [..., rows, depth] and [..., depth, columns], transposed ones by their steps."""
    left, right = (graph.values[i] for i in node.inputs)
    multiplier, exponent = node.options["result"]
    (*_, rows, columns), walks = node.out_shape, []
    for shape, turned in zip(node.in_shapes, node.options["transposed"], strict=True):
        shape = (1,) * (5 - len(shape)) + shape
        steps = [0 if n == 1 else s for n, s in zip(shape, _strides(shape), strict=True)]
        if turned:
            shape, steps = (*shape[:3], shape[4], shape[3]), [*steps[:3], steps[4], steps[3]]
        walks.append((shape, steps))
    (left_shape, left_steps), (_, right_steps) = walks
    fields = {
        "batches": list((1,) * (5 - len(node.out_shape)) + node.out_shape[:-2]),
        "left_batch_steps": left_steps[:3], "right_batch_steps": right_steps[:3], "rows": rows,
        "columns": columns, "depth": left_shape[4], "left_row_step": left_steps[3],
        "left_step": left_steps[4], "right_step": right_steps[3],
        "right_column_step": right_steps[4], "left_zero_point": left.zero_point,
        "right_zero_point": right.zero_point, "zero_point": graph.values[node.output].zero_point,
        "multiplier": multiplier, "shift": -exponent,
    }  # fmt: skip
    return [_call(node, "mn_matmul", "matmul.c", struct="mn_matmul", fields=fields)]


def _move(graph: Graph, node: Node) -> list[Call]:
    """Strided copies, after a fill where they leave something out."""
    calls = []
    fill, output = node.options["fill"], graph.values[node.output]
    if fill is not None:
        if output.item_bytes != 1:
            raise TFLiteError(f"operator {node.operator} ({node.name}) pads {output.dtype}")
        call = _call(
            node, "mn_fill", "copy.c", leading=[str(fill)], trailing=[str(output.elements)]
        )
        call.inputs = []
        calls.append(call)
    return calls + [_copy_call(node, copy, output.item_bytes) for copy in node.options["copies"]]


def _copy_call(node: Node, copy: Copy, item: int) -> Call:
    dims, (source, target) = _merge(copy.shape, copy.in_steps, copy.out_steps)
    source, target = [s * item for s in source], [s * item for s in target]
    if dims and source[-1] == target[-1] == item:
        dims[-1] *= item  # the last dimension are bytes
        source[-1] = target[-1] = 1
    else:
        dims, source, target = [*dims, item], [*source, 1], [*target, 1]
    fields = {
        "dims": _fill(node, dims, 6, 1),
        "in_steps": _fill(node, source, 6, 0),
        "out_steps": _fill(node, target, 6, 0),
    }
    call = _call(node, "mn_copy", "copy.c", struct="mn_copy", fields=fields)
    call.inputs = [node.inputs[copy.source]]
    call.in_offset, call.byte_offset = copy.in_at * item, copy.out_at * item
    call.orders = {call.inputs[0]: Order(_copy_steps(call))}
    return call


def _copy_steps(call: Call) -> Steps:
    """Run after run; a run is read whole before it is written."""

    def make() -> Spans:
        *dims, run = call.fields["dims"]
        index = np.indices(dims).reshape(len(dims), -1)
        read, write = (
            np.array(call.fields[steps][:-1]) @ index + at
            for steps, at in (("in_steps", call.in_offset), ("out_steps", call.byte_offset))
        )
        return Spans(read, read + run, write, write + run)

    return Steps(make)


def _constant(graph: Graph, node: Node) -> list[Call]:
    """An output of the model that is known beforehand."""
    data = node.options["data"]
    call = _call(
        node, "memcpy", "copy.c", trailing=[str(data.nbytes)], table=np.ascontiguousarray(data)
    )
    return [call]


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


def _bilinear(graph: Graph, node: Node) -> list[Call]:
    o = node.options
    fields = {
        "rows": np.array(o["rows"], np.int16).reshape(-1),
        "columns": np.array(o["columns"], np.int16).reshape(-1),
        **_int16(
            node,
            out_rows=len(o["rows"]),
            out_columns=len(o["columns"]),
            in_columns=node.in_shapes[0][2],
            channels=node.in_shapes[0][3],
        ),
    }
    return [_call(node, "mn_bilinear", "bilinear.c", struct="mn_bilinear", fields=fields)]


def _svdf(graph: Graph, node: Node) -> list[Call]:
    o, value = node.options, graph.values[node.inputs[0]]
    state, weights = graph.values[node.states[0]], o["feature_weights"]
    (feature_multiplier, first), (multiplier, second) = o["first"], o["second"]
    bias = -value.zero_point * weights.astype(np.int64).sum(axis=1)
    fields = {
        "feature_weights": np.ascontiguousarray(weights).reshape(-1),
        "feature_bias": bias.astype(np.int32), "bias": o["bias"],
        "time_weights": np.ascontiguousarray(o["time_weights"]).reshape(-1),
        "features": weights.shape[1], "memory": o["time_weights"].shape[1], "rank": o["rank"],
        "units": len(o["bias"]), "state_zero_point": state.zero_point,
        "zero_point": graph.values[node.output].zero_point,
        "feature_multiplier": feature_multiplier, "feature_shift": -first,
        "multiplier": multiplier, "shift": -second, "wide": int(state.dtype == "int16"),
    }  # fmt: skip
    return [_call(node, "mn_svdf", "svdf.c", struct="mn_svdf", fields=fields)]


def _lstm(graph: Graph, node: Node) -> list[Call]:
    o, gates = node.options, node.options["gates"]
    scales = [gate[s] for gate in gates for s in ("input_scale", "recurrent_scale")]
    scales += [o["forget"], o["update"], o["result"]]
    joined = {
        name: np.concatenate([gate[source].reshape(-1) for gate in gates]).astype(dtype)
        for name, source, dtype in (
            ("input_weights", "input_weights", np.int8),
            ("recurrent_weights", "recurrent_weights", np.int8),
            ("bias", "bias", np.int32),
            ("offsets", "offset", np.int32),
        )
    }
    hidden = graph.values[node.states[0]]
    fields = {
        **joined, "sigmoid": np.array(arithmetic.sigmoid_table(), np.uint16),
        "multipliers": [m for m, _ in scales], "shifts": [-e for _, e in scales],
        "steps": o["steps"], "features": gates[0]["input_weights"].shape[1],
        "units": hidden.elements, "zero_point": hidden.zero_point, "clip": o["clip"],
        "cell_shift": o["power"] + 12,
    }  # fmt: skip
    return [_call(node, "mn_lstm", "lstm.c", struct="mn_lstm", fields=fields)]


def float_literal(x: float) -> str:
    """A float32 as a C literal that reads back exactly."""
    return float(np.float32(x)).hex() + "f"


def _quantize(graph: Graph, node: Node) -> list[Call]:
    value = graph.values[node.output]
    call = _call(
        node,
        "mn_quantize",
        "ends.c",
        leading=[float_literal(value.scale), str(value.zero_point)],
        trailing=[str(value.elements)],
    )
    call.in_type = "float"
    call.orders[node.inputs[0]] = elementwise(value.elements, read=4)
    return [call]


def _cast(graph: Graph, node: Node) -> list[Call]:
    value = graph.values[node.output]
    floating = value.dtype == "float32"
    call = _call(
        node,
        "mn_to_float" if floating else "mn_widen",
        "ends.c",
        trailing=[str(value.elements)],
        out_type="float" if floating else "int32_t",
    )
    call.orders[node.inputs[0]] = elementwise(value.elements, write=4)
    return [call]


def _dequantize(graph: Graph, node: Node) -> list[Call]:
    value = graph.values[node.inputs[0]]
    function = "mn_dequantize" if value.dtype == "int8" else "mn_dequantize_u8"
    call = _call(
        node,
        function,
        "ends.c",
        leading=[float_literal(value.scale), str(value.zero_point)],
        trailing=[str(value.elements)],
    )
    call.in_type, call.out_type = f"{value.dtype}_t", "float"
    call.orders[node.inputs[0]] = elementwise(value.elements, write=4)
    return [call]


_LOWER: dict[str, Callable[[Graph, Node], list[Call]]] = {
    "conv": _conv, "depthwise": _depthwise, "average_pool": _pool, "max_pool": _pool, "add": _add,
    "mul": _mul, "reduce": _reduce, "table": _table, "softmax": _softmax, "log_softmax": _softmax,
    "l2_norm": _l2_norm, "extreme": _extreme, "arg": _arg, "cumsum": _cumsum, "rescale": _rescale,
    "matmul": _matmul,
    "bilinear": _bilinear,
    "svdf": _svdf, "lstm": _lstm, "transpose_conv": _transpose_conv, "cast": _cast,
    "resize": _resize, "quantize": _quantize, "dequantize": _dequantize, "constant": _constant,
    "grouped": _grouped,
    "select": _select,
    **dict.fromkeys(("maximum", "minimum", "prelu", "squared_difference", "quotient"), _pairs),
    "greater": _pairs, "equal": _pairs,
    **dict.fromkeys(MOVES, _move),
}  # fmt: skip
