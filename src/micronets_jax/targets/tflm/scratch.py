"""Working memory that TFLM's kernels ask for, of a network's layers and of foreign files alike.

Invariant: one rule, that of TFLM (90b983c) and CMSIS-NN (99f736a) as their sources have it; ints,
int32 and floats alike, and JAX is not loaded.
"""

from __future__ import annotations

from micronets_jax.counts import Count, align


def cmsis_nn(
    kind: str,
    kernel: tuple[int, int],
    inputs: Count,
    *,
    weight_bits: int = 8,
    dilated: bool = False,
    regular: bool = True,
) -> Count:
    """What CMSIS-NN's kernels ask for on a Cortex-M with DSP.

    Args:
        kind: TFLite's name of the operator.
        kernel: rows and columns.
        inputs: channels of what is read.
        weight_bits: 8 or 4.
        dilated: whether taps lie apart.
        regular: of a convolution, whether every output reads all channels; of a depthwise one,
            whether there is one output to a channel.

    Returns:
        Bytes, 0 if the kernel asks for none.
    """
    taps = kernel[0] * kernel[1]
    if kind == "AVERAGE_POOL_2D":
        return 4 * inputs  # an int32 sum per channel
    if kind == "CONV_2D":
        if kernel == (1, 1) and regular and not dilated:
            return 0
        # Two columns in int16. TFLM's Prepare asks so for weights of 4 bits too.
        return 4 * align(taps * inputs, 4)
    if kind == "DEPTHWISE_CONV_2D" and regular and not dilated:
        # A kernel in int16; at 8 bits there is one for 3x3 that needs nothing.
        return 0 if kernel == (3, 3) and weight_bits == 8 else 2 * taps * inputs
    return 0


def reference(
    kind: str, kernel: tuple[int, int], inputs: Count, outputs: Count, weight_bits: int
) -> Count:
    """What TFLM's reference kernels ask for, which unpack 4-bit weights.

    Args:
        kind: TFLite's name of the operator.
        kernel: rows and columns.
        inputs: channels of what is read.
        outputs: channels of what is made.
        weight_bits: 8 or 4.

    Returns:
        Bytes, one for each 4-bit weight of a convolution; else 0.
    """
    if weight_bits == 8 or kind not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return 0
    return kernel[0] * kernel[1] * (inputs if kind == "CONV_2D" else 1) * outputs
