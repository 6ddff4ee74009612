"""How sure is a millisecond: published latencies predicted from other networks, and other boards.

    MICRONETS_REFERENCE=DIR python -m benchmarks.boards

Every network of a published build is predicted from the others of that build, by one factor (cycles
per instruction, the median), then every board from other boards of its core, as ``devices`` does
it for boards on which nobody measured. Last, whether instructions of one kind of layer take other
cycles than the rest (a pace), learnt from all builds together: with the network that is predicted
left out of its build; with it left out of all builds; and with all that its laboratory published
left out.
"""

from __future__ import annotations

import collections
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
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


PACES = np.arange(0.6, 1.425, 0.025)
"""Cycles of an instruction of one kind of layer over those of any other: what is tried."""


KINDS = "1x1 convolutions", "other convolutions", "depthwise layers", "dense layers"
"""Which layers may have one."""


class Row(NamedTuple):
    """A network that a laboratory ran on a board.

    Attributes:
        device: the microcontroller.
        laboratory: who published it.
        network: its name.
        cycles: of one inference, latency * clock.
        instructions: predicted, of CMSIS-NN of October 2020.
        paced: the same, each layer's times its pace.
        shares: of the instructions, by kind of layer.
    """

    device: str
    laboratory: str
    network: str
    cycles: float
    instructions: float
    paced: float
    shares: Mapping[str, float]


LEFT_OUT: Mapping[str, Callable[[Row, Row], bool]] = {
    "the row": lambda other, row: other is row,
    "the network": lambda other, row: other.network == row.network,
    "the laboratory": lambda other, row: other.laboratory == row.laboratory,
}
"""Which rows a pace is not learnt from, for a row that is predicted."""


class Errors(NamedTuple):
    """Predicted over published cycles, of networks.

    Attributes:
        own: each predicted from the others of its build.
        core: each predicted with its board left out.
    """

    own: np.ndarray
    core: np.ndarray


def published(paper: Mapping, name: str, column: str) -> list[tuple[str, Network, float]]:
    """Networks that MicroNets ran on a board, by name, with what a column of its results says."""
    index = paper["results_columns"].index(column)
    return [
        (row[1], zoo.network(row[1], 8 if row[0] == "ad" else None), row[index])
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


def rows(reference: pathlib.Path) -> list[Row]:
    """Every published build with CMSIS-NN's kernels whose networks are known, build by build."""

    def row(device: str, by: str, name: str, network: Network, core: str, cycles: float) -> Row:
        whole = float(latency.instructions(network, "tflm_2020", core))
        shares: dict[str, float] = collections.defaultdict(float)
        for layer, count in latency.layer_instructions(network, "tflm_2020", core).items():
            shares[kind_of(network[layer])] += float(count) / whole
        paced = float(latency.paced_instructions(network, "tflm_2020", core))
        return Row(device, by, name, cycles, whole, paced, shares)

    paper = json.loads((reference / "reference/micronets.json").read_text())
    found = []
    for device, column in COLUMNS.items():
        on = devices.device(device)
        found += [
            row(device, "MicroNets", name, network, on.core, seconds * on.clock_hz)
            for name, network, seconds in published(paper, device, column)
        ]
    networks = {k: of_file(reference / f"models/mlperf_{f}.tflite") for k, f in FILES.items()}
    boards = json.loads((reference / "reference/boards_measured.json").read_text())
    for values in boards["rows"]:
        of = dict(zip(boards["columns"], values, strict=True))
        if "CMSIS" not in of["runtime"] and of["submitter"] != "Renesas":
            continue
        # From 1.1 on constant channels of vww were probably folded, says the source.
        known = [k for k in FILES if of[k] and not (k == "vww" and of["round"] >= "v1.1")]
        found += [
            row(
                CARRIES[of["board"]], of["submitter"], k, networks[k], "cortex-m4",
                of[k] * of["mhz"] * 1e3,
            )
            for k in known
        ]  # fmt: skip
    return found


def kind_of(layer: Layer) -> str:
    """Kinds of layers that may have a pace of their own."""
    if layer.kind == "conv":
        return "1x1 convolutions" if layer.kernel == (1, 1) else "other convolutions"
    return {"depthwise": "depthwise layers", "dense": "dense layers"}.get(layer.kind, "the rest")


def ratios(reference: pathlib.Path) -> dict[tuple[str, str], np.ndarray]:
    """Cycles per predicted instruction of each network, by microcontroller and laboratory."""
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for row in rows(reference):
        found[row.device, row.laboratory].append(row.cycles / row.paced)
    return {build: np.array(values) for build, values in found.items()}


def logarithms(known: Iterable[Row], kind: str, pace: float) -> dict[tuple[str, str], np.ndarray]:
    """Of cycles per instruction by build, instructions of one kind taking ``pace`` times as many
    as others."""
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for row in known:
        work = row.instructions * (1 + (pace - 1) * row.shares.get(kind, 0.0))
        found[row.device, row.laboratory].append(math.log(row.cycles / work))
    return {build: np.array(values) for build, values in found.items()}


def learnt(known: Iterable[Row], kind: str) -> float:
    """The pace of a kind of layers with which networks of one build differ least, all builds
    together: by absolute differences of logarithms from the build's median."""
    known = list(known)

    def spread(pace: float) -> float:
        return sum(
            np.abs(values - np.median(values)).sum()
            for values in logarithms(known, kind, pace).values()
        )

    return float(min(PACES, key=spread))


def with_pace(
    known: list[Row], kind: str | None, left_out: Callable[[Row, Row], bool]
) -> dict[tuple[str, str], np.ndarray]:
    """Predicted over published cycles of each network, by build: by the factor of the others of
    its build, and by a pace that is learnt from rows that are not left out.

    Args:
        known: published networks.
        kind: of the layers that have a pace; None for one factor alone.
        left_out: whether the pace of a row (the second) is learnt without another (the first).
    """
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for row in known:
        pace = learnt((o for o in known if not left_out(o, row)), kind) if kind else 1.0
        build = row.device, row.laboratory
        others = (o for o in known if o is not row and (o.device, o.laboratory) == build)
        factor = np.median(np.exp(logarithms(others, kind or "", pace)[build]))
        own = np.exp(logarithms([row], kind or "", pace)[build][0])
        found[build].append(float(factor / own))
    return {build: np.array(values) for build, values in found.items()}


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
    known = rows(reference_folder())
    print(
        "\nown networks, a pace for one kind of layers, learnt without what is left out; by build"
    )
    one = with_pace(known, None, LEFT_OUT["the row"])
    print(f"{'none':18} {'':14} {_line(one)}")
    for left, out in LEFT_OUT.items():
        for kind in KINDS:
            print(f"{kind:18} {left:14} {_line(with_pace(known, kind, out))}")


def _line(ratio: Mapping[tuple[str, str], np.ndarray]) -> str:
    each = " ".join(f"{np.abs(values - 1).mean():6.1%}" for values in ratio.values())
    return f"{summary(ratio.values(), speeds.SAME_BUILD)[0]:.1%}  {each}"


if __name__ == "__main__":
    main()
