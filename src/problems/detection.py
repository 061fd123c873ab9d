"""How well labels are predicted, and how well polluted samples are found, as scalars."""

import jax.numpy as jnp

from bilevel.types import Array, Metrics


def f1_scores(predicted: Array, labels: Array, num_classes: int) -> Metrics:
    """Multi-class F1 of integer predictions (n,): micro, macro, weighted.

    With counts over all classes, the plain mean over classes, and the mean weighted by how many
    rows a class has. Micro is the accuracy, as each row has one label. (BDA's script prints micro
    and macro under each other's name.) A class that neither occurs nor is predicted has no part in
    macro: as in scikit-learn, which has it nowhere.
    """
    classes = jnp.arange(num_classes)[None]
    is_class, said_class = labels[:, None] == classes, predicted[:, None] == classes
    hits = (is_class & said_class).sum(0)
    truths, claims = is_class.sum(0), said_class.sum(0)
    each = 2 * hits / jnp.maximum(truths + claims, 1)
    return {
        "f1_micro": 2 * hits.sum() / (truths + claims).sum(),
        "f1_macro": each.sum() / (truths + claims > 0).sum(),
        "f1_weighted": (each * truths).sum() / truths.sum(),
    }


def detection(weights: Array, threshold: Array | float, polluted: Array) -> Metrics:
    """How well low weights (n,) point at polluted samples (bool (n,), some of each kind).

    A sample is reported where its weight is below the threshold: precision, recall and F1 of the
    reports; auc, the probability that a polluted sample weighs less than a clean one, ties being
    one half.
    """
    reported = weights < threshold
    # As floats: products of counts leave int32 at some 50,000 samples.
    hits, reports, truths = (
        part.sum(dtype=weights.dtype) for part in (reported & polluted, reported, polluted)
    )
    ordered = jnp.sort(weights)
    # Mean ranks, from 1: equal weights share theirs.
    below, up_to = (jnp.searchsorted(ordered, weights, side=side) for side in ("left", "right"))
    ranks = (below + up_to + 1) / 2
    clean = polluted.size - truths
    # The share of (polluted, clean) pairs in which the polluted one weighs more.
    mean_rank = jnp.where(polluted, ranks, 0).sum() / truths
    heavier = (mean_rank - (truths + 1) / 2) / clean
    return {
        "detection_precision": hits / jnp.maximum(reports, 1),
        "detection_recall": hits / truths,
        "detection_f1": 2 * hits / (reports + truths),
        "detection_auc": 1 - heavier,
    }


def ceiling(drawn: Array, wrong: Array) -> Metrics:
    """The share of wrong labels, and the best F1 of a detector that knows which labels are wrong.

    Some drawn samples may have kept their label; nobody can tell these from clean ones. So the best
    is to report the wrong ones alone, or, where most samples are drawn, all.
    """
    hits = wrong.sum()
    wrong_alone = 2 * hits / (drawn.sum() + hits)
    all_of_them = 2 * drawn.sum() / (drawn.sum() + drawn.size)
    return {
        "wrong_share": wrong.mean(),
        "detection_f1_ceiling": jnp.maximum(wrong_alone, all_of_them),
    }
