"""The emulator: a compiled folder cross-compiled and run on a Cortex-M core under qemu.

Invariant: counts are deterministic. qemu runs one instruction per nanosecond, so a tick of the
25 MHz SysTick is 40 instructions; a hang ends after a bounded time and a fault is a sentence.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
from typing import Any, cast

import numpy as np

BOARD = pathlib.Path(__file__).parent / "csrc" / "board"
_THUMB = ("-mthumb", "-mfloat-abi=hard")
CORES = {  # name -> board of qemu, options of the compiler
    "cortex-m4": ("mps2-an386", (*_THUMB, "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16")),
    "cortex-m7": ("mps2-an500", (*_THUMB, "-mcpu=cortex-m7", "-mfpu=fpv5-d16")),
}
INSTRUCTIONS_PER_TICK = 40
OLDEST_QEMU = (6, 0)
"""Older ones count otherwise or lack mps2-an500."""
_TOOLS = {  # program -> Debian package
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
TIMEOUT_SECONDS = 300


class EmulatorError(RuntimeError):
    """A tool is missing, the folder is not a compiled model, or the run failed."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one inference on a core took and gave; bytes of outputs in ``outputs``."""

    core: str
    instructions: int
    arena_bytes: int
    stack_bytes: int
    code_bytes: int
    weights_bytes: int
    outputs: list[np.ndarray]
    layers: list[dict[str, Any]]


def read_manifest(folder: str | pathlib.Path) -> dict[str, Any]:
    """The manifest of a folder that ``micronets compile`` wrote.

    Raises:
        EmulatorError: there is none, or it is damaged.
    """
    path = pathlib.Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != 1:
            raise EmulatorError(f"{path} has format {manifest['format']}; this program writes 1")
        missing = {"interface", "layers", "arena_bytes"} - manifest.keys()
        if missing:
            raise KeyError(min(missing))
    except OSError as error:
        raise EmulatorError(
            f"{folder} is not a compiled model: cannot read {path.name} ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EmulatorError(f"{path} is damaged: {error}; compile the model again") from error
    return manifest


def lcg_bytes(count: int, seed: int) -> np.ndarray:
    """s = s * 1664525 + 1013904223 mod 2^32 before each byte; the byte is s >> 24."""
    s, out = seed & 0xFFFFFFFF, np.empty(count, np.uint8)
    for i in range(count):
        s = (s * 1664525 + 1013904223) & 0xFFFFFFFF
        out[i] = s >> 24
    return out


def load_input(source: str, manifest: dict[str, Any]) -> bytes:
    """All inputs as bytes, from ``lcg:SEED`` or a NumPy file (.npy; .npz with arrays by index).

    Raises:
        EmulatorError: no such file, or type or size do not fit the model.
    """
    entries = [e for e in manifest["interface"] if e["way"] == "input"]
    if source.startswith("lcg:"):
        try:
            seed = int(source[4:])
        except ValueError as error:
            raise EmulatorError(f"--input {source}: the seed is not an integer") from error
        return lcg_bytes(sum(e["bytes"] for e in entries), seed).tobytes()
    try:
        loaded = cast(Any, np.load(source, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise EmulatorError(f"--input {source}: not a readable NumPy file ({error})") from error
    archive = hasattr(loaded, "files")
    arrays = [loaded[name] for name in sorted(loaded.files)] if archive else [loaded]
    if len(arrays) != len(entries):
        raise EmulatorError(
            f"--input {source} holds {len(arrays)} arrays; the model has {len(entries)} inputs "
            "(use an .npz with one array per input)"
        )
    parts = []
    for e, array in zip(entries, arrays, strict=True):
        if array.dtype.name != e["dtype"] or array.size * array.itemsize != e["bytes"]:
            raise EmulatorError(
                f"--input {source}: {array.dtype.name} {list(array.shape)} came; input "
                f"{e['index']} is {e['dtype']} {e['shape']}"
            )
        parts.append(np.ascontiguousarray(array).tobytes())
    return b"".join(parts)


def run(
    folder: str | pathlib.Path,
    core: str = "cortex-m4",
    source: str = "lcg:12345",
    optimise: str = "-O2",
    layers: bool = True,
) -> Run:
    """Builds the folder for a core and runs it once, and once more with a mark after every layer.

    Raises:
        EmulatorError: see there.
    """
    if core not in CORES:
        raise EmulatorError(f"unknown core {core!r}; there are: {', '.join(CORES)}")
    manifest = read_manifest(folder)
    data = load_input(source, manifest)
    for tool in _TOOLS:
        _require(tool)
    with tempfile.TemporaryDirectory() as temporary:
        build = _Build(
            pathlib.Path(folder), manifest, core, data, optimise, pathlib.Path(temporary)
        )
        lines = build.execute(marks=False)
        marked = build.execute(marks=True) if layers and manifest["layers"] else {}
    entries = [e for e in manifest["interface"] if e["way"] == "output"]
    outputs = [
        np.frombuffer(bytes.fromhex(lines[f"output {e['index']}"]), e["dtype"]).reshape(e["shape"])
        for e in entries
    ]
    per_layer = []
    for i, layer in enumerate(manifest["layers"]) if marked else ():
        per_layer.append(
            {
                "name": layer["name"], "kind": layer["kind"], "macs": layer["macs"],
                "instructions": int(marked[f"layer {i}"]) * INSTRUCTIONS_PER_TICK,
            }
        )  # fmt: skip
    return Run(
        core, int(lines["total"]) * INSTRUCTIONS_PER_TICK, manifest["arena_bytes"],
        int(lines["stack"]), build.code_bytes, build.data_bytes, outputs, per_layer,
    )  # fmt: skip


def versions() -> list[str]:
    """Compiler and emulator with their versions, as ``tool 1.2.3``.

    Raises:
        EmulatorError: one of them is missing, or the emulator is too old.
    """
    found = []
    for tool in _TOOLS:
        _require(tool)
        done = subprocess.run([tool, "--version"], capture_output=True, text=True)
        match = re.search(r"\d+\.\d+\.\d+", done.stdout)
        version = match.group() if match else "of unknown version"
        if tool == "qemu-system-arm" and (
            not match or tuple(map(int, version.split(".")[:2])) < OLDEST_QEMU
        ):
            oldest = ".".join(map(str, OLDEST_QEMU))
            raise EmulatorError(f"{tool} is {version}; install {oldest} or newer")
        found.append(f"{tool} {version}")
    return found


def _require(tool: str) -> None:
    if shutil.which(tool) is None:
        raise EmulatorError(f"{tool} is not installed: install the Debian package {_TOOLS[tool]}")


class _Build:
    def __init__(
        self, folder: pathlib.Path, manifest: dict[str, Any], core: str, data: bytes,
        optimise: str, work: pathlib.Path,
    ) -> None:  # fmt: skip
        self.manifest, self.core, self.work, self.folder = manifest, core, work, folder
        self.flags = [
            "arm-none-eabi-gcc", *CORES[core][1], "-std=c99", optimise, "-ffunction-sections",
            f"-I{folder}",
        ]  # fmt: skip
        (work / "input.bin").write_bytes(data)
        sizes = {
            way: ", ".join(str(e["bytes"]) for e in manifest["interface"] if e["way"] == way)
            for way in ("input", "output")
        }
        (work / "data.c").write_text(
            '__asm__(".section .rodata\\n.global input_begin\\ninput_begin:\\n.incbin \\"'
            f'{work}/input.bin\\"\\n.global input_end\\ninput_end:\\n.previous\\n");\n'
            "#include <stdint.h>\n"
            f"const int32_t input_bytes[] = {{{sizes['input']}}};\n"
            f"const int32_t output_bytes[] = {{{sizes['output']}}};\n"
        )
        self.code_bytes = self.data_bytes = 0
        self.objects = []
        for source in sorted(folder.glob("*.c")):
            out = work / (source.stem + ".o")
            self.compile(source, out)
            self.objects.append(out)
            code, data_size = section_bytes(out.read_bytes())
            self.code_bytes += code
            self.data_bytes += data_size

    def compile(self, source: pathlib.Path, out: pathlib.Path, *more: str) -> None:
        self.call([*self.flags, *more, "-c", str(source), "-o", str(out)])

    def call(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise EmulatorError(f"{command[0]} failed:\n{done.stderr[-2000:]}")

    def execute(self, marks: bool) -> dict[str, str]:
        """Links and runs; the report's lines by their key."""
        objects, more = list(self.objects), []
        if marks:
            hook = self.work / "hook.h"
            hook.write_text(
                "void mn_hook(int layer, void *arena);\n"
                "#define MODEL_HOOK(layer, arena) mn_hook(layer, arena)\n"
            )
            marked = self.work / "model_marked.o"
            self.compile(self.folder / "model.c", marked, "-include", str(hook))
            objects = [marked if o.name == "model.o" else o for o in objects]
            more = [f"-DMPS2_LAYERS={len(self.manifest['layers'])}"]
        board, program = self.work / "board.o", self.work / "program.elf"
        self.compile(BOARD / "mps2.c", board, *more)
        self.call(
            [
                *self.flags, "-nostartfiles", "-Wl,--gc-sections", f"-T{BOARD / 'mps2.ld'}",
                str(board), str(self.work / "data.c"), *map(str, objects), "-o", str(program),
            ]
        )  # fmt: skip
        command = [
            "qemu-system-arm", "-M", CORES[self.core][0], "-nographic", "-monitor", "none",
            "-serial", "none", "-icount", "shift=0", "-semihosting-config",
            "enable=on,target=native", "-kernel", str(program),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise EmulatorError(f"the model did not finish in {TIMEOUT_SECONDS} s") from error
        return _parse(done.stdout + done.stderr)


def _parse(text: str) -> dict[str, str]:
    lines: dict[str, str] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "fault":
            raise EmulatorError(f"the core faulted: {rest}")
        if word in ("layer", "output"):
            key, _, rest = rest.partition(" ")
            lines[f"{word} {key}"] = rest
        else:
            lines[word] = rest
    if lines.get("end") != "0":
        status = lines.get("end")
        what = f"model_run returned {status}" if status else f"no report came:\n{text[-500:]}"
        raise EmulatorError(f"the run failed: {what}")
    return lines


def section_bytes(elf: bytes) -> tuple[int, int]:
    """Bytes of code and of constants in a 32-bit little-endian object file."""
    read = lambda at, size: int.from_bytes(elf[at : at + size], "little")  # noqa: E731
    start, entry, count = read(32, 4), read(46, 2), read(48, 2)
    code = constants = 0
    for header in range(start, start + entry * count, entry):
        kind, flags, size = read(header + 4, 4), read(header + 8, 4), read(header + 20, 4)
        if kind == 1 and flags & 2:  # PROGBITS that are loaded
            if flags & 4:
                code += size
            else:
                constants += size
    return code, constants
