"""Where and how programs run; meshes are tested in test_sharding, on devices of their own."""

import ctypes
import os
import platform
import resource
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import accelerators


def power(exponent, x):
    return x**exponent


def test_what_runs_once_is_the_function_itself_on_its_own_and_within_a_program():
    x = jnp.arange(3.0)
    alone = accelerators.once(power, 3, x, static=(0,))
    within = jax.jit(lambda x: accelerators.once(power, 3, x, static=(0,)) + 1)(x)
    np.testing.assert_array_equal(alone, [0, 1, 8])
    np.testing.assert_array_equal(within, [1, 2, 9])


def test_what_runs_once_inside_a_program_is_a_part_of_it():
    text = jax.jit(lambda x: accelerators.once(jnp.sin, x)).lower(jnp.ones(2)).as_text()
    assert "call @" not in text


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is set, no other")
def test_memory_that_was_freed_is_used_again_without_being_mapped_again():
    accelerators.keep_memory()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    size = 48 << 20

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            memory = libc.malloc(size)
            ctypes.memset(memory, 1, size)
            libc.free(memory)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 5 * size / (2 << 20)  # where each time is mapped, one per huge page or more


KEEPING = """
import pathlib, sys
from micronets_jax import accelerators
accelerators.PROGRAMS_FROM_S = 0
accelerators.keep_programs(pathlib.Path(sys.argv[1]))
import jax
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event))
print(float(jax.jit(lambda x: x * 2 + 1)(3.0)), found.count("/jax/compilation_cache/cache_hits"))
"""


def kept(folder, **environment):
    given = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "JAX_PERSIST"))}
    done = subprocess.run(
        [sys.executable, "-c", KEEPING, str(folder)],
        env=given | environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split(), done.stderr


def test_the_second_process_loads_what_the_first_one_compiled(tmp_path):
    assert kept(tmp_path / "programs") == (["7.0", "0"], "")
    assert kept(tmp_path / "programs") == (["7.0", "1"], "")


def test_programs_that_cannot_be_kept_are_compiled_and_a_folder_of_ones_own_is_used(tmp_path):
    (tmp_path / "file").touch()
    assert kept(tmp_path / "file" / "programs") == (["7.0", "0"], "")
    own = {"JAX_COMPILATION_CACHE_DIR": f"{tmp_path / 'own'}"}
    assert kept(tmp_path / "programs", **own)[0] == ["7.0", "0"]
    assert not (tmp_path / "programs").exists()
