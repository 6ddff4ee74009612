"""Characterisation of a runtime on a core: networks are drawn, run and fitted.

Invariant: a sample is decided by space, seed and index alone, so that a run may be interrupted and
continued, and shipped fits can be reproduced.

Two fits. A straight line over operations holds within one search space (MicroNets, Banbury et al.,
2021, section 4). The steps of ``latency`` hold everywhere: they are fitted to the layers of
networks drawn only for that purpose (``layers``), so every search space is one that the fit has
not seen.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Shaped

from micronets_jax import (
    cost,
    decisions,
    devices,
    export,
    firmware,
    latency,
    protocol,
    quantize,
)
from micronets_jax.devices import Device
from micronets_jax.network import INPUT, Activation, Layer, Network, Padding, output_sizes
from micronets_jax.quantize import Folded, Ranges
from micronets_jax.spaces import DSCNN, MobileNetV2, Space

LAYERS = "layers"
"""Name of the family of small random networks with every kind of layer, which is no search space.
"""

SPACES: dict[str, Space] = {
    "kws": DSCNN(grid="tenths"),
    "ad": DSCNN(
        (32, 32, 1), num_classes=4, stem_kernel=(3, 3), strides=(2, 1, 1, 2, 2), grid="tenths"
    ),
    "vww": MobileNetV2((50, 50, 1)),
}
"""The search spaces of the paper's tasks by name."""

PATIENCE_SECONDS, TRIES = 2.0, 10
"""Seconds to wait for an answer of a board, and attempts."""

_MACS = 20_000, 8_000_000  # of a network of LAYERS: more than the overhead, seconds to emulate
_INSTRUCTIONS = 1_000  # layers below count for less in the fit of steps


@dataclasses.dataclass(frozen=True)
class Sample:
    """One network measured.

    Attributes:
        index: which draw it is.
        macs: its multiply-accumulates.
        instructions: of one inference.
        layers: instructions by the name of the layer, as far as the runtime tells.
    """

    index: int
    macs: int
    instructions: int
    layers: Mapping[str, int]


# ---------------------------------------------------------------- drawing


def draw(space: str, seed: int, index: int) -> Network:
    """The network of this index: uniform in a search space, or one of :data:`LAYERS`.

    Raises:
        ValueError: no such space; the message lists all.
    """
    if space not in (*SPACES, LAYERS):
        raise ValueError(f"space={space!r} is unknown; use one of {', '.join((*SPACES, LAYERS))}")
    rng = np.random.default_rng([seed, index])
    if space == LAYERS:
        return _layers(rng)
    return SPACES[space].decode(decisions.uniform(rng, SPACES[space].decisions()))


def random_weights(rng: np.random.Generator, network: Network) -> tuple[Folded, Ranges]:
    """Weights and ranges such as training leaves; instructions do not depend on their values.

    Outputs of a unit normal input have about unit variance. Biases are positive, and so is a weight
    in the middle of each kernel, which even a picture of one pixel meets: channels that are dead
    behind a ReLU would not be compiled. Ranges differ, as those of trained layers do, and where
    they are equal an addition would take fewer instructions.
    """
    folded: Folded = {}
    ranges: Ranges = {"activation": {INPUT: _range(rng, "linear")}, "weight": {}}
    for layer in network:
        if layer.kind in quantize.WEIGHTED:
            shape = {
                "conv": (*layer.kernel, layer.in_channels, layer.out_channels),
                "depthwise": (*layer.kernel, 1, layer.out_channels),
                "dense": (layer.in_channels, layer.out_channels),
            }[layer.kind]
            deviation = np.sqrt(2 / np.prod(shape[:-1]))
            kernel = (rng.standard_normal(shape) * deviation).astype(np.float32)
            middle = kernel[tuple(n // 2 for n in shape[:-2])]  # [inputs, outputs], a view
            strongest = np.abs(middle).argmax(axis=0), np.arange(shape[-1])
            middle[strongest] = np.maximum(np.abs(middle[strongest]), deviation)
            bias = np.abs(0.1 * rng.standard_normal(shape[-1])).astype(np.float32)
            folded[layer.name] = {"kernel": kernel, "bias": bias}
            ranges["weight"][layer.name] = np.abs(kernel).reshape(-1, shape[-1]).max(axis=0)
        if layer.kind in quantize.RANGED:
            ranges["activation"][layer.name] = _range(rng, layer.activation)
    return folded, ranges


def _range(rng: np.random.Generator, activation: str) -> dict[str, np.float32]:
    ends = {"max": np.float32(rng.uniform(3, 6))}
    return ends if activation != "linear" else {"min": np.float32(-rng.uniform(3, 6)), **ends}


def _layers(rng: np.random.Generator) -> Network:
    """Four to eight random layers, some with residuals, channels even and odd; a dense layer."""
    while True:
        rows, columns = (int(n) for n in rng.integers(6, 49, 2))
        channels = int(rng.choice((1, 1, 2, 3, 4, 8)))
        kernel = (min(rows, 10), 4) if rng.random() < 0.3 else _square(rng, 3, 5)
        made = [_layer(rng, "first", "conv", INPUT, channels, min(_width(rng), 64), kernel)]
        for i in range(rng.integers(3, 8)):
            kind = rng.choice(("depthwise", "depthwise", "pointwise", "pointwise", "conv", "pool"))
            made.append(_next(rng, f"layer{i}", str(kind), made[-1]))
            if kind == "pointwise" and rng.random() < 0.5:
                made += _residual(rng, f"layer{i}", made[-2], made[-1])
        network = Network((rows, columns, channels), tuple(made))
        try:
            size = output_sizes(network)[made[-1].name]
        except ValueError:  # a VALID kernel that is larger than what is left
            continue
        last = made[-1].out_channels
        end = (
            Layer("pool", "avg_pool", (made[-1].name,), last, last, size, size, "VALID"),
            Layer("flatten", "reshape", ("pool",), last, last),
            Layer("logits", "dense", ("flatten",), last, int(rng.integers(2, 40))),
        )
        network = Network(network.input_shape, (*made, *end))
        if _MACS[0] < cost.macs(network) < _MACS[1]:
            return network


def _next(rng: np.random.Generator, name: str, kind: str, before: Layer) -> Layer:
    channels = before.out_channels
    if kind == "depthwise":
        kernel = _square(rng, 3, 3, 5, 7) if rng.random() < 0.7 else _line(rng, 3, 5, 7)
        return _layer(rng, name, "depthwise", before.name, channels, channels, kernel)
    if kind == "pool":
        size = _square(rng, 2, 3)
        return Layer(name, "avg_pool", (before.name,), channels, channels, size, size)
    if kind == "pointwise":
        activation = _activation(rng)
        return Layer(name, "conv", (before.name,), channels, _width(rng), activation=activation)
    return _layer(
        rng, name, "conv", before.name, channels, min(_width(rng), 32), _square(rng, 1, 3, 5)
    )


def _residual(rng: np.random.Generator, name: str, source: Layer, branch: Layer) -> list[Layer]:
    """What adds a pointwise layer to what it reads, zeros appended to the narrower of the two."""
    width = max(source.out_channels, branch.out_channels)
    sides, made = [], []
    for side, layer in (("shortcut", source), ("branch", branch)):
        sides.append(layer.name)
        if layer.out_channels < width:
            sides[-1] = f"{name}_{side}_pad"
            made.append(Layer(sides[-1], "pad", (layer.name,), layer.out_channels, width))
    activation = _activation(rng)
    add = Layer(f"{name}_add", "add", tuple(sides), width, width, activation=activation)
    return [*made, add]


def _layer(
    rng: np.random.Generator,
    name: str,
    kind: str,
    source: str,
    channels: int,
    width: int,
    kernel: tuple[int, int],
) -> Layer:
    stride = _square(rng, 1, 1, 2)
    padding: Padding = "SAME" if rng.random() < 0.7 else "VALID"
    assert kind in ("conv", "depthwise")
    return Layer(name, kind, (source,), channels, width, kernel, stride, padding, _activation(rng))


def _square(rng: np.random.Generator, *sides: int) -> tuple[int, int]:
    side = int(rng.choice(sides))
    return side, side


def _line(rng: np.random.Generator, *lengths: int) -> tuple[int, int]:
    length = int(rng.choice(lengths))
    return (length, 1) if rng.random() < 0.5 else (1, length)


def _activation(rng: np.random.Generator) -> Activation:
    activations: tuple[Activation, ...] = ("relu", "relu6", "linear")
    return activations[rng.integers(3)]


def _width(rng: np.random.Generator) -> int:
    """3 to 200, small ones as likely as large ones, more often than not a multiple of 4."""
    width = int(np.exp(rng.uniform(np.log(3), np.log(200))))
    return width if rng.random() < 0.4 else max(4, width // 4 * 4)


# ---------------------------------------------------------------- measuring


def measure(space: str, seed: int, index: int, core: str, runtime: str = "compiled") -> Sample:
    """One network exported, built and run on an emulated core.

    ``tflm`` needs its library, named by TFLM_INCLUDE and TFLM_LIBRARY; see ``firmware``.

    Args:
        space: which networks are drawn, see :func:`draw`.
        seed: of the draws.
        index: of the network.
        core: of the emulated board.
        runtime: a name in ``targets``.

    Returns:
        MACs, and instructions of one inference, in all and by layer.

    Raises:
        RuntimeError, ValueError: the network cannot be exported, built or run.
    """
    network = draw(space, seed, index)
    model = export.assemble(network, *random_weights(_weights_rng(seed, index), network))
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "model"
        firmware.write(model, devices.emulated(core).name, folder, runtime=runtime)
        ran = firmware.run(folder, compare=False)
    layers = Counter()
    for layer in ran.layers:
        layers[layer["name"]] += layer["instructions"]
    return Sample(index, cost.macs(network), ran.instructions, dict(layers))


def calibrate(
    space: str,
    seed: int,
    index: int,
    device: str,
    port: str,
    folder: pathlib.Path,
    flash: Callable[[pathlib.Path], None],
    runtime: str = "compiled",
) -> Sample:
    """One network on a real board: firmware written, flashed, asked over its serial port.

    Args:
        space: which networks are drawn, see :func:`draw`.
        seed: of the draws.
        index: of the network.
        device: whose firmware is written.
        port: of the board, ``serial:/dev/ttyACM0``.
        folder: where the firmware is written and linked, again for each network.
        flash: puts the firmware in a folder onto the board.
        runtime: of the firmware.

    Returns:
        The sample, cycles of the board in place of instructions.

    Raises:
        RuntimeError, ValueError: the firmware cannot be made or flashed, or the board stays silent,
            faults, refuses, runs another model, or runs at another clock than it should.
    """
    network = draw(space, seed, index)
    model = export.assemble(network, *random_weights(_weights_rng(seed, index), network))
    title = f"{space}-{seed}-{index}"
    firmware.write(model, device, folder, runtime=runtime, title=title)
    flash(folder)
    with protocol.open_port(port) as line:
        board = protocol.Board(line, seconds=PATIENCE_SECONDS, tries=TRIES)
        said = board.hello()
        if said.get("model") != title:
            raise protocol.ProtocolError(
                f"the board runs {said.get('model')!r} instead of {title!r}: it was not flashed, "
                "or this is the port of another board"
            )
        clock = devices.device(device).clock_hz
        if said.get("ticks_hz") != str(clock):
            raise protocol.ProtocolError(
                f"the board runs at {said.get('ticks_hz')} Hz ({said.get('clock')}), not at {clock}"
            )
        result = board.run()
    layers = Counter()
    for layer, ticks in zip(
        firmware.execute.read_manifest(folder)["layers"], result.layer_ticks, strict=True
    ):
        layers[layer["name"]] += ticks
    return Sample(index, cost.macs(network), result.ticks, dict(layers))


PROBES = (("kws", 0), ("kws", 2), ("ad", 4), ("layers", 5))
"""Space and index of the networks, seed 0, by which a board is asked for its speed."""


def speed(
    device: str, port: str, folder: pathlib.Path, flash: Callable[[pathlib.Path], None]
) -> tuple[devices.Measured, list[Sample]]:
    """Cycles per instruction of compiled C on the board on the desk, from :data:`PROBES`.

    Args:
        device: which board it is.
        port: see :func:`calibrate`.
        folder: where the firmware is written.
        flash: puts the firmware in a folder onto the board.

    Returns:
        The row that predictions for the board then go by, and what the board said.

    Raises:
        DeviceError: the board is an emulated one.
        RuntimeError, ValueError: as :func:`calibrate`.
    """
    on = devices.device(device)
    if on.emulated:
        raise devices.DeviceError(
            f"device {on.name} is emulated and takes a cycle for each instruction by definition; "
            "name the board that is plugged in"
        )
    samples = [calibrate(space, 0, i, on.name, port, folder, flash) for space, i in PROBES]
    networks = [draw(space, 0, i) for space, i in PROBES]
    factor, errors = sampled_factor(networks, samples, "compiled", on)
    row = devices.Measured(
        on.name, on.core, "own", f"compiled C, {firmware.versions()[-1]}", "measured here",
        len(samples), round(factor, 4), round(float(np.abs(errors).mean()), 4),
        round(float(np.abs(errors).max()), 4),
    )  # fmt: skip
    return row, samples


def flash(folder: pathlib.Path) -> None:
    """Put a firmware onto the board that is plugged in.

    Raises:
        FirmwareError: there is no tool to flash with, or it cannot be built or flashed.
    """
    if firmware.flash(folder).ran is None:
        raise firmware.FirmwareError(
            "neither openocd nor st-flash is installed; one of them has to flash"
        )


def _weights_rng(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, 1])


def attempt(
    space: str, seed: int, index: int, core: str, runtime: str = "compiled"
) -> Sample | str:
    """:func:`measure` of a network that may have no measurement.

    Args:
        space: which networks are drawn, see :func:`draw`.
        seed: of the draws.
        index: of the network.
        core: of the emulated board.
        runtime: a name in ``targets``.

    Returns:
        The sample, or one line that says why there is none.
    """
    try:
        return measure(space, seed, index, core, runtime)
    except (RuntimeError, ValueError) as error:
        return " ".join(str(error).split())[:300]


# ---------------------------------------------------------------- fitting


@dataclasses.dataclass(frozen=True)
class Line:
    """A straight line, and how far it is from what it was fitted to.

    Attributes:
        slope, intercept: of the line.
        r2: share of the variance that it explains.
        mean_error, largest_error: relative, absolute values.
    """

    slope: float
    intercept: float
    r2: float
    mean_error: float
    largest_error: float


def line(x: Shaped[np.ndarray, " n"], y: Shaped[np.ndarray, " n"]) -> Line:
    """The line of least squares through at least two points of different x.

    Raises:
        ValueError: there are fewer.
    """
    if len(set(x.tolist())) < 2:
        raise ValueError(f"{len(x)} samples are too few for a line: take more")
    slope, intercept = np.polyfit(x, y, 1)
    rest = y - (slope * x + intercept)
    errors = np.abs(rest / y)
    r2 = 1 - float(rest @ rest) / float(((y - y.mean()) ** 2).sum())
    return Line(float(slope), float(intercept), r2, float(errors.mean()), float(errors.max()))


def steps(networks: Sequence[Network], samples: Sequence[Sample], runtime: str) -> dict[str, float]:
    """Instructions of each step of ``latency``, from layers that were run.

    Least squares of the relative error, none below 0; layers of few instructions count for less.
    """
    from scipy.optimize import nnls

    rows, seen = _layer_rows(networks, samples, runtime)
    names = sorted({name for row in rows for name, times in row.items() if times})
    table = np.array([[row[name] for name in names] for row in rows], float)
    target = np.array(seen, float)
    weight = 1 / (target + _INSTRUCTIONS)
    fitted, _ = nnls(table * weight[:, None], target * weight, maxiter=100 * len(names))
    rest = [s.instructions - sum(s.layers.values()) for s in samples]
    return {
        latency.INFERENCE: max(0.0, float(np.mean(rest))),
        **{name: round(float(value), 4) for name, value in zip(names, fitted, strict=True)},
    }


def layer_errors(
    networks: Sequence[Network],
    samples: Sequence[Sample],
    runtime: str,
    steps: Mapping[str, float],
) -> Float[np.ndarray, " n"]:
    """How far off the steps are for each layer, as a share of its instructions and a thousand.

    Args:
        networks: that were run.
        samples: what was measured of each.
        runtime: that they ran in.
        steps: instructions of each step.

    Returns:
        Relative errors, one for each layer measured; 1000 instructions are added to the divisor.
    """
    rows, seen = _layer_rows(networks, samples, runtime)
    predicted = [sum(steps.get(name, 0.0) * n for name, n in row.items()) for row in rows]
    return np.abs(np.array(predicted) - seen) / (np.array(seen) + _INSTRUCTIONS)


def _layer_rows(
    networks: Sequence[Network], samples: Sequence[Sample], runtime: str
) -> tuple[list[Counter], list[int]]:
    """For each layer that was measured how often it takes each step, and its instructions."""
    rows, seen = [], []
    for network, sample in zip(networks, samples, strict=True):
        for name, terms in latency.layer_terms(network, runtime):
            if name in sample.layers:
                row = Counter()
                for term in terms:
                    row.update({step: term.count * n for step, n in term.steps.items()})
                rows.append(row)
                seen.append(sample.layers[name])
    return rows, seen


def step_errors(
    networks: Iterable[Network], samples: Iterable[Sample], runtime: str, core: str
) -> Float[np.ndarray, " n"]:
    """Relative error of ``latency.instructions`` for each sample.

    Args:
        networks: that were run.
        samples: what was measured of each.
        runtime: that they ran in.
        core: whose fitted steps predict.

    Returns:
        Instructions predicted over instructions measured, less 1, [n].
    """
    return np.array(
        [
            latency.instructions(network, runtime, core) / sample.instructions - 1
            for network, sample in zip(networks, samples, strict=True)
        ]
    )


def sampled_factor(
    networks: Sequence[Network], samples: Sequence[Sample], runtime: str, on: Device
) -> tuple[float, Float[np.ndarray, " n"]]:
    """:func:`board_factor` of samples in cycles, over the instructions predicted.

    Args:
        networks: that were run.
        samples: what the board said of each.
        runtime: that they ran in.
        on: the board.

    Returns:
        As :func:`board_factor`: cycles per instruction, and relative errors [n].
    """
    predicted = [latency.timed_instructions(network, on, runtime) for network in networks]
    return board_factor(np.array(predicted), np.array([s.instructions for s in samples]))


def board_factor(
    instructions: Shaped[np.ndarray, " n"], cycles: Shaped[np.ndarray, " n"]
) -> tuple[float, Float[np.ndarray, " n"]]:
    """Cycles per instruction of a board, and the error of each row predicted from the others.

    The median: a network that was published with other layers than are listed does not move it.
    """
    ratios = cycles / instructions
    others = [np.median(np.delete(ratios, i)) for i in range(len(ratios))]
    return float(np.median(ratios)), np.array(others) / ratios - 1
