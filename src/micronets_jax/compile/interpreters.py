"""The interpreters that a compiled model is compared with, each in a process of its own.

Invariant: a crash of an interpreter ends its own process only; the caller gets a sentence, and the
interpreter's output is kept off the terminal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any, Literal

import numpy as np

from micronets_jax.tflite import TFLiteError

Engine = Literal["tflm", "litert"]
"""TensorFlow Lite Micro's interpreter, or LiteRT's with its reference kernels."""

NAMES: dict[Engine, str] = {
    "tflm": "TensorFlow Lite Micro",
    "litert": "LiteRT with its reference kernels",
}

LARGEST_ARENA = 1 << 28
"""Bytes at most that TensorFlow Lite Micro is given."""


class InterpreterError(TFLiteError):
    """An interpreter is not installed, refuses the model, or died of it."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """A model in an interpreter on this machine.

    Attributes:
        model: a TFLite file that :func:`tflite.read` accepts.
        engine: which interpreter.
    """

    model: bytes
    engine: Engine = "tflm"

    @property
    def name(self) -> str:
        """The interpreter's name for people."""
        return NAMES[self.engine]

    def run(self, cases: list[list[np.ndarray]], entries: Sequence[dict]) -> list[list[np.ndarray]]:
        """Outputs of every case, one case after another in one interpreter.

        Args:
            cases: the input arrays of each.
            entries: the interface of the compiled model, which says how many outputs there are.

        Raises:
            InterpreterError: not installed, refused, or died.
        """
        outputs = sum(entry["way"] == "output" for entry in entries)
        return _process(self.engine).ask(self.model, cases, outputs, None)

    def tensors(self, case: list[np.ndarray], indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Tensors of the file after one run, by index.

        Raises:
            InterpreterError: as :meth:`run`.
        """
        return _process(self.engine).ask(self.model, [case], 0, list(indices))


# ---------------------------------------------------------------- this side


class _Process:
    """A running interpreter process; a new one is started where the last one died."""

    def __init__(self, engine: Engine) -> None:
        self.engine: Engine = engine
        self.process: subprocess.Popen[bytes] | None = None
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
        self.lock = threading.Lock()

    def ask(self, *question: object) -> Any:
        with self.lock:
            self.errors.seek(0)
            self.errors.truncate()
            process = self.process
            if process is None or process.poll() is not None:
                command = [sys.executable, "-m", __name__, self.engine]
                process = self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors
                )
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # an answer that is missing says it
                _send(process.stdin, question)
            answer = _receive(process.stdout)
            said = self._last_line()
            if answer is None:
                self.process = None
                raise InterpreterError(
                    f"{NAMES[self.engine]} fails on this model: its process "
                    f"{_ending(process.wait())}{said}"
                )
        status, value = answer
        if status == "refused":
            raise InterpreterError(f"{NAMES[self.engine]} refuses the model: {value}{said}")
        if status == "missing":
            raise InterpreterError(value)
        return value

    def _last_line(self) -> str:
        """The last line that the interpreter printed, in brackets."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        said = [line for line in lines if not line.startswith(("INFO", "WARNING"))]
        return f" ({said[-1].strip()[:300]})" if said else ""


@functools.cache
def _process(engine: Engine) -> _Process:
    return _Process(engine)


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _send(pipe: IO[bytes], value: object) -> None:
    data = pickle.dumps(value)
    pipe.write(struct.pack("<q", len(data)) + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    """The next value, or None where the other side has ended."""
    head = pipe.read(8)
    if len(head) < 8:
        return None
    (length,) = struct.unpack("<q", head)
    data = pipe.read(length)
    return pickle.loads(data) if len(data) == length else None


# ---------------------------------------------------------------- the other side


def _tflm(
    model: bytes, cases: list[list[np.ndarray]], outputs: int, indices: list[int] | None
) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    config = runtime.InterpreterConfig
    kind = config.kAllocationRecording if indices is None else config.kPreserveAllTensors
    size, interpreter = 1 << 20, None
    while interpreter is None:  # the arena must fit, and its size is not known beforehand
        try:
            interpreter = runtime.Interpreter.from_bytes(
                model, arena_size=size, intrepreter_config=kind
            )
        except RuntimeError:
            if size >= LARGEST_ARENA:
                raise
            size *= 4
    results = []
    for case in cases:
        for i, x in enumerate(case):
            interpreter.set_input(x, i)
        interpreter.invoke()
        results.append([np.array(interpreter.get_output(i)) for i in range(outputs)])
    if indices is None:
        return results
    return {i: np.array(interpreter.GetTensor(i, 0)["tensor_data"]) for i in indices}


def _litert(
    model: bytes, cases: list[list[np.ndarray]], outputs: int, indices: list[int] | None
) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=model,
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=indices is not None,
    )
    interpreter.allocate_tensors()
    reads = [end["index"] for end in interpreter.get_input_details()]
    makes = [end["index"] for end in interpreter.get_output_details()[:outputs]]
    results = []
    for case in cases:
        for index, x in zip(reads, case, strict=True):
            interpreter.set_tensor(index, x)
        interpreter.invoke()
        # a tensor without dimensions comes as a number
        results.append([np.asarray(interpreter.get_tensor(index)) for index in makes])
    if indices is None:
        return results
    return {i: np.asarray(interpreter.get_tensor(i)) for i in indices}


_ENGINES = {"tflm": (_tflm, "tflite-micro"), "litert": (_litert, "ai-edge-litert")}


def _serve(engine: Engine) -> None:
    """Answers questions until the pipe closes; what C++ prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    compute, package = _ENGINES[engine]
    while (question := _receive(sys.stdin.buffer)) is not None:
        try:
            answer = "done", compute(*question)
        except ImportError:
            answer = (
                "missing",
                f"comparing needs {NAMES[engine]}: install the Python package {package}",
            )
        except (RuntimeError, ValueError) as error:
            answer = "refused", str(error).strip().partition("\n")[0]
        sys.stderr.flush()
        _send(answers, answer)


if __name__ == "__main__":
    _serve(sys.argv[1])  # pyright: ignore[reportArgumentType]
