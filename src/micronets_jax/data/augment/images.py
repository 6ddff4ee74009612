"""Augmentation of pictures: geometry, light and colour, cutout, mixup.

Invariant: pixels stay in [-1, 1], and a strength of 0 leaves pictures as they are. Sources: DeVries
and Taylor (2017) for cutout, Zhang et al. (2018) for mixup.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

from micronets_jax import recipes
from micronets_jax.data.augment.base import either_way
from micronets_jax.data.augment.blends import blended, shares
from micronets_jax.data.dataset import Dataset
from micronets_jax.data.frontends import FrontEnd


@dataclasses.dataclass(frozen=True)
class Images:
    """Mirroring, shift, zoom and rotation, brightness, contrast and colour, cutout, then mixup."""

    settings: recipes.ImageAugmentation = recipes.ImageAugmentation()

    def __call__(
        self,
        key: Key[Array, ""],
        dataset: Dataset,
        frontend: FrontEnd,
        raw: Shaped[Array, "batch rows columns channels"],
        labels: Shaped[Array, "batch ..."],
    ) -> tuple[Float[Array, "batch rows columns channels"], Shaped[Array, "batch ..."]]:
        """Features of changed pictures; the labels, or the share of each class in a blend."""
        how = self.settings
        turn, move, lit, hide, blend_key = jax.random.split(key, 5)
        x = frontend(raw)
        if how.mirror:
            x = jnp.where(jax.random.bernoulli(turn, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x)
        x = light(lit, how, moved(move, how, x))
        if how.cutout:
            x = cut_out(hide, x, how.cutout)
        if not how.mixup:
            return x, labels
        return blended(blend_key, how.mixup, x, shares(dataset, labels, how.mixup))


def moved(
    key: Key[Array, ""],
    how: recipes.ImageAugmentation,
    x: Float[Array, "batch rows columns channels"],
) -> Float[Array, "batch rows columns channels"]:
    """Each picture shifted, zoomed and rotated about its centre; its edges are repeated.

    Bilinear interpolation; a mere shift is by whole pixels.
    """
    if not how.zoom and not how.rotation:
        return shifted(key, x, how.shift)
    shift_key, zoom_key, turn_key = jax.random.split(key, 3)
    batch, rows, columns, channels = x.shape
    offset = either_way(shift_key, how.shift, (batch, 2)) * jnp.array([rows, columns])
    size = (1 + how.zoom) ** either_way(zoom_key, 1.0, (batch,))
    angle = jnp.radians(either_way(turn_key, how.rotation, (batch,)))
    cosine, sine = (f(angle)[:, None, None] / size[:, None, None] for f in (jnp.cos, jnp.sin))
    down = jnp.arange(rows)[:, None] - (rows - 1) / 2
    right = jnp.arange(columns) - (columns - 1) / 2
    row = cosine * down - sine * right + (rows - 1) / 2 + offset[:, 0, None, None]
    column = sine * down + cosine * right + (columns - 1) / 2 + offset[:, 1, None, None]
    row, column = jnp.clip(row, 0, rows - 1), jnp.clip(column, 0, columns - 1)
    top, left = (jnp.floor(place).astype(jnp.int32) for place in (row, column))
    below, beside = jnp.minimum(top + 1, rows - 1), jnp.minimum(left + 1, columns - 1)
    flat = x.reshape(batch, rows * columns, channels)

    def at(i: Array, j: Array) -> Array:
        return jax.vmap(lambda picture, place: picture[place])(flat, i * columns + j)

    low, near = (row - top)[..., None], (column - left)[..., None]
    upper = at(top, left) * (1 - near) + at(top, beside) * near
    lower = at(below, left) * (1 - near) + at(below, beside) * near
    return upper * (1 - low) + lower * low


def shifted(
    key: Key[Array, ""], x: Float[Array, "batch rows columns channels"], share: float
) -> Float[Array, "batch rows columns channels"]:
    """Each picture up or down, left or right, by up to this share of its sides; edges repeat."""
    most = [round(share * side) for side in x.shape[1:3]]
    if not any(most):
        return x
    row_key, column_key = jax.random.split(key)
    padded = jnp.pad(x, ((0, 0), *((n, n) for n in most), (0, 0)), mode="edge")
    starts = [
        jax.random.randint(k, (len(x),), 0, 2 * n + 1)
        for k, n in zip((row_key, column_key), most, strict=True)
    ]
    return jax.vmap(lambda one, i, j: jax.lax.dynamic_slice(one, (i, j, 0), x.shape[1:]))(
        padded, *starts
    )


def light(
    key: Key[Array, ""],
    how: recipes.ImageAugmentation,
    x: Float[Array, "batch rows columns channels"],
) -> Float[Array, "batch rows columns channels"]:
    """Pictures of random brightness, contrast and colour, clipped to [-1, 1]."""
    light_key, spread_key, fade_key, tint_key = jax.random.split(key, 4)
    each = (len(x), 1, 1, 1)
    if how.colour and x.shape[-1] > 1:
        grey = x.mean(axis=-1, keepdims=True)
        x = grey + (x - grey) * (1 + how.colour) ** either_way(fade_key, 1.0, each)
        x = x * (1 + how.colour) ** either_way(tint_key, 1.0, (len(x), 1, 1, x.shape[-1]))
    factor = (1 + how.contrast) ** either_way(spread_key, 1.0, each)
    return jnp.clip(x * factor + either_way(light_key, how.brightness, each), -1, 1)


def cut_out(
    key: Key[Array, ""], x: Float[Array, "batch rows columns channels"], longest: float
) -> Float[Array, "batch rows columns channels"]:
    """Cutout: a grey rectangle over each picture, its sides up to this share of the picture's."""
    size_key, place_key = jax.random.split(key)
    size = longest * jax.random.uniform(size_key, (len(x), 2, 1))
    centre = jax.random.uniform(place_key, (len(x), 2, 1))
    down, right = (
        jnp.abs((jnp.arange(side) + 0.5) / side - centre[:, axis]) < size[:, axis] / 2
        for axis, side in enumerate(x.shape[1:3])
    )
    return jnp.where((down[:, :, None] & right[:, None, :])[..., None], 0.0, x)
