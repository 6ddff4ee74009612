"""What a network costs, from its layers alone: arithmetic, file, memory.

Invariant: one formula per cost. Python ints give exact Python ints, int32 exact arrays inside
``jit``, floats differentiable expectations that equal the exact cost wherever the choice is one-hot.

Sizes are those of the TFLite file that ``export`` writes and of the structures that TensorFlow Lite
Micro (TFLM) allocates for it. Absent layers cost nothing, and a mix is only a second name.
"""

from __future__ import annotations

import dataclasses
import functools
import operator as arithmetic
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from micronets_jax.network import INPUT, Count, Layer, Network, consumers, output_sizes

ALIGNMENT = 16
"""Bytes: every tensor, scratch buffer and kernel structure of TFLM starts at a multiple of it."""

WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
"""Operators with a kernel and a bias."""


# ---------------------------------------------------------------- arithmetic


def macs(network: Network) -> Count:
    """Multiply-accumulates of one inference; pooling, which only adds, counts none."""
    sizes = output_sizes(network)
    return _sum(
        layer.presence * (_area(sizes[layer.name]) * kernel_elements(layer)) for layer in network
    )


def ops(network: Network) -> Count:
    """Operations as the papers count them: two for each multiply-accumulate."""
    return 2 * macs(network)


def weights(network: Network) -> Count:
    """Elements of all kernels; biases are not counted."""
    return _sum(layer.presence * kernel_elements(layer) for layer in network)


def kernel_elements(layer: Layer) -> Count:
    """Elements of a layer's kernel, 0 where it has none."""
    rows, columns = layer.kernel
    if layer.kind == "conv":
        return rows * columns * (layer.in_channels * layer.out_channels)
    if layer.kind == "depthwise":
        return rows * columns * layer.out_channels
    if layer.kind == "dense":
        return layer.in_channels * layer.out_channels
    return 0


# ---------------------------------------------------------------- operators of the file


class Operator(NamedTuple):
    """A layer as TFLite runs it.

    Attributes:
        layer: what it computes; ``layer.name`` is the tensor it makes.
        kind: TFLite's name of the operator.
        reads: names of the tensors read.
        in_bytes: int8 elements of each tensor read.
        out_bytes: int8 elements of the tensor made.
    """

    layer: Layer
    kind: str
    reads: tuple[str, ...]
    in_bytes: tuple[Count, ...]
    out_bytes: Count


def operators(network: Network) -> list[Operator]:
    """The operators of the exported file in order, absent ones and mixes' branches included.

    A convolution of one input channel becomes a depthwise one with a multiplier, and reshaping a
    single pixel before a dense layer vanishes, because both are what TFLite's converter does.
    """
    sizes, readers = output_sizes(network), consumers(network)
    elements = {INPUT: _area(sizes[INPUT]) * network.input_shape[2]}
    alias = {INPUT: INPUT}
    result = []
    for layer in network:
        source = layer.inputs[0]
        if layer.kind == "reshape":
            elements[layer.name] = elements[source]
        else:
            elements[layer.name] = _area(sizes[layer.name]) * layer.out_channels
        alias[layer.name] = layer.name
        if layer.kind == "mix":
            continue
        before_dense = [network[reader].kind == "dense" for reader in readers[layer.name]]
        if layer.kind == "reshape" and sizes[source] == (1, 1) and before_dense and all(before_dense):
            alias[layer.name] = alias[source]
            continue
        reads = tuple(alias[name] for name in layer.inputs)
        result.append(
            Operator(
                layer,
                _operator_kind(network, layer),
                reads,
                tuple(elements[name] for name in reads),
                elements[layer.name],
            )
        )
    return result


def _operator_kind(network: Network, layer: Layer) -> str:
    # Static knowledge, so that a network whose counts are traced gives the same operators.
    channels = network.input_shape[2] if layer.inputs[0] == INPUT else layer.in_channels
    one_channel = isinstance(channels, int) and channels == 1
    return {
        "conv": "DEPTHWISE_CONV_2D" if one_channel else "CONV_2D",
        "depthwise": "DEPTHWISE_CONV_2D",
        "dense": "FULLY_CONNECTED",
        "avg_pool": "AVERAGE_POOL_2D",
        "reshape": "RESHAPE",
    }[layer.kind]


# ---------------------------------------------------------------- flash

_FILE_BYTES = 234
_FILE_BYTES_PER_KIND = 54
_FILE_BYTES_PER_OPERATOR = {
    "DEPTHWISE_CONV_2D": 296,
    "CONV_2D": 257,
    "AVERAGE_POOL_2D": 154,
    "FULLY_CONNECTED": 303,
    "RESHAPE": 69,
}
"""Tables of the file itself, of each kind of operator, and of each operator with its tensors, their
names aside: fitted to 51 exported files, which they predict within 0.8 %."""

_FILE_BYTES_PER_CHANNEL = 12
"""A float32 scale and an int64 zero point of a kernel's channel."""


def flash_bytes(network: Network) -> Count:
    """Size of the TFLite file: what is stored of the model, without code.

    Each kernel (int8) and bias (int32) padded to 16 bytes, scales and zero points of each channel,
    the names of activations, and the tables around them.
    """
    listed = operators(network)
    total: Count = _FILE_BYTES + _name_bytes(INPUT)
    for operator in listed:
        layer = operator.layer
        size: Count = _FILE_BYTES_PER_OPERATOR[operator.kind] + _name_bytes(layer.name)
        if operator.kind in WEIGHTED:
            size = size + _align(kernel_elements(layer)) + _align(4 * layer.out_channels)
            size = size + _FILE_BYTES_PER_CHANNEL * layer.out_channels
        total = total + layer.presence * size
    for kind in _FILE_BYTES_PER_OPERATOR:
        present = [operator.layer.presence for operator in listed if operator.kind == kind]
        total = total + _FILE_BYTES_PER_KIND * _maximum([0, *present])
    return total


def _name_bytes(name: str) -> int:
    return _align(4 + len(name) + 1, 4)  # its length, the characters, a closing zero


# ---------------------------------------------------------------- memory


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How an interpreter of TFLM is built: bytes of its own structures (the persistent part).

    Attributes:
        fixed: the interpreter, its allocator and planner, the descriptions of input and output.
        operator: node, registration and parameters by kind, packed.
        kernel: a kernel's own data by kind, already a multiple of 16.
        tensor: each tensor of the file, weights included.
        scratch: whether kernels of CMSIS-NN ask for working memory.
    """

    fixed: int
    operator: Mapping[str, int]
    kernel: Mapping[str, int]
    tensor: int
    scratch: bool


# Sizes of TfLiteNode + registration (28 + 4 and 56 + 8 bytes), of TfLite*Params (28, 28, 40, 5, 36)
# and of OpData*; the fixed part is what remains, the same for every network (to 4 bytes on the
# 32-bit target, to 16 with 64-bit pointers). Both were read from TFLM's recording interpreter.
_CORTEX_M = Runtime(
    fixed=356,
    operator={
        "CONV_2D": 60, "DEPTHWISE_CONV_2D": 60, "AVERAGE_POOL_2D": 72, "FULLY_CONNECTED": 40,
        "RESHAPE": 68,
    },
    kernel={
        "CONV_2D": 64, "DEPTHWISE_CONV_2D": 64, "AVERAGE_POOL_2D": 48, "FULLY_CONNECTED": 80,
        "RESHAPE": 0,
    },
    tensor=12,
    scratch=True,
)  # fmt: skip
_HOST = Runtime(
    fixed=752,
    operator={
        "CONV_2D": 92, "DEPTHWISE_CONV_2D": 92, "AVERAGE_POOL_2D": 104, "FULLY_CONNECTED": 80,
        "RESHAPE": 100,
    },
    kernel={
        "CONV_2D": 80, "DEPTHWISE_CONV_2D": 80, "AVERAGE_POOL_2D": 32, "FULLY_CONNECTED": 64,
        "RESHAPE": 0,
    },
    tensor=24,
    scratch=False,
)  # fmt: skip

RUNTIMES: dict[str, Runtime | None] = {
    "tflm_cortex_m": _CORTEX_M,
    "tflm_host": _HOST,
    "tflm_paper": None,
}
"""What ``runtime`` may be. ``tflm_cortex_m``: 32-bit pointers and CMSIS-NN's kernels;
``tflm_host``: 64-bit pointers and the reference kernels, as in the tflite-micro wheel;
``tflm_paper``: the rule that fits the tables of MicroNets (Banbury et al., 2021)."""


class Arena(NamedTuple):
    """Bytes of TFLM's one block of memory.

    ``activations`` is its head: tensors and scratch, where the greedy planner puts them.
    ``persistent`` is its tail: per-channel multipliers and shifts, structures.
    """

    activations: Count
    persistent: Count

    @property
    def total(self) -> Count:
        """Both parts."""
        return self.activations + self.persistent


def sram_bytes(network: Network, runtime: str = "tflm_cortex_m") -> Count:
    """Bytes of memory that one inference needs, everything of the interpreter included.

    For floats the value of a network whose choice is one-hot is exact, and its gradient is that of
    the operator with the most live bytes.

    Raises:
        ValueError: ``runtime`` is not in :data:`RUNTIMES`.
    """
    return arena(network, runtime).total


def arena(network: Network, runtime: str = "tflm_cortex_m") -> Arena:
    """:func:`sram_bytes` in its two parts."""
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} is unknown; use one of {', '.join(RUNTIMES)}")
    model = RUNTIMES[runtime]
    if model is None:
        return _paper_arena(network)
    return Arena(_planned(network, model), _persistent(network, model))


def _persistent(network: Network, runtime: Runtime) -> Count:
    packed: Count = runtime.fixed + runtime.tensor  # the network's input
    aligned: Count = 0
    for operator in operators(network):
        layer = operator.layer
        constants = 2 if operator.kind in WEIGHTED else int(operator.kind == "RESHAPE")
        handle = 4 if runtime.scratch and operator.kind == "AVERAGE_POOL_2D" else 0
        packed = packed + layer.presence * (
            runtime.operator[operator.kind] + runtime.tensor * (1 + constants) + handle
        )
        size: Count = runtime.kernel[operator.kind]
        if operator.kind in WEIGHTED:
            size = size + 2 * _align(4 * layer.out_channels)  # int32 multipliers, int32 shifts
        aligned = aligned + layer.presence * size
    return packed + aligned


def _paper_arena(network: Network) -> Arena:
    live, channels, count = [], 0, 0
    for layer, size in _with_area(network):
        if layer.kind == "mix":
            continue
        area_in, area_out = size
        scratch = 18 * layer.in_channels if layer.kind == "depthwise" else 0
        live.append(
            layer.presence * (area_in * layer.in_channels + area_out * layer.out_channels + scratch)
        )
        if layer.kind in ("conv", "depthwise", "dense"):
            channels = channels + layer.presence * layer.out_channels
        count = count + layer.presence
    return Arena(_maximum(live), 8 * channels + 160 * count)


def _with_area(network: Network) -> Iterable[tuple[Layer, tuple[int, int]]]:
    sizes = output_sizes(network)
    for layer in network:
        if layer.kind == "dense":
            yield layer, (1, 1)
        elif layer.kind == "reshape":
            area = _area(sizes[layer.inputs[0]])
            yield layer, (area, area)
        else:
            yield layer, (_area(sizes[layer.inputs[0]]), _area(sizes[layer.name]))


def scratch_bytes(operator: Operator) -> Count:
    """Working memory that CMSIS-NN's kernel of an operator asks for on a Cortex-M with DSP."""
    layer, (rows, columns) = operator.layer, operator.layer.kernel
    if operator.kind == "AVERAGE_POOL_2D":
        return 4 * layer.in_channels  # an int32 sum per channel
    if operator.kind == "CONV_2D" and layer.kernel != (1, 1):
        return 4 * _align(rows * columns * layer.in_channels, 4)  # two columns in int16
    if layer.kind == "depthwise" and layer.kernel != (3, 3):
        return 2 * rows * columns * layer.in_channels  # the kernel in int16
    return 0


# ---------------------------------------------------------------- the planner's head


class Buffer(NamedTuple):
    """A stretch of the arena: ``name`` is a tensor, or an operator's scratch.

    It lives from operator ``first`` to operator ``last``, both included.
    """

    name: str
    bytes: Count
    first: Count
    last: Count
    presence: Count


def _planned(network: Network, runtime: Runtime) -> Count:
    """Bytes of the head, as TFLM's planner lays it out."""
    if not _is_soft(network):
        return _head(network, runtime)
    # The layout is piecewise: its value is the decided network's, its slope the live bytes'.
    decided = jax.tree.map(_decided, network)
    peak = _peak(network, runtime)
    surplus = _head(decided, runtime) - _peak(decided, runtime)
    return peak + jax.lax.stop_gradient(surplus).astype(peak.dtype)


def _head(network: Network, runtime: Runtime) -> Count:
    if _is_chain(network):
        return _chain_head(network, runtime)
    listed = buffers(network, runtime)
    ends = [start + b.bytes for start, b in zip(place(listed), listed, strict=True)]
    return _maximum([b.presence * end for b, end in zip(listed, ends, strict=True)])


def _peak(network: Network, runtime: Runtime) -> Count:
    """Live bytes of the operator that has most: what it reads, makes and works with."""
    peaks = []
    for operator in operators(network):
        live = _align(operator.out_bytes) + _align(runtime.scratch * scratch_bytes(operator))
        for size in operator.in_bytes:
            live = live + _align(size)
        peaks.append(operator.layer.presence * live)
    return _maximum(peaks)


def buffers(network: Network, runtime: Runtime) -> list[Buffer]:
    """Everything that the planner places, in the order in which it is told: tensors, then scratch.

    Any wiring: a tensor lives until its last present reader, also where mixes rename it.
    """
    listed = operators(network)
    makers = _makers(network)
    first = {INPUT: 0} | {o.layer.name: i for i, o in enumerate(listed)}
    sizes = {INPUT: _area(network.input_shape[:2]) * network.input_shape[2]}
    presence = {INPUT: 1}
    last: dict[str, Count] = dict(first)
    for i, operator in enumerate(listed):
        sizes[operator.layer.name] = operator.out_bytes
        presence[operator.layer.name] = operator.layer.presence
        for name in operator.reads:
            for maker, share in makers[name].items():
                last[maker] = _maximum([last[maker], i * operator.layer.presence * share])
    for maker, share in makers[network.layers[-1].name].items():
        last[maker] = _maximum([last[maker], (len(listed) - 1) * share])
    result = [Buffer(n, _align(sizes[n]), first[n], last[n], presence[n]) for n in first]
    for i, operator in enumerate(listed):
        size = runtime.scratch * scratch_bytes(operator)
        if not (isinstance(size, int) and size == 0):
            name = f"{operator.layer.name} scratch"
            result.append(Buffer(name, _align(size), i, i, operator.layer.presence))
    return result


def _makers(network: Network) -> dict[str, dict[str, Count]]:
    """For each name, which layers' tensors it may stand for, each with 1 if it does, else 0."""
    presence = {layer.name: layer.presence for layer in network}
    makers: dict[str, dict[str, Count]] = {INPUT: {INPUT: 1}}
    for layer in network:
        if layer.kind != "mix":
            makers[layer.name] = {layer.name: 1}
            continue
        first, second = layer.inputs
        makers[layer.name] = {
            name: presence[first] * makers[first].get(name, 0)
            + (1 - presence[first]) * makers[second].get(name, 0)
            for name in {**makers[first], **makers[second]}
        }
    return makers


def place(listed: list[Buffer]) -> list[Count]:
    """Where TFLM's greedy planner puts each buffer: its first byte.

    Buffers come largest first, of equals the one told last; each goes to the lowest gap among those
    already placed that live at the same time. The order depends on sizes, so that traced sizes cost
    one pass per buffer and pair of buffers.
    """
    xp = np if all(isinstance(v, int) for b in listed for v in b[1:]) else jnp
    size = xp.stack([xp.asarray(b.bytes * b.presence) for b in listed])
    first = xp.stack([xp.asarray(b.first) for b in listed])
    last = xp.stack([xp.asarray(b.last) for b in listed])
    together = (first[:, None] <= last) & (first <= last[:, None])
    index = xp.arange(len(listed))
    order = xp.lexsort((-index, -size))
    start, placed = xp.zeros_like(size), xp.zeros(len(listed), bool)
    for turn in range(len(listed)):
        mine = index == order[turn]
        wanted = xp.sum(size * mine)
        others = placed & xp.any(together & mine[:, None], axis=0) & (size > 0)
        end = xp.where(others, start + size, 0)
        candidates = xp.concatenate([end, xp.zeros_like(end[:1])])
        clear = (candidates[:, None] + wanted <= start) | (candidates[:, None] >= end) | ~others
        lowest = xp.min(xp.where(xp.all(clear, axis=1), candidates, xp.sum(size)))
        start, placed = xp.where(mine, lowest, start), placed | mine
    return [int(x) for x in start] if xp is np else list(start)


class _Placed(NamedTuple):
    """A stretch of the arena that a smaller neighbour must avoid; ``size`` 0 is none."""

    start: Count
    size: Count


_NOWHERE = _Placed(0, 0)


def _chain_head(network: Network, runtime: Runtime) -> Count:
    """:func:`place` for a chain of operators, where a tensor meets only its two neighbours.

    The larger neighbour goes first, so a tensor's place follows from a run of ever larger ones on
    its left, another on its right, or both. One pass over the layers in each direction finds them,
    with no sorting: this is what makes a million architectures a second possible. Scratch is the
    smallest of its operator's buffers and comes last.
    """
    listed = {operator.layer.name: operator for operator in operators(network)}
    size: dict[str, Count] = {INPUT: _align(_area(network.input_shape[:2]) * network.input_shape[2])}
    size |= {name: _align(operator.out_bytes) for name, operator in listed.items()}

    # From the output back: where each tensor lies if only its right neighbour is larger.
    right = dict.fromkeys(size, _NOWHERE)  # the next tensor, by the name of the one before
    for layer in reversed(network.layers):
        after = right.get(layer.name, _NOWHERE)
        if layer.kind == "mix":
            right |= dict.fromkeys(layer.inputs, after)
        elif layer.name in listed:
            own = size[layer.name]
            start = _lowest(own, _if(after.size >= own, after))
            (source,) = listed[layer.name].reads
            right[source] = _select(
                layer.presence, _Placed(start, own), right.get(source, _NOWHERE)
            )

    # From the input on: likewise with the left neighbour, then both.
    own = size[INPUT]
    left = {INPUT: _Placed(0, own)}
    final = {INPUT: _Placed(_lowest(own, _if(right[INPUT].size >= own, right[INPUT])), own)}
    ends = [final[INPUT].start + own]
    for layer in network:
        if layer.kind == "mix":
            first, second = layer.inputs
            for placed in (left, final):
                placed[layer.name] = _select(
                    network[first].presence, placed[first], placed[second]
                )
        elif layer.name in listed:
            operator, own = listed[layer.name], size[layer.name]
            (source,) = operator.reads
            before = _if(left[source].size > own, left[source])
            after = right[layer.name]
            left[layer.name] = _Placed(_lowest(own, before), own)
            start = _lowest(own, before, _if(after.size >= own, after))
            final[layer.name] = _Placed(start, own)
            ends.append(layer.presence * (start + own))
            scratch = _align(runtime.scratch * scratch_bytes(operator))
            if not (isinstance(scratch, int) and scratch == 0):
                start = _lowest(scratch, final[source], final[layer.name])
                ends.append(layer.presence * (start + scratch))
    return _maximum(ends)


def _is_chain(network: Network) -> bool:
    """Whether each tensor has one reader, not counting branches of which a mix takes one."""
    forks = [INPUT]
    for layer in network:
        if layer.kind == "mix":
            second = layer.inputs[1]
            is_fork = second == INPUT or network[second].kind == "mix" or len(
                consumers(network)[second]
            ) > 1
            forks.append(second if is_fork else network[second].inputs[0])
        elif len(layer.inputs) > 1:
            return False
    readers = consumers(network)
    return all(len(names) <= 1 + forks[1:].count(tensor) for tensor, names in readers.items())


def _lowest(size: Count, a: _Placed, b: _Placed = _NOWHERE) -> Count:
    """The lowest start at which ``size`` bytes overlap neither ``a`` nor ``b``."""
    end_a, end_b = a.start + a.size, b.start + b.size
    low, high = _minimum(end_a, end_b), _maximum([end_a, end_b])

    def clear(start: Count) -> Any:
        left_of = (start + size <= a.start) | (start >= end_a)
        return left_of & ((start + size <= b.start) | (start >= end_b))

    return _where(clear(0), 0, _where(clear(low), low, high))


def _if(condition: Any, placed: _Placed) -> _Placed:
    return _Placed(_where(condition, placed.start, 0), _where(condition, placed.size, 0))


def _select(presence: Count, a: _Placed, b: _Placed) -> _Placed:
    return _Placed(*(_where(presence > 0, x, y) for x, y in zip(a, b, strict=True)))


# ---------------------------------------------------------------- one formula for all numbers


def _align(x: Count, multiple: int = ALIGNMENT) -> Count:
    """``x`` rounded up to a multiple (a power of 2); floats to the next integer's, slope 1."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating):
        aligned = jnp.ceil(jnp.round(x) / multiple) * multiple
        return x + jax.lax.stop_gradient(aligned - x)
    return (x + multiple - 1) & -multiple


def _decided(x: Any) -> Any:
    return jnp.round(x).astype(jnp.int32) if _is_float(x) else x


def _is_soft(network: Network) -> bool:
    return any(_is_float(leaf) for leaf in jax.tree.leaves(network))


def _is_float(x: Any) -> bool:
    return isinstance(x, float) or (
        hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    )


def _where(condition: Any, a: Count, b: Count) -> Count:
    if isinstance(condition, bool):
        return a if condition else b
    return jnp.where(condition, a, b)


def _maximum(values: list[Count]) -> Count:
    known = [v for v in values if isinstance(v, int)]
    traced = [v for v in values if not isinstance(v, int)]
    result = max(known) if known else traced.pop()
    for value in traced:
        result = jnp.maximum(result, value)
    return result


def _minimum(a: Count, b: Count) -> Count:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else jnp.minimum(a, b)


def _sum(values: Iterable[Count]) -> Count:
    return functools.reduce(arithmetic.add, values, 0)


def _area(size: tuple[int, ...]) -> int:
    return size[0] * size[1]
