"""Models of one operator with one or two inputs."""

import numpy as np

from support import flatbuffer_models as fm


def single(kind, options, before, after, constants=(), **fields) -> bytes:
    """A model of one operator with integer constants."""
    m = fm.Models()
    x = m.tensor(before, scale=0.1, zero_point=3)
    unit = kind in ("SOFTMAX", "LOGISTIC")
    y = m.tensor(after, scale=1 / 256 if unit else 0.1, zero_point=-128 if unit else 3)
    more = [m.tensor(np.shape(c), "int32", data=np.array(c, "i4")) for c in constants]
    m.operator(kind, [x, *more], [y], *([options] if options else []), **fields)
    return m.build([x], [y])


def pair(kind) -> bytes:
    """A model of one operator with two inputs of one shape."""
    m = fm.Models()
    x, y, z = (m.tensor([1, 3, 3], scale=0.1, zero_point=3) for _ in range(3))
    options = {"MAXIMUM": "MaximumMinimum", "BATCH_MATMUL": "BatchMatMul", "PRELU": ""}.get(
        kind, "".join(word.title() for word in kind.split("_"))
    )
    m.operator(kind, [x, y], [z], *([options + "Options"] if options else []))
    return m.build([x, y], [z])
