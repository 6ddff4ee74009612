"""TFLite files in the interpreters they are meant for: TensorFlow Lite Micro and LiteRT.

Invariant: both runtimes answer to the same few names, and a file that is not a sound TFLite model
is refused before any interpreter sees it.

TensorFlow Lite Micro is the judge. LiteRT's convolutions and poolings give the same bytes without
its default delegate (XNNPACK), which is why that is left out here; its FULLY_CONNECTED rounds once
where TFLM rounds twice, so about 1 % of the logits differ, by 1.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int8, Shaped


@dataclasses.dataclass(frozen=True)
class TensorDetails:
    """An end of a model: ``shape``, a batch of 1 included, and real = scale * (q - zero_point)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int


@dataclasses.dataclass(frozen=True)
class Arena:
    """Bytes of memory that TensorFlow Lite Micro took on this machine (64-bit pointers).

    ``activation_bytes`` (the head: tensors and scratch) is the same on every core,
    ``persistent_bytes`` (the tail: its own structures) is smaller on a 32-bit one.
    """

    total_bytes: int
    activation_bytes: int
    persistent_bytes: int


class Runtime(Protocol):
    """What both interpreters offer."""

    input_details: TensorDetails
    output_details: TensorDetails

    def predict(self, inputs: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "n ..."]:
        """Outputs [n, ...] for inputs [n, ...], both as the model's own integers."""
        ...


class LiteRT:
    """The desktop interpreter with its optimised kernels, single-threaded, without XNNPACK.

    Raises:
        ValueError: ``model`` is not a sound TFLite file, or has other than one input and output.
    """

    def __init__(self, model: bytes) -> None:
        self._interpreter = _litert(model)
        inputs, outputs = (
            self._interpreter.get_input_details(),
            self._interpreter.get_output_details(),
        )
        _require_one_each(len(inputs), len(outputs))
        self._indices = inputs[0]["index"], outputs[0]["index"]
        self.input_details, self.output_details = _details(inputs[0]), _details(outputs[0])

    def predict(self, inputs: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "n ..."]:
        """Outputs [n, ...] for inputs [n, ...], both as the model's own integers."""
        _check_inputs(inputs, self.input_details)
        read, write = self._indices
        outputs = []
        for x in inputs:
            self._interpreter.set_tensor(read, x[None])
            self._interpreter.invoke()
            outputs.append(self._interpreter.get_tensor(write)[0])
        return _stack(outputs, self.output_details)


class TFLM:
    """The interpreter that runs on microcontrollers, with its reference kernels: the judge of all.

    About 0.7 G MAC per second and core, so 1,000 clips of a 3 M MAC network take some 4 seconds.

    Args:
        model: the bytes of a TFLite file.
        arena_bytes: memory to give it, rounded up to a multiple of 16; by default plenty.

    Raises:
        ValueError: ``model`` is not a sound TFLite file, has other than one input and output, or
            TFLM refuses it: an operator that it lacks, or too small an arena.
    """

    def __init__(self, model: bytes, arena_bytes: int | None = None) -> None:
        from tflite_micro.python.tflite_micro import runtime

        checked = _litert(model)  # TFLM itself would follow any offset
        _require_one_each(len(checked.get_input_details()), len(checked.get_output_details()))
        if arena_bytes is None:
            arena_bytes = _plenty(checked, model)
        arena_bytes = -(-arena_bytes // 16) * 16  # else aligning its end would count as persistent
        try:
            self._interpreter = runtime.Interpreter.from_bytes(model, arena_size=arena_bytes)
        except RuntimeError as error:
            raise ValueError(
                f"TensorFlow Lite Micro refuses the model with an arena of {arena_bytes} bytes "
                "(its reason is on standard error): use operators that it has, or a larger arena"
            ) from error
        self.input_details = _details(self._interpreter.get_input_details(0))
        self.output_details = _details(self._interpreter.get_output_details(0))

    def predict(self, inputs: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "n ..."]:
        """Outputs [n, ...] for inputs [n, ...], both as the model's own integers."""
        _check_inputs(inputs, self.input_details)
        outputs = []
        for x in inputs:
            self._interpreter.set_input(x[None], 0)
            self._interpreter.invoke()
            outputs.append(self._interpreter.get_output(0)[0].copy())
        return _stack(outputs, self.output_details)

    def arena(self) -> Arena:
        """What the interpreter's recording allocator counted."""
        self._interpreter.invoke()  # scratch is known only after a first run
        report = _standard_error_of(self._interpreter.print_allocations)
        counts = dict(re.findall(r"Arena allocation (total|head|tail) (\d+) bytes", report))
        return Arena(*(int(counts[part]) for part in ("total", "head", "tail")))


def quantize_input(
    x: Float[np.ndarray, "*shape"], scale: float, zero_point: int
) -> Int8[np.ndarray, "*shape"]:
    """``x`` in int8: the nearest level, halves up, values outside the range at its ends."""
    levels = np.floor(np.asarray(x, np.float32) / np.float32(scale) + np.float32(0.5))
    return np.clip(levels + zero_point, -128, 127).astype(np.int8)


def dequantize(
    q: Int8[np.ndarray, "*shape"], scale: float, zero_point: int
) -> Float[np.ndarray, "*shape"]:
    """The real values scale * (q - zero_point), float32."""
    return (q.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _litert(model: bytes) -> Any:
    """A LiteRT interpreter of a model that it has verified and allocated."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    if model[4:8] != b"TFL3":
        raise ValueError(
            f"model is not a TFLite file: it has {len(model)} bytes and begins with {model[:8]!r}, "
            "without the mark 'TFL3'"
        )
    try:
        interpreter = Interpreter(
            model_content=model,
            num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"model is not a sound TFLite file: {error}") from error
    return interpreter


def _plenty(interpreter: Any, model: bytes) -> int:
    """An arena that is large enough: all tensors at once, and room for TFLM's structures."""
    tensors = sum(
        int(np.prod(tensor["shape"])) * np.dtype(tensor["dtype"]).itemsize
        for tensor in interpreter.get_tensor_details()
    )
    return 2 * tensors + 2 * len(model) + 2**18


def _details(end: dict[str, Any]) -> TensorDetails:
    """An end as both interpreters describe it; scale 1, zero point 0 where it is not quantised."""
    parameters = end["quantization_parameters"]
    scale, zero_point = 1.0, 0
    if len(parameters["scales"]):
        scale, zero_point = float(parameters["scales"][0]), int(parameters["zero_points"][0])
    shape = tuple(int(n) for n in end["shape"])
    return TensorDetails(shape, np.dtype(end["dtype"]), scale, zero_point)


def _require_one_each(inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        raise ValueError(
            f"model has {inputs} inputs and {outputs} outputs; give one with one of each"
        )


def _check_inputs(inputs: np.ndarray, details: TensorDetails) -> None:
    if inputs.dtype != details.dtype or inputs.shape[1:] != details.shape[1:]:
        sample = ", ".join(map(str, details.shape[1:]))
        raise ValueError(
            f"inputs are {inputs.dtype} {inputs.shape}; "
            f"the model takes {details.dtype} of shape (n, {sample})"
        )


def _stack(outputs: list[np.ndarray], details: TensorDetails) -> np.ndarray:
    return np.stack(outputs) if outputs else np.zeros((0, *details.shape[1:]), details.dtype)


_redirecting = threading.Lock()


def _standard_error_of(call: Callable[[], object]) -> str:
    """What C++ prints to standard error (past ``sys.stderr``) while ``call`` runs."""
    with _redirecting, tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            call()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        return file.read().decode(errors="replace")
