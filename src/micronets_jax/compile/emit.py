"""The emitter: calls and addresses as C text, and the prediction of its size.

Invariant: the text is a function of the model alone (no time, no path, no hash order), and every
table's size in bytes is known before anything is compiled.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from micronets_jax.compile.graph import Value
from micronets_jax.compile.kernels import CHANNEL, Call
from micronets_jax.tflite import TFLiteError

CSRC = pathlib.Path(__file__).parent.parent / "csrc"

_SIZES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4, "float": 4}
_WITH_WEIGHTS = frozenset(["conv", "depthwise", "grouped", "transpose_conv", "svdf", "lstm"])
_ELEMENTS = {
    "u2": "uint16_t",
    "i1": "int8_t",
    "u1": "uint8_t",
    "i2": "int16_t",
    "i4": "int32_t",
    "f4": "float",
}


@dataclasses.dataclass(frozen=True)
class Field:
    name: str
    ctype: str
    pointer: bool
    length: int


def structs() -> dict[str, list[Field]]:
    """The parameter structs of kernels.h: the header is the one place that defines them."""
    text = re.sub(r"/\*.*?\*/", "", (CSRC / "kernels.h").read_text(), flags=re.S)
    found: dict[str, list[Field]] = {}
    for name, body in re.findall(r"struct (mn_\w+) \{(.*?)\};", text, flags=re.S):
        found[name] = []
        for ctype, names in re.findall(r"\s*((?:const )?(?:struct )?\w+)\s+(.*?);", body, re.S):
            for star, field, length in re.findall(r"(\*?)(\w+)(?:\[(\d+)\])?", names):
                found[name].append(Field(field, ctype, bool(star), int(length or 1)))
    return found


def struct_bytes(name: str, table: dict[str, list[Field]]) -> tuple[int, int]:
    """Size and alignment on a 32-bit core (pointers of 4 bytes)."""
    size = align = 1
    at = 0
    for field in table[name]:
        if field.pointer:
            size, step = 4, 4
        elif field.ctype.startswith("struct "):
            size, step = struct_bytes(field.ctype.split()[-1], table)
        else:
            size = step = _SIZES[field.ctype]
        at = -(-at // step) * step + size * field.length
        align = max(align, step)
    return -(-at // align) * align, align


def constant_bytes(calls: Iterable[Call], operands: dict[int, np.ndarray]) -> tuple[int, int]:
    """Bytes of weights (with biases and scales) and of tables (parameters and the like)."""
    table = structs()
    weights = sum(-(-data.nbytes // 4) * 4 for data in operands.values())
    tables = 0
    seen: set[bytes] = set()
    for call in calls:
        for array in arrays(call):
            key = array.dtype.str.encode() + array.tobytes()
            if key in seen:
                continue
            seen.add(key)
            size = -(-array.nbytes // 4) * 4  # every array starts at a word
            if call.kind in _WITH_WEIGHTS:
                weights += size
            else:
                tables += size
        if call.struct:
            tables += struct_bytes(call.struct, table)[0]
    return weights, tables


# Measured: arm-none-eabi-gcc 12.2.1, -O2, Cortex-M4. Per file; per depthwise function by the side
# of its square (0: any other), and what these share; per call of model_run.
_FILE_CODE = {
    "conv.c": 4360, "pool.c": 608, "binary.c": 1208, "reduce.c": 420, "copy.c": 188,
    "resize.c": 104, "grouped.c": 500, "pairs.c": 1500, "extreme.c": 500, "bilinear.c": 400,
    "l2_norm.c": 500, "log_softmax.c": 900, "matmul.c": 400, "svdf.c": 600, "lstm.c": 900,
    "transpose_conv.c": 500, "table.c": 128, "softmax.c": 560, "ends.c": 268,
    "depthwise_any.c": 548, "depthwise.h": 264,
}  # fmt: skip
_DEPTHWISE_CODE = {3: 455, 5: 575, 7: 740, 0: 360}
_CALL_CODE, _BASE_CODE = 18, 50


def code_bytes(calls: Iterable[Call]) -> int:
    """Predicted bytes of code on a Cortex-M4 (see the table above for the compiler)."""
    calls = list(calls)
    total = _BASE_CODE + _CALL_CODE * len(calls)
    total += sum(_FILE_CODE[name] for name in {call.source for call in calls})
    kernels = {call.template: call.fields["kernel_columns"] for call in calls if call.template}
    return total + sum(
        _DEPTHWISE_CODE[side if "FAST" in template else 0] for template, side in kernels.items()
    )


def arrays(call: Call) -> list[np.ndarray]:
    found = [v for v in call.fields.values() if isinstance(v, np.ndarray)]
    return found if call.table is None else [*found, call.table]


class Emitter:
    """Text of the generated files."""

    def __init__(
        self,
        calls: list[Call],
        addresses: dict[int, int],
        scratch: list[int],
        operands: dict[int, np.ndarray],
        states: list[tuple[Value, int]],
        title: str,
    ) -> None:
        self.calls, self.addresses, self.scratch = calls, addresses, scratch
        self.states = states
        self.state_places = {value.tensor: at for value, at in states}
        self.title = title
        self.names: dict[bytes, str] = {}
        self.data: list[tuple[str, str, np.ndarray]] = []
        self.structs = structs()
        self.resetting = self.reset()  # its constants first
        self.operands = {i: self.array(d.astype(np.int8)) for i, d in operands.items()}
        self.body = [self.call(i, call) for i, call in enumerate(calls)]

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

    def call(self, index: int, call: Call) -> tuple[str, str]:
        """Definition of the parameters, and the call."""
        arguments, definition = [], ""
        if call.struct:
            values = ", ".join(
                self.initialiser(field, call.fields[field.name])
                for field in self.structs[call.struct]
            )
            definition = f"const struct {call.struct} model_layer_{index} = {{{values}}};"
            arguments.append(f"&model_layer_{index}")
        if call.table is not None:
            arguments.append(self.array(call.table))
        arguments += call.leading
        arguments += [self.pointer(call, i, "in") for i in call.inputs]
        arguments += [self.state(i) for i in call.states]
        output = self.pointer(call, call.output, "out")
        # memcpy is the only function whose table is what it reads
        arguments = [output, *arguments] if call.function == "memcpy" else [*arguments, output]
        if call.scratch:
            arguments.append(f"a + {self.scratch[index]}")
        arguments += call.trailing
        text = f"{call.function}({', '.join(arguments)});"
        if call.repeats > 1:
            text = f"for (int32_t i = 0; i < {call.repeats}; i++) {text}"
        return definition, text

    def pointer(self, call: Call, tensor: int, way: str) -> str:
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
        void = f"({const}void *)" if _SIZES[ctype] > 1 else ""
        return f"({const}{ctype} *){void}({place})"

    def state(self, tensor: int) -> str:
        """A state that a call reads and writes."""
        return f"(void *)(s + {self.state_places[tensor]})"

    def initialiser(self, field: Field, value: Any) -> str:
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, list):
            return "{" + ", ".join(map(_integer, value)) + "}"
        return value if isinstance(value, str) else _integer(value)

    def model_c(self, arena: list[tuple[str, int]]) -> str:
        """``arena``: per entry of the interface, the tensor's address."""
        headers = ["model.h", "weights.h"]
        if any(call.source == "depthwise.h" for call in self.calls):
            headers.append("depthwise.h")
        lines = [f"/* {self.title} */", *(f'#include "{h}"' for h in headers), ""]
        lines += [
            "/* A debugger or a profiler may define this: it runs after every layer. */",
            "#ifndef MODEL_HOOK",
            "#define MODEL_HOOK(layer, arena) ((void)0)",
            "#endif",
            "",
            *sorted({call.template for call in self.calls if call.template}),
            "",
            *self.resetting,
            f"int model_run(void *arena{', void *state' if self.states else ''})",
            "{",
            "    int8_t *const a = arena;",
            *(["    int8_t *const s = state;"] if self.states else []),
            "    if (a == 0 || (uintptr_t)a % MODEL_ARENA_ALIGN != 0)",
            "        return MODEL_ERROR_ARENA;",
        ]
        if self.states:
            lines += [
                "    if (s == 0 || (uintptr_t)s % MODEL_ARENA_ALIGN != 0)",
                "        return MODEL_ERROR_STATE;",
            ]
        for index, (call, (_, text)) in enumerate(zip(self.calls, self.body, strict=True)):
            lines.append(f"    {text} /* {_comment(call)} */")
            lines.append(f"    MODEL_HOOK({index}, arena);")
        lines += ["    return 0;", "}"]
        for way in ("input", "output"):
            places = [at for name, at in arena if name == way]
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
        lines = [
            f"/* {self.title} */",
            "#ifndef MODEL_WEIGHTS_H",
            "#define MODEL_WEIGHTS_H",
            '#include "kernels.h"',
            "",
            *(f"extern const {ctype} {name}[{a.size}];" for name, ctype, a in self.data),
            *(
                f"extern const struct {call.struct} model_layer_{i};"
                for i, call in enumerate(self.calls)
                if call.struct
            ),
            "",
            "#endif",
        ]
        return "\n".join(lines) + "\n"

    def weights_c(self) -> str:
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
        parts += [definition + "\n" for definition, _ in self.body if definition]
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


def kernel_files(calls: list[Call]) -> dict[str, str]:
    """The hand-written files that the calls need, and no others."""
    files: dict[str, str] = {}
    waiting = ["kernels.h", *(call.source for call in calls)]
    try:
        while waiting:
            name = waiting.pop()
            if name not in files:
                files[name] = (CSRC / name).read_text()
                waiting += re.findall(r'#include "(\w+\.h)"', files[name])
        return dict(sorted(files.items()))
    except OSError as error:
        raise TFLiteError(f"the kernels are not installed: {error}") from error
