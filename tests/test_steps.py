"""Steps of the C kernels: counted alike by every room that reads them, measured on both cores."""

import json
import pathlib

import numpy as np
import pytest

from micronets_jax import devices, export, latency, latency_fit, steps
from micronets_jax.compile import compiler
from micronets_jax.kernels import Depthwise
from micronets_jax.windows import Window

CORES = json.loads((pathlib.Path(devices.__file__).parent / "compiled.json").read_text())["cores"]


@pytest.mark.parametrize(("space", "index"), [("kws", 0), ("kws", 3), ("ad", 1), ("ad", 4)])
def test_a_compiled_file_counts_what_its_network_counts(space, index):
    """One is counted from parameters of calls, the other from layers."""
    net = latency_fit.draw(space, 0, index)
    weights = latency_fit.random_weights(np.random.default_rng(index), net)
    compiled = compiler.compile_model(export.assemble(net, *weights), "model")
    network = latency.instructions(net, "compiled", "cortex-m4")
    assert compiled.instructions == pytest.approx(network, rel=1e-3)


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_every_step_of_squares_and_lines_was_measured(core):
    """Both cores, all kernels of which there are several."""
    known = CORES[core]["steps"]
    windows = [
        Window.over((9, columns), (rows, side), (stride, stride), "SAME")
        for side in (3, 5, 7)
        for rows in (1, side)
        for stride in (1, 2)
        for columns in (2, 9)
    ]
    asked = {
        step
        for window in windows
        for terms in (
            steps.conv(window, 5, 7, True),
            steps.conv(window, 8, 7, False),
            steps.depthwise(Depthwise.over(window), 4, True),
            steps.pool(window, 3),
            steps.dense(window.pixels, 1001, 7),
            steps.add(4, 4),
            steps.pad(4, 20, 22),
        )
        for term in terms
        for step, times in term.steps.items()
        if term.count and times
    }
    assert asked <= known.keys()
    assert CORES[core]["mean_error"] < 0.006 and CORES[core]["largest_error"] < 0.08


def test_what_a_quad_takes_is_what_its_assembly_says():
    """Counted in csrc: 24 instructions for two channels of four pixels, or 22 of weights that are
    stored as int16; 17 for four channels of one pixel of a dense layer."""
    for core in ("cortex-m4", "cortex-m7"):
        known = CORES[core]["steps"]
        assert known["conv_group_quad"] == pytest.approx(24, abs=0.2)
        assert known["conv_group_quad_wide"] == pytest.approx(22, abs=0.5)
        assert known["dense_four_quad"] == pytest.approx(17, abs=0.2)
        assert known["conv_group_signed"] == pytest.approx(4, abs=0.2)
