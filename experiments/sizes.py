"""Characterisation: what every kernel of compiled C takes of flash and of the stack.

    python -m experiments.sizes            prints what differs from the table in the library
    python -m experiments.sizes --ship     writes it: run this after a change to csrc

Everything is compiled for each core as a firmware compiles it, and linked; nothing runs. A kernel
keeps in flash what can be reached from it, as linkers drop the rest; how deep its stack gets is
read from the machine code (``firmware.stack``). The table has the most of all cores and of all ways
in which a kernel can be made; cores differ by some bytes. Of cores with the vector extension and of
those without the DSP extension, whose kernels are others, it has by how much any of them, and the
firmware, takes more of the stack.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tyro

if TYPE_CHECKING:
    from micronets_jax.firmware import stack


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure what kernels take of flash and of the stack."""

    ship: bool = False
    """Write the table into the library."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    from micronets_jax import console

    with console.piped():
        options = tyro.cli(
            Options, args=arguments, description=Options.__doc__, prog="python -m experiments.sizes"
        )
    from micronets_jax import sizes

    with console.errors(ValueError, OSError):
        found = measure()
        path = sizes.PATH
        known = json.loads(path.read_text()) if path.exists() else {}
        print("\n".join(differences(known, found)) or "nothing differs")
        if options.ship:
            path.write_text(json.dumps(found, indent=1) + "\n")
            print(f"shipped: {path}")


def differences(known: Any, found: Any, name: str = "") -> list[str]:
    """What was found other than known, a line each."""
    if not (isinstance(known, dict) and isinstance(found, dict)):
        return [] if known == found else [f"{name}: {known} -> {found}"]
    return [
        line
        for key in {**known, **found}
        for line in differences(known.get(key), found.get(key), f"{name}, {key}".strip(", "))
    ]


def measure() -> dict[str, Any]:
    """The table as JSON data.

    Raises:
        FirmwareError: there is no cross compiler, or something does not compile.
    """
    from micronets_jax import sizes
    from micronets_jax.firmware import boards, tools

    tools.require(tools.COMPILER)
    compiler = f"{tools.COMPILER} {tools.version(tools.COMPILER)}"
    kernels: dict[str, Any] = {}
    more = dict.fromkeys(boards.CORE_FLAGS, 0)
    with tempfile.TemporaryDirectory() as folder:
        for core in boards.CORE_FLAGS:
            for name, depth, parts in _kernels(pathlib.Path(folder) / core, core):
                if core in boards.OTHER_CORES:  # they come behind the others
                    more[core] = max(more[core], depth - kernels[name]["stack"])
                    continue
                known = kernels.setdefault(name, {"stack": 0, "flash": {}})
                known["stack"] = max(known["stack"], depth)
                for part, size in parts.items():
                    known["flash"][part] = max(known["flash"].get(part, 0), size)
        sizes.table()["kernels"] = kernels  # a firmware is planned by the table
        for known in (sizes.table()["firmware"][part] for part in ("flash", "engine", "stack")):
            for kind in sizes.KINDS:
                known.setdefault(kind, known["plain"])  # one that is new, until it is measured
        firmware = _firmware(pathlib.Path(folder) / "firmware")
    for core in boards.OTHER_CORES:
        firmware["more stack"][core] += more[core]
    made = f"python -m experiments.sizes; {compiler}"
    return {"made": made, "kernels": dict(sorted(kernels.items())), "firmware": firmware}


# ---------------------------------------------------------------- kernels

ROUNDINGS = ("MN_POSITIVE", "MN_SIGNED", "MN_MIXED")
SIDES, STRIDES = (3, 5, 7), (1, 2)
OTHERS = ((1, 4, 1, 1), (4, 1, 1, 1), (4, 4, 2, 2), (2, 2, 1, 2), (3, 3, 3, 3), (10, 4, 2, 2))
"""Kernels and strides of depthwise convolutions that have no fast kernel."""

HEADERS = ("kernels.h", "depthwise.h", "depthwise_row.h", "rows.h")

COPY = "__"
"""Between the name of a kernel in the table and the number of a variant."""

TAPS = (2, 7)
"""Most rows that a call reads: what is on the stack for them is counted apart."""


def variants() -> dict[str, list[str]]:
    """Of every kernel that a macro makes, by its name in the table: the macros, the name of what
    they make left open."""
    from micronets_jax import sizes

    found: dict[str, list[str]] = {}
    for rounding, clamp in itertools.product(ROUNDINGS, (0, 1)):
        shapes = [("MN_DEPTHWISE", sizes.depthwise(0, 0, rounding), shape) for shape in OTHERS]
        for side, rows, columns in itertools.product(SIDES, STRIDES, STRIDES):
            name = sizes.depthwise(side, columns, rounding)
            shapes.append(("MN_DEPTHWISE_FAST", name, (side, side, rows, columns)))
            name = sizes.depthwise_line(side, columns, rounding)
            shapes.append(("MN_DEPTHWISE_LINE", name, (1, side, rows, columns)))
        name = sizes.depthwise_fours(rounding)
        shapes += [("MN_DEPTHWISE_FOURS", name, (3, 3, rows, 1)) for rows in STRIDES]
        for macro, name, shape in shapes:
            text = f"{macro}({{}}, {', '.join(map(str, shape))}, {rounding}, {clamp})"
            found.setdefault(name, []).append(text)
    for side, stride in itertools.product(SIDES, STRIDES):
        found[sizes.depthwise_row(side, stride)] = [
            f"MN_DEPTHWISE_ROW_FAST({{}}, {side}, {stride}, {rounding})" for rounding in ROUNDINGS
        ]
    found[sizes.DEPTHWISE_ROW_THREES] = [
        f"MN_DEPTHWISE_ROW_THREES({{}}, {rounding})" for rounding in ROUNDINGS
    ]
    found[sizes.depthwise_row(0, 0)] = ["MN_DEPTHWISE_ROW({})"]
    return found


def program(taps: int) -> str:
    """C with all kernels that headers make: those of whole tensors are called, those of rows are
    in a table."""
    from micronets_jax.kernels import CSRC

    text = "".join((CSRC / name).read_text() for name in HEADERS)
    rows = sorted(set(re.findall(r"void (mn_\w+_row)\(const void \*parameters", text)))
    made, calls = [], ["mn_stream(stretch, &at, a);"]
    for key, macros in variants().items():
        for number, macro in enumerate(macros):
            name = f"{key}{COPY}{number}"
            made.append(macro.format(name))
            if macro.startswith("MN_DEPTHWISE_ROW"):
                rows.append(name)
            else:
                calls.append(f"{name}(layer, a, a, a);")
    return "\n".join(
        [
            *(f'#include "{name}"' for name in HEADERS),
            "void firmware_mark(int layer);",
            "#define MODEL_HOOK(layer, arena) firmware_mark(layer)",
            f"#define MN_TAPS {taps}",
            '#include "stream.h"',
            *made,
            "extern const struct mn_stretch stretch[];",
            "extern const struct mn_depthwise layer[];",
            f"const struct mn_row_op ops[] = {{{', '.join(f'{{.kernel = {r}}}' for r in rows)}}};",
            "void model_run(int8_t *a);",
            "void model_run(int8_t *a)",
            "{",
            "    struct mn_progress at = {0, 0, 0, 0, 0};",
            *(f"    {call}" for call in calls),
            "}",
            "",
        ]
    )


def declared() -> list[str]:
    """Kernels that have a file of their own."""
    from micronets_jax.kernels import CSRC

    return re.findall(r"^void (mn_\w+)\(", (CSRC / "kernels.h").read_text(), re.M)


def _kernels(place: pathlib.Path, core: str) -> Iterator[tuple[str, int, dict[str, int]]]:
    """Name, bytes of stack and of flash by function of every kernel, and of variants several."""
    from micronets_jax.firmware import boards, stack, tools
    from micronets_jax.kernels import CSRC

    place.mkdir()
    flags = boards.CORE_FLAGS[core].split()
    build = [
        *flags, "-O2", "-std=c99", "-ffunction-sections", "-fdata-sections", "-fno-math-errno",
        f"-I{CSRC}", "-c", "-o",
    ]  # fmt: skip
    mark = place / "mark.c"
    mark.write_text("void firmware_mark(int layer);\nvoid firmware_mark(int layer)\n{\n}\n")
    for path in [*(p for p in CSRC.glob("*.c") if p.name != "host.c"), mark]:
        _call(tools.COMPILER, *build, str(place / f"{path.stem}.o"), str(path))
    objects = [str(path) for path in place.glob("*.o")]
    (place / "model").mkdir()
    for taps in TAPS:
        model, elf = place / "model" / "model.c", place / f"{taps}.elf"
        model.write_text(program(taps))
        _call(tools.COMPILER, *build, str(model.with_suffix(".o")), str(model))
        _call(
            tools.COMPILER, *flags, "-nostartfiles", "-Wl,-e,0", f"-Wl,-Map={elf}.map",
            "-Wl,--unresolved-symbols=ignore-all", *objects, str(model.with_suffix(".o")), "-lm",
            "-o", str(elf),
        )  # fmt: skip
        yield from _rows(stack.read(elf), _sections(pathlib.Path(f"{elf}.map")), taps)


def _rows(
    code: stack.Program, sections: Sections, taps: int
) -> Iterator[tuple[str, int, dict[str, int]]]:
    from micronets_jax.firmware import stack

    known = declared()
    for name in code.entries:
        plain = stack.plain(name)
        key, _, number = plain.partition(COPY)
        reached = _reached(code, sections, name)
        if plain == "mn_stream":  # What it reads lies on its stack, a pointer for each row.
            own = {part: size for part, size in reached.items() if part.startswith("model ")}
            yield plain, code.function(name).frame - 4 * taps, own
        elif number.isdecimal() or key in known or (key.endswith("_row") and not number):
            pairs = {
                "mn_depthwise_row": f"{plain}_pairs",
                "mn_depthwise_row_threes": f"{plain}_threes",
            }
            yield key, code.depth(name, pointers=pairs), reached


class Section(NamedTuple):
    """A function or a constant as the linker placed it."""

    start: int
    size: int
    file: str
    name: str


@dataclasses.dataclass(frozen=True)
class Sections:
    """All sections of a program by address."""

    all: list[Section]

    def of(self, address: int) -> Section:
        """The section at or before an address."""
        return self.all[bisect.bisect_right(self.all, (address, 1 << 40)) - 1]


def _sections(path: pathlib.Path) -> Sections:
    from micronets_jax.firmware import link

    return Sections(sorted(Section(*row) for row in link.sections(path.read_text())))


IN_EVERY_FIRMWARE = ("memcpy", "memmove", "memset", "strlen", "aeabi_uldivmod", "udivmoddi4")
"""Of the compiler's library: what the firmware around a model needs too."""


def _reached(code: stack.Program, sections: Sections, name: str) -> dict[str, int]:
    """Bytes of all functions and constants that a function cannot do without, itself included."""
    found: dict[str, int] = {}
    waiting = [code.entries[name]]
    while waiting:
        at = waiting.pop()
        here = sections.of(at)
        key = f"{pathlib.PurePath(here.file).stem} {_plain(here.name)}"
        if not here.start <= at < here.start + here.size or key in found:
            continue
        if ".a(" in here.file and any(name in here.file for name in IN_EVERY_FIRMWARE):
            continue
        found[key] = here.size + -here.size % 4
        for each, start in code.entries.items():
            if here.start <= start < here.start + here.size:
                waiting += [code.entries[callee] for callee in code.function(each).calls]
                waiting += [word & ~1 for word in code.words(each)]
    return found


def _plain(section: str) -> str:
    """The function of a section, variants of one alike."""
    return re.sub(rf"^\.\w+\.|{COPY}\d+", "", section)


def _call(*words: str) -> None:
    from micronets_jax.firmware import FirmwareError

    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise FirmwareError(f"{words[0]} failed: {done.stderr.strip()[:500]}")


# ---------------------------------------------------------------- the firmware around


def _firmware(place: pathlib.Path) -> dict[str, Any]:
    """What the firmware takes besides a model: flash by start-up and core; stack above the model,
    of all that runs at other times, and of interrupts and faults."""
    from micronets_jax import devices, export, firmware, latency_fit, zoo
    from micronets_jax.data import frontends
    from micronets_jax.firmware import boards, engine, link, listening, stack

    network = zoo.dscnn((8, 8), (1,))
    weights = latency_fit.random_weights(np.random.default_rng(0), network)
    model = export.assemble(network, *weights)
    hearing = frontends.to_json(frontends.MFCC())
    classes = tuple(f"word {i}" for i in range(network.layers[-1].out_channels))
    kinds = {
        "plain": {},
        "rows": {"plan": "memory", "rows": True},
        "audio": {"frontend": hearing},
        "audio rows": {"plan": "memory", "rows": True, "frontend": hearing},
        "listening": {"frontend": hearing, "listening": listening.most(classes, 200)},
    }
    flash: dict[str, dict[str, dict[str, int]]] = {}
    engines: dict[str, int] = {}
    depths: dict[str, dict[str, int]] = {}
    handlers = marks = 0
    more = dict.fromkeys(boards.OTHER_CORES, 0)
    for board, kind in itertools.product(devices.DEVICES.values(), kinds):
        if board.startup is None:
            continue
        folder = place / f"{board.name}-{kind}"
        firmware.write(model, board.name, folder, **kinds[kind])
        linked = link.build(folder)
        apart = (engine.OBJECTS, "tables.o", "hearing.o", "compiled.o")
        own = [n for name, n in linked.flash.items() if name.startswith(apart)]
        if board.core not in boards.PORTABLE_CORES:
            engines[kind] = max(engines.get(kind, 0), linked.flash["compiled.o"])
        known = flash.setdefault(kind, {}).setdefault(board.startup.source, {})
        known[board.core] = max(known.get(board.core, 0), linked.flash_bytes - sum(own))
        code = stack.read(linked.elf)
        run = "model_push" if kinds[kind].get("rows") else "model_run"
        known = depths.setdefault(kind, {"above the model": 0, "besides the model": 0})
        above = code.held("core_prepare", run)
        assert above is not None
        besides = code.depth("core_prepare", without=[run])
        for what, taken in (("above the model", above), ("besides the model", besides)):
            if board.core in boards.OTHER_CORES:
                more[board.core] = max(more[board.core], taken - known[what])
            else:
                known[what] = max(known[what], taken)
        if board.core not in boards.PORTABLE_CORES:
            handlers = max(handlers, code.depth("core_trap"), code.depth("core_systick"))
            marks = max(marks, code.depth("firmware_mark"))
    return {
        "flash": flash, "engine": engines, "stack": depths, "more stack": more,
        "handlers": handlers, "a mark": marks,
    }  # fmt: skip


if __name__ == "__main__":
    main()
