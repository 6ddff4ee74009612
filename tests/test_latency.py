"""Latency: steps by hand, counts from outside, one formula for ints, arrays and floats."""

import dataclasses
import json
from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import boards
from micronets_jax import decisions, devices, latency, network, tflite, zoo
from micronets_jax.devices.instructions import STEPS
from micronets_jax.network import INPUT, Layer, Network
from micronets_jax.spaces import DSCNN
from micronets_jax.targets.tflm import terms as tflm

SPACE = DSCNN(max_width=40, strides=(2, 1, 1))
BOARD = devices.device("STM32F446RE")
CASES = [(runtime, core) for runtime in STEPS for core in ("cortex-m4", "cortex-m7")]


def one_layer(layer, shape):
    return Network(shape, (dataclasses.replace(layer, name="layer", inputs=(INPUT,)),))


def steps_of(layer, shape, runtime):
    """How often the only layer of a network takes each step."""
    ((_, terms),) = latency.layer_terms(one_layer(layer, shape), runtime)
    counts = Counter()
    for term in terms:
        counts.update({step: int(term.count * n) for step, n in term.steps.items()})
    return {step: n for step, n in counts.items() if n}


# ---------------------------------------------------------------- by hand

# 3 x 3 pixels are two groups of four and one more; 8 inputs are two quads, 3 outputs two pairs.
POINTWISE = Layer("", "conv", (), 8, 3, activation="relu")
# 4 x 5 with padding of 1: rows inside per window row 2 3 3 2, columns 2 3 3 3 2, so 10 * 13 taps.
DEPTHWISE = Layer("", "depthwise", (), 6, 6, (3, 3), activation="relu")
# 4 x 4 with padding of 1, a quad at each position: rows inside per window row 2 3 3 2, so 20 whole
# runs in two of four columns; in the others 10 * 4 positions inside and 20 beside them; two rows of
# padding in each column.
CONV = Layer("", "conv", (), 4, 2, (3, 3))


@pytest.mark.parametrize(
    ("layer", "shape", "runtime", "expected"),
    [
        (
            POINTWISE, (3, 3, 8), "compiled",
            {
                "conv": 1, "conv_group": 2, "conv_single": 1, "conv_group_output": 2 * 3,
                "conv_group_begin": 2 * 2, "conv_group_quad": 2 * 2 * 2, "conv_group_turn": 2 * 2,
                "conv_pair_begin": 2, "conv_pair_quad": 2 * 2, "conv_pair_turn": 2,
                "widen": 8, "widen_one": 8 * 2, "widen_single": 1, "widen_single_quad": 2,
            },
        ),
        (
            CONV, (4, 4, 4), "compiled",
            {
                "conv": 1, "conv_group": 4, "conv_group_output": 4 * 2, "conv_group_signed": 4 * 2,
                "conv_group_begin": 4, "conv_group_quad": 4 * 9, "conv_group_turn": 4 * 3,
                "lay": 16, "lay_row": 4, "lay_line": 4 * 3, "lay_run": 16 * 3,
                "widen": 20 + 40, "widen_one": 20 * 3 + 40,
                "value": 8 + 20, "value_quad": 8 * 3 + 20,
            },
        ),
        (  # two quads and a half of inputs; seven outputs are four and three more
            Layer("", "dense", (), 10, 7), (1, 1, 10), "compiled",
            {
                "dense": 1, "dense_pixel": 1, "dense_last": 2, "dense_output": 7, "dense_rest": 1,
                "dense_rest_output": 3, "dense_four": 2, "dense_four_quad": 2 * 3, "dense_turn": 2,
                "dense_sum": 2, "dense_tail": 2,
            },
        ),
        (  # 20 bytes are a block of 16 and a word, where both sides lie at words: every other pixel
            Layer("", "pad", (), 20, 22), (2, 2, 20), "compiled",
            {
                "pad": 1, "pad_pixel": 4, "pad_fill": 4 * 22, "pad_byte": 2 * 20, "pad_aligned": 2,
                "pad_block": 2, "pad_word": 2,
            },
        ),
        (
            POINTWISE, (3, 3, 8), "tflm",
            {
                "pointwise": 1, "pointwise_call": 1, "pointwise_pair": 1, "pointwise_sum": 8,
                "pointwise_two": 4, "pointwise_two_4": 4 * 2, "pointwise_one": 1,
                "pointwise_one_4": 2, "pointwise_odd": 9, "pointwise_odd_4": 9 * 2,
            },
        ),
        (  # three pairs of outputs and one; two fours of inputs and two
            Layer("", "dense", (), 10, 7), (1, 1, 10), "tflm",
            {
                "dense": 1, "dense_scale": 7, "dense_pair": 3, "dense_pair_four": 3 * 2,
                "dense_pair_rest": 3 * 2, "dense_odd": 1, "dense_odd_four": 2, "dense_odd_rest": 2,
            },
        ),
        (  # before there were groups of four, all eight inputs were taken one by one
            POINTWISE, (3, 3, 8), "tflm_2020",
            {
                "pointwise": 1, "pointwise_call": 1, "pointwise_pair": 1, "pointwise_sum": 8,
                "pointwise_two": 4, "pointwise_two_rest": 4 * 8, "pointwise_one": 1,
                "pointwise_one_rest": 8, "pointwise_odd": 9, "pointwise_odd_rest": 9 * 8,
            },
        ),
        (
            DEPTHWISE, (4, 5, 6), "tflm",
            {
                "depthwise3": 1, "depthwise3_pixel": 20, "depthwise3_four": 20,
                "depthwise3_four_row": 10 * 5, "depthwise3_four_tap": 10 * 13,
                "depthwise3_rest": 2 * 20, "depthwise3_rest_row": 2 * 10 * 5,
                "depthwise3_rest_tap": 2 * 10 * 13,
            },
        ),
        (  # transposed: five rows of four
            DEPTHWISE, (4, 5, 6), "compiled",
            {
                "depthwise": 1, "depthwise_fill": 7 * 6, "depthwise_four": 6 * 5,
                "depthwise_four_channel": 6, "depthwise_four_row": 6 * 5,
                "depthwise_gather_row": 6 * 5, "depthwise_gather_four": 6 * 5,
                "depthwise_gather_turn": 6 * 5,
            },
        ),
        (  # at stride 2 by twos: three rows of two, of which the second is filled up
            dataclasses.replace(DEPTHWISE, stride=(2, 2), activation="linear"), (6, 6, 6),
            "compiled",
            {
                "depthwise": 1, "depthwise_fill": 7 * 10, "depthwise_pair_3_2": 6 * 3 * 2,
                "depthwise_pair_signed": 6 * 3 * 2, "depthwise_channel_3": 6,
                "depthwise_row": 6 * 3, "depthwise_row_odd": 6 * 3, "depthwise_gather_row": 6 * 6,
                "depthwise_gather_four": 6 * 6, "depthwise_gather_turn": 6 * 6,
                "depthwise_gather_one": 6 * 6 * 2,
            },
        ),
    ],
)  # fmt: skip
def test_steps_by_hand(layer, shape, runtime, expected):
    assert steps_of(layer, shape, runtime) == expected


def test_channels_that_do_not_fill_words_are_gathered():
    even = steps_of(Layer("", "conv", (), 8, 8), (4, 4, 8), "compiled")
    odd = steps_of(Layer("", "conv", (), 6, 8), (4, 4, 6), "compiled")
    assert "bytes" not in even
    # Each of 16 pixels: one word and two bytes.
    assert (odd["bytes_word"], odd["bytes_one"], odd["bytes_run"]) == (16, 32, 16)
    old = steps_of(Layer("", "conv", (), 6, 8), (4, 4, 6), "tflm_2020")
    assert "conv_two" in old and "pointwise_two" not in old


def test_instructions_are_steps_times_what_they_take():
    """And near the 1,240 that this layer was counted to take, on both emulated cores."""
    cost = latency.fitted("compiled", "cortex-m4")
    counted = steps_of(POINTWISE, (3, 3, 8), "compiled")
    net = one_layer(POINTWISE, (3, 3, 8))
    layer = latency.layer_instructions(net, "compiled", "cortex-m4")["layer"]
    by_hand = sum(cost[step] * n for step, n in counted.items())
    assert layer == pytest.approx(by_hand, abs=20)  # whole numbers for each product of channels
    assert latency.instructions(net, "compiled", "cortex-m4") == layer + round(cost["inference"])
    for core in ("cortex-m4", "cortex-m7"):
        predicted = latency.layer_instructions(net, "compiled", core)["layer"]
        assert predicted == pytest.approx(1240, rel=0.03)


def test_times_and_energies_are_instructions_in_proportion():
    net = zoo.network("DSCNN-S")
    # Of TFLM's, 1x1 convolutions take 0.95 of the board's cycles an instruction, all else 1.05.
    by_layer = latency.layer_instructions(net, "tflm", BOARD.core)
    fast = sum(n for name, n in by_layer.items() if name.endswith("pointwise"))
    assert 0.3 * sum(by_layer.values()) < fast < 0.6 * sum(by_layer.values())
    count = 0.95 * fast + 1.05 * (sum(by_layer.values()) - fast)
    ms = latency.latency_ms(net, BOARD)
    assert ms == pytest.approx(count * BOARD.cycles_per_instruction / 180e6 * 1000, rel=1e-3)
    assert latency.energy_mj(net, BOARD) == pytest.approx(ms * 163 / 1000)
    # Compiled C has one number for all; an emulated board takes a cycle for each instruction of
    # any runtime: 25 million a second.
    count = latency.instructions(net, "compiled", "cortex-m4")
    ms = latency.latency_ms(net, BOARD, "compiled")
    assert ms == pytest.approx(count * BOARD.cycles_per_instruction / 180e3)
    for runtime in ("compiled", "tflm"):
        emulated = latency.latency_ms(net, devices.device("mps2-an386"), runtime)
        count = latency.instructions(net, runtime, "cortex-m4")
        assert emulated == pytest.approx(count / 25_000)


# ---------------------------------------------------------------- numbers from outside


def published_stem(net, core):
    """What the first layer takes as a convolution, as which it was published, and as ours."""
    cost = latency.fitted("tflm", core)
    stem = net.layers[0]
    window = network.window(stem, network.output_sizes(net))
    as_conv = sum(
        term.count * sum(cost[step] * n for step, n in term.steps.items())
        for term in tflm.terms(stem, window, 1, old=True)
    )
    return as_conv, latency.layer_instructions(net, "tflm", core)[stem.name]


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_tflm_on_published_networks(core, reference):
    data = json.loads((reference / "reference/tflm_cmsisnn.json").read_text())
    column = data["published_columns"].index(f"instructions_{core.removeprefix('cortex-')}")
    rows = [row for row in data["published"] if row[0] in zoo.names()]
    assert len(rows) >= 9
    for row in rows:
        net = zoo.network(row[0], 8) if "AD" in row[0] else zoo.network(row[0])
        as_conv, ours = published_stem(net, core)
        predicted = latency.instructions(net, "tflm", core) - ours + as_conv
        assert predicted == pytest.approx(row[column], rel=0.03), row[0]


def single_scales(path):
    """Outputs of the dense layers of a file that have one scale for all of their weights."""
    model = tflite.read(path)
    layers = [op for op in model.operators if op.kind == "FULLY_CONNECTED"]
    weights = [model.tensors[op.inputs[1]] for op in layers]
    return sum(w.shape[0] for w in weights if len(w.quantization.scales) == 1)


@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_tflm_on_published_files(core, reference):
    """Dense layers of up to 640 inputs and outputs (``mlperf_ad``) as well as convolutions."""
    data = json.loads((reference / "reference/tflm_cmsisnn.json").read_text())
    column = data["columns"].index(f"instructions_{core.removeprefix('cortex-')}")
    scale = round(latency.fitted("tflm", core)["dense_scale"])
    rows = [row for row in data["rows"] if row[0] != "mcunet_10fps_vww"]  # what is no layer here
    assert len(rows) == 5
    for row in rows:
        path = reference / f"models/{row[0]}.tflite"
        predicted = latency.instructions(boards.of_file(path), "tflm", core)
        predicted -= scale * single_scales(path)
        assert predicted == pytest.approx(row[column], rel=0.008), row[0]


@pytest.mark.parametrize(
    ("name", "counted"),
    [("mlperf_kws_dscnn", 23278680), ("mlperf_ic_resnet8", 97259440), ("mlperf_ad", 1175760)],
)
def test_compiled_c_on_a_cortex_m0plus(name, counted, reference):
    """As ``micronets run --core cortex-m0plus`` counts it: kernels without the DSP extension."""
    net = boards.of_file(reference / f"models/{name}.tflite")
    predicted = latency.instructions(net, "compiled", "cortex-m0plus")
    assert predicted == pytest.approx(counted, rel=0.015)
    assert counted > 3.5 * latency.instructions(net, "compiled", "cortex-m4")


# ---------------------------------------------------------------- one formula


def random_choices(count, seed=0):
    return decisions.uniform(np.random.default_rng(seed), SPACE.decisions(), count)


def counts(net, runtime, core):
    """Instructions, plain and by the pace of their layers."""
    return (
        latency.instructions(net, runtime, core),
        latency.paced_instructions(net, runtime, core),
    )


@pytest.mark.parametrize(("runtime", "core"), CASES)
def test_ints_arrays_and_one_hot_floats_agree(runtime, core):
    chex.clear_trace_counter()
    choices = random_choices(24)
    traces = chex.assert_max_traces(
        lambda choice: counts(SPACE.network(choice), runtime, core), n=1
    )
    compute = jax.jit(jax.vmap(traces))
    exact = compute(choices)
    assert all(each.dtype == jnp.int32 for each in exact)
    compute(random_choices(24, seed=1))
    floats = jax.tree.map(lambda leaf: leaf.astype(np.float32), choices)
    soft = jax.jit(jax.vmap(lambda choice: counts(SPACE.network(choice), runtime, core)))(floats)
    for i in range(24):
        net = SPACE.decode(jax.tree.map(lambda leaf, i=i: leaf[i], choices))
        for count, array, expected in zip(counts(net, runtime, core), exact, soft, strict=True):
            assert isinstance(count, int) and count == int(array[i])
            assert float(expected[i]) == pytest.approx(count, rel=1e-6)


@pytest.mark.parametrize("runtime", STEPS)
def test_every_width_and_block_has_a_positive_slope(runtime):
    logits = decisions.undecided(SPACE.decisions())

    def cost(logits):
        choice = decisions.expected(logits)
        return latency.latency_ms(SPACE.network(choice), BOARD, runtime)

    slopes = jax.jit(jax.grad(cost))(logits)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    # More weight on the widest option costs more than on the narrowest; a block costs time.
    assert (slopes["width"][:, -1] > slopes["width"][:, 0]).all()
    assert (slopes["keep"][1:, 0] > 0).all()


def test_an_expectation_between_two_widths_is_not_taken_for_an_odd_one():
    def soft(channels):
        layer = Layer("layer", "conv", ("first",), channels, 8.0)
        first = Layer("first", "conv", (INPUT,), 1, channels, (3, 3))
        return latency.layer_instructions(
            Network((8, 8, 1), (first, layer)), "compiled", "cortex-m4"
        )

    def exact(channels):
        return latency.layer_instructions(
            Network(
                (8, 8, 1),
                (
                    Layer("first", "conv", (INPUT,), 1, channels, (3, 3)),
                    Layer("layer", "conv", ("first",), channels, 8),
                ),
            ),
            "compiled",
            "cortex-m4",
        )

    assert float(soft(jnp.float32(8.0))["layer"]) == exact(8)["layer"]
    assert float(soft(jnp.float32(7.0))["layer"]) == exact(7)["layer"] > exact(8)["layer"]
    assert float(soft(jnp.float32(7.3))["layer"]) == pytest.approx(exact(8)["layer"])


@pytest.mark.parametrize("runtime", STEPS)
def test_absent_layers_and_mixes_take_nothing(runtime):
    choice = SPACE.choice([8, 12, 16, 20], [True, False, True])
    whole = SPACE.network(jax.tree.map(jnp.asarray, choice))
    pruned = SPACE.decode(choice)
    assert int(latency.instructions(whole, runtime, "cortex-m4")) == latency.instructions(
        pruned, runtime, "cortex-m4"
    )


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("runtime", "core", "reason"),
    [
        ("micro", "cortex-m4", "runtime='micro' is unknown; use one of compiled, tflm"),
        ("tflm", "cortex-m0", "core 'cortex-m0' has not been characterised; known are cortex-m4"),
    ],
)
def test_what_nobody_measured_is_refused(runtime, core, reason):
    with pytest.raises(ValueError, match=reason):
        latency.instructions(zoo.network("DSCNN-S"), runtime, core)


def test_unknown_power_is_refused():
    with pytest.raises(ValueError, match="power of STM32F767ZI is not known; it is known of STM32"):
        latency.energy_mj(zoo.network("DSCNN-S"), devices.device("STM32F767ZI"))
