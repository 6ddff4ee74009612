"""Devices: the published boards, their cycles per instruction fitted again."""

import json
import pathlib

import numpy as np
import pytest

from micronets_jax import characterize, devices, latency, tflite, zoo
from micronets_jax.devices import speeds
from micronets_jax.network import INPUT, Kind, Layer, Network

COLUMNS = {
    "STM32F446RE": ("latency_s_small", "energy_mj_small"),
    "STM32F746ZG": ("latency_s_medium", "energy_mj_medium"),
    "STM32F767ZI": ("latency_s_large", None),
}
CARRIES = {
    "NUCLEO-L4R5ZI": "STM32L4R5ZI", "EK-RA6M4": "RA6M4", "nRF5340": "nRF5340",
    "NuMaker-M467HJ": "M467",
}  # fmt: skip
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


def of_file(path: pathlib.Path) -> Network:
    """A model of MLPerf Tiny as layers; its softmax, which latency does not count, left out."""
    model = tflite.read(path)
    tensors, names, layers = model.tensors, {model.inputs[0]: INPUT}, []
    kinds: dict[str, Kind] = {
        "CONV_2D": "conv", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense",
        "AVERAGE_POOL_2D": "avg_pool", "RESHAPE": "reshape", "ADD": "add",
    }  # fmt: skip
    for op in model.operators:
        if op.kind == "SOFTMAX":
            continue
        kind, given = kinds[op.kind], op.options
        size = tensors[op.inputs[1]].shape[1:3] if kind in ("conv", "depthwise") else (1, 1)
        layers.append(
            Layer(
                f"layer{op.index}",
                kind,
                tuple(names[i] for i in op.inputs if tensors[i].data is None),
                tensors[op.inputs[0]].shape[-1],
                tensors[op.outputs[0]].shape[-1],
                (given["filter_h"], given["filter_w"]) if kind == "avg_pool" else size,
                (given.get("stride_h", 1), given.get("stride_w", 1)),
                "VALID" if given.get("padding") else "SAME",
            )
        )
        names[op.outputs[0]] = layers[-1].name
    shape = tensors[model.inputs[0]].shape[1:]
    return Network((*(1, 1, *shape)[-3:],), tuple(layers))


@pytest.fixture(scope="module")
def ratios(reference, paper):
    """Cycles per predicted instruction of each network, by microcontroller and laboratory."""

    def counted(network: Network, core: str) -> float:
        return float(latency.instructions(network, "tflm_2020", core))

    result = {}
    for name, (column, _) in COLUMNS.items():
        on = devices.device(name)
        result[name, "MicroNets"] = np.array(
            [s * on.clock_hz / counted(net, on.core) for net, s in published(paper, name, column)]
        )
    files = {"kws": "kws_dscnn", "ic": "ic_resnet8", "vww": "vww", "ad": "ad"}
    networks = {k: of_file(reference / f"models/mlperf_{f}.tflite") for k, f in files.items()}
    boards = json.loads((reference / "reference/boards_measured.json").read_text())
    for values in boards["rows"]:
        row = dict(zip(boards["columns"], values, strict=True))
        if "CMSIS" not in row["runtime"] and row["submitter"] != "Renesas":
            continue
        # From 1.1 on constant channels of vww were probably folded, says the source.
        known = [k for k in files if row[k] and not (k == "vww" and row["round"] >= "v1.1")]
        found = [row[k] * row["mhz"] * 1e3 / counted(networks[k], "cortex-m4") for k in known]
        result[CARRIES[row["board"]], row["submitter"]] = np.array(found)
    return result


def laboratory(row: speeds.Measured) -> str:
    return row.source.split()[0].removesuffix(",")


@pytest.mark.parametrize("row", speeds.MEASURED, ids=lambda row: f"{row.device} {row.build}")
def test_cycles_per_instruction_fitted_again(row, ratios):
    found = ratios[row.device, laboratory(row)]
    factor, errors = characterize.board_factor(np.ones(len(found)), found)
    assert row.factor == pytest.approx(factor, abs=0.001)
    assert row.rows == len(found)
    assert row.error == pytest.approx(np.abs(errors).mean(), abs=0.001)
    assert row.largest == pytest.approx(np.abs(errors).max(), abs=0.001)


def test_nine_of_ten_networks_lie_in_the_range(ratios):
    """Each network left out of its build, and each board left out of its core."""
    own, core = [], []
    for row in speeds.MEASURED:
        found = ratios[row.device, laboratory(row)]
        others = np.array([np.median(np.delete(found, i)) for i in range(len(found))])
        own += (others / found).tolist()
        rest = [other for other in speeds.MEASURED if other.device != row.device]
        core += (speeds.estimate("", row.core, rest).factor / found).tolist()
    for errors, spread, mean in ((own, speeds.SAME_BUILD, 0.065), (core, speeds.OTHER, 0.13)):
        assert np.mean(np.abs(np.log(errors)) <= np.log(spread)) >= 0.9
        assert np.mean(np.abs(np.log(errors)) <= np.log(spread) - 0.03) < 0.92  # and not far more
        assert np.abs(np.array(errors) - 1).mean() <= mean


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
    assert estimate("nRF5340", "cortex-m33")[:3] == pytest.approx((1.174, 0.954, 1.444), abs=1e-3)
    assert estimate("RA6M4", "cortex-m33").factor == 1.303
    assert estimate("RP2350", "cortex-m33").factor == 1.174
    assert estimate("STM32F446RE", "cortex-m4").factor == 1.433  # not the paper's 1.99
    assert estimate("STM32F746ZG", "cortex-m7").factor == 1.051
    both = estimate("STM32H743ZI", "cortex-m7")
    assert both.factor == pytest.approx((1.051 * 1.005) ** 0.5, abs=1e-3)
    assert both.high / both.factor == pytest.approx(speeds.OTHER, abs=1e-3)
    with pytest.raises(ValueError, match="for core 'cortex-m0plus'; known are cortex-m33"):
        estimate("RP2040", "cortex-m0plus")


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
