"""Export: the file holds the trained numbers, and interpreters compute the reference's bytes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micronets_jax import cost, export, memory, quantize, runtimes
from micronets_jax.network import INPUT
from micronets_jax.targets.tflm import arena as tflm
from support.networks import (
    CONVOLUTIONAL,
    MIXED,
    NETWORKS,
    RESIDUAL,
    RESIDUAL_SPACE,
    SPACE,
    SUMS,
    inputs,
    random_inputs,
    trained,
)

DSCNN_OPERATORS = {"CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "FULLY_CONNECTED"}


@pytest.fixture(scope="module", params=list(NETWORKS), ids=lambda name: name.replace(" ", "-"))
def exported(request):
    """A network, its integers, and its file."""
    network = NETWORKS[request.param]
    folded, ranges = trained(network, seed=len(request.param))
    data = export.to_tflite(network, folded, ranges)
    return network, quantize.integers(network, folded, ranges), data


@pytest.fixture(scope="module")
def small():
    network = NETWORKS["stem only"]
    return network, *trained(network)


@pytest.mark.parametrize("exported", ["residual", "sums"], indirect=True)
def test_the_arena_is_the_predicted_one(exported):
    network, _, data = exported
    seen, predicted = runtimes.TFLM(data).arena(), tflm.arena(network, tflm.HOST)
    assert seen.activation_bytes == predicted.activations
    assert predicted.persistent == pytest.approx(seen.persistent_bytes, rel=0.05)
    assert cost.flash_bytes(network) == pytest.approx(len(data), rel=0.02)


def litert(data):
    return runtimes.LiteRT(data)._interpreter


def test_tflm_computes_the_bytes_of_the_reference(exported):
    network, quantized, data = exported
    x = random_inputs(network)
    np.testing.assert_array_equal(runtimes.TFLM(data).predict(x), quantize.run(quantized, x))


def test_without_the_converter_it_is_the_same_file(exported):
    network, _, data = exported
    name = next(name for name, each in NETWORKS.items() if each is network)
    assert export.assemble(network, *trained(network, seed=len(name))) == data


def test_litert_differs_in_dense_layers_only_and_by_one(exported):
    network, quantized, data = exported
    x = random_inputs(network)
    difference = runtimes.LiteRT(data).predict(x) - quantize.run(quantized, x).astype(int)
    assert np.abs(difference).max() <= any(layer.kind == "dense" for layer in network)


def test_the_operators_are_those_of_the_network(exported):
    network, _, data = exported
    names = [op["op_name"] for op in litert(data)._get_ops_details() if op["op_name"] != "DELEGATE"]
    if network is MIXED:
        assert names.count("RESHAPE") == 1 and set(names) == DSCNN_OPERATORS | {"RESHAPE"}
    elif network is CONVOLUTIONAL:
        assert names == ["DEPTHWISE_CONV_2D", "CONV_2D", "CONV_2D", "RESHAPE"]
    elif network in (RESIDUAL, SUMS):
        assert names == [operator.kind for operator in memory.operators(network)]
        assert names.count("PAD") == sum(layer.kind == "pad" for layer in network) > 0
        assert names.count("ADD") == 3
    else:
        layers = [layer for layer in network if layer.kind != "reshape"]
        assert len(names) == len(layers) and set(names) <= DSCNN_OPERATORS
        assert names[0] == "CONV_2D" and names[-2:] == [
            "AVERAGE_POOL_2D",
            "FULLY_CONNECTED",
        ]


def test_every_scale_is_the_trained_one(exported):
    _, quantized, data = exported
    found, kernels = {}, []
    for tensor in litert(data).get_tensor_details():
        parameters = tensor["quantization_parameters"]
        if tensor["name"]:
            found[tensor["name"]] = parameters["scales"][0], parameters["zero_points"][0]
        elif tensor["dtype"] is np.int8 and len(parameters["scales"]):
            kernels.append(parameters["scales"])
            assert not np.any(parameters["zero_points"])
    for name, (scale, zero_point) in found.items():
        assert scale == quantized.scales[name] and zero_point == quantized.zero_points[name]
    assert set(found) >= {INPUT, *quantized.layers}
    for scales, weights in zip(kernels, quantized.layers.values(), strict=True):
        np.testing.assert_array_equal(scales, weights.scales)


def test_the_same_network_gives_the_same_bytes(small):
    network, folded, ranges = small
    data = export.to_tflite(network, folded, ranges)
    assert data == export.to_tflite(network, folded, ranges)
    assert data[4:8] == b"TFL3"


def test_softmax_only_if_asked(small):
    network, folded, ranges = small
    data = export.to_tflite(network, folded, ranges, softmax=True)
    runtime = runtimes.TFLM(data)
    assert runtime.output_details.scale == 1 / 256 and runtime.output_details.zero_point == -128
    x = random_inputs(network, 4)
    quantized = quantize.integers(network, folded, ranges)
    real = quantize.run(quantized, x).astype(np.float32) * quantized.scales["logits"]
    probabilities = runtimes.dequantize(runtime.predict(x), 1 / 256, -128)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(real), atol=1 / 128)


def test_equal_layers_and_no_biases_survive_the_converter():
    """It drops biases that are all zeros, and shares equal constants."""
    network = SPACE.member([12] * 4, [True] * 3)
    folded, ranges = trained(network)
    for p in folded.values():
        p["bias"] = p["bias"] * 0
    for part in ("depthwise", "pointwise"):
        folded[f"block3_{part}"] = folded[f"block2_{part}"]
        ranges["weight"][f"block3_{part}"] = ranges["weight"][f"block2_{part}"]
    for name in [name for name in ranges["activation"] if name not in (INPUT, "logits")]:
        ranges["activation"][name] = {"max": jnp.float32(2.0)}
    data = export.to_tflite(network, folded, ranges)
    x = random_inputs(network)
    expected = quantize.run(quantize.integers(network, folded, ranges), x)
    np.testing.assert_array_equal(runtimes.TFLM(data).predict(x), expected)


def test_a_bias_too_large_for_its_scale(small):
    """A batch norm that has nearly shut a channel leaves tiny weights and a bias like any other."""
    network, folded, ranges = small
    stem = folded["stem"]
    shut = {
        "kernel": stem["kernel"].at[..., 5].multiply(1e-12),
        "bias": stem["bias"].at[5].set(1.5),
    }
    folded = {**folded, "stem": shut}
    quantized = quantize.integers(network, folded, ranges)
    step = quantized.scales[INPUT] * quantized.layers["stem"].scales[5]
    np.testing.assert_allclose(quantized.layers["stem"].bias[5] * step, 1.5, rtol=1e-3)
    data = export.to_tflite(network, folded, ranges)
    x = random_inputs(network)
    np.testing.assert_array_equal(runtimes.TFLM(data).predict(x), quantize.run(quantized, x))


@pytest.mark.parametrize("change", ["activation", "zero point", "scale", "weight", "bias"])
def test_a_number_that_is_not_the_trained_one_is_an_error(small, change):
    quantized = quantize.integers(*small)
    model = export.parse(export.to_tflite(*small))
    stem = quantized.layers["stem"]
    if change == "activation":
        quantized.scales["stem"] = np.nextafter(quantized.scales["stem"], np.float32(1))
    elif change == "zero point":
        quantized.zero_points["logits"] += 1
    else:
        field = {"scale": "scales", "weight": "kernel", "bias": "bias"}[change]
        values = getattr(stem, field).copy()
        values[..., 3] = (
            np.nextafter(values[3], 1) if change == "scale" else values[..., 3] // 2 + 1
        )
        quantized.layers["stem"] = dataclasses.replace(stem, **{field: values})
    named = {"zero point": "tensor 'logits'", "activation": "tensor 'stem'"}
    with pytest.raises(RuntimeError, match=named.get(change, "tensor 'stem', channel 3")):
        export.compare(model, quantized, False, exact=True)


def test_another_graph_is_an_error(small):
    model = export.parse(export.to_tflite(*small))
    other = quantize.integers(NETWORKS["all blocks"], *trained(NETWORKS["all blocks"]))
    with pytest.raises(RuntimeError, match="the converter made"):
        export.compare(model, other, False, exact=True)


def test_fake_quant_is_tensorflows(small):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    for low, high in [
        (-3.1, 2.7),
        (0.0, 6.3),
        (-0.013, 0.9),
        (-1.0, 0.0),
        (0.2, 5.0),
        (-4.0, -1.0),
    ]:
        x = rng.uniform(low - 1, high + 1, 2000).astype(np.float32)
        lowest, highest = min(low, 0.0), max(high, 0.0)  # TensorFlow leaves this to its caller
        want = tf.quantization.fake_quant_with_min_max_vars(x, lowest, highest).numpy()
        got = quantize.fake_quant(jnp.asarray(x), low, high)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_each_channel_costs_sixteen_bytes_beside_its_weights():
    """Scale, zero point and bias; all else is the same in networks of the same layers."""

    def file_bytes(width):
        network = SPACE.member([width] * 4, [True, True, True])
        return len(export.to_tflite(network, *trained(network)))

    def counted(n):  # kernels and 16 bytes a channel: stem, three blocks, dense
        return (40 * n + 3 * (9 * n + n * n) + 12 * n) + 16 * (7 * n + 12)

    assert file_bytes(32) - file_bytes(16) == counted(32) - counted(16)


def test_undecided_networks_are_refused(small):
    with pytest.raises(ValueError, match="is a mix: decode the choice"):
        export.to_tflite(SPACE.supernetwork(), *small[1:])


@pytest.mark.slow
@pytest.mark.parametrize("space", [SPACE, RESIDUAL_SPACE], ids=["dscnn", "mobilenet_v2"])
@pytest.mark.parametrize("seed", range(12))
def test_random_members_of_a_space(space, seed):
    rng = np.random.default_rng(seed)
    network = space.decode({name: rng.random(d.shape) for name, d in space.decisions().items()})
    folded, ranges = trained(network, seed)
    data = export.to_tflite(network, folded, ranges)
    quantized = quantize.integers(network, folded, ranges)
    runtime = runtimes.TFLM(data)
    x = np.concatenate(
        [
            random_inputs(network, 100),
            runtimes.quantize_input(
                inputs(network, 100), runtime.input_details.scale, runtime.input_details.zero_point
            ),
        ]
    )
    np.testing.assert_array_equal(runtime.predict(x), quantize.run(quantized, x))
