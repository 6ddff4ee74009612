"""Devices: the published boards, their cycles per instruction fitted again."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import boards
from micronets_jax import devices, latency, latency_fit
from micronets_jax.devices import speeds
from micronets_jax.network import Layer
from micronets_jax.targets.tflm.terms import pace as tflm_pace

ENERGIES = {"STM32F446RE": "energy_mj_small", "STM32F746ZG": "energy_mj_medium"}


@pytest.fixture(scope="module")
def paper(reference):
    return json.loads((reference / "reference/micronets.json").read_text())


@pytest.mark.parametrize("name", boards.COLUMNS)
def test_boards_as_published(name, paper):
    board, known = paper["boards"][name], devices.device(name)
    assert (known.sram_bytes, known.flash_bytes) == (
        board["sram_kib"] * 1024,
        board["flash_kib"] * 1024,
    )
    assert (known.core, known.clock_mhz, known.power_mw) == (
        board["core"],
        board["clock_mhz"],
        board["power_mw"],
    )


@pytest.fixture(scope="module")
def ratios(reference):
    return boards.ratios(reference)


@pytest.mark.parametrize("row", speeds.MEASURED, ids=lambda row: f"{row.device} {row.build}")
def test_cycles_per_instruction_fitted_again(row, ratios):
    found = ratios[row.device, boards.laboratory(row)]
    factor, errors = latency_fit.board_factor(np.ones(len(found)), found)
    assert row.factor == pytest.approx(factor, abs=0.001)
    assert row.rows == len(found)
    assert row.error == pytest.approx(np.abs(errors).mean(), abs=0.001)
    assert row.largest == pytest.approx(np.abs(errors).max(), abs=0.001)


def test_nine_of_ten_networks_lie_in_the_range(ratios):
    """Each network left out of its build, and each board left out of its core."""
    made = [boards.errors(ratios, row) for row in speeds.MEASURED]
    for errors, spread, most in (
        ([e.own for e in made], speeds.SAME_BUILD, 0.05),
        ([e.core for e in made], speeds.OTHER, 0.13),
    ):
        mean, share = boards.summary(errors, spread)
        assert mean <= most and share >= 0.9
        assert boards.summary(errors, spread * np.exp(-0.03))[1] < 0.92  # and not far more


def test_1x1_convolutions_have_one_pace_in_every_laboratory(reference):
    """It is learnt alike without any network and without any laboratory, and predicts what was
    left out better than one factor alone, the builds at -O2 as well."""
    rows, kind = boards.rows(reference), "1x1 convolutions"
    of = {w: tflm_pace(Layer("", "conv", (), 8, 8, (w, w))) for w in (1, 3)}
    assert boards.learnt(rows, kind) == pytest.approx(float(of[1] / of[3]), abs=0.013)
    for name in ("network", "laboratory"):
        for left in {getattr(row, name) for row in rows}:
            kept = [row for row in rows if getattr(row, name) != left]
            assert boards.learnt(kept, kind) == pytest.approx(0.9, abs=0.03), left
    one = boards.with_pace(rows, None, boards.LEFT_OUT["the row"])
    for left_out in boards.LEFT_OUT.values():
        paced = boards.with_pace(rows, kind, left_out)
        assert boards.summary(paced.values(), 1.21)[0] < 0.0505
        assert boards.summary(one.values(), 1.21)[0] > 0.06
        ours = [build for build in rows_of_o2() if build in paced]
        assert len(ours) == 2
        means = [boards.summary([each[b] for b in ours], 1.21)[0] for each in (paced, one)]
        assert means[0] < means[1]


def rows_of_o2():
    return [(row.device, boards.laboratory(row)) for row in speeds.MEASURED if row.build == "-O2"]


def test_the_guide_lists_every_published_build():
    guide = (pathlib.Path(__file__).parents[1] / "docs" / "boards.md").read_text()
    for row in speeds.MEASURED:
        line = (
            f"| {row.device} | {row.core} | {row.factor:.3f} | {row.rows} "
            f"| {100 * row.error:.1f} % | {100 * row.largest:.0f} % | {row.what} |"
        )
        assert line in guide


def test_the_nearest_build_is_taken():
    """A build for speed on the board, -O2 on the core, others of the core, the paper's."""
    estimate = speeds.estimate
    assert estimate("nRF5340", "cortex-m33")[:3] == pytest.approx((1.166, 0.964, 1.411), abs=1e-3)
    assert estimate("RA6M4", "cortex-m33").factor == 1.275
    assert estimate("RP2350", "cortex-m33").factor == 1.166
    assert estimate("STM32F446RE", "cortex-m4").factor == 1.423  # not the paper's 1.99
    assert estimate("STM32F746ZG", "cortex-m7").factor == 1.053
    both = estimate("STM32H743ZI", "cortex-m7")
    assert both.factor == pytest.approx((1.053 * 1.018) ** 0.5, abs=1e-3)
    assert both.high / both.factor == pytest.approx(speeds.OTHER, abs=1e-3)
    with pytest.raises(ValueError, match="for core 'cortex-m55'; known are cortex-m33"):
        estimate("SSE-300", "cortex-m55")


def test_a_core_that_nobody_timed_goes_by_its_manual():
    """Until its user measures a board."""
    on = devices.device("Raspberry Pi Pico")
    assert (on.name, on.core, on.clock_mhz, on.sram_bytes) == (
        "RP2040",
        "cortex-m0plus",
        133,
        270336,
    )
    speed = speeds.estimate("RP2040", "cortex-m0plus")
    assert speed == on.speed == speeds.MANUAL["cortex-m0plus"]
    assert speed.high / speed.factor == pytest.approx(2) and "no silicon" in speed.basis
    mine = devices.Measured("RP2040", "cortex-m0plus", "own", "compiled C", "me", 4, 1.5, 0.0, 0.0)
    assert speeds.estimate("RP2040", "cortex-m0plus", [mine]).factor == 1.5


@pytest.mark.parametrize("name", ENERGIES)
def test_energies_as_published(name, paper):
    on = devices.device(name)
    rows = [row[1:] for row in boards.published(paper, name, ENERGIES[name])]
    assert len(rows) >= 4
    errors = [latency.energy_mj(net, on, "tflm_2020") / energy - 1 for net, energy in rows]
    assert np.abs(errors).mean() < 0.06
    assert np.abs(errors).max() < 0.17


def test_an_emulated_board_takes_a_cycle_for_an_instruction():
    emulated = [on for on in devices.DEVICES.values() if on.emulated]
    assert {on.core for on in emulated} == {on.core for on in devices.DEVICES.values()}
    assert all(on.speed == (1, 1, 1, "by definition") for on in emulated)


def test_boards_may_be_static_arguments():
    assert len({hash(on) for on in devices.DEVICES.values()}) == len(devices.DEVICES)


def test_names_in_any_case_and_unknown_ones():
    assert devices.device("stm32f746zg").name == "STM32F746ZG"
    assert devices.device("MPS2-AN386").core == "cortex-m4"
    assert devices.device("arduino nano 33 ble sense").name == "nRF52840"
    assert devices.device("Raspberry Pi Pico 2").core == "cortex-m33"
    with pytest.raises(ValueError, match="'esp32' is unknown; known are STM32F446RE"):
        devices.device("esp32")
