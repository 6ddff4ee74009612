"""What each kind of layer computes, and how its variables begin.

Invariant: forward and gradient of every operator are the same function on every platform; only the
lowering differs, chosen by ``lax.platform_dependent`` when a program is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from micronets_jax.network import Activation
from micronets_jax.windows import Padding, pads

BATCH_NORM_EPSILON = 1e-3

_BANDED = 64
"""Products per copied value up to which a banded kernel is worth its zeros: a value that is copied
alone takes about as long as that many that are multiplied."""

Images = Float[Array, "batch rows columns channels"]
Outputs = Float[Array, "batch new_rows new_columns out"]
Steps = tuple[int, int]


def _by_platform(
    cpu: Callable[..., Array], accelerator: Callable[..., Array]
) -> Callable[..., Array]:
    def dispatch(*operands: Array) -> Array:
        return lax.platform_dependent(*operands, cpu=cpu, default=accelerator)

    return dispatch


def conv(
    x: Images, kernel: Float[Array, "kh kw in out"], stride: Steps, padding: Padding
) -> Outputs:
    """Convolution without bias. On a CPU it runs as one matrix product over gathered patches.

    Args:
        x: input.
        kernel: weights.
        stride: rows and columns.
        padding: ``SAME`` or ``VALID``, as TensorFlow defines them.

    Returns:
        [batch, new_rows, new_columns, out], rows and columns by ``windows.output_size``.
    """
    return _by_platform(
        lambda x, kernel: _conv_as_product(x, kernel, stride, padding),
        lambda x, kernel: _conv(x, kernel, stride, padding, 1),
    )(x, kernel)


def depthwise(
    x: Images, kernel: Float[Array, "kh kw 1 channels"], stride: Steps, padding: Padding
) -> Float[Array, "batch new_rows new_columns channels"]:
    """One filter per channel, without bias. On a CPU it runs as a sum of shifted products.

    Args:
        x: input.
        kernel: weights.
        stride: rows and columns.
        padding: ``SAME`` or ``VALID``, as TensorFlow defines them.

    Returns:
        [batch, new_rows, new_columns, channels], rows and columns by ``windows.output_size``.
    """
    return _by_platform(
        lambda x, kernel: _depthwise_as_sum(x, kernel, stride, padding),
        lambda x, kernel: _conv(x, kernel, stride, padding, x.shape[-1]),
    )(x, kernel)


def _conv(x: Array, kernel: Array, stride: Steps, padding: Padding, groups: int) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _pad(x: Array, kernel_size: Steps, stride: Steps, padding: Padding) -> Array:
    rows, columns = (
        pads(n, k, s, padding) for n, k, s in zip(x.shape[1:3], kernel_size, stride, strict=True)
    )
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _windows(padded: Array, kernel_size: Steps, stride: Steps) -> list[Array]:
    """For each kernel position (tap), in row order, the strided slice of pixels under it."""
    (kh, kw), (sh, sw) = kernel_size, stride
    rows = (padded.shape[1] - kh) // sh + 1
    columns = (padded.shape[2] - kw) // sw + 1
    return [
        padded[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (columns - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]


def _conv_as_product(x: Array, kernel: Array, stride: Steps, padding: Padding) -> Array:
    kh, kw, channels, out = kernel.shape
    if channels == 1 and x.shape[2] * out <= _BANDED * kw:
        return _conv_as_banded_product(x, kernel, stride, padding)
    if (kh, kw) == (1, 1):
        patches = x[:, :: stride[0], :: stride[1]]
    else:
        windows = _windows(_pad(x, (kh, kw), stride, padding), (kh, kw), stride)
        patches = jnp.concatenate(windows, axis=-1)
    flat = patches.reshape(-1, kh * kw * channels) @ kernel.reshape(-1, out)
    return flat.reshape(*patches.shape[:3], out)


def _conv_as_banded_product(x: Array, kernel: Array, stride: Steps, padding: Padding) -> Array:
    """A convolution of one channel as a product of whole rows with a banded matrix.

    im2col of one channel gathers value by value, which for a narrow output takes longer than
    multiplying. Here rows are copied whole, and the kernel is a matrix with its taps along a band;
    products with the zeros beside it are wasted.
    """
    (kh, kw, _, out), columns = kernel.shape, x.shape[2]
    before, after = pads(columns, kw, stride[1], padding)
    new_columns = (columns + before + after - kw) // stride[1] + 1
    tap = np.arange(columns)[:, None] + before - stride[1] * np.arange(new_columns)
    place = (tap == np.arange(kw)[:, None, None]).astype(np.float32)  # [taps, columns, new columns]
    band = jnp.einsum("jcq,ijo->icqo", place, kernel[:, :, 0])
    rows = jnp.pad(x[..., 0], ((0, 0), pads(x.shape[1], kh, stride[0], padding), (0, 0)))
    new_rows = (rows.shape[1] - kh) // stride[0] + 1
    last = (new_rows - 1) * stride[0] + 1
    stretches = jnp.concatenate([rows[:, i : i + last : stride[0]] for i in range(kh)], axis=-1)
    flat = stretches.reshape(-1, kh * columns) @ band.reshape(kh * columns, -1)
    return flat.reshape(len(x), new_rows, new_columns, out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise_as_sum(x: Array, kernel: Array, stride: Steps, padding: Padding) -> Array:
    size = kernel.shape[0], kernel.shape[1]
    windows = _windows(_pad(x, size, stride, padding), size, stride)
    taps = kernel.reshape(-1, kernel.shape[-1])
    return functools.reduce(
        jnp.add, [window * tap for window, tap in zip(windows, taps, strict=True)]
    )


def _depthwise_forward(
    x: Array, kernel: Array, stride: Steps, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_as_sum(x, kernel, stride, padding), (x, kernel)


def _depthwise_backward(
    stride: Steps, padding: Padding, saved: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    size = kernel.shape[0], kernel.shape[1]
    taps = _depthwise_kernel_gradient(_pad(x, size, stride, padding), g, size, stride)
    spread = []
    for n, k, s, m in zip(x.shape[1:3], size, stride, g.shape[1:3], strict=True):
        before = k - 1 - pads(n, k, s, padding)[0]
        spread.append((before, n + k - 1 - before - ((m - 1) * s + 1), s - 1))
    dilated = lax.pad(g, jnp.zeros((), g.dtype), ((0, 0, 0), *spread, (0, 0, 0)))
    flipped = kernel[::-1, ::-1]
    dx = _depthwise_as_sum(dilated, flipped, (1, 1), "VALID")
    return jnp.asarray(dx), taps.reshape(kernel.shape)


def _depthwise_kernel_gradient(padded: Array, g: Array, size: Steps, stride: Steps) -> Array:
    """``sum(window * g)`` per channel for each kernel position, [positions, channels].

    XLA's CPU backend runs a reduction of a product of slices about eight times slower than the same
    products added up element by element, so a scan adds over the batch and one sum ends it.
    """
    chunks: Any = _pieces(padded), _pieces(g)
    chunk = chunks[1].shape[1]

    def add(totals: list[Array], pair: tuple[Array, Array]) -> tuple[list[Array], None]:
        windows = _windows(pair[0], size, stride)
        return [t + w * pair[1] for t, w in zip(totals, windows, strict=True)], None

    zeros = [jnp.zeros((chunk, *g.shape[1:]), g.dtype)] * (size[0] * size[1])
    totals, _ = lax.scan(add, zeros, chunks)
    return jnp.stack([total.sum(axis=(0, 1, 2)) for total in totals])


_depthwise_as_sum.defvjp(_depthwise_forward, _depthwise_backward)


def _pieces(x: Array) -> Array:
    """A batch cut into loop steps of four examples, or fewer: [steps, examples, ...]."""
    return x.reshape(-1, next(n for n in (4, 2, 1) if len(x) % n == 0), *x.shape[1:])


def avg_pool(
    x: Images, window: Steps, stride: Steps, padding: Padding
) -> Float[Array, "batch new_rows new_columns channels"]:
    """Mean over each window; under ``SAME`` over the real pixels only, as TensorFlow Lite does.

    Args:
        x: input.
        window: rows and columns.
        stride: rows and columns.
        padding: ``SAME`` or ``VALID``, as TensorFlow defines them.

    Returns:
        [batch, new_rows, new_columns, channels], rows and columns by ``windows.output_size``.
    """
    if padding == "VALID" and window == x.shape[1:3]:
        return x.mean(axis=(1, 2), keepdims=True)
    if padding == "SAME" and window == stride:
        return _pool_blocks(x, window, (x.shape[1], x.shape[2]))
    windows = _windows(_pad(x, window, stride, padding), window, stride)
    return functools.reduce(jnp.add, windows) / _real_pixels(
        (x.shape[1], x.shape[2]), window, stride, padding
    )


def _real_pixels(size: Steps, window: Steps, stride: Steps, padding: Padding) -> Array:
    """How many pixels of the input each window meets, [1, new_rows, new_columns, 1]."""
    ones = _pad(jnp.ones((1, *size, 1)), window, stride, padding)
    return functools.reduce(jnp.add, _windows(ones, window, stride))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _pool_blocks(x: Array, window: Steps, size: Steps) -> Array:
    """Pooling by windows that do not overlap.

    Its gradient broadcasts each value over its block. XLA's own would add one padded image for each
    pixel of the window, which on a CPU took a third of a whole search step.
    """
    blocks = _pad(x, window, window, "SAME")
    rows, columns = (n // k for n, k in zip(blocks.shape[1:3], window, strict=True))
    blocks = blocks.reshape(x.shape[0], rows, window[0], columns, window[1], x.shape[3])
    pixels = [blocks[:, :, i, :, j] for i in range(window[0]) for j in range(window[1])]
    return functools.reduce(jnp.add, pixels) / _real_pixels(size, window, window, "SAME")


def _pool_blocks_forward(x: Array, window: Steps, size: Steps) -> tuple[Array, None]:
    return jnp.asarray(_pool_blocks(x, window, size)), None


def _pool_blocks_backward(window: Steps, size: Steps, _: None, g: Array) -> tuple[Array]:
    new_rows, new_columns, channels = g.shape[1:]
    real = _real_pixels(size, window, window, "SAME")
    top, left = (pads(n, k, k, "SAME")[0] for n, k in zip(size, window, strict=True))

    def spread(g: Array) -> Array:
        share = (g / real)[:, :, None, :, None]
        blocks = (len(g), new_rows, window[0], new_columns, window[1], channels)
        pixels = jnp.broadcast_to(share, blocks)
        pixels = pixels.reshape(len(g), new_rows * window[0], new_columns * window[1], channels)
        return pixels[:, top : top + size[0], left : left + size[1]]

    def in_pieces(g: Array) -> Array:
        # What enters a loop is computed once. Fused, XLA's CPU backend computes each value of g
        # anew for every pixel of its block, and in a search g is a sum along all later skips.
        return lax.map(spread, _pieces(g)).reshape(len(g), *size, channels)

    return (_by_platform(in_pieces, spread)(g),)


_pool_blocks.defvjp(_pool_blocks_forward, _pool_blocks_backward)


def pad_channels(x: Images, channels: int) -> Float[Array, "batch rows columns new_channels"]:
    """Zeros after the last channel, up to ``channels`` of them in all."""
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


def activate(x: Array, activation: Activation) -> Array:
    """``linear``, ``relu`` or ``relu6``."""
    if activation == "linear":
        return x
    x = jnp.maximum(x, 0)
    return jnp.minimum(x, 6) if activation == "relu6" else x


def batch_norm(
    x: Images,
    scale: Float[Array, " channels"],
    offset: Float[Array, " channels"],
    activation: Activation,
) -> tuple[Images, Float[Array, " channels"], Float[Array, " channels"]]:
    """Normalise by the batch's own moments, scale, shift, activate.

    Args:
        x: input.
        scale: of each channel.
        offset: of each channel.
        activation: applied last.

    Returns:
        The activated output, and the batch's mean and variance (no gradient flows through these).
    """
    outputs: Any = _batch_norm(x, scale, offset, activation)
    y, mean, variance = outputs
    return y, lax.stop_gradient(mean), lax.stop_gradient(variance)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm(
    x: Array, scale: Array, offset: Array, activation: Activation
) -> tuple[Array, Array, Array]:
    # Both moments in one pass over x; the two reductions fuse.
    mean = jnp.mean(x, axis=(0, 1, 2))
    variance = jnp.maximum(jnp.mean(jnp.square(x), axis=(0, 1, 2)) - jnp.square(mean), 0)
    factor = scale * lax.rsqrt(variance + BATCH_NORM_EPSILON)
    return activate(x * factor + (offset - mean * factor), activation), mean, variance


def _batch_norm_forward(
    x: Array, scale: Array, offset: Array, activation: Activation
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    outputs: Any = _batch_norm(x, scale, offset, activation)
    y, mean, variance = outputs
    return (y, mean, variance), (x, scale, offset, mean, variance)


def _batch_norm_backward(
    activation: Activation, saved: tuple[Array, ...], gradients: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    x, scale, offset, mean, variance = saved
    inverse = lax.rsqrt(variance + BATCH_NORM_EPSILON)
    factor = scale * inverse
    g = gradients[0]
    if activation != "linear":
        y = x * factor + (offset - mean * factor)
        passes = y > 0 if activation == "relu" else (y > 0) & (y < 6)
        g = jnp.where(passes, g, 0)
    count = x.size // x.shape[-1]
    sum_g = jnp.sum(g, axis=(0, 1, 2))
    sum_gx = (jnp.sum(g * x, axis=(0, 1, 2)) - mean * sum_g) * inverse
    # d/dx of scale * (x - mean) * inverse, as one multiply-add per element.
    slope = factor * inverse * sum_gx / count
    dx = factor * g - slope * x + (slope * mean - factor * sum_g / count)
    return dx, sum_gx, sum_g


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
