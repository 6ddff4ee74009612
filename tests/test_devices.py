"""Devices: the published boards, the line fitted again."""

import json

import jax
import numpy as np
import pytest

from micronets_jax import cost, devices, zoo

COLUMNS = {
    "STM32F446RE": "latency_s_small",
    "STM32F746ZG": "latency_s_medium",
    "STM32F767ZI": "latency_s_large",
}


@pytest.fixture(scope="module")
def paper(reference):
    return json.loads((reference / "reference/micronets.json").read_text())


@pytest.mark.parametrize("name", devices.DEVICES)
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


@pytest.mark.parametrize("name", devices.DEVICES)
def test_latency_is_the_fitted_line(name, paper):
    column = paper["results_columns"].index(COLUMNS[name])
    rows = [
        (cost.macs(zoo.network(row[1])), 1000 * row[column])
        for row in paper["results"]
        if row[0] == "kws" and row[1] in zoo.names() and row[column] is not None
    ]
    macs, published = np.array(rows).T
    assert len(rows) == (3 if name == "STM32F446RE" else 6)
    design = np.stack([2e-6 * macs, np.ones_like(macs)], axis=1)
    (slope, intercept), *_ = np.linalg.lstsq(
        design / published[:, None], np.ones_like(published), rcond=None
    )
    on = devices.device(name)
    np.testing.assert_allclose([on.ms_per_mop, on.ms_per_inference], [slope, intercept], rtol=1e-3)
    assert np.abs(devices.latency_ms(macs, on) / published - 1).max() < 0.08


def test_energy_by_hand():
    # KWS-S on the small board: 250 ms * 163 mW = 40.7 mJ published.
    macs = cost.macs(zoo.network("MicroNet-KWS-S"))
    assert devices.energy_mj(macs, devices.device("STM32F446RE")) == pytest.approx(40.68, rel=0.01)
    assert devices.energy_mj(macs, devices.device("STM32F767ZI")) is None


def test_names_in_any_case_and_unknown_ones():
    assert devices.device("stm32f746zg").name == "STM32F746ZG"
    with pytest.raises(ValueError, match="'esp32' is unknown; known are STM32F446RE"):
        devices.device("esp32")


def test_slope_of_the_latency():
    on = devices.device("STM32F446RE")
    slope = jax.jit(jax.grad(lambda macs: devices.latency_ms(macs, on)))(1e6)
    np.testing.assert_allclose(slope, 2e-6 * on.ms_per_mop, rtol=1e-6)
