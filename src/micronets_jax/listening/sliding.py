"""Sliding windows: a recording of any length as the inputs of a network, one every hop.

Invariant: each frame is computed once, as on a device; memory is bounded by one chunk of frames,
whatever the length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jaxtyping import Float, Int16, Shaped

from micronets_jax.data.frontends import MFCC

STRETCH = 500
"""Frames that are computed at once: ten seconds of the usual front end."""

Network = Callable[[Float[np.ndarray, "steps rows columns 1"]], Shaped[np.ndarray, "steps classes"]]
"""From features, a second of them for each step, to logits."""


def frames_per_hop(frontend: MFCC, hop_ms: int) -> int:
    """Frames from one inference to the next.

    Raises:
        ValueError: a hop is no whole number of frames.
    """
    samples = hop_ms * frontend.sample_rate
    frames, rest = divmod(samples, 1000 * frontend.hop_length)
    if rest or not frames:
        step = 1000 * frontend.hop_length / frontend.sample_rate
        raise ValueError(f"hop_ms={hop_ms}: give a multiple of the front end's frames, {step:g} ms")
    return frames


def frames(
    blocks: Iterable[Int16[np.ndarray, " _"]], frontend: MFCC
) -> Iterator[Float[np.ndarray, "_ columns"]]:
    """The frames of a stream of samples, up to :data:`STRETCH` at a time."""
    samples = frontend.frame_length + (STRETCH - 1) * frontend.hop_length
    compute = jax.jit(dataclasses.replace(frontend, num_samples=samples))
    held = np.zeros(0, np.int16)

    def computed(count: int) -> Float[np.ndarray, "frames columns"]:
        padded = np.pad(held[:samples], (0, max(0, samples - len(held))))  # one shape, one program
        return np.asarray(compute(padded[None]))[0, :count, :, 0]

    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= samples:
            yield computed(STRETCH)
            held = held[STRETCH * frontend.hop_length :]
    if len(held) >= frontend.frame_length:
        yield computed(1 + (len(held) - frontend.frame_length) // frontend.hop_length)


def windows(
    blocks: Iterable[Int16[np.ndarray, " _"]], frontend: MFCC, hop_ms: int
) -> Iterator[Float[np.ndarray, "_ rows columns 1"]]:
    """Features of every hop of a stream, some hops at a time; none of less than a second.

    Raises:
        ValueError: a hop is no whole number of frames.
    """
    hop, rows = frames_per_hop(frontend, hop_ms), frontend.num_frames
    held = np.zeros((0, frontend.num_coefficients), np.float32)
    for stretch in frames(blocks, frontend):
        held = np.concatenate([held, stretch])
        steps = (len(held) - rows) // hop + 1
        if steps > 0:
            views = np.lib.stride_tricks.sliding_window_view(held, rows, axis=0)
            yield np.moveaxis(views[: steps * hop : hop], 2, 1)[..., None]
            held = held[steps * hop :]


def logits(
    blocks: Iterable[Int16[np.ndarray, " _"]], frontend: MFCC, hop_ms: int, network: Network
) -> Iterator[Shaped[np.ndarray, "_ classes"]]:
    """What a network makes of every hop, some hops at a time.

    Args:
        blocks: int16 samples at 16 kHz.
        frontend: of the network.
        hop_ms: milliseconds from one inference to the next.
        network: from features [n, rows, columns, 1] to logits [n, classes].

    Yields:
        Logits [n, classes] of the next n hops.
    """
    for features in windows(blocks, frontend, hop_ms):
        yield network(features)
