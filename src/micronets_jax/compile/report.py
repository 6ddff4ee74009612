"""Files beside the sources: header, build files, example, memory map as data and picture.

Invariant: every text is a function of the compiled model alone.
"""

from __future__ import annotations

import dataclasses
import html
import typing
from typing import Any

from micronets_jax.compile.graph import Folding
from micronets_jax.kernels import ALIGNMENT

if typing.TYPE_CHECKING:
    from micronets_jax.compile.compiler import Compiled


def model_h(
    title: str,
    arena_bytes: int,
    state_bytes: int,
    interface: list[dict[str, Any]],
    rows: tuple[int, int] | None = None,
) -> str:
    """The interface of a compiled model: sizes, scales and functions.

    Args:
        title: of the model.
        arena_bytes: of the arena.
        state_bytes: of the state; 0 for a model without.
        interface: inputs, then outputs, as the manifest has them.
        rows: how many rows the input is pushed in, and the bytes of each; None where it is whole.

    Returns:
        The text of ``model.h``.
    """
    lines = [
        f"/* {title} */",
        "#ifndef MODEL_H",
        "#define MODEL_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define MODEL_ARENA_BYTES {arena_bytes}",
        f"#define MODEL_ARENA_ALIGN {ALIGNMENT}",
        "#define MODEL_ERROR_ARENA 1 /* no arena, or not aligned */",
    ]
    if state_bytes:
        lines += [
            f"#define MODEL_STATE_BYTES {state_bytes}",
            "#define MODEL_ERROR_STATE 2 /* no state, or not aligned */",
        ]
    for way in ("input", "output"):
        entries = [entry for entry in interface if entry["way"] == way]
        lines += ["", f"#define MODEL_NUM_{way.upper()}S {len(entries)}"]
        for entry in entries:
            prefix = f"#define MODEL_{way.upper()}_{entry['index']}_"
            shape = " x ".join(map(str, entry["shape"])) or "1"
            lines.append(f"{prefix}BYTES {entry['bytes']} /* {entry['dtype']} {shape} */")
            scale = entry["scale"] if entry["dtype"] in ("int8", "uint8", "int16") else 1.0
            lines.append(f"{prefix}SCALE {scale!r}f")
            lines.append(f"{prefix}ZERO_POINT ({entry['zero_point']})")
    if rows:
        lines += [
            "",
            f"#define MODEL_INPUT_ROWS {rows[0]}",
            f"#define MODEL_INPUT_ROW_BYTES {rows[1]}",
            "#define MODEL_ERROR_ROWS 2 /* more rows than the input has */",
        ]
        functions = [
            "/* The arena is the caller's: MODEL_ARENA_BYTES, aligned to MODEL_ARENA_ALIGN. Rows",
            " * of the input are pushed as they come, any number at a time, and the model runs as",
            " * far as they allow; outputs are there after the last row, until the next begin. */",
            "void model_begin(void *arena);",
            "int model_push(void *arena, const int8_t *rows, int count); /* 0, or an error code */",
        ]
    else:
        functions = [
            "/* The arena is the caller's: MODEL_ARENA_BYTES, aligned to MODEL_ARENA_ALIGN. Inputs",
            " * lie in it and are written before every run, which overwrites them; outputs stay",
            " * until the next. */",
            *_running(state_bytes > 0),
            "void *model_input(void *arena, int index); /* 0 if there is no such input */",
        ]
    lines += [
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        *functions,
        "void *model_output(void *arena, int index);",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _running(has_state: bool) -> list[str]:
    if not has_state:
        return ["int model_run(void *arena); /* 0, or an error code */"]
    return [
        "int model_run(void *arena, void *state); /* 0, or an error code */",
        "/* The state is the caller's too: MODEL_STATE_BYTES, aligned to MODEL_ARENA_ALIGN. It is",
        " * what the model remembers from one run to the next; this makes it forget. Call it once",
        " * before the first run. */",
        "void model_reset(void *state);",
    ]


def makefile() -> str:
    """Text of the folder's Makefile."""
    return """\
# make            builds the example for this machine
# make CC=arm-none-eabi-gcc CFLAGS="-mcpu=cortex-m4 -mthumb -O2" build/libmodel.a
CFLAGS ?= -O2
MODEL_CFLAGS = -std=c99 -Wall -Wextra -Wconversion -I.
OBJECTS = $(patsubst %.c,build/%.o,$(wildcard *.c))

build/example: example/main.c build/libmodel.a
	$(CC) $(CFLAGS) $(MODEL_CFLAGS) -o $@ $^

build/libmodel.a: $(OBJECTS)
	$(AR) rcs $@ $^

build/%.o: %.c $(wildcard *.h)
	@mkdir -p build
	$(CC) $(CFLAGS) $(MODEL_CFLAGS) -c -o $@ $<

clean:
	rm -rf build

.PHONY: clean
"""


def cmake() -> str:
    """Text of the folder's CMakeLists.txt."""
    return """\
cmake_minimum_required(VERSION 3.13)
project(model C)

file(GLOB MODEL_SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
add_library(model STATIC ${MODEL_SOURCES})
target_include_directories(model PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
set_target_properties(model PROPERTIES C_STANDARD 99)

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  add_executable(example example/main.c)
  target_link_libraries(example model)
endif()
"""


def example(rows: bool = False) -> str:
    """A program that runs the model; ``rows``: that pushes rows."""
    if rows:
        return _EXAMPLE.replace(
            "@LOCALS@", "    static const int8_t row[MODEL_INPUT_ROW_BYTES];\n"
        ).replace(
            "@RUN@",
            """\
    model_begin(&arena);
    for (i = 0; i < MODEL_INPUT_ROWS; i++)
        if (model_push(&arena, row, 1) != 0)
            return 1;
""",
        )
    return _EXAMPLE.replace("@LOCALS@", "").replace(
        "@RUN@",
        """\
    memset(model_input(&arena, 0), 0, MODEL_INPUT_0_BYTES);
#ifdef MODEL_STATE_BYTES
    model_reset(&state);
    if (model_run(&arena, &state) != 0)
        return 1;
#else
    if (model_run(&arena) != 0)
        return 1;
#endif
""",
    )


_EXAMPLE = """\
/* Runs the model once on a zero input and prints the bytes of its first output. */
#include "model.h"

#include <stdio.h>
#include <string.h>

static union {
    int8_t bytes[MODEL_ARENA_BYTES];
    int32_t aligned;
} arena;
#ifdef MODEL_STATE_BYTES
static union {
    int8_t bytes[MODEL_STATE_BYTES];
    int32_t aligned;
} state;
#endif

int main(void)
{
@LOCALS@    const int8_t *output;
    int i;
@RUN@    output = model_output(&arena, 0);
    for (i = 0; i < MODEL_OUTPUT_0_BYTES; i++)
        printf("%d\\n", output[i]);
    return 0;
}
"""


def memory(compiled: Compiled) -> dict[str, object]:
    """Addresses and lives of all buffers; the peak beside its lower bound."""
    plan = compiled.plan
    return {
        "arena_bytes": plan.peak,
        "bound_bytes": plan.bound,
        "steps": len(compiled.steps),
        "buffers": [
            {
                "name": buffer.name,
                "offset": address,
                "bytes": buffer.size,
                "first_step": buffer.first,
                "last_step": buffer.last,
            }
            for buffer, address in zip(plan.buffers, plan.addresses, strict=True)
        ],
    }


def folding(foldings: list[Folding]) -> dict[str, Any]:
    """What constants left of the operations and weights, in all and layer by layer (those that
    lost something)."""
    fields = ("macs", "macs_left", "weights", "weights_left")
    return {
        **{field: sum(getattr(f, field) for f in foldings) for field in fields},
        "layers": [dataclasses.asdict(f) for f in foldings if f.folded],
    }


def folding_lines(foldings: list[Folding]) -> list[str]:
    """One sentence per layer that lost something, and one for all; none where nothing was lost."""
    lines = []
    for f in foldings:
        if f.folded:
            parts = []
            if f.constant:
                parts = [f"{f.constant} of {f.channels} channels of this layer are constant"]
            if f.unread:
                more = (
                    f" more {'is' if f.unread == 1 else 'are'}"
                    if parts
                    else (f" of {f.channels} channels of this layer are")
                )
                parts.append(f"{f.unread}{more} read by nobody")
            idle = _share(f.weights - f.weights_left, f.weights)
            what = " and ".join(parts) or "some of what this layer reads is constant or unused"
            lines.append(
                f"{f.name} (operator {f.operator}): {what}; {idle} of its weights do nothing"
            )
    if lines:
        total = folding(foldings)
        lines.append(
            f"constants are folded: {_share(total['macs_left'], total['macs'])} of the operations "
            f"and {_share(total['weights_left'], total['weights'])} of the weights remain"
        )
    return lines


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"


def memory_svg(compiled: Compiled) -> str:
    """Time to the right, addresses upwards, one rectangle per buffer."""
    plan, steps = compiled.plan, len(compiled.steps) + 2
    width, height, left, bottom = 960, 480, 70, 30
    per_step = (width - left) / steps
    per_byte = (height - bottom - 10) / max(1, plan.peak)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    base = height - bottom
    for buffer, address in zip(plan.buffers, plan.addresses, strict=True):
        x = left + (buffer.first + 1) * per_step
        y = base - (address + buffer.size) * per_byte
        colour = "#d9a066" if buffer.name.startswith("scratch of ") else "#7aa6c2"
        parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" '
            f'width="{(buffer.last - buffer.first + 1) * per_step:.1f}" '
            f'height="{max(0.5, buffer.size * per_byte):.1f}" fill="{colour}" fill-opacity="0.75" '
            f'stroke="#333" stroke-width="0.5"><title>{html.escape(buffer.name)}: {buffer.size} '
            f"bytes at {address}</title></rect>"
        )
    for value, label in ((0, "0"), (plan.bound, "bound"), (plan.peak, str(plan.peak))):
        y = base - value * per_byte
        if label == "bound" and plan.bound == plan.peak:
            continue
        parts.append(
            f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#a33" '
            f'stroke-dasharray="4 3"/><text x="4" y="{y + 4:.1f}">{label}</text>'
        )
    parts.append(
        f'<text x="{left}" y="{height - 8}">layers of {html.escape(compiled.title)}</text>'
    )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def front_svg(compiled: Compiled) -> str:
    """The Pareto front: instructions to the right, memory upwards, the chosen plan filled."""
    points = compiled.front
    width, height, left, bottom = 720, 400, 90, 60
    most = max(p.ram_bytes for p in points)
    low, high = min(p.instructions for p in points), max(p.instructions for p in points)

    def place(ram: int, instructions: int) -> tuple[float, float]:
        along = (instructions - low) / max(1, high - low)
        return left + 20 + along * (width - left - 60), height - bottom - ram / most * 300

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<polyline points="{left},20 {left},{height - bottom} {width - 20},{height - bottom}" '
        'fill="none" stroke="#333"/>',
    ]
    for point in points:
        x, y = place(point.ram_bytes, point.instructions)
        chosen = point.ram_bytes == compiled.arena_bytes
        layers = ", ".join(f"{first} to {last}" for first, last in point.streams) or "none"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" stroke="#7aa6c2" stroke-width="2" '
            f'fill="{"#7aa6c2" if chosen else "white"}"><title>{point.ram_bytes} bytes, '
            f"{point.instructions} instructions; row by row: {html.escape(layers)}</title></circle>"
        )
    for value in (points[0].ram_bytes, most):
        y = place(value, low)[1]
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>')
    for value in sorted({low, high}):
        x = place(0, value)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{value}</text>'
        )
    parts.append(
        f'<text x="{left}" y="{height - 12}">bytes of arena over predicted instructions, '
        f"{html.escape(compiled.title)}</text>"
    )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
