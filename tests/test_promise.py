"""The promise of a budget: what fits by it links, what does not is refused before training.

That of TensorFlow Lite Micro is tested where TFLM_INCLUDE and TFLM_LIBRARY name a library.
"""

import dataclasses
import functools
import re

import numpy as np
import pytest

from micronets_jax import decisions, devices, export, latency_fit, targets
from micronets_jax.budgets import Budget, Limits
from micronets_jax.devices.instructions import characterised
from micronets_jax.firmware import link, project
from micronets_jax.firmware.engine import Options
from micronets_jax.network import Network
from micronets_jax.spaces import DSCNN, MobileNetV2
from micronets_jax.spaces.mobilenet_v2 import Stage
from micronets_jax.targets.compiled.rows import least_arena_bytes
from support import tflm_library

pytestmark = pytest.mark.slow

SPACES = (
    DSCNN((20, 10, 1), max_width=60, strides=(2, 1, 2)),
    DSCNN(max_width=40, strides=(2, 1, 1, 2)),
    MobileNetV2((20, 17, 1), 3, 0.5, (Stage(1, 16, 1, 1), Stage(6, 24, 2, 2)), 32, 64),
)
NETWORKS = 30
CORES = sorted(
    {
        on.core
        for on in devices.DEVICES.values()
        if on.startup and characterised("compiled", on.core)
    }
)


@functools.cache
def drawn() -> list[tuple[Network, bytes]]:
    """Networks with random weights, and their files."""
    rng = np.random.default_rng(97)
    found = []
    for i in range(NETWORKS):
        space = SPACES[i % len(SPACES)]
        network = space.decode(decisions.uniform(rng, space.decisions()))
        folded, ranges = latency_fit.random_weights(rng, network)
        for layer in folded.values():
            layer["bias"] = np.abs(layer["bias"]) + 0.5  # no channel is constant
        found.append((network, export.assemble(network, folded, ranges)))
    return found


def holds(folder, name: str, length: int) -> None:
    """Gives a memory of the linker script this many bytes."""
    script = (folder / "link.ld").read_text()
    changed = re.sub(rf"({name} \(\w+\) : .*LENGTH =) \d+", rf"\1 {length}", script)
    assert changed != script
    (folder / "link.ld").write_text(changed)


STARTED = {
    core: [on for on in devices.DEVICES.values() if on.startup and on.core == core]
    for core in CORES
}


CASES = [("compiled", core) for core in CORES] + [
    ("tflm", core) for core in tflm_library.cores() if characterised("tflm", core)
]


@pytest.mark.parametrize(("runtime", "core"), CASES)
def test_what_fits_links_and_what_does_not_is_refused(runtime, core, tmp_path):
    """Each network is linked for boards that have what its budget counts and not a byte more. It
    fills at least 97 % of the RAM, and of flash; of compiled C, whose kernels for rows and for
    whole tensors are counted whichever are delivered, all but 9,000 bytes. Where a limit is 0 to
    3 % below what is counted, the budget refuses it."""
    started = STARTED[core]
    rng = np.random.default_rng(3)
    for i, (network, model) in enumerate(drawn()):
        room = Options(plan="balanced", ram=least_arena_bytes(network))
        built = targets.engine(runtime).build(model, started[0], room)
        folder = tmp_path / str(i)
        for on in started:
            used = Budget.of(on, runtime=runtime).used(network)
            if on is started[0]:
                project.write(project.plan(built, model, on, "model"), folder)
            else:  # the model's objects serve all boards of a core
                stack = built.stack_bytes["plain"]
                for name, text in project.board_files(on, stack).items():
                    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
                for path in (folder / "build").glob("*.o"):
                    if path.name.startswith("model_"):
                        path.touch()
            names = {"sram_bytes": "RAM", "flash_bytes": "FLASH"}
            for limit, memory in names.items():
                holds(folder, memory, used[limit])
            linked = link.build(folder)
            for limit, memory in names.items():
                ram = memory == "RAM"
                filled = linked.ram_bytes if ram else linked.flash_bytes
                exact = ram or runtime == "tflm"
                assert used[limit] - filled < (0.03 * used[limit] if exact else 9_000)
                tight = dataclasses.replace(Limits(), **{limit: used[limit]})
                assert Budget.of(on, tight, runtime).fits(network)
                over = int(used[limit] / rng.uniform(1.0001, 1.03))
                less = dataclasses.replace(Limits(), **{limit: over})
                assert not Budget.of(on, less, runtime).fits(network)
