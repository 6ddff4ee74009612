"""The emitter: calls and addresses as C text, and the prediction of its size.

Invariant: the text is a function of the model alone (no time, no path, no hash order), and every
table's size in bytes is known before anything is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from micronets_jax import sizes
from micronets_jax.compile.graph import Value
from micronets_jax.compile.kernels import CHANNEL, Call
from micronets_jax.compile.stream import Stretch, sources_of
from micronets_jax.counts import align
from micronets_jax.kernels import CSRC, SIZES, Field, struct_bytes, structs
from micronets_jax.tflite import TFLiteError

_WITH_WEIGHTS = frozenset(["conv", "depthwise", "grouped", "transpose_conv", "svdf", "lstm"])
_ELEMENTS = {
    "u2": "uint16_t",
    "i1": "int8_t",
    "u1": "uint8_t",
    "i2": "int16_t",
    "i4": "int32_t",
    "f4": "float",
}


def constant_bytes(
    steps: Iterable[Call | Stretch], calls: Iterable[Call], operands: dict[int, np.ndarray]
) -> tuple[int, int]:
    """Bytes of weights (with biases and scales) and of tables (parameters and the like), all that
    weights.c holds."""
    table = structs()
    weights = sum(data.nbytes for data in operands.values())
    tables = 0
    seen: set[bytes] = set()
    found = [(call.kind, array) for call in calls for array in arrays(call)]
    found += [
        ("map", np.array(source.map, np.int16))
        for step in steps
        if isinstance(step, Stretch)
        for node in step.nodes
        for source in sources_of(node)
        if source.map
    ]
    for kind, array in found:
        key = array.dtype.str.encode() + array.tobytes()
        if key in seen:
            continue
        seen.add(key)
        if kind in _WITH_WEIGHTS:
            weights += array.nbytes
        else:
            tables += array.nbytes
    tables += sum(struct_bytes(call.struct, table)[0] for call in calls if call.struct)
    return weights, tables


def stretch_bytes(stretch: Stretch) -> int:
    """Bytes of the tables of a stretch, which model.c holds."""
    table = structs()
    count = {
        "mn_stretch": 1,
        "mn_phase": len(stretch.loops),
        "mn_row_call": sum(len(calls) for calls, _ in stretch.loops),
        "mn_row_op": len(stretch.nodes),
        "mn_source": sum(len(sources_of(n)) for n in stretch.nodes),
    }
    return sum(n * struct_bytes(name, table)[0] for name, n in count.items())


def code_bytes(steps: Iterable[Call | Stretch], calls: Iterable[Call]) -> int:
    """Predicted bytes of code, with the tables of stretches (see ``sizes``)."""
    steps, calls = list(steps), list(calls)
    stretches = [step for step in steps if isinstance(step, Stretch)]
    total = sizes.run_bytes(len(steps), any(stretch.pushed for stretch in stretches))
    total += sum(stretch_bytes(stretch) for stretch in stretches)
    kernels = [(size_name(call), call.function, 1) for call in calls]
    if stretches:
        kernels.append(("mn_stream", "mn_stream", 1))
    return total + sizes.code_bytes(kernels)


def stack_bytes(steps: Iterable[Call | Stretch], calls: Iterable[Call]) -> int:
    """Stack of a run of the model, at most (see ``sizes``)."""
    calls = list(calls)
    stretches = [step for step in steps if isinstance(step, Stretch)]
    by_rows = {id(call) for stretch in stretches for call in stretch.layers}
    whole = [(size_name(call), 1) for call in calls if id(call) not in by_rows]
    deepest = sizes.stack_bytes(whole)
    for stretch in stretches:
        rows = sizes.stack_bytes([(size_name(call), 1) for call in stretch.layers if call])
        streaming = sizes.stack_bytes([("mn_stream", 1)]) + 4 * stretch.taps
        deepest = max(deepest, sizes.STREAM_STACK_BYTES + streaming + rows)
    passed = max((_arguments(call) for call in calls), default=0)
    loops = _LOOP * any(call.repeats > 1 for call in calls)
    return sizes.RUN_STACK_BYTES + loops + align(4 * max(0, passed - 4), 8) + deepest


_LOOP = 16  # where kernels are called once for each picture of a batch


def _arguments(call: Call) -> int:
    """Number of arguments of a kernel's call; four are passed in registers."""
    found = [call.struct, call.table is not None, call.scratch]
    lists = [call.leading, call.inputs, call.states, call.trailing]
    return sum(map(bool, found)) + sum(map(len, lists)) + 1


def size_name(call: Call) -> str:
    """The name of a call's kernel in the table of sizes."""
    if not call.template:
        return call.function
    if call.template.startswith("MN_DEPTHWISE_FOURS"):
        return sizes.depthwise_fours(call.fields["rounding"])
    if call.template.startswith("MN_DEPTHWISE_ROW_THREES"):
        return sizes.DEPTHWISE_ROW_THREES
    f, fast = call.fields, "FAST" in call.template
    if call.template.startswith("MN_DEPTHWISE_LINE"):
        return sizes.depthwise_line(f["kernel_columns"], f["stride_columns"], f["rounding"])
    side, stride = (f["kernel_columns"], f["stride_columns"]) if fast else (0, 0)
    if call.template.startswith("MN_DEPTHWISE_ROW"):
        return sizes.depthwise_row(side, stride)
    return sizes.depthwise(side, stride, f["rounding"])


def arrays(call: Call) -> list[np.ndarray]:
    """The constant arrays of a call, its table last."""
    found = [v for v in call.fields.values() if isinstance(v, np.ndarray)]
    return found if call.table is None else [*found, call.table]


class Emitter:
    """Text of the generated files."""

    def __init__(
        self,
        steps: list[Call | Stretch],
        addresses: dict[int, int],
        places: list[list[int]],
        operands: dict[int, np.ndarray],
        states: list[tuple[Value, int]],
        title: str,
    ) -> None:
        self.steps, self.addresses, self.title = steps, addresses, title
        self.states = states
        self.state_places = {value.tensor: at for value, at in states}
        self.names: dict[bytes, str] = {}
        self.data: list[tuple[str, str, np.ndarray]] = []
        self.structs = structs()
        self.resetting = self.reset()  # its constants first
        self.operands = {i: self.array(d.astype(np.int8)) for i, d in operands.items()}
        self.layers: list[Call] = []
        self.parameters: list[str] = []  # definitions of the layers' parameters
        self.tables: list[str] = []  # definitions of the stretches' tables
        self.body = [
            self.stretch(i, step, local)
            if isinstance(step, Stretch)
            else self.call(step, local[0] if local else 0)
            for i, (step, local) in enumerate(zip(steps, places, strict=True))
        ]

    def array(self, array: np.ndarray) -> str:
        """Name of the constant with these contents; equal contents are stored once."""
        key = array.dtype.str.encode() + array.tobytes()
        if key not in self.names:
            self.names[key] = f"model_data_{len(self.names)}"
            ctype = (
                "struct mn_channel"
                if array.dtype == CHANNEL
                else _ELEMENTS[array.dtype.str.lstrip("<|")]
            )
            self.data.append((self.names[key], ctype, array))
        return self.names[key]

    def layer(self, call: Call) -> str:
        """Takes the next layer: defines its parameters, if it has some, and gives their address."""
        index = len(self.layers)
        self.layers.append(call)
        if not call.struct:
            return "0"
        values = ", ".join(
            self.initialiser(field, call.fields[field.name]) for field in self.structs[call.struct]
        )
        self.parameters.append(f"const struct {call.struct} model_layer_{index} = {{{values}}};")
        return f"&model_layer_{index}"

    def call(self, call: Call, scratch: int) -> list[str]:
        """A call on whole tensors."""
        parameters = self.layer(call)
        arguments = [parameters] if call.struct else []
        if call.table is not None:
            arguments.append(self.array(call.table))
        arguments += call.leading
        arguments += [self.pointer(call, i, "in") for i in call.inputs]
        arguments += [self.state(i) for i in call.states]
        output = self.pointer(call, call.output, "out")
        # memcpy is the only function whose table is what it reads
        arguments = [output, *arguments] if call.function == "memcpy" else [*arguments, output]
        if call.scratch:
            arguments.append(f"a + {scratch}")
        arguments += call.trailing
        loop = f"for (int32_t i = 0; i < {call.repeats}; i++) " if call.repeats > 1 else ""
        return [
            f"{loop}{call.function}({', '.join(arguments)}); /* {_comment(call)} */",
            f"MODEL_HOOK({len(self.layers) - 1}, arena);",
        ]

    def stretch(self, number: int, stretch: Stretch, local: list[int]) -> list[str]:
        """The tables of a stretch, and the call that follows them."""
        where = stretch.places(self.addresses, local)
        waiting = iter(local[len(stretch.rings) :])
        scratch = local[-1] if local else 0
        sources: list[str] = []
        ops: list[str] = []
        for node, call in zip(stretch.nodes, stretch.layers, strict=True):
            place = where[node.node.output]
            room = next(waiting) if node.accumulates else scratch
            first = len(sources)
            for source in sources_of(node):
                at, constant = where.get(source.tensor), self.operands.get(source.tensor, "0")
                pitch = at.pitch if at else source.row_bytes
                offset, depth = (at.offset, at.depth) if at else (0, source.rows)
                mapped = self.array(np.array(source.map, np.int16)) if source.map else "0"
                sources.append(
                    f"{{{constant}, {mapped}, {offset}, {pitch}, {depth}, {source.rows}, "
                    f"{source.taps}, {source.stride}, {source.pad}, {source.dilation}}}"
                )
            layer, kernel, parameters = -1, "0", "0"
            if call:
                layer, kernel, parameters = len(self.layers), call.function, self.layer(call)
            comment = f" /* {_comment(call)} */" if call else " /* rows that are pushed */"
            ops.append(
                f"{{{kernel}, {parameters}, model_sources_{number} + {first}, {place.offset}, "
                f"{place.pitch}, {room}, {place.depth}, {len(sources) - first}, {layer}}},{comment}"
            )
        loops = stretch.loops
        rows = [f"{{{row}, {op}, {step}}}" for calls, _ in loops for op, row, step in calls]
        times = [f"{{{len(calls)}, {n}}}" for calls, n in loops]
        self.tables += [
            f"static const struct mn_source model_sources_{number}[] = {{",
            *(f"    {text}," for text in sources or ["{0}"]),
            "};",
            f"static const struct mn_row_op model_ops_{number}[] = {{",
            *(f"    {text}" for text in ops),
            "};",
            f"static const struct mn_row_call model_calls_{number}[] = {{",
            *("    " + ", ".join(rows[i : i + 8]) + "," for i in range(0, len(rows), 8)),
            "};",
            f"static const struct mn_phase model_phases_{number}[] = {{{', '.join(times)}}};",
            f"static const struct mn_stretch model_stretch_{number} = {{model_ops_{number}, "
            f"model_calls_{number}, model_phases_{number}, {len(loops)}}};",
            "",
        ]
        return [f"stream(&model_stretch_{number}, a);"]

    def pointer(self, call: Call, tensor: int, way: str) -> str:
        """The C expression of a pointer to a tensor, for a call that reads it (``way`` is ``in``)
        or writes it."""
        known = tensor in self.operands
        at = call.in_offset if way == "in" else call.byte_offset
        if known:
            place = f"{self.operands[tensor]} + {at}"
        elif tensor in self.state_places:
            place = f"s + {at + self.state_places[tensor]}"
        else:
            place = f"a + {at + self.addresses[tensor]}"
        if call.repeats > 1:
            place += f" + i * {call.in_step if way == 'in' else call.out_step}"
        ctype = call.in_type if way == "in" else call.out_type
        if ctype == "int8_t":
            return place
        const = "const " if way == "in" else ""
        void = f"({const}void *)" if SIZES[ctype] > 1 else ""
        return f"({const}{ctype} *){void}({place})"

    def state(self, tensor: int) -> str:
        """A state that a call reads and writes."""
        return f"(void *)(s + {self.state_places[tensor]})"

    def initialiser(self, field: Field, value: np.ndarray | list[int] | str | int) -> str:
        """The C initialiser of a struct's field."""
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, list):
            return "{" + ", ".join(map(_integer, value)) + "}"
        return value if isinstance(value, str) else _integer(value)

    def model_c(self, arena: list[tuple[str, int | None]], progress: int = 0) -> str:
        """The program.

        Args:
            arena: per entry of the interface, the tensor's address, None if it is never whole.
            progress: where a stretch that waits for rows keeps where it stands.
        """
        stretches = [step for step in self.steps if isinstance(step, Stretch)]
        headers = [
            "model.h",
            "weights.h",
            *sorted({name for call in self.layers for name in _headers(call)} - {"stream.h"}),
        ]
        lines = [f"/* {self.title} */", *(f'#include "{h}"' for h in headers), ""]
        lines += [
            "/* A debugger or a profiler may define this: it runs after every layer, and after",
            " * every row of layers that compute row by row. */",
            "#ifndef MODEL_HOOK",
            "#define MODEL_HOOK(layer, arena) ((void)0)",
            "#endif",
            "",
        ]
        if stretches:
            taps = max(stretch.taps for stretch in stretches)
            lines += [f"#define MN_TAPS {taps}", '#include "stream.h"', ""]
        lines += [
            *sorted({call.template for call in self.layers if call.template}),
            "",
            *self.tables,
            *self.resetting,
        ]
        pushed = bool(stretches) and stretches[0].pushed
        if len(stretches) > pushed:
            lines += [
                "static void stream(const struct mn_stretch *stretch, int8_t *arena)",
                "{",
                "    struct mn_progress at = {0, 0, 0, 0, 0};",
                "    mn_stream(stretch, &at, arena);",
                "}",
                "",
            ]
        rest = [f"    {text}" for step in self.body[pushed:] for text in step]
        if pushed:
            lines += _push(progress, rest)
        else:
            lines += [
                f"int model_run(void *arena{', void *state' if self.states else ''})",
                "{",
                "    int8_t *const a = arena;",
                *(["    int8_t *const s = state;"] if self.states else []),
                "    if (a == 0 || (uintptr_t)a % MODEL_ARENA_ALIGN != 0)",
                "        return MODEL_ERROR_ARENA;",
                *_STATE_CHECK * bool(self.states),
                *rest,
                "    return 0;",
                "}",
            ]
        for way in ("input", "output"):
            places = [at for name, at in arena if name == way and at is not None]
            if not places:
                continue
            lines += [
                "",
                f"void *model_{way}(void *arena, int index)",
                "{",
                f"    static const int32_t places[] = {{{', '.join(map(str, places))}}};",
                f"    if (arena == 0 || index < 0 || index >= {len(places)})",
                "        return 0;",
                "    return (int8_t *)arena + places[index];",
                "}",
            ]
        return "\n".join(lines) + "\n"

    def reset(self) -> list[str]:
        """What sets all state to how it begins."""
        if not self.states:
            return []
        lines = ["void model_reset(void *state)", "{", "    int8_t *const s = state;"]
        for value, at in self.states:
            assert value.initial is not None
            data = np.ascontiguousarray(value.initial)
            first = data.view(np.uint8).reshape(-1)
            if (first == first[0]).all():
                lines.append(f"    memset(s + {at}, {first[0]}, {value.bytes});")
            else:
                lines.append(f"    memcpy(s + {at}, {self.array(data)}, {value.bytes});")
        return [*lines, "}", ""]

    def weights_h(self) -> str:
        """Text of ``weights.h``: declarations of all constants."""
        lines = [
            f"/* {self.title} */",
            "#ifndef MODEL_WEIGHTS_H",
            "#define MODEL_WEIGHTS_H",
            '#include "kernels.h"',
            "",
            *(f"extern const {ctype} {name}[{a.size}];" for name, ctype, a in self.data),
            *(
                f"extern const struct {call.struct} model_layer_{i};"
                for i, call in enumerate(self.layers)
                if call.struct
            ),
            "",
            "#endif",
        ]
        return "\n".join(lines) + "\n"

    def weights_c(self) -> str:
        """Text of ``weights.c``: definitions of all constants."""
        parts = [
            f'/* {self.title} */\n#include "weights.h"\n\n'
            "#if defined(__GNUC__)\n"
            "#define ALIGNED __attribute__((aligned(4)))\n"
            "#else\n"
            "#define ALIGNED\n"
            "#endif\n"
        ]
        for name, ctype, array in self.data:
            if array.dtype == CHANNEL:
                rows = ["{" + ",".join(map(_integer, row)) + "}" for row in array.tolist()]
            elif array.dtype.kind == "f":
                rows = [_float(v) for v in array.reshape(-1).tolist()]
            elif array.dtype.str.lstrip("<|") == "i4":
                rows = [_integer(v) for v in array.reshape(-1).tolist()]
            else:
                rows = [str(v) for v in array.reshape(-1).tolist()]
            text = [",".join(rows[i : i + 24]) for i in range(0, len(rows), 24)]
            parts.append(f"const {ctype} {name}[{array.size}] ALIGNED = {{\n")
            parts.append(",\n".join(text))
            parts.append("};\n")
        parts += [definition + "\n" for definition in self.parameters]
        return "".join(parts)


def _integer(value: int | str) -> str:
    """-2^31 has no literal of its own in C."""
    if isinstance(value, str):
        return value
    return "(-2147483647 - 1)" if value == -(1 << 31) else str(int(value))


def _float(value: float) -> str:
    if value != value:
        return "(0.0f / 0.0f)"
    if value in (float("inf"), float("-inf")):
        return f"({'-' if value < 0 else ''}1.0f / 0.0f)"
    return f"{value.hex()}f"


def _comment(call: Call) -> str:
    return re.sub(r"[^ -~]|\*/|/\*|\\", "?", f"{call.kind} {call.name}")[:100]


_STATE_CHECK = [
    "    if (s == 0 || (uintptr_t)s % MODEL_ARENA_ALIGN != 0)",
    "        return MODEL_ERROR_STATE;",
]


def _headers(call: Call) -> list[str]:
    """Files that model.c includes for a call."""
    return [name for name in (call.source, *call.headers) if name.endswith(".h")]


def _push(progress: int, rest: list[str]) -> list[str]:
    """The functions that take rows; ``rest`` is what follows the first stretch."""
    return [
        "void model_begin(void *arena)",
        "{",
        f"    memset((int8_t *)arena + {progress}, 0, sizeof(struct mn_progress));",
        "}",
        "",
        "int model_push(void *arena, const int8_t *rows, int count)",
        "{",
        "    int8_t *const a = arena;",
        f"    struct mn_progress *const at = (void *)(a + {progress});",
        "    if (a == 0 || (uintptr_t)a % MODEL_ARENA_ALIGN != 0)",
        "        return MODEL_ERROR_ARENA;",
        "    if (count < 0 || count > MODEL_INPUT_ROWS - at->rows)",
        "        return MODEL_ERROR_ROWS;",
        "    for (; count > 0; count--, rows += MODEL_INPUT_ROW_BYTES) {",
        "        at->rows++;",
        "        if (at->phase == model_stretch_0.num_phases)",
        "            continue; /* rows that no layer reads */",
        "        mn_stream(&model_stretch_0, at, a); /* rows of padding come before all others */",
        "        mn_take(&model_stretch_0, at, a, rows);",
        "        if (!mn_stream(&model_stretch_0, at, a))",
        "            continue;",
        *(f"    {text}" for text in rest),
        "    }",
        "    return 0;",
        "}",
    ]


def kernel_files(calls: list[Call]) -> dict[str, str]:
    """The hand-written files that the calls need, and no others."""
    files: dict[str, str] = {}
    waiting = ["kernels.h", *(name for call in calls for name in (call.source, *call.headers))]
    try:
        while waiting:
            name = waiting.pop()
            if name not in files:
                files[name] = (CSRC / name).read_text()
                waiting += re.findall(r'#include "(\w+\.h)"', files[name])
        return dict(sorted(files.items()))
    except OSError as error:
        raise TFLiteError(f"the kernels are not installed: {error}") from error
