"""The engine that links TensorFlow Lite Micro (TFLM), and what it takes, read from a model's file.

Invariant: the resolver holds exactly the model's operators, and a library that cannot run them on
the board's core is refused before anything is written.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence

import numpy as np

from micronets_jax import reserves, sizes, tflite
from micronets_jax.devices import Device
from micronets_jax.firmware.boards import CORE_FLAGS, FirmwareError
from micronets_jax.firmware.engine import Engine, Interface, Options, source
from micronets_jax.targets.tflm import interpreter
from micronets_jax.targets.tflm.engine import files, linked

DOCUMENTED = (
    "tensorflow/lite/micro/cortex_m_generic/README.md in github.com/tensorflow/tflite-micro"
)
"""Where TFLM says how its static library is built."""

PRINTS = "_Z11MicroPrintfPKcz"
"""``MicroPrintf(const char*, ...)``, which a library without messages lacks."""


@dataclasses.dataclass(frozen=True)
class Library:
    """A static library of TFLM.

    Attributes:
        include: folders of headers: TFLM's own, flatbuffers' and gemmlowp's.
        archive: ``libtensorflow-microlite.a``.
    """

    include: tuple[pathlib.Path, ...]
    archive: pathlib.Path


def find(include: Sequence[str] = (), library: str | None = None) -> Library:
    """The library that was named, or that TFLM_INCLUDE and TFLM_LIBRARY name.

    Raises:
        FirmwareError: not named, or not there; the sentence says where TFLM documents building it.
    """
    folders = list(include) or [p for p in os.environ.get("TFLM_INCLUDE", "").split(":") if p]
    archive = library or os.environ.get("TFLM_LIBRARY")
    for what, given in (
        ("--tflm-library (or TFLM_LIBRARY)", archive),
        ("--tflm-include (or TFLM_INCLUDE)", folders),
    ):
        if not given:
            raise FirmwareError(
                f"the runtime tflm needs {what}, from TFLM's target cortex_m_generic: see "
                f"{DOCUMENTED}"
            )
    if not pathlib.Path(str(archive)).is_file():
        raise FirmwareError(f"there is no TFLM library {archive}: see {DOCUMENTED}")
    paths = tuple(pathlib.Path(folder).resolve() for folder in folders)
    for name in ("tensorflow/lite/micro/micro_interpreter.h", "flatbuffers/flatbuffers.h"):
        if not any((path / name).is_file() for path in paths):
            raise FirmwareError(
                f"no folder of --tflm-include holds {name}: give TFLM's root and the include "
                f"folders of flatbuffers and gemmlowp that it downloaded; see {DOCUMENTED}"
            )
    return Library(paths, pathlib.Path(str(archive)).resolve())


def check_library(
    library: Library, symbols: Collection[str], kinds: Sequence[str], board: Device
) -> None:
    """Whether the library has the operators and is for the core, as far as binutils are here.

    Args:
        library: of TFLM.
        symbols: that it defines.
        kinds: TFLite's names of the operators.
        board: whose core it must be for.

    Raises:
        FirmwareError: it lacks an operator, or is for another core.
    """
    if shutil.which("arm-none-eabi-readelf") is None or shutil.which("arm-none-eabi-nm") is None:
        return
    facts = _run("arm-none-eabi-readelf", "-A", str(library.archive))
    architectures = set(re.findall(r"Tag_CPU_arch: (\S+)", facts))
    others = {
        "cortex-m33": "v8-M.mainline",
        "cortex-m55": "v8.1-M.mainline",
        "cortex-m3": "v7",
        "cortex-m0plus": "v6S-M",
    }
    wanted = others.get(board.core, "v7E-M")
    hard = "hard" in CORE_FLAGS[board.core]
    fp = "+fp" if board.core in ("cortex-m4", "cortex-m7") else ""
    told = f"build it with TARGET_ARCH={board.core}{fp}"
    if architectures != {wanted}:
        found = ", ".join(sorted(architectures)) or "no Arm core"
        raise FirmwareError(
            f"{library.archive} was built for {found}; {board.name} has a {board.core} ({wanted}): "
            f"{told}"
        )
    if hard and "Tag_ABI_VFP_args: VFP registers" not in facts:
        raise FirmwareError(f"{library.archive} was built without hard floats: {told}")
    # A Cortex-M4 has not the registers of the other; a Cortex-M7 has other sizes than are counted.
    built_for = "cortex-m7" if "FPv5" in facts else "cortex-m4"
    if board.core in ("cortex-m4", "cortex-m7") and board.core != built_for:
        raise FirmwareError(
            f"{library.archive} was built for a {built_for}; {board.name} has a {board.core}: "
            f"{told}"
        )
    missing = [kind for kind in kinds if _register(kind) not in symbols]
    if missing:
        raise FirmwareError(
            f"{library.archive} lacks the operator {missing[0]}, which the model needs"
        )


def missing(board: Device) -> str:
    """What to say if TFLM_INCLUDE and TFLM_LIBRARY name no library; one that they name is checked.

    Raises:
        FirmwareError: see :func:`find` and :func:`check_library`.
    """
    if not all(os.environ.get(name) for name in ("TFLM_INCLUDE", "TFLM_LIBRARY")):
        return "TFLM_INCLUDE and TFLM_LIBRARY name no library"
    library = find()
    check_library(library, _symbols(library), (), board)
    return ""


def _symbols(library: Library) -> frozenset[str]:
    """What the library defines, as a C++ compiler spells it; nothing without binutils."""
    if shutil.which("arm-none-eabi-nm") is None:
        return frozenset()
    lines = _run("arm-none-eabi-nm", "--defined-only", str(library.archive)).splitlines()
    return frozenset(line.split()[-1] for line in lines if line.count(" ") == 2)


def _register(kind: str) -> str:
    """``tflite::Register_CONV_2D()``, as a C++ compiler spells it."""
    name = f"Register_{kind}"
    return f"_ZN6tflite{len(name)}{name}Ev"


def _parse(kind: str) -> str:
    """What ``tflite::ParseConv2D(...)`` begins with, likewise."""
    name = f"Parse{method(kind).removeprefix('Add')}"
    return f"_ZN6tflite{len(name)}{name}E"


def _code_bytes(library: Library, symbols: Collection[str], kinds: Sequence[str], core: str) -> int:
    """Flash of interpreter and kernels: what the linker keeps of the library, else by the table."""
    kept = None
    if symbols:
        operators = [
            [_register(kind), *(name for name in symbols if name.startswith(_parse(kind)))]
            for kind in kinds
        ]
        kept = linked.kept_bytes(library.archive, symbols, operators, core)
    return interpreter.code_bytes(kinds, core) if kept is None else kept


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    return done.stdout


def build(model: bytes, board: Device, options: Options) -> Engine:
    """The model in TFLM's interpreter.

    Raises:
        TFLiteError: the file cannot be read.
        FirmwareError: see :func:`find` and :func:`check_library`; the model keeps variables; or its
            input shall come row by row.
    """
    if options.rows:
        raise FirmwareError("--input rows: the runtime tflm needs the input whole")
    library = find(options.tflm_include, options.tflm_library)
    parsed = tflite.read(model)
    kinds = list(dict.fromkeys(operator.kind for operator in parsed.operators))
    if "VAR_HANDLE" in kinds:
        raise FirmwareError(
            "the model keeps variables (VAR_HANDLE), for which the runtime tflm has no memory: "
            "use --runtime compiled"
        )
    symbols = _symbols(library)
    check_library(library, symbols, kinds, board)
    predicted = files.predict(parsed)
    reserved = interpreter.arena_reserved(predicted.total)
    layers = [
        {"name": _name(parsed, operator), "kind": operator.kind, "operator": operator.index,
         "macs": _macs(parsed, operator)}
        for operator in parsed.operators
    ]  # fmt: skip
    written: dict[str, str | bytes] = {name: source(name) for name in ("tflm.cc", "model_data.c")}
    written["operators.h"] = _operators(kinds)
    return Engine(
        runtime="tflm",
        files=written,
        interface=_interface(parsed),
        layers=layers,
        arena_bytes=reserved,
        flash={
            "model": -(-len(model) // 16) * 16,
            "interpreter and kernels": _code_bytes(library, symbols, kinds, board.core),
        },
        ram={
            "arena": reserved,
            "layer times": reserves.LAYER_BYTES * len(layers),
            "interpreter": interpreter.state_bytes(len(kinds)),
        },
        stack_bytes=dict.fromkeys(sizes.KINDS, interpreter.STACK_BYTES),
        remembers=any(t.variable for t in parsed.tensors.values()),
        makefile=_makefile(library, silent=bool(symbols) and PRINTS not in symbols),
        facts={"arena_predicted": predicted._asdict()},
    )


def _makefile(library: Library, *, silent: bool) -> str:
    # TFLM's headers must print as the library does; built with BUILD_TYPE=release it does not.
    quiet = "-DTF_LITE_STRIP_ERROR_STRINGS " if silent else ""
    return f"""\
TFLM_INCLUDE = {":".join(map(str, library.include))}
TFLM_LIBRARY = {library.archive}
ENGINE = tflm.o model_data.o
LINKER = $(CXX)
LIBRARIES = $(TFLM_LIBRARY) -lm --specs=nano.specs --specs=nosys.specs
CXXFLAGS = -O2 -std=c++17 -fno-rtti -fno-exceptions -fno-threadsafe-statics \\
  -fno-unwind-tables -fno-asynchronous-unwind-tables -DTF_LITE_STATIC_MEMORY {quiet}\\
  $(addprefix -isystem ,$(subst :, ,$(TFLM_INCLUDE)))

build/tflm.o: tflm.cc $(HEADERS)
	@mkdir -p build
	$(CXX) $(CFLAGS) $(CXXFLAGS) -c -o $@ $<
build/model_data.o: model.tflite
"""


def _operators(kinds: Sequence[str]) -> str:
    calls = "".join(f"  resolver.{method(kind)}();\n" for kind in kinds)
    return f"""\
// The operators of the model, and no others.
#ifndef OPERATORS_H
#define OPERATORS_H

#define FIRMWARE_OPERATORS {len(kinds)}

template <typename Resolver>
inline void RegisterOperators(Resolver &resolver)
{{
{calls}}}

#endif
"""


def method(kind: str) -> str:
    """What TFLM's resolver calls an operator: CONV_2D is AddConv2D."""
    return "Add" + "".join(word if word == "2D" else word.capitalize() for word in kind.split("_"))


def _name(model: tflite.Model, operator: tflite.Operator) -> str:
    return model.tensors[operator.outputs[0]].name or f"operator {operator.index}"


def _macs(model: tflite.Model, operator: tflite.Operator) -> int:
    if operator.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return 0
    kernel = model.tensors[operator.inputs[1]]
    out = model.tensors[operator.outputs[0]]
    if operator.kind == "DEPTHWISE_CONV_2D":
        return out.size * int(np.prod(kernel.shape[1:3]))
    return out.size * kernel.size // kernel.shape[0]


def _interface(model: tflite.Model) -> Interface:
    entries = []
    for way, tensors in (("input", model.inputs), ("output", model.outputs)):
        for index, number in enumerate(tensors):
            tensor = model.tensors[number]
            if tensor.dtype not in ("int8", "uint8", "float32"):
                raise FirmwareError(
                    f"{way} {index} of the model is {tensor.dtype}; int8, uint8 and float32 are "
                    "supported"
                )
            quantization = tensor.quantization
            entries.append(
                {
                    "way": way, "index": index, "name": tensor.name, "shape": list(tensor.shape),
                    "dtype": tensor.dtype, "scale": quantization.scale if quantization else 1.0,
                    "zero_point": quantization.zero_point if quantization else 0,
                    "bytes": tensor.size * (4 if tensor.dtype == "float32" else 1),
                    "tensor": number,
                }
            )  # fmt: skip
    return entries
