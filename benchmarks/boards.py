"""How sure is a millisecond: published latencies predicted from other networks, and other boards.

    MICRONETS_REFERENCE=DIR python -m benchmarks.boards

Every network of a published build is predicted from the others of that build, by one factor (cycles
per instruction, the median), then every board from other boards of its core, as ``devices`` does
it for boards on which nobody measured.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.reference import reference_folder
from micronets_jax import devices, latency, latency_fit, tflite, zoo
from micronets_jax.devices import speeds
from micronets_jax.network import INPUT, Kind, Layer, Network

COLUMNS = {
    "STM32F446RE": "latency_s_small",
    "STM32F746ZG": "latency_s_medium",
    "STM32F767ZI": "latency_s_large",
}
"""Of MicroNets' table of results, by the microcontroller."""

CARRIES = {
    "NUCLEO-L4R5ZI": "STM32L4R5ZI", "EK-RA6M4": "RA6M4", "nRF5340": "nRF5340",
    "NuMaker-M467HJ": "M467",
}  # fmt: skip
ESTIMATED = {("STM32F746ZG", "MicroNet-AD-S")}
"""An estimate of the authors, not a measurement."""

FILES = {"kws": "kws_dscnn", "ic": "ic_resnet8", "vww": "vww", "ad": "ad"}
"""Models of MLPerf Tiny, by their columns."""


class Errors(NamedTuple):
    """Predicted over published cycles, of networks.

    Attributes:
        own: each predicted from the others of its build.
        core: each predicted with its board left out.
    """

    own: np.ndarray
    core: np.ndarray


def published(paper: Mapping, name: str, column: str) -> list[tuple[Network, float]]:
    """Networks that MicroNets ran on a board, with what a column of its results says."""
    index = paper["results_columns"].index(column)
    return [
        (zoo.network(row[1], 8 if row[0] == "ad" else None), row[index])
        for row in paper["results"]
        if row[1] in zoo.names() and row[index] is not None and (name, row[1]) not in ESTIMATED
    ]


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
        size = (1, 1)
        if kind in ("conv", "depthwise"):
            _, height, width, _ = tensors[op.inputs[1]].shape
            size = height, width
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
    height, width, channels = (1, 1, *shape)[-3:]
    return Network((height, width, channels), tuple(layers))


def ratios(reference: pathlib.Path) -> dict[tuple[str, str], np.ndarray]:
    """Cycles per predicted instruction of each network, by microcontroller and laboratory."""

    def counted(network: Network, core: str) -> float:
        return float(latency.instructions(network, "tflm_2020", core))

    paper = json.loads((reference / "reference/micronets.json").read_text())
    result = {}
    for name, column in COLUMNS.items():
        on = devices.device(name)
        result[name, "MicroNets"] = np.array(
            [s * on.clock_hz / counted(net, on.core) for net, s in published(paper, name, column)]
        )
    networks = {k: of_file(reference / f"models/mlperf_{f}.tflite") for k, f in FILES.items()}
    boards = json.loads((reference / "reference/boards_measured.json").read_text())
    for values in boards["rows"]:
        row = dict(zip(boards["columns"], values, strict=True))
        if "CMSIS" not in row["runtime"] and row["submitter"] != "Renesas":
            continue
        # From 1.1 on constant channels of vww were probably folded, says the source.
        known = [k for k in FILES if row[k] and not (k == "vww" and row["round"] >= "v1.1")]
        found = [row[k] * row["mhz"] * 1e3 / counted(networks[k], "cortex-m4") for k in known]
        result[CARRIES[row["board"]], row["submitter"]] = np.array(found)
    return result


def laboratory(row: speeds.Measured) -> str:
    """Who published it, as :func:`ratios` names them."""
    return row.source.split()[0].removesuffix(",")


def errors(found: Mapping[tuple[str, str], np.ndarray], row: speeds.Measured) -> Errors:
    """Of the networks of one build."""
    cycles = found[row.device, laboratory(row)]
    own = latency_fit.board_factor(np.ones(len(cycles)), cycles)[1] + 1
    rest = [other for other in speeds.MEASURED if other.device != row.device]
    return Errors(own, speeds.estimate("", row.core, rest).factor / cycles)


def summary(ratio: Iterable[np.ndarray], spread: float) -> tuple[float, float]:
    """Mean error of all networks, and the share of them within a factor ``spread`` either way."""
    every = np.concatenate(list(ratio))
    return float(np.abs(every - 1).mean()), float(np.mean(np.abs(np.log(every)) <= np.log(spread)))


def main() -> None:
    """One line for each build, and all together."""
    found = ratios(reference_folder())
    made = [(row, errors(found, row)) for row in speeds.MEASURED]
    print("mean error (largest)   own networks  other boards")
    for row, (own, core) in made:
        own, core = np.abs(own - 1), np.abs(core - 1)
        print(
            f"{row.device:12} {laboratory(row):10} {own.mean():4.1%} ({own.max():4.0%})"
            f" {core.mean():7.1%} ({core.max():4.0%})  {row.what}"
        )
    for name, spread, ratio in (
        ("own networks", speeds.SAME_BUILD, [e.own for _, e in made]),
        ("other boards", speeds.OTHER, [e.core for _, e in made]),
    ):
        mean, share = summary(ratio, spread)
        print(f"{name}: {mean:.1%} in the mean, {share:.0%} within a factor of {spread}")


if __name__ == "__main__":
    main()
