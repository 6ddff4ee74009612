"""Strategies that draw members of search spaces."""

import numpy as np
from hypothesis import strategies as st

from micronets_jax.spaces import DSCNN


def choices_of(space):
    """Int32 one-hot choices of any space."""
    return st.fixed_dictionaries(
        {
            name: st.lists(st.integers(0, options - 1), min_size=taken, max_size=taken).map(
                lambda indices, options=options: np.eye(options, dtype=np.int32)[indices]
            )
            for name, decision in space.decisions().items()
            for taken, options in [decision.shape]
        }
    )


def decisions_of(space: DSCNN):
    """Arguments of ``space.member``."""
    widths = st.tuples(*[st.sampled_from(space.widths)] * (space.num_blocks + 1))
    return st.tuples(widths, st.tuples(*[st.booleans()] * space.num_blocks))
