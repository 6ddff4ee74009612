"""How much flash TensorFlow Lite Micro's own code takes, by the operators that are linked.

Invariant: where the linker is here it is asked what it keeps of the very library; the table is for
machines without one. Another version than the table's, or another build of the same one (8 to 10 kB
less with BUILD_TYPE=release_with_logs), differs from it, which the check after linking shows.
"""

from __future__ import annotations

import itertools
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence

from micronets_jax.firmware import boards

# Measured: TFLM of August 2026 (90b983c) with CMSIS-NN (99f736a), target cortex_m_generic, default
# build, arm-none-eabi-gcc 12.2.1, newlib-nano. Linked with each operator alone and with some 50
# sets of up to six; least squares of what each adds and of what several share, within 700 bytes of
# each set. PACK, SHAPE, SQUEEZE, STRIDED_SLICE were linked for the M4 only. Bytes for M4, M7.
_INTERPRETER = (29772, 29431)
_OPERATOR = {
    "ADD": (11514, 11550),
    "AVERAGE_POOL_2D": (2790, 2754),
    "CONCATENATION": (6111, 5463),
    "CONV_2D": (24507, 24812),
    "DEPTHWISE_CONV_2D": (18095, 18349),
    "DEQUANTIZE": (1400, 0),
    "FULLY_CONNECTED": (16599, 16500),
    "HARD_SWISH": (4418, 2145),
    "LOGISTIC": (5275, 5601),
    "MAX_POOL_2D": (2866, 2782),
    "MEAN": (2247, 116),
    "MUL": (11154, 10723),
    "PACK": (1404, 1404),
    "PAD": (5318, 5048),
    "QUANTIZE": (4563, 2023),
    "RELU": (4360, 2091),
    "RELU6": (1943, 1094),
    "RESHAPE": (1780, 1755),
    "RESIZE_NEAREST_NEIGHBOR": (3553, 3486),
    "SHAPE": (380, 380),
    "SOFTMAX": (9114, 9421),
    "SQUEEZE": (926, 926),
    "STRIDED_SLICE": (13513, 13513),
    "SUB": (9376, 11449),
    "SUM": (2099, 0),
    "TRANSPOSE": (2633, 2928),
}
"""What an operator adds."""

_SCALED = frozenset(
    ("ADD", "SUB", "MUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN", "SUM")
) | {"SOFTMAX", "LOGISTIC"}
_POOLS = frozenset(("AVERAGE_POOL_2D", "MAX_POOL_2D"))
_SHARED: tuple[tuple[frozenset[str], tuple[int, int]], ...] = (
    (_SCALED | _POOLS, (1405, 501)),
    (_SCALED, (1446, 167)),
    (_POOLS, (1413, 1383)),
    (frozenset(("CONV_2D", "DEPTHWISE_CONV_2D")), (2098, 1801)),
    (frozenset(("CONV_2D", "FULLY_CONNECTED")), (2910, 2995)),
    (frozenset(("ADD", "SUB", "MUL")), (924, 853)),
    (frozenset(("ADD", "SUB")), (393, 371)),
    (frozenset(("MEAN", "SUM")), (3378, 5510)),
    (frozenset(("QUANTIZE", "DEQUANTIZE")), (1250, 1237)),
)
"""What operators add together, once, if any of these is there."""

_UNKNOWN = (5000, 5000)
_CORES = {"cortex-m4": 0, "cortex-m7": 1, "cortex-m33": 0}  # the last was not measured


def tabled_bytes(kinds: Iterable[str], core: str) -> int:
    """Bytes of interpreter, kernels and compiler's library for these operators, by the table."""
    kinds, column = set(kinds), _CORES[core]
    total = _INTERPRETER[column]
    total += sum(_OPERATOR.get(kind, _UNKNOWN)[column] for kind in kinds)
    return total + sum(size[column] for members, size in _SHARED if members & kinds)


# Measured with arm-none-eabi-gcc 12.2.1 on four published models: tflm.cc, which registers every
# operator, less what the probe and any firmware hold both (memcpy, memset, strlen).
_ENGINE = 210
_ENGINE_OPERATOR = 182

_INTERFACE = re.compile(
    r"^(RegisterDebugLogCallback|_Z24RegisterDebugLogCallback\w+"
    r"|_ZNK?6tflite16MicroInterpreter"
    r"(?:C1|D1|15AllocateTensors|5input|6output|6Invoke|16arena_used_bytes)E\w+)$"
)
"""What the engine calls of the library, as a C++ compiler spells it."""

_IN_FLASH = (".text", ".rodata", ".ARM.extab", ".ARM.exidx", ".init_array", ".data")
_LINKER = "arm-none-eabi-g++"


def kept_bytes(
    archive: pathlib.Path, symbols: Iterable[str], operators: Sequence[Sequence[str]], core: str
) -> int | None:
    """Bytes that the linker keeps of a library for these operators, the engine's code included.

    Args:
        archive: of the library.
        symbols: all that it defines.
        operators: of each, the symbols by which the resolver reaches it.
        core: of the board.

    Returns:
        None if there is no linker, or if it refuses, which linking the firmware will explain.
    """
    if shutil.which(_LINKER) is None:
        return None
    wanted = [*itertools.chain(*operators), *(name for name in symbols if _INTERFACE.match(name))]
    with tempfile.TemporaryDirectory() as folder:
        probe = pathlib.Path(folder) / "probe.elf"
        done = subprocess.run(
            [
                _LINKER, *boards.CORE_FLAGS[core].split(), "-nostartfiles",
                "-Wl,--gc-sections", "-Wl,-e,0", "-Wl,--defsym=_ZdlPv=0", "-Wl,--defsym=_ZdlPvj=0",
                *(f"-Wl,-u,{name}" for name in wanted), str(archive), "-lm",
                "--specs=nano.specs", "--specs=nosys.specs", "-o", str(probe),
            ],
            capture_output=True,
        )  # fmt: skip
        if done.returncode:
            return None
        table = subprocess.run(
            ["arm-none-eabi-size", "-A", str(probe)], capture_output=True, text=True
        ).stdout
    sizes = dict(re.findall(r"^(\.[\w.]+)\s+(\d+)", table, re.M))
    code = sum(int(sizes.get(name, 0)) for name in _IN_FLASH)
    return code + _ENGINE + _ENGINE_OPERATOR * len(operators)


def state_bytes(num_operators: int) -> int:
    """Bytes of RAM besides the arena: interpreter, resolver, message, the C library's state."""
    return 484 + 36 * num_operators
