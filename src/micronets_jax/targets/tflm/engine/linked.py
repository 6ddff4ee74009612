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
