"""State: variables that a model keeps from one run to the next, and the layers that own some.

Invariant: a state is a value with an initial content, outside of the arena.
"""

from __future__ import annotations

import math

import numpy as np

from micronets_jax.compile import arithmetic
from micronets_jax.compile.graph import Copy, Value
from micronets_jax.compile.operators.builder import MAX_SIDE, Builder, affine
from micronets_jax.compile.operators.move import value_of
from micronets_jax.compile.operators.registry import reads
from micronets_jax.tflite import Operator, Tensor, TFLiteError

# Variables ---------------------------------------------------------------------------------------


def _variable(b: Builder, operator: Operator) -> str:
    """The name of the variable that an operator's first input is a handle of."""
    name = b.handles.get(operator.inputs[0])
    if name is None:
        raise TFLiteError(
            f"its handle {b.model.tensors[operator.inputs[0]].label} is no VAR_HANDLE's"
        )
    return name


def _whole(source: Value) -> list[Copy]:
    return [Copy(0, (source.elements,), [1], 0, [1], 0)]


@reads("VAR_HANDLE", inputs=0)
def var_handle(b: Builder, operator: Operator) -> None:
    """Remembers the name that a handle of a variable stands for; computes nothing."""
    b.handles[operator.outputs[0]] = (
        f"{operator.options['container']}/{operator.options['shared_name']}"
    )


@reads("CALL_ONCE", "of a subgraph that assigns constants to variables", inputs=0, outputs=0)
def call_once(b: Builder, operator: Operator) -> None:
    """The initial values of variables, from a subgraph that assigns constants."""
    once = Builder(b.model.called[operator.options["init_subgraph_index"]])
    for inner in once.model.operators:
        if inner.kind != "ASSIGN_VARIABLE":
            once.read(inner)
            continue
        handle, value = inner.inputs if len(inner.inputs) == 2 else (-1, -1)
        if handle not in once.handles or value not in once.constants:
            raise TFLiteError(f"its subgraph's {inner.label} does not assign a constant")
        b.initial[once.handles[handle]] = once.constants[value]
    if once.refused:
        raise TFLiteError(f"its subgraph holds {once.refused[0][0].label}")


def _state(b: Builder, name: str, like: Value) -> Value:
    """The value of a variable, made when an operator first says what it looks like."""
    if name not in b.variables:
        initial: np.ndarray | None = b.initial.get(name)
        if initial is None:
            initial = np.full(like.shape, like.zero_point, np.dtype(like.dtype))
        if initial.size != like.elements or initial.dtype != np.dtype(like.dtype):
            raise TFLiteError(f"variable {name} begins as {initial.dtype} {list(initial.shape)}")
        index = -2 - len(b.variables)  # no tensor of the file
        b.variables[name] = b.values[index] = Value(
            index, name, like.shape, like.dtype, like.scale, like.zero_point, initial=initial
        )
    known = b.variables[name]
    if (known.elements, known.dtype) != (like.elements, like.dtype):
        raise TFLiteError(
            f"variable {name} is {known.dtype} {list(known.shape)}, not {like.dtype} "
            f"{list(like.shape)}"
        )
    return known


@reads("READ_VARIABLE", "state of int8, uint8, float32 or int32")
def read_variable(b: Builder, operator: Operator) -> None:
    """A copy of a variable's state."""
    tensor = b.model.tensors[operator.outputs[0]]
    output = b.output(operator, tensor.shape, tensor.dtype)
    state = _state(b, _variable(b, operator), output)
    b.add(operator, "read_state", [state], output, copies=_whole(output), fill=None)


@reads("ASSIGN_VARIABLE", "state of int8, uint8, float32 or int32", inputs=2, outputs=0)
def assign_variable(b: Builder, operator: Operator) -> None:
    """A copy of a tensor to a variable's state."""
    value = value_of(b, operator, 1)
    state = _state(b, _variable(b, operator), value)
    b.add(operator, "write_state", [value], state, copies=_whole(value), fill=None)


# Layers with state -------------------------------------------------------------------------------


def _variable_tensor(b: Builder, operator: Operator, position: int, what: str, dtypes) -> Value:
    """State in a tensor that the file marks as variable; it begins at its zero point."""
    tensor = b.tensor(operator, position, what)
    if not tensor.variable or tensor.dtype not in dtypes or tensor.index in b.values:
        raise TFLiteError(
            f"its {what} {tensor.label} is {tensor.dtype}, not the {' or '.join(dtypes)} state of "
            "this layer alone"
        )
    scale, zero_point = affine(tensor)
    initial = np.full(tensor.shape, zero_point, np.dtype(tensor.dtype))
    value = Value(
        tensor.index, tensor.name or what, tensor.shape, tensor.dtype, scale, zero_point,
        initial=initial,
    )  # fmt: skip
    b.values[tensor.index] = value
    return value


def _matrix(
    b: Builder,
    operator: Operator,
    position: int,
    what: str,
    shape: tuple[int, ...],
    dtypes: tuple[str, ...] = ("int8",),
) -> tuple[Tensor, np.ndarray]:
    tensor, data = b.constant(operator, position, what, dtypes)
    q = tensor.quantization
    if data.shape != shape or q is None or len(q.scales) != 1 or q.zero_points.any():
        raise TFLiteError(
            f"its {what} are {tensor.dtype} {list(data.shape)}; {list(shape)} with one scale and "
            "zero point 0 are needed"
        )
    return tensor, data


def _vector(b: Builder, operator: Operator, position: int, what: str, count: int) -> np.ndarray:
    _, data = b.constant(operator, position, what, ("int32",))
    if data.size != count:
        raise TFLiteError(f"its {what} have {data.size} elements, not {count}")
    return data.reshape(-1)


def _scale(tensor: Tensor) -> float:
    assert tensor.quantization is not None
    return tensor.quantization.scale


@reads(
    "SVDF", "int8 state or int16; bias; no batch; clamped to int8, whatever activation is fused", 5
)
def svdf(b: Builder, operator: Operator) -> None:
    """Singular value decomposition filters: features are weighted, kept in the state, then weighted
    over time (Nakkiran et al., 2015).
    """
    value = b.input(operator)
    rank = operator.options["rank"]
    if len(value.shape) != 2 or value.shape[0] != 1 or value.shape[1] > MAX_SIDE:
        raise TFLiteError(f"its input has shape {list(value.shape)}; [1, features] is supported")
    features = value.shape[1]
    filters = b.constant(operator, 1, "weights of features", ("int8",))[1].size // features
    state = _variable_tensor(b, operator, 4, "state", ("int8", "int16"))
    if min(rank, filters) < 1 or filters % rank or state.elements % filters:
        raise TFLiteError(f"rank {rank} for {filters} filters and a state of {state.elements}")
    if state.dtype == "int16" and state.zero_point:
        raise TFLiteError(f"its int16 state has zero point {state.zero_point}, not 0")
    memory, units = state.elements // filters, filters // rank
    first, feature_weights = _matrix(b, operator, 1, "weights of features", (filters, features))
    second, time_weights = _matrix(
        b, operator, 2, "weights of time", (filters, memory), (state.dtype,)
    )
    output = b.output(operator, (1, units))
    b.add(
        operator, "svdf", [value], output, feature_weights.size + time_weights.size,
        feature_weights=feature_weights, time_weights=time_weights,
        bias=_vector(b, operator, 3, "biases", units), rank=rank,
        first=arithmetic.quantize_multiplier(value.scale * _scale(first) / state.scale),
        second=arithmetic.quantize_multiplier(state.scale * _scale(second) / output.scale),
    )  # fmt: skip
    b.nodes[-1].states = [state.tensor]


_GATES = ("input", "forget", "cell", "output")
_GATE_SCALE = 2.0**-12  # of what goes into a gate's sigmoid or tanh
_UNIT = 2.0**-15  # of what comes out


@reads(
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "int8 with int16 cell state; no peepholes, projection or normalisation; tanh; a batch of 1",
    inputs=9,
)
def unidirectional_sequence_lstm(b: Builder, operator: Operator) -> None:
    """A long short-term memory over all steps of one sequence: int8 with an int16 cell state."""
    value = b.input(operator)
    o, inputs = operator.options, operator.inputs
    if len(inputs) != 24 or any(inputs[i] != -1 for i in (*range(9, 12), 16, 17, *range(20, 24))):
        raise TFLiteError("it has peepholes, a projection or layer normalisation: use plain LSTM")
    if o["activation"] != 4 or not np.isfinite(o["cell_clip"]):
        raise TFLiteError("its activation is not tanh")
    if len(value.shape) != 3 or value.shape[1 if o["time_major"] else 0] != 1:
        raise TFLiteError(
            f"its input has shape {list(value.shape)}; one sequence at a time is supported"
        )
    steps, features = value.shape[0 if o["time_major"] else 1], value.shape[2]
    hidden = _variable_tensor(b, operator, 18, "hidden state", ("int8",))
    cell = _variable_tensor(b, operator, 19, "cell state", ("int16",))
    units = hidden.elements
    if cell.elements != units or max(units, features) > MAX_SIDE:
        raise TFLiteError(f"states of {units} and {cell.elements} elements")
    power = round(math.log2(cell.scale))
    if cell.scale != 2.0**power or not -16 < power < 0 or cell.zero_point:
        raise TFLiteError(f"its cell state has scale {cell.scale}, not a power of two")
    gates = {}
    for i, gate in enumerate(_GATES):
        first, input_weights = _matrix(b, operator, 1 + i, f"{gate} weights", (units, features))
        second, recurrent = _matrix(b, operator, 5 + i, f"recurrent {gate} weights", (units, units))
        bias = _vector(b, operator, 12 + i, f"{gate} biases", units).astype(np.int64)
        bias = bias - value.zero_point * input_weights.astype(np.int64).sum(axis=1)
        offset = -hidden.zero_point * recurrent.astype(np.int64).sum(axis=1)
        if max(np.abs(bias).max(), np.abs(offset).max()) >= 1 << 30:
            raise TFLiteError(f"the sums of its {gate} gate exceed 32 bits")
        gates[gate] = {
            "input_weights": input_weights,
            "recurrent_weights": recurrent,
            "bias": bias,
            "offset": offset,
            "input_scale": arithmetic.quantize_multiplier(
                value.scale * _scale(first) / _GATE_SCALE
            ),
            "recurrent_scale": arithmetic.quantize_multiplier(
                hidden.scale * _scale(second) / _GATE_SCALE
            ),
        }
    output = b.output(operator, (*value.shape[:2], units))
    clip = min(32767, int(o["cell_clip"] / cell.scale)) if o["cell_clip"] > 0 else 0
    macs = steps * 4 * units * (features + units)
    b.add(
        operator, "lstm", [value], output, macs, gates=[gates[g] for g in _GATES], steps=steps,
        forget=arithmetic.quantize_multiplier(_UNIT * cell.scale / cell.scale),
        update=arithmetic.quantize_multiplier(_UNIT * _UNIT / cell.scale),
        result=arithmetic.quantize_multiplier(_UNIT * _UNIT / hidden.scale),
        clip=clip, power=power,
    )  # fmt: skip
    b.nodes[-1].states = [hidden.tensor, cell.tensor]
