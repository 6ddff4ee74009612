"""A trained network as an int8 TFLite file, its scales exactly the trained ones.

Invariant: a file that leaves this room holds, number for number, what ``quantize.integers`` says;
anything else is an error that names the tensor and the channel.

``converter`` takes the network through TensorFlow's converter, ``assembly`` puts a graph together
without it and writes the trained numbers into either, ``check`` compares; ``contents`` finds what a
file holds.
"""

from __future__ import annotations

from micronets_jax.export.assembly import ALIGNMENT, pack, rewrite, skeleton
from micronets_jax.export.check import compare, require_runnable
from micronets_jax.export.contents import SOFTMAX, packed, parse
from micronets_jax.export.converter import convert, restore_convolutions, widen
from micronets_jax.network import Network
from micronets_jax.quantize import Folded, Ranges, integers

__all__ = ["ALIGNMENT", "SOFTMAX", "assemble", "packed", "to_tflite"]


def to_tflite(network: Network, folded: Folded, ranges: Ranges, softmax: bool = False) -> bytes:
    """The TFLite file of a decided network: int8 in, int8 logits (or probabilities) out.

    The same input gives the same bytes. Operators: CONV_2D, DEPTHWISE_CONV_2D, AVERAGE_POOL_2D,
    FULLY_CONNECTED, ADD, PAD, RESHAPE (except of a single pixel before a dense layer, which absorbs
    it), and SOFTMAX if asked. A convolution of one channel, which the converter makes a depthwise
    one, is a CONV_2D again: runtimes compute that faster. Only activations are named, each as its
    layer. What no interpreter reads is left out: metadata, signatures, names of weights, scales of
    biases, empty buffers.

    Args:
        network: decided, without mixes.
        folded: float kernels and biases by layer, batch norm folded.
        ranges: of activations and weights, as trained.
        softmax: whether the output is probabilities.

    Returns:
        The file's bytes; it maps [1, rows, columns, channels] to [1, classes].

    Raises:
        ValueError: a weight or range is not finite, the network still has mixes, or TensorFlow Lite
            Micro cannot run the bits of a layer.
        RuntimeError: the file does not hold the trained numbers or has other operators.
    """
    require_runnable(network)
    quantized = integers(network, folded, ranges)
    widened = widen(quantized)
    model = parse(convert(widened, softmax))
    restore_convolutions(model, network)
    compare(model, widened, softmax, exact=False)
    rewrite(model, quantized, softmax)
    data = pack(model)
    compare(parse(data), quantized, softmax, exact=True)
    return data


def assemble(network: Network, folded: Folded, ranges: Ranges) -> bytes:
    """The file of :func:`to_tflite`, assembled in milliseconds without the converter.

    For characterisation, which needs many untrained networks. It repeats what the converter does,
    so results of runs come from :func:`to_tflite`; tests compare the two byte for byte.
    """
    require_runnable(network)
    quantized = integers(network, folded, ranges)
    model = skeleton(quantized)
    rewrite(model, quantized, softmax=False)
    return pack(model)
