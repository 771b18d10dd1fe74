"""Consensus of annotators and a model by a weighted mean: CROWDLAB.

H. W. Goh, U. Tkachenko, J. Mueller, "CROWDLAB: Supervised learning to infer consensus labels and quality scores for
data with multiple annotators", 2022, https://arxiv.org/abs/2210.06812

Symbols
    I+     samples with two labels or more
    P      share of an average sample's labels that are its majority's, over I+
    s_j    share of the others' labels that agree with annotator j
    A_M    share of I+ on which the model names the majority's class
    A_0    the same for always naming the most frequent class
    w_j    weight 1 - (1 - s_j) / (1 - A_0) of annotator j
    w_M    weight (1 - (1 - A_M) / (1 - A_0)) * sqrt(mean number of labels) of the model

An annotator's vote is worth P for its class and the rest evenly for the others; with the model's probabilities these
are averaged by weight. Where no sample has two labels, all samples take the place of I+. A weight below 0 counts as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acto.data.votes import Floats, Votes, agreement_with_others, majority, shares

_LEAST = 1e-6
"""Weights are not smaller, so that a sample whose annotators are all worthless has a mean at all."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weighted:
    """Result of CROWDLAB."""

    probs: Floats
    """(N, K) of the right class; of a sample without labels the model's."""
    annotator_quality: Floats
    """(M,) in [0, 1]."""
    weights: Floats
    """(M,) w_j."""
    model_weight: float
    """Weight w_M."""


def crowdlab(votes: Votes, pred_probs: Floats) -> Weighted:
    """Average annotators and model.

    Args:
        votes: N samples of M annotators.
        pred_probs: (N, K) of a model, best out of folds; rows add up to 1.
    """
    num_samples, num_annotators, num_classes = votes.shape
    per_sample, consensus = votes.per_sample, majority(votes, pred_probs)
    compared = per_sample > 1 if (per_sample > 1).any() else per_sample > 0
    agreeing = votes.counts()[np.arange(num_samples), consensus]
    mean_agreement = float(shares(agreeing, per_sample)[compared].mean())
    right_model = float((pred_probs.argmax(1) == consensus)[compared].mean())
    most_frequent = np.bincount(votes.labels, minlength=num_classes).argmax()
    wrong_baseline = max(_LEAST, 1 - float((consensus == most_frequent)[compared].mean()))

    with_others = agreement_with_others(votes)
    known = np.isfinite(with_others)
    with_others = np.where(known, with_others, with_others[known].mean() if known.any() else mean_agreement)
    weights = np.maximum(1 - (1 - with_others) / wrong_baseline, _LEAST)
    model_weight = max(_LEAST, 1 - (1 - right_model) / wrong_baseline)
    model_weight *= float(np.sqrt(per_sample[per_sample > 0].mean()))

    # P on the voted class, the rest even: a constant for all classes and the difference on top.
    rest = (1 - mean_agreement) / (num_classes - 1)
    per_vote = weights[votes.annotators]
    sums = np.bincount(votes.samples, weights=per_vote, minlength=num_samples)
    on_class = np.bincount(
        votes.samples * num_classes + votes.labels, weights=per_vote, minlength=num_samples * num_classes
    ).reshape(num_samples, num_classes)
    probs = model_weight * pred_probs + on_class * (mean_agreement - rest) + (sums * rest)[:, None]
    probs /= probs.sum(1, keepdims=True)

    final = probs.argmax(1)
    counts_here = compared[votes.samples]
    agrees = shares(
        np.bincount(votes.annotators, weights=counts_here & (votes.labels == final[votes.samples]),
                    minlength=num_annotators),
        np.bincount(votes.annotators, weights=counts_here, minlength=num_annotators),
    )  # fmt: skip
    scored = shares(
        np.bincount(votes.annotators, weights=votes.of(probs), minlength=num_annotators), votes.per_annotator
    )
    agrees = np.where(np.isfinite(agrees), agrees, scored)
    share = model_weight / (model_weight + float(sums[per_sample > 0].mean()))
    return Weighted(
        probs=probs,
        annotator_quality=share * scored + (1 - share) * agrees,
        weights=weights,
        model_weight=model_weight,
    )
