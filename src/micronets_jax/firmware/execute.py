"""A firmware or a compiled model on an emulated core, compared with this machine.

Invariant: counts are deterministic in the emulator (one instruction per nanosecond, the clock
restarted before every run), and a hang, a fault or a dead emulator is a sentence after a bounded
time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16

from micronets_jax import devices, protocol, spotting, targets
from micronets_jax.devices import Device
from micronets_jax.firmware import boards, engine, frontend, inputs, link, project, tools
from micronets_jax.firmware.boards import FirmwareError
from micronets_jax.spotting import ONE, Settings
from micronets_jax.tflite import TFLiteError

BUILT_IN = "lcg:12345"
"""The input that a firmware generates for its model when no host sends one."""

USUAL_CORE = "cortex-m4"
"""The default core for compiled models."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One inference of a firmware or of a compiled model, or several of a model with state.

    Attributes:
        device: the board whose firmware it is; of a compiled model, the emulated one.
        machine: what it ran on, an emulated board or the board itself.
        instructions: of the model on an emulated core; core cycles on a real one. Of several runs
            the last, as all that follows.
        frontend_instructions: likewise of the front end over a clip, 0 without audio.
        stack_bytes: most of the stack that was ever in use, of ``stack_reserved`` bytes.
        arena_used: of ``arena_bytes``, as the engine says.
        flash_bytes, ram_bytes: of the whole program, as linked.
        code_bytes: of these, kernels and calls of a compiled model.
        weights_bytes: likewise its weights and tables.
        outputs: of the model.
        stream: outputs of every run, one behind the other from the first on.
        layers: name, kind, MACs and instructions of each.
        differing_outputs: bytes of outputs that the interpreter on this machine gives differently
            for the same inputs, see :func:`verify.judge`; None where it was not asked, or failed.
        notes: a sentence on that.
        feature_steps: largest difference of the front end on the board from the one in Python, in
            steps of the input's scale; None without audio.
    """

    device: str
    machine: str
    runtime: str
    instructions: int
    frontend_instructions: int
    arena_bytes: int
    arena_used: int
    stack_bytes: int
    stack_reserved: int
    flash_bytes: int
    ram_bytes: int
    code_bytes: int
    weights_bytes: int
    outputs: list[np.ndarray]
    stream: list[list[np.ndarray]]
    layers: list[dict[str, Any]]
    differing_outputs: int | None
    notes: tuple[str, ...]
    feature_steps: int | None


def read_manifest(folder: str | pathlib.Path) -> dict[str, Any]:
    """The manifest of a firmware folder.

    Raises:
        FirmwareError: there is none, or it is damaged, or of something else.
    """
    path = pathlib.Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        if manifest["kind"] != "firmware":
            raise KeyError("kind")
        kinds = {
            "interface": list, "layers": list, "device": str, "runtime": str, "stack_bytes": int,
            "arena_bytes": int, "predicted": dict,
        }  # fmt: skip
        wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
        if wrong:
            raise KeyError(wrong[0])
    except OSError as error:
        raise FirmwareError(
            f"{folder} is not a firmware folder: cannot read {path.name} ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise FirmwareError(f"{path} is damaged: {error}; write the firmware again") from error
    devices.device(manifest["device"])
    return manifest


def instructions(ticks: int, machine: Device) -> int:
    """Of an emulated board: one instruction is a nanosecond, a tick is a cycle of its clock."""
    return ticks * 1000 // machine.clock_mhz


def is_firmware(folder: str | pathlib.Path) -> bool:
    """Whether a folder's manifest says that it is a firmware."""
    try:
        manifest = json.loads((pathlib.Path(folder) / "manifest.json").read_text())
        return manifest.get("kind") == "firmware"
    except (OSError, ValueError, AttributeError):
        return False


def run(
    folder: str | pathlib.Path,
    source: str | None = None,
    *,
    core: str | None = None,
    seconds: float = 300.0,
    compare: bool = True,
) -> Run:
    """Builds what a folder holds and runs it once on an emulated core.

    A model with state runs once for each input that the source holds, from its beginning on.

    Args:
        folder: a firmware, which runs on its own emulated board or on the twin of a real one; or a
            compiled model, around which the firmware of an emulated board is put.
        source: ``FILE.npy``, ``FILE.npz``, ``FILE.wav`` (front end on the core), or ``lcg:SEED``.
        core: of a compiled model, :data:`USUAL_CORE` if not given.
        seconds: after which a run counts as hung.
        compare: with TensorFlow Lite Micro on this machine, where the folder holds the model.

    Returns:
        Instructions, bytes of memory and outputs of the inference, and how many bytes of these
        differ from the interpreter's.

    Raises:
        DeviceError: no emulated board has the core.
        FirmwareError: a tool is missing or too old, the input does not fit, or the run failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = _prepared(pathlib.Path(folder), core, pathlib.Path(temporary) / "firmware")
        manifest = read_manifest(place)
        own = devices.device(manifest["device"])
        twin = devices.twin(own)
        remembers = manifest.get("remembers", False)
        hearing, data, clips = None, [], []
        if source is not None and source.lower().endswith(".wav"):
            hearing = _hearing(place, manifest, source)
            path = pathlib.Path(source)
            clips = (
                frontend.stream_of(path, hearing)
                if remembers
                else [frontend.samples_of(path, hearing)]
            )
        else:
            data = inputs.load(source or BUILT_IN, manifest["interface"], remembers)
        tools.version(tools.EMULATOR)
        linked = link.build(place)
        try:
            with emulated(linked.elf, twin, seconds) as board:
                if remembers:
                    board.forget()
                results = [board.run(one) for one in data]
                for i, clip in enumerate(clips):  # whose beginning came with the one before
                    heard = hearing.samples + (i - 1) * hearing.step if hearing and i else 0
                    new = clip[-hearing.step :] if hearing and i else clip
                    results.append(board.run(audio=new.astype("<i2").tobytes(), heard=heard))
                arena_used = int(board.info["arena_bytes"])
        except protocol.BoardFault as error:
            raise FirmwareError(_with_symbol(error, linked.elf)) from error
        except protocol.ProtocolError as error:
            raise FirmwareError(f"{folder} on {twin.name}: {error}") from error
        model = place / "model.tflite"
        reference = model.read_bytes() if compare and model.is_file() else None
    result = results[-1]
    stream = [inputs.split(one.output, manifest["interface"], "output") for one in results]
    layers = [
        {
            **{key: layer[key] for key in ("name", "kind", "macs")},
            "instructions": instructions(ticks, twin),
        }
        for layer, ticks in zip(manifest["layers"], result.layer_ticks, strict=True)
    ]
    differing, steps, notes = None, None, ()
    if reference is not None:
        read = data or [one.features for one in results]
        differing, notes = _differing(reference, read, stream, manifest)
    if hearing is not None:
        e = manifest["interface"][0]
        made = [frontend.features_of(clip, hearing, e["scale"], e["zero_point"]) for clip in clips]
        got = np.frombuffer(b"".join(one.features for one in results), np.int8).astype(int)
        steps = int(np.abs(got - np.concatenate(made, None)).max())
    code = {name: n for name, n in linked.flash.items() if name.startswith(engine.OBJECTS)}
    weights = code.pop(f"{engine.OBJECTS}weights.o", 0)
    return Run(
        own.name, twin.name, manifest["runtime"], instructions(result.ticks, twin),
        instructions(result.frontend_ticks, twin), manifest["arena_bytes"], arena_used,
        result.stack_bytes, manifest["stack_bytes"], linked.flash_bytes, linked.ram_bytes,
        sum(code.values()), weights, stream[-1], stream, layers, differing, notes, steps,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Heard:
    """A stream of sound, heard by the firmware of a spotter on an emulated core.

    Attributes:
        device: the board whose firmware it is.
        machine: what it ran on.
        seconds: of sound.
        words: second at which each was told, the word, its confidence from 0 to 1.
        steps: inferences.
        instructions: of all inferences with smoothing.
        frontend_instructions: of the front end.
        core_share: of the board's core that a stream keeps busy: an estimate from instructions.
        stack_bytes: most of the stack that was ever in use.
        differing_outputs: bytes of outputs that the interpreter on this machine gives differently
            for the same features; None where it was not asked.
        differing_words: words that this machine tells of the same outputs and the core did not, or
            told otherwise.
        feature_steps: largest difference of features from those of the front end in Python, in
            steps of the input's scale; None where it was not asked.
    """

    device: str
    machine: str
    seconds: float
    words: list[tuple[float, str, float]]
    steps: int
    instructions: int
    frontend_instructions: int
    core_share: float
    stack_bytes: int
    differing_outputs: int | None
    differing_words: int | None
    feature_steps: int | None

    @property
    def instructions_per_second(self) -> int:
        """Of sound."""
        return round((self.instructions + self.frontend_instructions) / self.seconds)


def listens(folder: str | pathlib.Path, source: str) -> bool:
    """Whether a folder is the firmware of a spotter, and a recording long enough for a stream.

    Raises:
        FirmwareError: the recording cannot be read.
    """
    settings = _settings(pathlib.Path(folder))
    if settings is None:
        return False
    from micronets_jax.data import DataError, recordings

    if not source.lower().endswith(recordings.SUFFIXES):
        return False
    try:
        return recordings.lasts(pathlib.Path(source), settings.shortest_ms / 1000)
    except DataError as error:
        raise FirmwareError(str(error)) from error


def listen(
    folder: str | pathlib.Path,
    blocks: Iterable[Int16[np.ndarray, " _"]],
    *,
    seconds: float = 300.0,
    compare: bool = True,
) -> Heard:
    """Builds the firmware of a spotter and lets it hear a stream on an emulated core.

    Args:
        folder: the firmware; that of a real board runs on the twin of its core.
        blocks: samples at 16 kHz.
        seconds: after which the answer to one part of the stream counts as hung.
        compare: every inference with TensorFlow Lite Micro, features with Python's and words with
            :class:`spotting.Spotter`'s, on this machine.

    Returns:
        Words with their seconds, instructions of the whole stream, and what differs.

    Raises:
        FirmwareError: not such a firmware, a tool is missing or too old, or the run failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = _prepared(pathlib.Path(folder), None, pathlib.Path(temporary) / "firmware")
        manifest, settings = read_manifest(place), _settings(place)
        if settings is None:
            raise FirmwareError(
                f"{folder} does not listen to streams: write it with --frontend and --listening"
            )
        own = devices.device(manifest["device"])
        twin = devices.twin(own)
        tools.version(tools.EMULATOR)
        linked = link.build(place)
        samples = np.concatenate([np.zeros(0, np.int16), *blocks])
        try:
            with emulated(linked.elf, twin, seconds) as board:
                heard = board.listen([samples.astype("<i2").tobytes()], look=compare)
        except protocol.BoardFault as error:
            raise FirmwareError(_with_symbol(error, linked.elf)) from error
        except protocol.ProtocolError as error:
            raise FirmwareError(f"{folder} on {twin.name}: {error}") from error
        if heard.lost:
            raise FirmwareError(f"{folder} on {twin.name}: {heard.lost} samples were lost")
        hearing = frontend.build((place / "frontend.json").read_text(), manifest["interface"])
        model = (place / "model.tflite").read_bytes()
    length = len(samples) / hearing.record.sample_rate
    work = instructions(heard.ticks + heard.frontend_ticks, twin)
    differ = (
        _stream_differs(heard, samples, settings, hearing, model, manifest) if compare else None
    )
    return Heard(
        own.name, twin.name, length,
        [(settings.seconds(w.step), w.name, w.confidence / ONE) for w in heard.words],
        heard.steps, instructions(heard.ticks, twin), instructions(heard.frontend_ticks, twin),
        work * own.cycles_per_instruction / (own.clock_hz * length), heard.stack_bytes,
        *(differ or (None, None, None)),
    )  # fmt: skip


def _settings(folder: pathlib.Path) -> Settings | None:
    path = folder / project.LISTENING
    if not path.is_file():
        return None
    try:
        return spotting.from_json(path.read_text())
    except ValueError as error:
        raise FirmwareError(f"{path} is damaged: {error}; write the firmware again") from error


def _stream_differs(
    heard: protocol.Heard,
    samples: np.ndarray,
    settings: Settings,
    hearing: frontend.FrontEnd,
    model: bytes,
    manifest: dict[str, Any],
) -> tuple[int, int, int]:
    """Bytes of outputs, words, and steps of features by which a core differs from this machine."""
    from micronets_jax import runtimes
    from micronets_jax.listening import sliding

    reads, says = (
        next(e for e in manifest["interface"] if e["way"] == way) for way in ("input", "output")
    )
    shape = (len(heard.features), *hearing.record.shape)
    features = np.frombuffer(b"".join(heard.features), np.int8).reshape(shape)
    outputs = np.frombuffer(b"".join(heard.outputs), np.int8).reshape(shape[0], -1)
    windows = sliding.windows([samples], hearing.record, settings.hop_ms)
    wanted = runtimes.quantize_input(
        np.concatenate([np.zeros((0, *hearing.record.shape), np.float32), *windows]),
        reads["scale"],
        reads["zero_point"],
    )
    steps = np.abs(features.astype(int) - wanted).max(initial=0)
    there = runtimes.TFLM(model).predict(features).reshape(outputs.shape)
    told = [
        protocol.Word(settings.classes[w.label], w.step, w.confidence)
        for w in spotting.events(spotting.posteriors(outputs, says["scale"]), settings)
    ]
    return int((there != outputs).sum()), len(set(told) ^ set(heard.words)), int(steps)


def _prepared(folder: pathlib.Path, core: str | None, place: pathlib.Path) -> pathlib.Path:
    """A firmware folder for an emulated board: the one that was given, or one made at ``place``."""
    if not is_firmware(folder):
        on = devices.emulated(core or USUAL_CORE)
        project.write(
            project.plan(targets.engine("compiled").written(folder), None, on, folder.name), place
        )
        return place
    if core is not None:
        raise FirmwareError("--core is for compiled folders; a firmware has its board's")
    manifest = read_manifest(folder)
    own = devices.device(manifest["device"])
    if own.emulated:
        return folder
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("build"))
    twin = devices.twin(own)
    for name, text in project.board_files(twin, manifest["stack_bytes"]).items():
        (place / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return place


def _hearing(
    folder: str | pathlib.Path, manifest: dict[str, Any], source: str
) -> frontend.FrontEnd:
    path = pathlib.Path(folder) / "frontend.json"
    if not path.is_file():
        raise FirmwareError(
            f"--input {source}: {folder} has no front end; write it with --frontend frontend.json, "
            "or give features as .npy"
        )
    return frontend.build(path.read_text(), manifest["interface"])


def _differing(
    model: bytes, data: list[bytes], stream: list[list[np.ndarray]], manifest: dict[str, Any]
) -> tuple[int | None, tuple[str, ...]]:
    """Bytes of outputs that differ from those of TensorFlow Lite Micro on this machine, and notes.

    None differ where TensorFlow Lite Micro itself stands alone, and None is the count where it
    fails on the model; a note says so.
    """
    from micronets_jax.compile import verify

    cases = [inputs.split(one, manifest["interface"], "input") for one in data]
    reference = verify.Reference(model)
    try:
        wanted = reference.run(cases, manifest["interface"])
    except verify.InterpreterError as error:
        return None, (f"not compared: {error}",)
    count = sum(
        int(
            np.count_nonzero(
                np.frombuffer(a.tobytes(), np.uint8) != np.frombuffer(b.tobytes(), np.uint8)
            )
        )
        for outputs, others in zip(stream, wanted, strict=True)
        for a, b in zip(outputs, map(np.ascontiguousarray, others), strict=True)
    )
    if count == 0:
        return 0, (f"equal to {reference.name} on this machine",)
    try:
        return 0, verify.judged(model, cases, stream).notes
    except TFLiteError as error:
        return count, (f"{count} bytes differ from {reference.name} on this machine: {error}",)


# ---------------------------------------------------------------- the emulator


class _Pipe:
    """The serial port of a program started here."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin.fileno(), process.stdout.fileno()

    def read(self, seconds: float) -> bytes:
        ready, _, _ = select.select([self._out], [], [], max(0.0, seconds))
        return os.read(self._out, 65536) if ready else b""

    def write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # `alive` says what happened
            while data:
                data = data[os.write(self._in, data) :]


def command(elf: pathlib.Path, board: Device, serial: str = "stdio") -> list[str]:
    """How qemu is started: one instruction per nanosecond, the serial port on ``serial``."""
    return [
        tools.EMULATOR, "-M", boards.startup(board).machine, "-display", "none", "-monitor", "none",
        "-serial", serial, "-icount", "shift=0", "-kernel", str(elf),
    ]  # fmt: skip


@contextlib.contextmanager
def emulated(
    elf: pathlib.Path, board: Device, seconds: float, options: Sequence[str] = ()
) -> Iterator[protocol.Board]:
    """A firmware running in the emulator, ready to be asked, and ended afterwards.

    Args:
        elf: the program.
        board: an emulated one.
        seconds: how long a run may take.
        options: further ones of the emulator, such as a plugin, which writes when it ends.

    Yields:
        The board, to be asked as one on a desk.

    Raises:
        FirmwareError: the emulator ended while it was asked; the sentence has what it said.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command(elf, board), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )

        def alive() -> None:
            if process.poll() is not None:
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().partition("\n")[0]
                raise FirmwareError(
                    f"the emulator ended with status {process.returncode}"
                    + (f": {said[:300]}" if said else "")
                )

        try:
            yield protocol.Board(
                _Pipe(process),
                seconds=min(10.0, seconds),
                run_seconds=seconds,
                tries=1,
                alive=alive,
            )
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def _with_symbol(fault: protocol.BoardFault, elf: pathlib.Path) -> str:
    """The sentence of a fault with the function in which it happened, if that can be known."""
    pc = fault.registers.get("pc") if fault.registers.get("saved") else None
    tool = shutil.which("arm-none-eabi-addr2line")
    if not pc or tool is None:
        return str(fault)
    done = subprocess.run([tool, "-f", "-e", str(elf), hex(pc)], capture_output=True, text=True)
    name = done.stdout.split("\n")[0]
    return f"{fault} in {name}" if name and name != "??" else str(fault)
