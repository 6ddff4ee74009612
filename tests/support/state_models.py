"""Models with state: variables, SVDF and LSTM."""

import numpy as np

from support import flatbuffer_models as fm

Q = {"scale": 0.1, "zero_point": -7}


def ring(m: fm.Models, x: int, name: str, slots: int, depth: int) -> int:
    """The last ``slots`` inputs: a variable is read, its end and the input joined and written."""
    handle = m.tensor([], "resource", name=name)
    m.operator(
        "VAR_HANDLE", [], [handle], "VarHandleOptions", container=b"", sharedName=name.encode()
    )
    old, new = m.tensor([1, slots, depth], **Q), m.tensor([1, slots + 1, depth], **Q)
    m.operator("READ_VARIABLE", [handle], [old], "ReadVariableOptions")
    m.operator("CONCATENATION", [old, x], [new], "ConcatenationOptions", axis=1)
    begin, end, step = (
        m.tensor([3], "int32", data=np.array(v, "i4"))
        for v in ([0, 1, 0], [1, slots + 1, depth], [1, 1, 1])
    )
    kept = m.tensor([1, slots, depth], **Q)
    m.operator("STRIDED_SLICE", [new, begin, end, step], [kept], "StridedSliceOptions")
    m.operator("ASSIGN_VARIABLE", [handle, kept], [], "AssignVariableOptions")
    return new


def streaming(once: bool, slots: int = 3, depth: int = 4) -> bytes:
    """Two rings with a convolution between them, as streaming wake-word models have them."""
    rng = np.random.default_rng(0)
    m = fm.Models()
    others = []
    x = m.tensor([1, 1, depth], **Q)
    if once:
        start = m.another()
        for name in ("first", "second"):
            handle = start.tensor([], "resource", name=name)
            data = rng.integers(-128, 128, (1, slots, depth), np.int8)
            value = start.tensor([1, slots, depth], **Q, data=data)
            start.operator(
                "VAR_HANDLE",
                [],
                [handle],
                "VarHandleOptions",
                container=b"",
                sharedName=name.encode(),
            )
            start.operator("ASSIGN_VARIABLE", [handle, value], [], "AssignVariableOptions")
        others.append(start)
        m.operator("CALL_ONCE", [], [], "CallOnceOptions", initSubgraphIndex=1)
    joined = ring(m, x, "first", slots, depth)
    picture = m.tensor([1, 1, slots + 1, depth], **Q)
    shape = m.tensor([4], "int32", data=np.array([1, 1, slots + 1, depth], "i4"))
    m.operator("RESHAPE", [joined, shape], [picture])
    data = rng.integers(-127, 128, (depth, 1, slots + 1, depth), np.int8)
    w = m.tensor(data.shape, scale=[0.002] * depth, data=data)
    y = m.tensor([1, 1, 1, depth], **Q)
    m.operator("CONV_2D", [picture, w], [y], "Conv2DOptions", padding=1, strideH=1, strideW=1)
    row = m.tensor([1, 1, depth], **Q)
    shape = m.tensor([3], "int32", data=np.array([1, 1, depth], "i4"))
    m.operator("RESHAPE", [y, shape], [row])
    return m.build([x], [ring(m, row, "second", slots, depth)], *others)


def svdf(rng: np.random.Generator, wide: bool, rank: int = 2) -> bytes:
    features, memory, units = 6, 5, 3
    kind, top = ("int16", 1 << 15) if wide else ("int8", 128)
    m = fm.Models()
    x = m.tensor([1, features], scale=0.1, zero_point=int(rng.integers(-128, 128)))
    a = rng.integers(-127, 128, (units * rank, features), np.int8)
    first = m.tensor(a.shape, scale=0.01, data=a)
    state_scale = 0.1 * 0.01 * 600 / top * 16
    b = rng.integers(1 - top // 2, top // 2, (units * rank, memory)).astype(kind)
    second = m.tensor(b.shape, kind, 1 / top, data=b)
    zero = 0 if wide else int(rng.integers(-20, 20))
    state = m.tensor([1, units * rank * memory], kind, state_scale, zero)
    m.tensors[state].isVariable = True
    bias = m.tensor(
        [units], "int32", state_scale / top, data=rng.integers(-999, 999, units, np.int32)
    )
    y = m.tensor([1, units], scale=state_scale * top / 60, zero_point=int(rng.integers(-50, 50)))
    m.operator("SVDF", [x, first, second, bias, state], [y], "SVDFOptions", rank=rank)
    return m.build([x], [y])


def lstm(rng: np.random.Generator, power: int = -11, clip: float = 0.0, steps: int = 4) -> bytes:
    features, units = 5, 7
    m = fm.Models()
    x = m.tensor([1, steps, features], scale=0.05, zero_point=int(rng.integers(-128, 128)))
    inputs = [x]
    for size in [features] * 4 + [units] * 4:
        data = rng.integers(-127, 128, (units, size), np.int8)
        inputs.append(m.tensor(data.shape, scale=float(rng.uniform(0.002, 0.02)), data=data))
    inputs += [-1] * 3
    for _ in range(4):
        data = rng.integers(-4000, 4000, units).astype(np.int32)
        inputs.append(m.tensor([units], "int32", 0.0005, data=data))
    inputs += [-1] * 2
    hidden = m.tensor([1, units], scale=0.007, zero_point=int(rng.integers(-9, 9)))
    cell = m.tensor([1, units], "int16", 2.0**power)
    for tensor in (hidden, cell):
        m.tensors[tensor].isVariable = True
    inputs += [hidden, cell] + [-1] * 4
    y = m.tensor(
        [1, steps, units], scale=0.007, zero_point=m.tensors[hidden].quantization.zeroPoint[0]
    )
    m.operator(
        "UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], "UnidirectionalSequenceLSTMOptions",
        fusedActivationFunction=4, cellClip=clip,
    )  # fmt: skip
    return m.build([x], [y])


MODELS = {
    "ring": lambda: streaming(False),
    "ring with beginnings": lambda: streaming(True),
    "svdf": lambda: svdf(np.random.default_rng(1), False),
    "svdf of rank 1": lambda: svdf(np.random.default_rng(2), False, 1),
    "svdf, wide": lambda: svdf(np.random.default_rng(3), True),
    "lstm": lambda: lstm(np.random.default_rng(4)),
    "lstm, clipped": lambda: lstm(np.random.default_rng(5), clip=0.8),
    "lstm, coarse cell": lambda: lstm(np.random.default_rng(6), power=-14),
    "lstm, fine cell": lambda: lstm(np.random.default_rng(7), power=-10),
}
