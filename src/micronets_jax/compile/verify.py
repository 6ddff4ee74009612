"""The check on this machine: a compiled folder against TensorFlow Lite Micro, byte by byte.

Invariant: what is compared are the bytes of every output, on inputs that reach the edges of int8;
when something differs, the first layer whose tensor differs is named.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import struct
import subprocess
import tempfile

import numpy as np

from micronets_jax.compile import compiler
from micronets_jax.tflite import TFLiteError

WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
_KERNELS: dict[tuple, bytes] = {}
_NUMPY = {"int8": np.int8, "uint8": np.uint8, "float32": np.float32}


class Host:
    """A compiled model built for this machine."""

    def __init__(
        self, compiled: compiler.Compiled, folder: pathlib.Path, flags: tuple[str, ...] = ("-O1",),
        cc: str = "cc",
    ) -> None:  # fmt: skip
        if shutil.which(cc) is None:
            raise TFLiteError(f"no C compiler {cc!r}: install the Debian package gcc")
        self.compiled = compiled
        self.entries = compiled.interface()
        compiler.write(compiled, folder / "model")
        self.program = folder / "host"
        sizes = {
            way: ",".join(str(e["bytes"]) for e in self.entries if e["way"] == way)
            for way in ("input", "output")
        }
        hook = folder / "hook.h"
        hook.write_text(
            "void mn_hook(int layer, void *arena);\n#define MODEL_HOOK(l, a) mn_hook(l, a)\n"
        )
        harness = pathlib.Path(__file__).parent.parent / "csrc" / "host.c"
        self.cc = [cc, *WARNINGS, *flags]
        objects = [
            self.object(harness, f"-I{folder / 'model'}", f"-DHOST_INPUT_BYTES={sizes['input']}",
                        f"-DHOST_OUTPUT_BYTES={sizes['output']}")
        ]  # fmt: skip
        for source in sorted((folder / "model").glob("*.c")):
            more = [f"-I{folder / 'model'}"]
            if source.name == "model.c":
                more += ["-include", str(hook)]
            objects.append(self.object(source, *more))
        self.call([*self.cc, *map(str, objects), "-o", str(self.program)])

    def object(self, source: pathlib.Path, *more: str) -> pathlib.Path:
        """Compiles one file; kernels, which are the same for every model, only once per process."""
        out = self.program.parent / (source.stem + ".o")
        if source.name not in ("model.c", "weights.c", "host.c"):
            key = (*self.cc, source.name, source.read_bytes())
            if key not in _KERNELS:
                self.call([*self.cc, *more, "-c", str(source), "-o", str(out)])
                _KERNELS[key] = out.read_bytes()
            out.write_bytes(_KERNELS[key])
        else:
            self.call([*self.cc, *more, "-c", str(source), "-o", str(out)])
        return out

    def call(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise TFLiteError(f"{command[0]} failed on the generated code:\n{done.stderr[-4000:]}")

    def run(self, cases: list[list[np.ndarray]], *mode: str) -> list[list[np.ndarray]]:
        """Outputs of every case (a list of input arrays)."""
        raw = self._execute(cases, *(mode or ("run",)))
        results, at = [], 0
        for _ in cases:
            outputs = []
            for e in (e for e in self.entries if e["way"] == "output"):
                data = np.frombuffer(raw, _NUMPY[e["dtype"]], e["bytes"] // _itemsize(e), at)
                outputs.append(data.reshape(e["shape"]))
                at += e["bytes"]
            results.append(outputs)
        if at != len(raw):
            raise TFLiteError(f"the built model wrote {len(raw)} bytes instead of {at}")
        return results

    def run_poisoned(self, cases: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        """Like :meth:`run`, with every dead byte overwritten after each layer."""
        plan = self.compiled.plan
        with tempfile.NamedTemporaryFile(suffix=".dead") as file:
            for step in range(-1, len(self.compiled.calls)):
                ranges = dead_ranges(plan, step)
                file.write(struct.pack("<i", len(ranges)))
                for low, high in ranges:
                    file.write(struct.pack("<ii", low, high))
            file.flush()
            return self.run(cases, "poison", file.name)

    def trace(self, case: list[np.ndarray]) -> list[bytes]:
        """The arena after every layer."""
        raw = self._execute([case], "trace")
        size = self.compiled.arena_bytes
        return [raw[i : i + size] for i in range(0, len(raw), size)]

    def _execute(self, cases: list[list[np.ndarray]], *mode: str) -> bytes:
        data = b"".join(np.ascontiguousarray(x).tobytes() for case in cases for x in case)
        ran = subprocess.run([str(self.program), *mode], input=data, capture_output=True)
        if ran.returncode:
            raise TFLiteError(
                f"the built model stopped with status {ran.returncode}:\n"
                f"{ran.stderr.decode(errors='replace')[-2000:]}"
            )
        return ran.stdout


def _itemsize(entry: dict) -> int:
    return np.dtype(_NUMPY[entry["dtype"]]).itemsize


def dead_ranges(plan, step: int) -> list[tuple[int, int]]:
    """Bytes of the arena that nothing needs after a step (before the first for -1)."""
    alive = np.zeros(plan.peak, bool)
    for buffer, address in zip(plan.buffers, plan.addresses, strict=True):
        if buffer.first <= step < buffer.last or (step == -1 == buffer.first):
            alive[address : address + buffer.size] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[True], alive, [True]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def cases(entries: list[dict], count: int = 8, seed: int = 0) -> list[list[np.ndarray]]:
    """Random, constant (lowest, highest, zero point) and saturating inputs."""
    inputs = [e for e in entries if e["way"] == "input"]
    rng = np.random.default_rng(seed)

    def make(kind: str) -> list[np.ndarray]:
        made = []
        for e in inputs:
            dtype, shape = _NUMPY[e["dtype"]], e["shape"]
            if dtype is np.float32:
                x = rng.normal(0, 2, shape)
                x = {"low": x * 0 - 1e3, "high": x * 0 + 1e3, "zero": x * 0}.get(kind, x)
                made.append(x.astype(np.float32))
                continue
            low, high = (0, 255) if dtype is np.uint8 else (-128, 127)
            constant = {"low": low, "high": high, "zero": e["zero_point"]}.get(kind)
            if constant is not None:
                made.append(np.full(shape, constant, dtype))
            elif kind == "extremes":
                made.append(rng.choice([low, high], shape).astype(dtype))
            else:
                made.append(rng.integers(low, high, shape, endpoint=True).astype(dtype))
        return made

    return [make(k) for k in ("low", "high", "zero", "extremes", *["random"] * count)]


@dataclasses.dataclass
class Reference:
    """TensorFlow Lite Micro's interpreter on this machine."""

    model: bytes

    def __post_init__(self) -> None:
        try:
            from tflite_micro.python.tflite_micro import runtime
        except ImportError as error:
            raise TFLiteError(
                "comparing needs TensorFlow Lite Micro: install the Python package tflite-micro"
            ) from error
        self.runtime = runtime
        self.interpreter = self._open(runtime.InterpreterConfig.kAllocationRecording)

    def _open(self, config):
        size = 1 << 20
        while True:  # the arena must fit, and its size is not known beforehand
            try:
                return self.runtime.Interpreter.from_bytes(
                    self.model, arena_size=size, intrepreter_config=config
                )
            except RuntimeError as error:
                if size >= 1 << 28:
                    raise TFLiteError(
                        f"TensorFlow Lite Micro refuses the model: {error}"
                    ) from error
                size *= 4

    def run(self, cases: list[list[np.ndarray]], entries: list[dict]) -> list[list[np.ndarray]]:
        outputs = [e["index"] for e in entries if e["way"] == "output"]
        results = []
        for case in cases:
            for i, x in enumerate(case):
                self.interpreter.set_input(x, i)
            self.interpreter.invoke()
            results.append([np.array(self.interpreter.get_output(i)) for i in outputs])
        return results

    def tensors(self, case: list[np.ndarray], indices: list[int]) -> dict[int, np.ndarray]:
        interpreter = self._open(self.runtime.InterpreterConfig.kPreserveAllTensors)
        for i, x in enumerate(case):
            interpreter.set_input(x, i)
        interpreter.invoke()
        return {i: np.array(interpreter.GetTensor(i, 0)["tensor_data"]) for i in indices}


def verify(
    compiled: compiler.Compiled, model: bytes, count: int = 8, flags: tuple[str, ...] = ("-O1",)
) -> int:
    """Builds and compares; returns the number of cases compared.

    Raises:
        TFLiteError: no compiler, no interpreter, or a difference, with the first layer that shows.
    """
    reference = Reference(model)
    with tempfile.TemporaryDirectory() as folder:
        host = Host(compiled, pathlib.Path(folder), flags)
        batch = cases(host.entries, count)
        want = reference.run(batch, host.entries)
        for got, mode in ((host.run(batch), ""), (host.run_poisoned(batch), " with poisoning")):
            for case, ours, theirs in zip(batch, got, want, strict=True):
                for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                    if a.tobytes() != np.ascontiguousarray(b).tobytes():
                        layer = first_difference(host, reference, case)
                        raise TFLiteError(
                            f"output {index} differs from TensorFlow Lite Micro{mode}; {layer}"
                        )
    return len(batch)


def first_difference(host: Host, reference: Reference, case: list[np.ndarray]) -> str:
    """Names the first layer whose tensor is not the reference's."""
    compiled = host.compiled
    arenas = host.trace(case)
    wanted = reference.tensors(case, [call.output for call in compiled.calls])
    for step, (call, arena) in enumerate(zip(compiled.calls, arenas, strict=True)):
        if step + 1 < len(arenas) and compiled.calls[step + 1].continues:
            continue
        at = compiled.addresses[call.output]
        want = np.ascontiguousarray(wanted[call.output])
        got = np.frombuffer(arena, want.dtype, want.size, at).reshape(want.shape)
        if not np.array_equal(got, want):
            worst = np.abs(got.astype(float) - want.astype(float)).max()
            return (
                f"first layer that differs: {step} ({call.kind} {call.name}, operator "
                f"{call.operator}), {int((got != want).sum())} of {want.size} values, by up to "
                f"{worst:g}"
            )
    return "every layer agrees on its own tensor: the plan must be wrong"
