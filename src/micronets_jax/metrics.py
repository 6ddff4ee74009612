"""What a finished network is judged by on its test split.

Invariant: a metric is a pure function of logits and of the split they belong to. It returns a dict
whose first entry is the headline, a number in [0, 1]; other numbers and tables stand behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from micronets_jax.data import Split

Metric = Callable[[Float[np.ndarray, "examples classes"], Split], dict[str, Any]]


def accuracy(logits: Float[np.ndarray, "examples classes"], split: Split) -> dict[str, Any]:
    """Share of examples whose largest logit is at their label, and the confusion matrix.

    ``confusion`` counts examples by true class (rows) and by the class they are taken for.
    """
    taken_for = np.argmax(logits, axis=-1)
    confusion = np.zeros(2 * logits.shape[-1:], int)
    np.add.at(confusion, (split.labels, taken_for), 1)
    return {
        "accuracy": float(np.mean(taken_for == split.labels)),
        "confusion": confusion.tolist(),
    }
