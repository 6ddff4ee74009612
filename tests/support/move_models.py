"""Models that move bytes: one of every operator, and dilated convolutions."""

import numpy as np

from support import flatbuffer_models as fm

Q = {"scale": 0.1, "zero_point": -7}


def ints(m: fm.Models, values) -> int:
    values = np.asarray(values, np.int32)
    return m.tensor(values.shape, "int32", data=values)


def model_of(kind, shape, outputs, constants=(), first=True, options="", many=1, **fields) -> bytes:
    """One operator over int8 tensors of one scale; integer constants before or after its inputs."""
    m = fm.Models()
    inputs = [m.tensor(shape, **Q) for _ in range(many)]
    more = [ints(m, c) for c in constants]
    made = [m.tensor(s, **Q) for s in outputs]
    m.operator(kind, [*inputs, *more] if first else [*more, *inputs], made, options, **fields)
    return m.build(inputs, made)


def moves(rng: np.random.Generator):
    """A model of every move, with shapes drawn, by the name of its operator."""
    a, b, c = (int(n) for n in rng.integers(1, 5, 3))
    shape = (1, 2 * a, 3 * b, 4 * c)
    four = "StridedSliceOptions"
    low = [0, *(int(rng.integers(0, n)) for n in shape[1:])]
    size = [1, *(int(rng.integers(1, n - x + 1)) for n, x in zip(shape[1:], low[1:], strict=True))]
    high = [x + n for x, n in zip(low, size, strict=True)]
    yield "SLICE", model_of("SLICE", shape, [size], [low, size], options="SliceOptions")
    yield (
        "STRIDED_SLICE",
        model_of("STRIDED_SLICE", shape, [size], [low, high, [1] * 4], options=four),
    )
    back = [1, 2 * a, 3 * b, 4 * c]
    yield (
        "STRIDED_SLICE backwards",
        model_of(
            "STRIDED_SLICE", shape, [[1, 2 * a, -(-3 * b // 2), 4 * c]],
            [[0] * 4, back, [1, -1, 2, 1]], options=four, beginMask=15, endMask=15,
        ),
    )  # fmt: skip
    yield (
        "STRIDED_SLICE to a vector",
        model_of(
            "STRIDED_SLICE", shape, [[4 * c]], [[0, -1, 0, 0], [1, 0, 1, 0], [1] * 4], options=four,
            endMask=8, shrinkAxisMask=7,
        ),
    )  # fmt: skip
    yield (
        "SPLIT",
        model_of(
            "SPLIT", shape, [(1, 2 * a, b, 4 * c)] * 3, [2], False, "SplitOptions", numSplits=3
        ),
    )
    sizes = [a, 2 * b, b]
    yield (
        "SPLIT_V",
        model_of(
            "SPLIT_V",
            (1, sum(sizes), 5),
            [(1, n, 5) for n in sizes],
            [sizes, -2],
            options="SplitVOptions",
            numSplits=3,
        ),
    )
    yield (
        "UNPACK",
        model_of("UNPACK", (2, a, 3, b), [(2, a, b)] * 3, options="UnpackOptions", num=3, axis=2),
    )
    yield (
        "PACK",
        model_of(
            "PACK", (a, b), [(a, b, 3)], options="PackOptions", many=3, valuesCount=3, axis=-1
        ),
    )
    yield (
        "CONCATENATION",
        model_of(
            "CONCATENATION",
            shape,
            [(1, 2 * a, 9 * b, 4 * c)],
            options="ConcatenationOptions",
            many=3,
            axis=2,
        ),
    )
    picked = rng.integers(0, 3 * b, 5)
    yield (
        "GATHER",
        model_of(
            "GATHER", shape, [(1, 2 * a, 5, 4 * c)], [picked], options="GatherOptions", axis=2
        ),
    )
    picked = rng.integers(0, 3 * b, (1, 2 * a, 2, 3))
    yield (
        "GATHER in batches",
        model_of(
            "GATHER", shape, [(1, 2 * a, 2, 3, 4 * c)], [picked], options="GatherOptions", axis=-2,
            batchDims=2,
        ),
    )  # fmt: skip
    m = fm.Models()
    part = (1, a, 2 * b, 4 * c)
    x, u, y = m.tensor(shape, **Q), m.tensor(part, **Q), m.tensor(shape, **Q)
    start = rng.integers(-1, 2 * a + 2, 4).astype(np.int32)  # moved to where the part fits
    m.operator(
        "DYNAMIC_UPDATE_SLICE",
        [x, u, m.tensor([4], "int32", data=start)],
        [y],
        "DynamicUpdateSliceOptions",
    )
    yield "DYNAMIC_UPDATE_SLICE", m.build([x, u], [y])
    at = np.stack([rng.integers(0, n, (2, 3)) for n in shape[:3]], axis=-1)
    yield "GATHER_ND", model_of("GATHER_ND", shape, [(2, 3, 4 * c)], [at])
    yield (
        "EXPAND_DIMS",
        model_of("EXPAND_DIMS", (a, b), [(a, 1, b)], [1], options="ExpandDimsOptions"),
    )
    yield (
        "EXPAND_DIMS backwards",
        model_of("EXPAND_DIMS", (a, b), [(a, b, 1)], [-1], options="ExpandDimsOptions"),
    )
    yield (
        "UNPACK backwards",
        model_of("UNPACK", (a, 3, b), [(a, b)] * 3, options="UnpackOptions", num=3, axis=-2),
    )
    yield (
        "SQUEEZE",
        model_of("SQUEEZE", (1, a, 1, b), [(a, b)], options="SqueezeOptions", squeezeDims=[0, 2]),
    )
    pads = [[0, 0], *rng.integers(0, 2, (2, 2)).tolist(), [0, 0]]
    padded = [1, 2 * a + sum(pads[1]), 3 * b + sum(pads[2]), 4 * c]
    for mode in (0, 1):
        yield (
            "MIRROR_PAD",
            model_of("MIRROR_PAD", shape, [padded], [pads], options="MirrorPadOptions", mode=mode),
        )
    pads = rng.integers(0, 3, (4, 2))
    pads[0] = 0
    padded = np.array(shape) + pads.sum(axis=1)
    yield "PAD", model_of("PAD", shape, [padded], [pads], options="PadOptions")
    m = fm.Models()
    x, y = m.tensor(shape, **Q), m.tensor(padded, **Q)
    value = m.tensor([], **Q, data=np.array(int(rng.integers(-128, 128)), np.int8))
    m.operator("PADV2", [x, ints(m, pads), value], [y], "PadV2Options")
    yield "PADV2", m.build([x], [y])
    yield (
        "BROADCAST_TO",
        model_of(
            "BROADCAST_TO",
            (1, a, 1, b),
            [(3, a, 2, b)],
            [[3, a, 2, b]],
            options="BroadcastToOptions",
        ),
    )
    order = rng.permutation(4)
    yield (
        "TRANSPOSE",
        model_of(
            "TRANSPOSE", shape, [[shape[i] for i in order]], [order], options="TransposeOptions"
        ),
    )
    yield "REVERSE_V2", model_of("REVERSE_V2", shape, [shape], [[1, 2]], options="ReverseV2Options")
    yield (
        "SPACE_TO_DEPTH",
        model_of(
            "SPACE_TO_DEPTH",
            (1, 2 * a, 2 * b, c),
            [(1, a, b, 4 * c)],
            options="SpaceToDepthOptions",
            blockSize=2,
        ),
    )
    yield (
        "DEPTH_TO_SPACE",
        model_of(
            "DEPTH_TO_SPACE",
            shape,
            [(1, 4 * a, 6 * b, c)],
            options="DepthToSpaceOptions",
            blockSize=2,
        ),
    )
    yield "SPACE_TO_BATCH_ND", space_to_batch((1, 2 * a, 3 * b, c), [[0, 0], [0, 0]])
    yield (
        "BATCH_TO_SPACE_ND",
        model_of(
            "BATCH_TO_SPACE_ND",
            (6, a + 1, b + 1, c),
            [(1, 2 * a + 1, 3 * b, c)],
            [[2, 3], [[0, 1], [2, 1]]],
            options="BatchToSpaceNDOptions",
        ),
    )


def space_to_batch(shape, pads) -> bytes:
    size = [n + sum(p) for n, p in zip(shape[1:3], pads, strict=True)]
    made = (6, size[0] // 2, size[1] // 3, shape[3])
    options = "SpaceToBatchNDOptions"
    return model_of("SPACE_TO_BATCH_ND", shape, [made], [[2, 3], pads], options=options)


def dilated(depthwise: bool, columns_only: bool, is_open: bool) -> bytes:
    """A convolution between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, as Keras' dilated layers are
    exported; with an open batch the file says 1 where there are as many batches as blocks."""
    rng = np.random.default_rng(5)
    m, q, out = (
        fm.Models(),
        {"scale": 0.05, "zero_point": 11},
        {"scale": 0.9, "zero_point": -5},
    )
    block, pads, crops = ([3], [[3, 4]], [[0, 1]])
    size, kernel = [11], (1, 3)
    if not columns_only:
        block, pads, crops = [2, *block], [[2, 3], *pads], [[1, 0], *crops]
        size, kernel = [9, *size], (3, 2)
    batch = int(np.prod(block))

    def tensor(sizes, depth, quantization):
        made = m.tensor([1 if is_open else batch, *sizes, depth], **quantization)
        if is_open:
            m.tensors[made].shapeSignature = [-1, *sizes, depth]
        return made

    counts = [(n + sum(p)) // d for n, p, d in zip(size, pads, block, strict=True)]
    x, y = m.tensor([1, *size, 4], **q), tensor(counts, 4, q)
    options = "SpaceToBatchNDOptions"
    m.operator("SPACE_TO_BATCH_ND", [x, ints(m, block), ints(m, pads)], [y], options)
    if columns_only:
        counts = [1, *counts]
        picture = tensor(counts, 4, q)
        m.operator("EXPAND_DIMS", [y, ints(m, 1)], [picture], "ExpandDimsOptions")
        y = picture
    shape = (1, *kernel, 4) if depthwise else (3, *kernel, 4)
    count = 4 if depthwise else 3
    data = rng.integers(-127, 128, shape, np.int8)
    w = m.tensor(shape, scale=[0.02] * count, data=data, axis=3 if depthwise else 0)
    bias = m.tensor([count], "int32", [0.001] * count, data=rng.integers(-99, 99, count, np.int32))
    counts = [n - k + 1 for n, k in zip(counts, kernel, strict=True)]
    z = tensor(counts, count, out)
    kind, table, more = "CONV_2D", "Conv2DOptions", {}
    if depthwise:
        kind, table, more = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", {"depthMultiplier": 1}
    m.operator(
        kind, [y, w, bias], [z], table, padding=1, strideH=1, strideW=1, dilationHFactor=1,
        dilationWFactor=1, **more,
    )  # fmt: skip
    if columns_only:
        counts = counts[1:]
        row = tensor(counts, count, out)
        m.operator("RESHAPE", [z, ints(m, [-1, *counts, count])], [row])
        z = row
    final = [n * d - sum(c) for n, d, c in zip(counts, block, crops, strict=True)]
    end = m.tensor([1, *final, count], **out)
    options = "BatchToSpaceNDOptions"
    m.operator("BATCH_TO_SPACE_ND", [z, ints(m, block), ints(m, crops)], [end], options)
    return m.build([x], [end])
