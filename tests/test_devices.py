"""Devices: the published boards, their cycles per instruction fitted again."""

import json

import numpy as np
import pytest

from micronets_jax import characterize, devices, latency, zoo

COLUMNS = {
    "STM32F446RE": ("latency_s_small", "energy_mj_small"),
    "STM32F746ZG": ("latency_s_medium", "energy_mj_medium"),
    "STM32F767ZI": ("latency_s_large", None),
}
# An estimate of the authors, not a measurement.
ESTIMATED = {("STM32F746ZG", "MicroNet-AD-S")}


@pytest.fixture(scope="module")
def paper(reference):
    return json.loads((reference / "reference/micronets.json").read_text())


def published(paper, name, column):
    """Networks that were run on a board, with what a column says."""
    index = paper["results_columns"].index(column)
    return [
        (zoo.network(row[1], 8 if row[0] == "ad" else None), row[index])
        for row in paper["results"]
        if row[1] in zoo.names() and row[index] is not None and (name, row[1]) not in ESTIMATED
    ]


@pytest.mark.parametrize("name", COLUMNS)
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


@pytest.mark.parametrize("name", COLUMNS)
def test_cycles_per_instruction_fitted_again(name, paper):
    on = devices.device(name)
    rows = published(paper, name, COLUMNS[name][0])
    counts = [latency.instructions(net, "tflm_2020", on.core) for net, _ in rows]
    cycles = np.array([seconds for _, seconds in rows]) * on.clock_mhz * 1e6
    factor, errors = characterize.board_factor(np.array(counts), cycles)
    assert on.cycles_per_instruction == pytest.approx(factor, abs=0.001)
    assert on.latency_rows == len(rows)
    assert on.latency_error == pytest.approx(np.abs(errors).mean(), abs=0.001)
    assert on.largest_latency_error == pytest.approx(np.abs(errors).max(), abs=0.001)
    assert on.latency_error <= 0.06  # what one factor for counted instructions had


@pytest.mark.parametrize("name", ["STM32F446RE", "STM32F746ZG"])
def test_energies_as_published(name, paper):
    on = devices.device(name)
    rows = published(paper, name, COLUMNS[name][1])
    assert len(rows) >= 4
    errors = [latency.energy_mj(net, on, "tflm_2020") / energy - 1 for net, energy in rows]
    assert np.abs(errors).mean() < 0.06
    assert np.abs(errors).max() < 0.17


def test_an_emulated_board_takes_a_cycle_for_an_instruction():
    emulated = [on for on in devices.DEVICES.values() if on.emulated]
    assert [on.name for on in emulated] == ["mps2-an386", "mps2-an500"]
    assert all(on.cycles_per_instruction == 1 and on.latency_rows == 0 for on in emulated)


def test_boards_may_be_static_arguments():
    assert len({hash(on) for on in devices.DEVICES.values()}) == len(devices.DEVICES)


def test_names_in_any_case_and_unknown_ones():
    assert devices.device("stm32f746zg").name == "STM32F746ZG"
    assert devices.device("MPS2-AN386").core == "cortex-m4"
    with pytest.raises(ValueError, match="'esp32' is unknown; known are STM32F446RE"):
        devices.device("esp32")
