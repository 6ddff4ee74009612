"""What a layer takes, as steps of a kernel and how often it repeats them.

Invariant: how often a step is taken is a Python number; only channels, which multiply it, may be
traced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from micronets_jax.counts import Count


class Term(NamedTuple):
    """Steps that a layer takes ``count`` times as often as ``steps`` says.

    Attributes:
        count: a product of channels, which may be traced.
        steps: how often by name of the step, Python numbers that follow from the static shape.
    """

    count: Count
    steps: Mapping[str, float]
