"""Derivatives by differences, to compare gradients with."""

import jax
import numpy as np


def check_gradient(function, at, gradient, step, rel):
    """A gradient against central differences along three random directions.

    Differences may be off by ``rel`` of the gradient's norm, the usual size of such a slope.
    """
    norm = np.sqrt(sum(float(np.vdot(leaf, leaf)) for leaf in jax.tree.leaves(gradient)))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        way = jax.tree.map(lambda x, rng=rng: rng.normal(size=x.shape).astype(np.float32), at)
        ends = [
            float(function(jax.tree.map(lambda x, d, s=sign: x + s * step * d, at, way)))
            for sign in (1, -1)
        ]
        slope = sum(
            float(np.vdot(g, d))
            for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True)
        )
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), atol=rel * norm)
