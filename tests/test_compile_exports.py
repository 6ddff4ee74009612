"""What Keras exports the default way, with an open batch: whole kinds of layers, in miniature."""

import numpy as np
import pytest

from micronets_jax import compile as compiler
from micronets_jax.compile import verify

pytestmark = pytest.mark.slow


def dilated(keras, x):
    x = keras.layers.Conv1D(8, 3, dilation_rate=2, padding="causal", activation="relu")(x)
    x = keras.layers.Conv1D(8, 3, dilation_rate=4, padding="same")(x)
    return keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x))


def attention(keras, x):
    x = keras.layers.MultiHeadAttention(2, 4)(x, x) + x
    return keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.LayerNormalization()(x)))


def activations(keras, x):
    x = keras.layers.LeakyReLU()(keras.layers.Dense(16)(x))
    for name in ("elu", "tanh", "relu6", "swish"):
        x = keras.layers.Dense(16, activation=name)(x)
    x = keras.layers.PReLU()(keras.layers.Dense(8)(x))
    return keras.layers.Dense(8, activation="log_softmax")(x)


def segmentation(keras, x):
    a = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    b = keras.layers.Conv2D(8, 3, padding="same")(keras.layers.MaxPool2D()(a))
    b = keras.layers.Conv2DTranspose(8, 2, strides=2)(b)
    return keras.layers.Conv2D(1, 1, activation="sigmoid")(keras.layers.Concatenate()([a, b]))


def groups(keras, x):
    x = keras.layers.Conv2D(8, 3, groups=4, padding="same")(x)
    x = keras.layers.Cropping2D(1)(keras.layers.ZeroPadding2D(2)(x))
    return keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Permute((2, 1, 3))(x)))


def excitation(keras, x):
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    s = keras.layers.Conv2D(4, 1, activation="relu")(
        keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    )
    x = x * keras.layers.Conv2D(8, 1, activation="hard_sigmoid")(s)
    return keras.layers.Dense(2)(keras.layers.GlobalMaxPool2D()(x))


def unrolled(keras, x):
    return keras.layers.Dense(3)(keras.layers.LSTM(6, unroll=True)(x))


def rows(keras, x):
    return keras.layers.Dense(2)(keras.layers.Dense(8, activation="relu")(x))


def each_in_turn(keras, x):
    x = keras.layers.TimeDistributed(keras.layers.Conv2D(4, 3, activation="relu"))(x)
    return keras.layers.Dense(3)(keras.layers.Flatten()(x))


LAYERS = [
    (dilated, (32, 4)), (attention, (12, 8)), (activations, (16,)), (segmentation, (16, 16, 3)),
    (groups, (8, 8, 8)), (excitation, (8, 8, 8)), (unrolled, (4, 4)), (rows, (6, 4)),
    (each_in_turn, (3, 8, 8, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "shape"), LAYERS, ids=lambda x: getattr(x, "__name__", ""))
def test_export(layers, shape):
    """Equal to TensorFlow Lite Micro, or to LiteRT where the former takes an open batch for 1."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    inputs = tf.keras.layers.Input(shape)
    converter = tf.lite.TFLiteConverter.from_keras_model(
        tf.keras.Model(inputs, layers(tf.keras, inputs))
    )
    rng = np.random.default_rng(0)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [rng.normal(size=(1, *shape)).astype(np.float32)] for _ in range(8)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    model = converter.convert()
    verdict = verify.verify(compiler.compile_model(model), model, 4)
    assert verdict.equal_to
