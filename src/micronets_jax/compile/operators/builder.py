"""The builder: what is known of a model's tensors while its operators are read, and the checks that
readers share.

Invariant: a node is added only when shapes, types and scales are such that TensorFlow Lite Micro
would compute it, and would compute what the node says. What is refused is kept until every operator
was read, so that all refusals are seen at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from micronets_jax.compile.graph import Graph, Node, Value
from micronets_jax.compile.operators import advice
from micronets_jax.compile.operators.registry import FLOAT_FUNCTIONS, ROWS
from micronets_jax.tflite import Model, Operator, Tensor, TFLiteError

# What bounds the compiler's own time and memory on files made to exhaust them.
MAX_TOTAL = 1 << 26
MAX_FOLDED = 1 << 16
MAX_SIDE = (1 << 15) - 1  # of pictures, rows, columns and channels

FULL_INTEGER = "convert with full integer quantisation"


class Builder:
    """Reads a model's operators into nodes, in the file's order."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.constants = {t.index: t.data for t in model.tensors.values() if t.data is not None}
        self.values: dict[int, Value] = {}
        self.roots: dict[int, int] = {}
        self.nodes: list[Node] = []
        # tensors in float32 that are functions of one byte: its value and their 256 values
        self.floats: dict[int, tuple[Value, np.ndarray]] = {}
        self.handles: dict[int, str] = {}  # tensors that are handles of variables -> their names
        self.variables: dict[str, Value] = {}
        self.initial: dict[str, np.ndarray] = {}  # what CALL_ONCE assigns to variables
        self.refused: list[tuple[Operator, str]] = []
        self.missing: set[int] = set()  # what refused operators would have computed

    def build(self) -> Graph:
        """The nodes of all operators.

        Raises:
            TFLiteError: operators or inputs are refused; the sentence lists all of them.
        """
        model = self.model
        advice.refuse_by_kind_of_file(model)
        unfit = []
        for index in model.inputs:
            try:
                self.define_input(model.tensors[index])
            except TFLiteError as error:
                unfit.append(str(error))
                self.missing.add(index)
        for operator in model.operators:
            self.read(operator)
        if unfit or self.refused:
            raise TFLiteError(advice.sentence(self.refused, unfit))
        for index in model.outputs:
            self.define_output(model.tensors[index])
        if sum(self.values[node.output].elements for node in self.nodes) > MAX_TOTAL:
            raise TFLiteError(f"the tensors of the model have more than {MAX_TOTAL} elements")
        roots = {index: self.root(index) for index in self.values}
        outputs = [roots[index] for index in model.outputs]
        return Graph(self.values, self.nodes, list(model.inputs), outputs, roots, model)

    def read(self, operator: Operator) -> None:
        """Adds an operator, or keeps why it is refused."""
        row = ROWS.get(operator.kind)
        try:
            if row is None:
                raise TFLiteError(advice.unsupported(operator.kind))
            if self.missing.isdisjoint(operator.inputs):
                self.check_arity(operator, row.inputs, row.outputs)
                with np.errstate(all="ignore"):
                    if self.in_float(operator):
                        self.compose(operator, row.inputs)
                    else:
                        row.read(self, operator)
                return
        except OverflowError as error:
            self.refused.append((operator, f"its scales are out of proportion ({error})"))
        except TFLiteError as error:
            self.refused.append((operator, str(error).removeprefix(f"{operator.label}: ")))
        self.missing.update(operator.outputs)

    def check_arity(self, operator: Operator, inputs: int, outputs: int) -> None:
        """Whether an operator has the inputs, counted from the first, and the outputs of its row.

        Raises:
            TFLiteError: it does not.
        """
        if len(operator.inputs) < inputs or -1 in operator.inputs[:inputs]:
            raise TFLiteError(f"it needs {inputs} inputs and has {list(operator.inputs)}")
        if outputs >= 0 and len(operator.outputs) != outputs:
            raise TFLiteError(f"it has {len(operator.outputs)} outputs, not {outputs}")

    # Values -------------------------------------------------------------------------------------

    def root(self, index: int) -> int:
        """The tensor that owns the bytes of this one."""
        while index in self.roots:
            index = self.roots[index]
        return index

    def define_input(self, tensor: Tensor) -> None:
        """Adds an input of the model as a value.

        Raises:
            TFLiteError: an open dimension besides the batch, a type or a quantisation that cannot
                be compiled.
        """
        if tensor.index in self.constants:
            raise TFLiteError(f"input {tensor.label} is a constant")
        if tensor.index in self.values:
            raise TFLiteError(f"{tensor.label} is an input twice")
        if any(tensor.open[1:]):  # the batch may be left open: one example at a time
            shown = [-1 if o else n for n, o in zip(tensor.shape, tensor.open, strict=True)]
            raise TFLiteError(
                f"input {tensor.label} has the dynamic shape {shown}; fix all sizes but the batch "
                "before converting"
            )
        if tensor.dtype == "bool":
            raise TFLiteError(f"input {tensor.label} is bool; take 0 and 1 of int8 and compare")
        if tensor.dtype in ("int8", "uint8", "int16") and tensor.quantization is None:
            raise TFLiteError(
                f"input {tensor.label} is {tensor.dtype} without a scale; convert with "
                "inference_input_type = tf.int8, which gives it one"
            )
        self.define(tensor)

    def define_output(self, tensor: Tensor) -> None:
        """Makes sure that something writes an output of the model; a constant is copied."""
        index = tensor.index
        if tensor.dtype == "bool":
            raise TFLiteError(
                f"output {tensor.label} is bool; select int8 numbers by it (tf.where)"
            )
        data = self.constants.get(index)
        if data is None:
            if index in self.floats and index not in self.values:
                raise TFLiteError(
                    f"output {tensor.label} is computed in float32; end the model before that"
                )
            if index not in self.values:
                raise TFLiteError(f"output {tensor.label} is not computed by any operator")
            return
        if (readers := [o for o in self.model.operators if index in o.inputs]) or data.size == 0:
            what = f"that {readers[0].label} reads" if readers else "without elements"
            raise TFLiteError(
                f"output {tensor.label} is a constant {what}, not a result; name a computed tensor"
            )
        del self.constants[index]
        value = self.define(tensor)
        self.nodes.append(Node("constant", [], index, {"data": data}, -1, value.name or "constant"))

    def define(self, tensor: Tensor, shape: tuple[int, ...] | None = None) -> Value:
        """A new value at run time, of the tensor's own shape or the given one."""
        shape = tensor.shape if shape is None else shape
        if 0 in shape:
            raise TFLiteError(f"{tensor.label} is empty: its shape is {list(shape)}")
        if tensor.index in self.values or tensor.index in self.constants:
            raise TFLiteError(f"{tensor.label} is written twice")
        if tensor.dtype in ("int8", "uint8", "int16"):
            scale, zero_point = affine(tensor)
        elif tensor.dtype in ("float32", "int32", "bool"):
            scale, zero_point = 0.0, 0
        else:
            help_ = {"string": "turn text into numbers in the application"}.get(
                tensor.dtype, FULL_INTEGER
            )
            raise TFLiteError(
                f"{tensor.label} is {tensor.dtype}; activations must be int8 (uint8, int16, "
                f"float32 and int32 at the ends): {help_}"
            )
        value = Value(tensor.index, tensor.name, shape, tensor.dtype, scale, zero_point)
        self.values[tensor.index] = value
        return value

    def tensor(self, operator: Operator, position: int, what: str) -> Tensor:
        """The tensor of an input that must be there."""
        if position >= len(operator.inputs) or operator.inputs[position] == -1:
            raise TFLiteError(f"its {what} is missing")
        return self.model.tensors[operator.inputs[position]]

    def input(self, operator: Operator, position: int = 0, dtype: str = "int8") -> Value:
        """An input of the given type, computed at run time or a constant of the file."""
        tensor = self.model.tensors[operator.inputs[position]]
        if tensor.index in self.constants and tensor.index not in self.values:
            value = self.constant_value(tensor)
        elif (value := self.values.get(tensor.index)) is None:
            raise TFLiteError(f"its input {tensor.label} is not computed before it")
        if value.dtype != dtype:
            raise TFLiteError(
                f"its input {tensor.label} is {value.dtype}, not {dtype}; {FULL_INTEGER}"
            )
        return value

    def constant_value(self, tensor: Tensor) -> Value:
        """A constant that is read as tensors are."""
        data = self.constants[tensor.index]
        if tensor.dtype not in ("int8", "uint8", "bool") or data.size == 0:
            raise TFLiteError(f"its input {tensor.label} is a constant of {tensor.dtype}")
        if tensor.dtype == "bool":
            data, scale, zero_point = (data != 0).astype(np.int8), 0.0, 0
        else:
            scale, zero_point = affine(tensor)
        value = Value(tensor.index, tensor.name, data.shape, tensor.dtype, scale, zero_point, data)
        self.values[tensor.index] = value
        return value

    def output(
        self, operator: Operator, shape: Sequence[int], dtype: str = "int8", position: int = 0
    ) -> Value:
        """The value of an output that has the given shape.

        Where the file leaves a dimension open, its tensors say 1 there, whatever an operator makes
        of it (SPACE_TO_BATCH_ND: a multiple), so there the given shape holds.

        Args:
            operator: that computes it.
            shape: that it must have.
            dtype: that it must have.
            position: which output of the operator.

        Returns:
            A new value, with the scale and zero point of the file.

        Raises:
            TFLiteError: the file says another shape, or another type.
        """
        tensor, shape = self.model.tensors[operator.outputs[position]], tuple(shape)
        known = tensor.open or (False,) * len(tensor.shape)
        if len(shape) != len(tensor.shape) or any(
            n != m and not o for n, m, o in zip(shape, tensor.shape, known, strict=True)
        ):
            raise TFLiteError(
                f"the output has shape {list(tensor.shape)}; it should be {list(shape)}"
            )
        value = self.define(tensor, shape)
        if value.dtype != dtype:
            raise TFLiteError(f"its output is {value.dtype}, not {dtype}; {FULL_INTEGER}")
        return value

    def free_output(self, operator: Operator, shape: Sequence[int], dtype: str = "int8") -> Value:
        """The value of an output that may say its shape in another way."""
        tensor = self.model.tensors[operator.outputs[0]]
        same = tensor.size == int(np.prod(shape, dtype=np.int64))
        return self.output(operator, tensor.shape if same else shape, dtype)

    def add(
        self, operator: Operator, kind: str, inputs: list[Value], output: Value, macs: int = 0, **kw
    ) -> None:
        """Adds a node.

        Args:
            operator: that is read.
            kind: a name in ``kernels``.
            inputs: of the node.
            output: of the node.
            macs: multiply-accumulates.
            **kw: options of its kind.
        """
        roots = [v.tensor if v.data is not None else self.root(v.tensor) for v in inputs]
        name = (output.name.split(";")[0] or f"{kind}_{operator.index}")[:80]
        shapes = [value.shape for value in inputs]
        self.nodes.append(
            Node(kind, roots, output.tensor, kw, operator.index, name, macs, shapes, output.shape)
        )

    # Float32 between DEQUANTIZE and QUANTIZE -----------------------------------------------------

    def in_float(self, operator: Operator) -> bool:
        """Whether an operator is a function of float32 of what one byte says."""
        return operator.kind in FLOAT_FUNCTIONS and any(i in self.floats for i in operator.inputs)

    def compose(self, operator: Operator, count: int) -> None:
        """Makes a float32 output known as a function of the byte that its inputs are functions of.

        Exporters compute some functions in float32 between DEQUANTIZE and QUANTIZE; all of it,
        element by element, is one table of 256 bytes.
        """
        source, arrays, made = None, [], operator.outputs[0]
        if made in self.values or made in self.constants or made in self.floats:
            raise TFLiteError(f"{self.model.tensors[made].label} is written twice")
        for index in operator.inputs[:count]:
            if index in self.floats:
                value, array = self.floats[index]
                if source is not None and value.tensor != source.tensor:
                    raise TFLiteError("it computes in float32 what depends on two int8 tensors")
                source = value
            else:
                data = self.constants.get(index)
                if data is None or data.dtype != np.float32 or data.size != 1:
                    raise TFLiteError(
                        f"it computes in float32 with {self.model.tensors[index].label}"
                    )
                array = data.reshape(-1)
            arrays.append(array)
        assert source is not None
        result = np.asarray(FLOAT_FUNCTIONS[operator.kind](*arrays, **operator.options), np.float32)
        self.floats[made] = (source, np.broadcast_to(result, (256,)))

    # Constants ----------------------------------------------------------------------------------

    def constant(self, operator: Operator, position: int, what: str, dtypes: tuple[str, ...]):
        """The tensor and data of an input that must be constant.

        Args:
            operator: that reads it.
            position: which input of the operator.
            what: names the input in a refusal.
            dtypes: that are accepted.

        Returns:
            The :class:`~micronets_jax.tflite.Tensor` and its values, an array of its shape.

        Raises:
            TFLiteError: it is computed at run time, or of another type.
        """
        tensor = self.tensor(operator, position, what)
        data = self.constants.get(tensor.index)
        if data is None:
            raise TFLiteError(f"its {what} ({tensor.label}) is not constant")
        if tensor.dtype not in dtypes:
            raise TFLiteError(f"its {what} is {tensor.dtype}, not {' or '.join(dtypes)}")
        return tensor, data

    def integers(self, operator: Operator, position: int, what: str) -> list[int]:
        """A constant input as Python ints; ``what`` names it in a refusal."""
        _, data = self.constant(operator, position, what, ("int32", "int64"))
        if data.size > MAX_FOLDED:
            raise TFLiteError(f"its {what} has {data.size} elements; at most {MAX_FOLDED}")
        return [int(n) for n in np.asarray(data).reshape(-1)]

    def fold(self, operator: Operator, data: np.ndarray, position: int = 0) -> None:
        """Makes an output of an operator a constant."""
        target = self.model.tensors[operator.outputs[position]]
        if target.index in self.values or target.index in self.constants:
            raise TFLiteError(f"{target.label} is written twice")
        if data.size != target.size:
            raise TFLiteError(
                f"the output has shape {list(target.shape)}; it should be {list(data.shape)}"
            )
        self.constants[target.index] = np.ascontiguousarray(data).reshape(target.shape)

    def is_constant(self, operator: Operator, *positions: int) -> bool:
        """Whether the inputs at these positions are all constants."""
        return all(operator.inputs[i] in self.constants for i in positions)


def affine(tensor: Tensor) -> tuple[float, int]:
    """Scale and zero point of a tensor that must have one of each."""
    q = tensor.quantization
    if q is None or len(q.scales) != 1:
        raise TFLiteError(f"{tensor.label} has no single scale and zero point; {FULL_INTEGER}")
    if q.scale <= 0:
        raise TFLiteError(
            f"{tensor.label} has scale {q.scale:g}; activations need one above 0: calibrate with "
            "data that reach this tensor"
        )
    low, high = {"uint8": (0, 255), "int16": (-(1 << 15), (1 << 15) - 1)}.get(
        tensor.dtype, (-128, 127)
    )
    if not low <= q.zero_point <= high:
        raise TFLiteError(f"{tensor.label} has zero point {q.zero_point}, outside of its type")
    return q.scale, q.zero_point


def same_quantization(a: Value, b: Value) -> bool:
    """Whether two values have the same scale and zero point."""
    return (a.scale, a.zero_point) == (b.scale, b.zero_point)


def picture(value: Value) -> tuple[int, int, int, int]:
    """The shape [batch, rows, columns, channels] of a value that must have four dimensions."""
    if len(value.shape) != 4:
        raise TFLiteError(
            f"{value.name[:60]!r} has shape {list(value.shape)}; pictures [batch, rows, columns, "
            "channels] are supported"
        )
    if max(value.shape) > MAX_SIDE:
        raise TFLiteError(f"{list(value.shape)} has a side beyond {MAX_SIDE}")
    batch, rows, columns, channels = value.shape
    return batch, rows, columns, channels
