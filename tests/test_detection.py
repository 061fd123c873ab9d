"""Multi-class F1 and detection of polluted samples, against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from src.data.pollution import number_polluted, pollute
from src.problems.detection import ceiling, detection, f1_scores

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 5, 12])
def test_f1_is_scikit_learns_under_its_right_name(classes):
    labels = GENERATOR.integers(0, min(classes, 10), 60)  # of twelve classes two never occur
    said = GENERATOR.integers(0, min(classes, 11), 60)  # and one of them is said all the same
    predicted = np.where(GENERATOR.random(60) < 0.6, labels, said)
    found = jax.jit(f1_scores, static_argnums=2)(jnp.array(predicted), jnp.array(labels), classes)
    for average in ("micro", "macro", "weighted"):
        expected = metrics.f1_score(labels, predicted, average=average, zero_division=0)
        assert float(found[f"f1_{average}"]) == pytest.approx(expected, rel=1e-12)
    assert float(found["f1_micro"]) == pytest.approx((labels == predicted).mean())
    assert len({float(value) for value in found.values()}) == 3, "the three are to differ here"


@pytest.mark.parametrize("ties", [False, True])
def test_detection_is_scikit_learns(ties):
    polluted = GENERATOR.random(80) < 0.4
    weights = np.clip(GENERATOR.normal(0.6 - 0.3 * polluted, 0.3), 0, 1)  # many at the bounds
    if not ties:
        weights = GENERATOR.random(80)
    found = jax.jit(detection)(jnp.array(weights), 0.5, jnp.array(polluted))
    reported = weights < 0.5
    for name in ("precision", "recall", "f1"):
        expected = getattr(metrics, f"{name}_score")(polluted, reported)
        assert float(found[f"detection_{name}"]) == pytest.approx(expected, rel=1e-12)
    expected = metrics.roc_auc_score(polluted, -weights)
    assert float(found["detection_auc"]) == pytest.approx(expected, rel=1e-12)


def test_counts_of_many_samples_do_not_overflow():
    polluted = GENERATOR.random(60_000) < 0.8
    weights = GENERATOR.normal(1 - polluted, 1).astype(np.float32)
    with jax.enable_x64(False):
        found = jax.jit(detection)(jnp.array(weights), 0.5, jnp.array(polluted))
    expected = metrics.roc_auc_score(polluted, -weights)
    assert float(found["detection_auc"]) == pytest.approx(expected, abs=1e-4)


def test_no_report_has_no_precision_and_equal_weights_say_nothing():
    found = detection(jnp.full(6, 0.7), 0.5, jnp.arange(6) < 2)
    assert {name: float(v) for name, v in found.items()} == {
        "detection_precision": 0.0,
        "detection_recall": 0.0,
        "detection_f1": 0.0,
        "detection_auc": 0.5,
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["exact", "uniform"])
def test_the_stated_share_is_polluted(kind, share):
    labels = jnp.asarray(GENERATOR.integers(0, 10, 5000), jnp.int32)
    new, drawn = pollute(jax.random.key(3), labels, 10, share, kind)
    wrong = np.asarray(new != labels)
    assert int(drawn.sum()) == number_polluted(5000, share) == round(share * 5000)
    assert not wrong[~np.asarray(drawn)].any()
    assert new.dtype == labels.dtype
    assert set(np.unique(new)) <= set(range(10))
    expected = share if kind == "exact" else 0.9 * share
    deviation = 0 if kind == "exact" else 4 * (0.09 * share / 5000) ** 0.5
    assert abs(wrong.mean() - expected) <= deviation + 1e-12
    if share >= 0.3:
        shifts = np.bincount((np.asarray(new - labels) % 10)[wrong], minlength=10)[1:]
        assert shifts.min() > 0.7 * wrong.sum() / 9, "every wrong class is as likely"


def test_what_follows_from_a_key_and_what_does_not():
    labels = jnp.zeros(100, jnp.int32)
    first, again, other = (pollute(jax.random.key(k), labels, 4, 0.5, "exact") for k in (1, 1, 2))
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[1] != other[1]).any()


def test_the_ceiling_is_the_f1_of_who_knows_the_labels():
    drawn, wrong = jnp.arange(100) < 50, jnp.arange(100) < 45
    found = ceiling(drawn, wrong)
    assert float(found["wrong_share"]) == pytest.approx(0.45)
    assert float(found["detection_f1_ceiling"]) == pytest.approx(
        metrics.f1_score(np.asarray(drawn), np.asarray(wrong))
    )
    assert float(found["detection_f1_ceiling"]) == pytest.approx(2 * 0.9 / 1.9)


@pytest.mark.parametrize(("drawn", "wrong"), [(60, 30), (80, 40), (95, 85), (50, 45), (1, 1)])
def test_no_detector_that_knows_the_wrong_labels_is_above_the_ceiling(drawn, wrong):
    """Among 100: the wrong ones and any number of the others, those that were drawn first."""
    of_drawn, of_wrong = jnp.arange(100) < drawn, jnp.arange(100) < wrong
    best = max(
        metrics.f1_score(np.asarray(of_drawn), np.arange(100) < wrong + others_right)
        for others_right in (0, 100 - wrong)
    )
    found = float(ceiling(of_drawn, of_wrong)["detection_f1_ceiling"])
    assert found == pytest.approx(best)
