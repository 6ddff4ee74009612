"""Metrics of a finished network on a split.

Invariant: a metric is a pure function of outputs and of the split they belong to. It returns a dict
whose first entry is the headline, a number of at most 1, which is the best and shown in percent;
other numbers and tables follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped

from micronets_jax.facts import ANOMALOUS, GROUP


@runtime_checkable
class Split(Protocol):
    """What a metric reads of the examples that outputs belong to; ``data.Split`` is one."""

    @property
    def labels(self) -> Shaped[np.ndarray, "examples ..."]:
        """The class of each example, or the numbers that a network should give for it."""
        ...

    @property
    def facts(self) -> Mapping[str, Shaped[np.ndarray, " examples"]]:
        """Further values of each example, by the names in ``facts``."""
        ...

    def take(self, positions: slice) -> tuple[np.ndarray, np.ndarray]:
        """Raw examples and labels at these positions."""
        ...

    def __len__(self) -> int: ...


Scores = dict[str, Any]
"""By name, as JSON has it; the first one is the headline."""

Metric = Callable[[Float[np.ndarray, "examples classes"], Split], Scores]


def accuracy(logits: Float[np.ndarray, "examples classes"], split: Split) -> Scores:
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


MAX_FPR = 0.1
"""False positive rate up to which ``pauc`` integrates the ROC curve."""

NUM_POINTS = 60
"""Points of a curve at most."""


def auc(logits: Float[np.ndarray, "examples classes"], split: Split) -> Scores:
    """Anomaly detection: the area under the ROC curve of anomalous against normal recordings.

    A recording's score is the mean over its patches of minus the softmax of its own machine.
    ``auc`` and ``pauc`` (the standardised area up to a false positive rate of 0.1) are means over
    machines; ``machines`` lists both for each machine, and its curve.

    Raises:
        ValueError: all recordings of a machine are normal, or all anomalous.
    """
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    own = np.take_along_axis(shifted, split.labels[:, None], axis=-1)[:, 0] / shifted.sum(axis=-1)
    return _areas(-own, split)


CHUNK = 1024
"""Examples whose features are computed together."""


def reconstruction_auc(frontend: Callable[[np.ndarray], Any]) -> Metric:
    """As :func:`auc`, for networks that give back their inputs: a patch's score is the mean squared
    error with which they do.

    Args:
        frontend: from raw examples of a split to these inputs, of which it takes a batch.
    """

    def metric(outputs: Float[np.ndarray, "examples outputs"], split: Split) -> Scores:
        errors = np.empty(len(split))
        for start in range(0, len(split), CHUNK):
            part = slice(start, start + CHUNK)
            x = np.asarray(frontend(split.take(part)[0]))
            errors[part] = np.mean(np.square(outputs[part] - x.reshape(len(x), -1)), axis=-1)
        return _areas(errors, split)

    return metric


def r2(outputs: Float[np.ndarray, "examples outputs"], split: Split) -> Scores:
    """Regression: the coefficient of determination, a mean over outputs, and the mean absolute
    error.

    1 is perfect; the mean of the labels, given for every example, would have 0.
    """
    wanted = split.labels
    missed = np.sum(np.square(outputs - wanted), axis=0)
    spread = np.sum(np.square(wanted - wanted.mean(axis=0)), axis=0)
    return {
        "r2": float(np.mean(1 - missed / np.maximum(spread, 1e-12))),
        "mean_absolute_error": float(np.mean(np.abs(outputs - wanted))),
    }


def _areas(strange: Float[np.ndarray, " examples"], split: Split) -> Scores:
    """Areas under the ROC curve by the mean of these scores over each recording."""
    from sklearn import metrics as sklearn_metrics

    _, first, index = np.unique(split.facts[GROUP], return_index=True, return_inverse=True)
    scores = np.bincount(index, strange) / np.bincount(index)
    machine, anomalous = split.labels[first], split.facts[ANOMALOUS][first]
    rows = []
    for label in np.unique(machine):
        truth, score = anomalous[machine == label], scores[machine == label]
        if truth.all() or not truth.any():
            state = "anomalous" if truth.all() else "normal"
            raise ValueError(
                f"the {len(truth)} recordings of machine {label} are all {state}: an AUC needs both"
            )
        fpr, tpr, _ = sklearn_metrics.roc_curve(truth, score)
        few = np.unique(np.linspace(0, len(fpr) - 1, NUM_POINTS).round().astype(int))
        rows.append(
            {
                "label": int(label),
                "normal": int((~truth).sum()),
                "anomalous": int(truth.sum()),
                "auc": float(sklearn_metrics.roc_auc_score(truth, score)),
                "pauc": float(sklearn_metrics.roc_auc_score(truth, score, max_fpr=MAX_FPR)),
                "curve": np.stack([fpr[few], tpr[few]], axis=1).round(4).tolist(),
            }
        )
    mean = {name: float(np.mean([row[name] for row in rows])) for name in ("auc", "pauc")}
    return {**mean, "machines": rows}
