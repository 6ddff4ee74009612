"""The check on this machine: a compiled folder against two interpreters, byte by byte.

Invariant: the bytes of every output are compared, on inputs that include the limits of int8; of a
difference the first layer is named, and which of the three computes it alone.

TensorFlow Lite Micro (TFLM) is what a model is compiled to equal. It is wrong about some files:
Keras exports a dilated convolution with an open batch as SPACE_TO_BATCH_ND, CONV_2D and
BATCH_TO_SPACE_ND, whose batches TFLM takes to be 1 (tflite-micro, issue 2319). So LiteRT with its
reference kernels is asked too; where it and the compiled model agree, TFLM stands alone.
LiteRT in turn rounds dense layers once where TFLM rounds twice: there it stands alone, by one step.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import struct
import subprocess
import tempfile
from typing import Literal

import numpy as np

from micronets_jax.compile import compiler
from micronets_jax.compile.interpreters import InterpreterError, Reference
from micronets_jax.tflite import TFLiteError

WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
_KERNELS: dict[tuple, bytes] = {}
_NUMPY = {
    "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "int32": np.int32, "float32": np.float32,
}  # fmt: skip


class Host:
    """A compiled model built for this machine."""

    def __init__(
        self,
        compiled: compiler.Compiled,
        folder: pathlib.Path,
        flags: tuple[str, ...] = ("-O1",),
        cc: str = "cc",
    ) -> None:
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
        """Runs a tool of the build.

        Raises:
            TFLiteError: it failed; the sentence has its last words.
        """
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
        ran = [-1, *(call.layer for call in self.compiled.accesses)]
        with tempfile.NamedTemporaryFile(suffix=".dead") as file:
            for layer, ranges in zip(ran, self.compiled.dead_ranges(), strict=True):
                if layer < 0 and file.tell():
                    continue  # a row that is pushed is not a layer
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
            if dtype is np.int16:
                low, high = -(1 << 15), (1 << 15) - 1
            constant = {"low": low, "high": high, "zero": e["zero_point"]}.get(kind)
            if constant is not None:
                made.append(np.full(shape, constant, dtype))
            elif kind == "extremes":
                made.append(rng.choice([low, high], shape).astype(dtype))
            else:
                made.append(rng.integers(low, high, shape, endpoint=True).astype(dtype))
        return made

    return [make(k) for k in ("low", "high", "zero", "extremes", *["random"] * count)]


Like = Literal["reference", "tflm"]
"""Who is right where TFLM and LiteRT's reference kernels differ and the compiled model equals the
latter: the reference, or TFLM whatever it computes."""

LIKES: tuple[Like, ...] = ("reference", "tflm")

ROUNDED_ONCE = ("conv",)
"""Kinds of calls that LiteRT rounds once where TFLM rounds twice; dense layers are convolutions."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a comparison without an objection found.

    Attributes:
        cases: how many inputs were compared.
        equal_to: names of the interpreters that gave the same bytes.
        notes: a sentence for each interpreter that did not.
    """

    cases: int
    equal_to: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(
    compiled: compiler.Compiled,
    model: bytes,
    count: int = 8,
    flags: tuple[str, ...] = ("-O1",),
    like: Like = "reference",
) -> Verdict:
    """Builds the compiled model for this machine and compares it.

    Args:
        compiled: the model compiled.
        model: the file that it was compiled from.
        count: random inputs beside the constant and saturating ones.
        flags: of the C compiler.
        like: who is right where the interpreters differ.

    Returns:
        How many inputs were compared, and which interpreters gave the same bytes.

    Raises:
        TFLiteError: no compiler, no interpreter that runs the model, or a difference that is not
            the interpreter's own, with the first layer that shows it.
    """
    with tempfile.TemporaryDirectory() as folder:
        host = Host(compiled, pathlib.Path(folder), flags)
        batch = cases(host.entries, count)
        ours = host.run(batch)
        spoiled = _first_difference(ours, host.run_poisoned(batch))
        if spoiled is not None:
            raise TFLiteError(
                f"output {spoiled[1]} changes when dead bytes of the arena are overwritten: the "
                "memory plan is wrong, which is an error of ours"
            )
        return judge(host, model, batch, ours, like)


def judged(model: bytes, batch: list[list[np.ndarray]], ours: list[list[np.ndarray]]) -> Verdict:
    """:func:`judge` of outputs that a core gave: layers are those of this machine.

    Raises:
        TFLiteError: as :func:`verify`.
    """
    with tempfile.TemporaryDirectory() as folder:
        host = Host(compiler.compile_model(model), pathlib.Path(folder))
        return judge(host, model, batch, ours)


def judge(
    host: Host,
    model: bytes,
    batch: list[list[np.ndarray]],
    ours: list[list[np.ndarray]],
    like: Like = "reference",
) -> Verdict:
    """Compares outputs with those of both interpreters.

    Args:
        host: the compiled model, which is asked for layers where outputs differ.
        model: the file.
        batch: inputs of every case.
        ours: outputs of every case.
        like: as in :func:`verify`.

    Returns:
        As :func:`verify`.

    Raises:
        TFLiteError: as :func:`verify`.
    """
    references = Reference(model, "tflm"), Reference(model, "litert")
    equal, notes, failed = [], [], []
    differing: dict[str, tuple[int, int]] = {}
    for reference in references:
        try:
            found = _first_difference(ours, reference.run(batch, host.entries))
        except InterpreterError as error:
            failed.append(str(error))
            continue
        if found is None:
            equal.append(reference.name)
        else:
            differing[reference.engine] = found
    if len(failed) == len(references):
        raise TFLiteError("nothing to compare with: " + "; ".join(failed))
    layers = {
        reference.engine: _first_layer(host, references, batch[differing[reference.engine][0]], i)
        for i, reference in enumerate(references)
        if reference.engine in differing
    }
    if "tflm" in layers:
        layer = layers["tflm"]
        if like == "tflm" or not layer.alone:
            raise TFLiteError(
                f"output {differing['tflm'][1]} differs from {references[0].name}; {layer}"
            )
        notes.append(f"{references[0].name} stands alone: {layer}")
    if "litert" in layers:
        layer = layers["litert"]
        known = layer.alone or (layer.kind in ROUNDED_ONCE and layer.steps <= 1)
        if references[0].name not in equal and not known:
            raise TFLiteError(
                f"output {differing['litert'][1]} differs from {references[1].name}; {layer}"
            )
        notes.append(f"{references[1].name} stands alone: {layer}")
    return Verdict(len(batch), tuple(equal), (*notes, *failed))


def _first_difference(
    ours: list[list[np.ndarray]], theirs: list[list[np.ndarray]]
) -> tuple[int, int] | None:
    """Case and output of the first that differs, or None."""
    for number, outputs in enumerate(zip(ours, theirs, strict=True)):
        for index, (a, b) in enumerate(zip(*outputs, strict=True)):
            if a.tobytes() != np.ascontiguousarray(b).tobytes():
                return number, index
    return None


@dataclasses.dataclass(frozen=True)
class Layer:
    """The first layer at which an interpreter computes something else than the compiled model.

    Attributes:
        text: which one, and by how much.
        kind: of its call; empty where every layer agrees.
        steps: largest difference; infinite between tensors of different sizes.
        alone: whether the other interpreter computes what the compiled model does.
    """

    text: str
    kind: str
    steps: float
    alone: bool

    def __str__(self) -> str:
        return self.text


def _stored(compiled: compiler.Compiled, tensors: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Tensors of an interpreter without the channels that were folded away."""
    kept = compiled.graph.kept
    return {i: x[..., kept[i]] if i in kept else x for i, x in tensors.items()}


def _first_layer(
    host: Host, references: tuple[Reference, Reference], case: list[np.ndarray], which: int
) -> Layer:
    """The first layer at which ``references[which]`` differs from the compiled model."""
    compiled = host.compiled
    arenas = host.trace(case)
    indices = [call.output for call in compiled.calls]
    try:
        theirs = _stored(compiled, references[which].tensors(case, indices))
    except InterpreterError as error:
        return Layer(f"its layers cannot be seen: {error}", "", np.inf, False)
    try:
        others = _stored(compiled, references[1 - which].tensors(case, indices))
    except InterpreterError:
        others = {}
    ran = [access for access in compiled.accesses if access.layer >= 0]
    for access, arena in zip(ran, arenas, strict=True):
        step, call = access.layer, compiled.calls[access.layer]
        if step + 1 < len(compiled.calls) and compiled.calls[step + 1].continues:
            continue
        written = next((w for w in access.writes if w[0] == call.output), None)
        if written is None:  # a row of a sum
            continue
        _, row, begin, end = written

        def part(tensor: np.ndarray, row: int = row, size: int = end - begin) -> np.ndarray:
            flat = np.ascontiguousarray(tensor).reshape(-1)
            if row < 0:
                return flat
            size //= flat.itemsize
            return flat[row * size :][:size]

        theirs_here = part(theirs[call.output])
        got = np.frombuffer(arena[begin:end], theirs_here.dtype)
        if got.tobytes() == theirs_here.tobytes():
            continue
        steps, count = np.inf, f"a tensor of {theirs_here.size} instead of {got.size} values"
        if got.size == theirs_here.size:
            differing = got != theirs_here
            apart = got.astype(float) - theirs_here.astype(float)
            steps = float(np.abs(apart).max())
            count = f"{int(differing.sum())} of {got.size} values, by up to {steps:g}"
        place = f", row {row}" if row >= 0 else ""
        other = others.get(call.output)
        alone = other is not None and got.tobytes() == part(other).tobytes()
        return Layer(
            f"first layer that differs: {step}{place} ({call.kind} {call.name}, operator "
            f"{call.operator}), {count}",
            call.kind,
            steps,
            alone,
        )
    return Layer("every layer agrees on its own tensor: the plan must be wrong", "", np.inf, False)
