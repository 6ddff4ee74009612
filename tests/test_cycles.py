"""Cycles by the Cortex-M4's manual: its own examples, and counts against the emulator's clock."""

import pytest

from benchmarks import cycles
from micronets_jax import devices, firmware
from micronets_jax.firmware import link


def cycles_of(*lines: str, taken: bool = False) -> int:
    """Of instructions one behind the other, the last of which may be a taken branch."""
    listing = []
    for i, line in enumerate(lines):
        name, _, operands = line.partition(" ")
        listing.append(cycles.Instruction(4 * i, 4, name, operands, "f"))
    return sum(
        cycles.cycles_of(one, before, taken and one is listing[-1])
        for one, before in zip(listing, [None, *listing[:-1]], strict=True)
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("add r0, r1",), 1),
        (("smlad r0, r1, r2, r0",), 1),
        (("ldr r0, [r1]",), 2),
        (("ldr r0, [r1]", "ldr r1, [r2]"), 3),
        (("ldr r0, [r1, r2]", "str r0, [r3, #20]"), 3),
        (("ldr r0, [r1, r2]", "str r1, [r3, r2]"), 3),
        (("ldr r0, [r1]", "ldr r2, [r0]"), 4),  # its address has to be loaded first
        (("str r1, [r5, #4]",), 1),
        (("str r1, [r5, r6]",), 2),
        (("str r1, [r5, r6]", "ldr r0, [r1]"), 4),  # nothing overlaps with a store before it
        (("ldmia r1!, {r0, r2-r3}",), 4),
        (("ldrd r0, r1, [r2]",), 3),
        (("push {r4, r5, lr}",), 4),
        (("bne.n 12 <f+0xc>",), 1),
        (("vsqrt.f32 s0, s1",), 14),
        (("vfma.f32 s0, s1, s2",), 3),
    ],
)
def test_the_manual(lines, expected):
    """Technical Reference Manual, table 3-1, and the examples of 3.3.2."""
    assert cycles_of(*lines) == expected


@pytest.mark.parametrize(
    ("line", "taken", "expected"),
    [
        ("adds r0, r1, r2", False, 1),
        ("muls r0, r1", False, 1),
        ("ldr r0, [r1, r2]", False, 2),
        ("strb r0, [r1, #1]", False, 2),
        ("ldmia r1!, {r0, r2-r3}", False, 4),
        ("push {r4, r5, lr}", False, 4),
        ("pop {r4, pc}", True, 5),
        ("bne.n 12 <f+0xc>", False, 1),
        ("bne.n 12 <f+0xc>", True, 2),
        ("bl 12 <f>", True, 3),
        ("bx lr", True, 2),
    ],
)
def test_the_manual_of_the_cortex_m0plus(line, taken, expected):
    """Technical Reference Manual, table 3-1."""
    name, _, operands = line.partition(" ")
    one = cycles.Instruction(0, 2, name, operands, "f")
    assert cycles.m0plus_cycles_of(one, None, taken) == expected


def test_control_goes_elsewhere():
    assert cycles_of("b.n 12 <f>", taken=True) == 1 + cycles.REFILL
    assert cycles_of("pop {r4, pc}", taken=True) == 3 + cycles.REFILL
    assert cycles_of("tbb [pc, r3]", taken=True) == 2 + cycles.REFILL


@pytest.mark.slow
def test_what_is_executed(reference, tmp_path):
    """All of the instructions that the emulator's clock counts, less the noting of times."""
    board = devices.emulated("cortex-m4")
    model = (reference / "models" / "mlperf_ad.tflite").read_bytes()
    firmware.write(model, board.name, tmp_path / "firmware")
    elf = link.build(tmp_path / "firmware").elf
    counted = cycles.count(elf, board, cycles.built(tmp_path))
    ran = firmware.run(tmp_path / "firmware", compare=False)
    total = cycles.total(counted)
    assert total.instructions == pytest.approx(ran.instructions, rel=0.002)
    assert 1.2 * total.instructions < total.cycles < 1.6 * total.instructions
    assert counted["channels4"].instructions > 0.8 * total.instructions
