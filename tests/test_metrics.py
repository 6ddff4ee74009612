"""Metrics: by hand, against scikit-learn on whole recordings, and what they refuse."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from micronets_jax import metrics
from micronets_jax.data import Split


def split_of(labels, **facts) -> Split:
    labels = np.array(labels, np.int32)
    facts = {name: np.array(values) for name, values in facts.items()}
    return Split.whole(np.zeros((len(labels), 1), np.float32), labels, facts)


def test_accuracy_by_hand():
    logits = np.log(np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]], np.float32))
    result = metrics.accuracy(logits, split_of([0, 1, 1]))
    assert result == {"accuracy": pytest.approx(2 / 3), "confusion": [[1, 0], [1, 1]]}


def test_auc_by_hand():
    # One machine of two: shares of the own machine 0.9 and 0.5 where sound (of two patches, their
    # mean), 0.6 and 0.2 where failing. Of the four pairs, three are in order.
    own = np.array([0.9, 0.8, 0.2, 0.6, 0.2, 0.7, 0.1])
    labels = [0] * 5 + [1] * 2
    group, anomalous = [0, 1, 1, 2, 3, 4, 5], [False] * 3 + [True] * 2 + [False, True]
    shares = np.where(np.array(labels)[:, None] == [0, 1], own[:, None], 1 - own[:, None])
    logits = np.log(shares).astype(np.float32)
    result = metrics.auc(logits, split_of(labels, group=group, anomalous=anomalous))
    assert next(iter(result)) == "auc"
    assert [row["auc"] for row in result["machines"]] == [0.75, 1.0]
    assert result["auc"] == pytest.approx(0.875)
    assert [(row["normal"], row["anomalous"]) for row in result["machines"]] == [(2, 2), (1, 1)]
    assert result["machines"][1]["curve"] == [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def test_auc_is_scikit_learns_over_recordings():
    rng = np.random.default_rng(0)
    count, patches = 60, 3
    labels = np.repeat(rng.integers(0, 2, count), patches)
    anomalous = np.repeat(rng.random(count) < 0.5, patches)
    logits = rng.normal(size=(count * patches, 2)).astype(np.float32)
    logits[np.arange(len(logits)), labels] += 2 * ~anomalous
    group = np.repeat(np.arange(count), patches)
    result = metrics.auc(logits, split_of(labels, group=group, anomalous=anomalous))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    score = -softmax[np.arange(len(logits)), labels].reshape(count, patches).mean(axis=1)
    mine, truth = labels[::patches] == 1, anomalous[::patches]
    for name, fpr in (("auc", None), ("pauc", 0.1)):
        expected = roc_auc_score(truth[mine], score[mine], max_fpr=fpr)
        assert result["machines"][1][name] == pytest.approx(expected, abs=1e-6)
        assert result[name] == pytest.approx(np.mean([row[name] for row in result["machines"]]))
    assert max(len(row["curve"]) for row in result["machines"]) <= metrics.NUM_POINTS


@pytest.mark.parametrize(("anomalous", "state"), [([False, False], "normal"), ([True] * 2, "anom")])
def test_an_auc_of_one_kind_has_no_value(anomalous, state):
    split = split_of([0, 0], group=[0, 1], anomalous=anomalous)
    with pytest.raises(ValueError, match=f"2 recordings of machine 0 are all {state}"):
        metrics.auc(np.zeros((2, 2), np.float32), split)
