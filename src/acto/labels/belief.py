"""Belief in an audit: what speaks against it, and how many suspects are worth a look at once.

torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.text import counted, percent, visible
from acto.labels.rate import CHANCE, Unseen, kappa
from acto.labels.reasons import OUTLYING
from acto.labels.report import Doubt, LabelReport, NoiseEstimate
from acto.labels.scores import Look, Values

FEW = 20
"""Samples that a class needs before its share of wrong labels means something: of fewer, 95 % may be right by luck."""
LOST = 0.05
"""A class is lost if it is predicted for fewer samples than this share of those that were given it."""
WIDE = 0.1
"""Width of an interval of the rate that is no answer."""
TOO_GOOD = 0.001
"""A model that contradicts a smaller share of the labels has most likely been trained on them."""
FITTED = 0.1
"""Training labels agree better with the model than unseen ones by this much, and twice as well: it has memorized."""
PRECISIONS = (0.9, 0.75)
"""Expected precisions of the first suspects that are counted."""
ODDS, EXPONENT, MOST_UNUSUAL = 0.15, 0.75, 100.0
"""Odds that a suspected label is wrong: ODDS, times the sure contradictions for each unsure one, times how unusually
little the model gives the label, MOST_UNUSUAL at most, to the power of EXPONENT. docs/decisions.md has their origin."""
UNSURE = 0.15
"""Unsure contradictions, as a share of all, from which a model with a wide interval is called weak. It is as well where
it contradicts unseen labels more often by FITTED."""
_NAMED = 5
_NOTHING = {"collapsed_model", "chance_level"}
"""Codes of a model that has learned nothing."""


def odds_of_error(look: Look) -> Values:
    """(N,) estimated odds that the label is wrong, >= 0, where the model contradicts it."""
    sure = int((look.is_sure & look.differs).sum())
    unsure = int(look.differs.sum()) - sure
    unusual = look.own_level[look.given] / np.maximum(look.prob_given, 1e-12)
    odds: Values = ODDS * sure / (unsure + 1) * np.minimum(unusual, MOST_UNUSUAL) ** EXPONENT
    return odds


def first_suspects(
    look: Look,
    is_issue: npt.NDArray[np.bool_],
    quality: npt.NDArray[Any],
    *,
    held_out: Look | None = None,
    can_promise: bool = True,
) -> dict[str, int]:
    """Count the suspects, the least trusted first, of which at least 90 % (75 %) are expected to be wrong.

    Args:
        look: at the probabilities.
        is_issue: (N,) the suspects.
        quality: (N,) trust, by which they are listed.
        held_out: at samples that the model was not trained on, which follow in `is_issue` and `quality`. What is usual
            of a class is taken from the others: it is less sure of these, and they are few.
        can_promise: False where a model judges the labels that it was trained on and is weak: its odds mean nothing.

    Returns:
        The numbers by precision, "0.9" and "0.75"; 0 where no suspect is sure enough, or the model knows too little.
    """
    rows = np.flatnonzero(is_issue)
    rows = rows[np.argsort(quality[rows], kind="stable")]
    odds = odds_of_error(look)
    if held_out is not None:
        odds = np.concatenate([odds, odds_of_error(replace(held_out, own_level=look.own_level))])
    odds = odds[rows]
    expected = odds / (1 + odds)
    means = np.cumsum(expected) / np.arange(1, len(rows) + 1)
    found = {}
    for precision in PRECISIONS:
        enough = int((expected >= precision).sum())
        good = np.flatnonzero(means[:enough] >= precision)
        found[f"{precision:g}"] = int(good[-1]) + 1 if len(good) and can_promise and kappa(look) >= CHANCE else 0
    return found


def is_wide(noise: NoiseEstimate) -> bool:
    """Tell whether the interval of the rate is too wide to be an answer."""
    return noise.rate_high - noise.rate_low > WIDE


def rule_in_words(report: LabelReport) -> list[str]:
    """Sentences on what called labels wrong, and on which case the data seem to be; none in reports of before."""
    rule, counts = report.facts.get("rule"), report.facts.get("rule_counts")
    count = int(np.sum(report.columns.get("held_out", False)))
    held_out = [f"{count:,} of the {len(report):,} samples were held out: the model had not seen their labels."]
    held_out = [*_outliers_in_words(report), *(held_out if count else [])]
    if not isinstance(counts, dict) or not {"confident_learning", "predicted_neq_given"} <= set(counts):
        return [f"Suspected by the rule {rule}.", *held_out] if isinstance(rule, str) else held_out
    differ, sure = counts["predicted_neq_given"], counts["confident_learning"]
    named = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name != "predicted_neq_given")
    words = [f"Suspected are those that at least two of four rules name ({named})."]
    if not _NOTHING & {doubt.code for doubt in report.warnings}:
        share = sure / max(differ, 1)
        case = "most of them are thought to be wrong" if share >= 0.5 else "most may be right, and the model in error"
        words.append(
            f"The model contradicts {counted(differ, 'label')} and is sure of {percent(share)} of them: {case}."
        )
    return words + held_out


def _outliers_in_words(report: LabelReport) -> list[str]:
    """A sentence on the suspects that may belong to no class; none without outlier scores, or suspects."""
    if "outlier" not in report.columns:
        return []
    count = int(np.sum(np.asarray(report.columns["outlier"])[report.is_label_issue] >= OUTLYING))
    if not count:
        return []
    return [
        f"{count:,} of the suspects may belong to no class: {percent(OUTLYING)} of the samples "
        "with a confirmed label look more like the trusted ones."
    ]


def doubts(
    look: Look,
    noise: NoiseEstimate,
    class_names: Sequence[str],
    *,
    unseen: Unseen | None = None,
    facts: Mapping[str, Any],
) -> tuple[Doubt, ...]:
    """Reasons not to believe an audit, the worst first, each with what helps.

    Args:
        look: at the probabilities.
        noise: the estimate.
        class_names: K names.
        unseen: what the model makes of labels that it has not seen.
        facts: of the report; of a run, its state and epochs.
    """
    found = [
        *_learned_nothing(look, class_names, more=_what_helps(facts)),
        *_cut_short(facts),
        *_memorized(look, unseen, facts),
        *_few_samples(look, class_names),
    ]
    longer = "memorized" not in {doubt.code for doubt in found}  # it would memorize more
    errs = longer and unseen is not None and unseen.excess(float(look.differs.mean()), rate=noise.rate) >= FITTED
    # A robust model of noisy labels is never sure, and its interval wide, even where it is right about nearly all.
    is_weak = is_wide(noise) and (errs or unsure_share(look) >= UNSURE)
    if is_weak and not _NOTHING & {doubt.code for doubt in found}:
        found.insert(0, _weak(look, noise, unseen, help=_what_helps(facts, longer=longer)))
    return tuple(found)


def _what_helps(facts: Mapping[str, Any], *, longer: bool = True) -> str:
    ways = ["train longer"] if longer else []
    if facts.get("takes_pretrained", True):
        ways.append("begin from pretrained weights or their frozen features")
    ways.append("or bring more data" if ways else "bring more data")
    return ", ".join(ways).capitalize()


def _learned_nothing(look: Look, class_names: Sequence[str], *, more: str) -> list[Doubt]:
    predicted = np.bincount(look.predicted, minlength=len(look.counts))
    judged = look.counts >= FEW
    lost = np.flatnonzero(judged & (predicted < LOST * look.counts))
    if len(lost) and 2 * len(lost) >= judged.sum():
        named = int((judged & (predicted >= LOST * look.counts)).sum())
        return [
            Doubt(
                "collapsed_model",
                f"The model predicts {named} of {int(judged.sum())} classes only, so it calls nearly all labels of "
                f"the others wrong. Believe neither the suspects nor the rate. {more}; if training diverged, lower "
                "the learning rate.",
            )
        ]
    agreement = kappa(look)
    if agreement < CHANCE:
        return [
            Doubt(
                "chance_level",
                f"The model agrees with {percent(1 - float(look.differs.mean()))} of the labels, hardly more than by "
                "chance. Believe neither the suspects nor the rate. Are the rows and the columns of the probabilities "
                f"in the order of the labels and of the classes? {more}.",
            )
        ]
    if len(lost):
        return [
            Doubt(
                "lost_classes",
                f"The model hardly ever predicts {_listed(lost, class_names)}: do not believe that labels of "
                f"{'this class' if len(lost) == 1 else 'these classes'} are wrong. {more} of such classes.",
            )
        ]
    return []


def unsure_share(look: Look) -> float:
    """Share of the contradictions of which the model is not sure, in [0, 1]; 0 where there are none."""
    return float((look.differs & ~look.is_sure).sum()) / max(int(look.differs.sum()), 1)


def _weak(look: Look, noise: NoiseEstimate, unseen: Unseen | None, *, help: str) -> Doubt:
    differs, unsure = percent(float(look.differs.mean())), unsure_share(look)
    words = f"The model contradicts {differs} of the labels"
    if unseen is not None and unsure < UNSURE:
        words += (
            f" it was trained on, and {percent(1 - unseen.agreement)} of {counted(unseen.count, 'label')} that it has "
            "not seen: many contradictions may be its own errors."
        )
    else:
        words += f" and is unsure of {percent(unsure)} of these contradictions, which may be its own errors."
        if unseen is not None:
            words += (
                f" Of {counted(unseen.count, 'label')} that it has not seen it predicts {percent(unseen.agreement)}."
            )
    return Doubt(
        "weak_model",
        f"How many labels are wrong cannot be told closely: {percent(noise.rate_low)} to {percent(noise.rate_high)}. "
        f"{words} Begin with the first suspects. {help}.",
    )


def _cut_short(facts: Mapping[str, Any]) -> list[Doubt]:
    done, asked = facts.get("epochs"), facts.get("epochs_asked")
    if facts.get("source") != "run" or not isinstance(done, int) or not isinstance(asked, int) or done >= asked:
        return []
    return [
        Doubt(
            "cut_short",
            f"This run ended after {done} of {asked} epochs: its model has not learned all it could. Go on with it "
            "(acto train --resume FOLDER), and audit again.",
        )
    ]


def _memorized(look: Look, unseen: Unseen | None, facts: Mapping[str, Any]) -> list[Doubt]:
    differs = float(look.differs.mean())
    if facts.get("source") == "run":
        if unseen is None:
            return []
        missed = 1 - unseen.agreement
        if missed - differs < FITTED or missed < 2 * differs:
            return []
        early = " (--stop-early)" if unseen.like_training else ""  # it would let a test set choose
        other = ", or with a method that distrusts labels" if facts.get("method") == "standard" else ""
        return [
            Doubt(
                "memorized",
                f"The model predicts {percent(1 - differs)} of the labels it was trained on, but {percent(1 - missed)} "
                "of those it has not seen: it learns labels by heart, and misses those that are wrong. Train for fewer "
                f"epochs{early}{other}.",
            )
        ]
    if differs >= TOO_GOOD or len(look.given) < FEW * 2:
        return []
    return [
        Doubt(
            "memorized",
            f"The model contradicts {int(look.differs.sum())} of {len(look.given):,} labels. If it was trained on "
            "them, it has learned them by heart and finds nothing: use probabilities of held-out folds, or of a "
            "model that distrusts labels.",
        )
    ]


def _few_samples(look: Look, class_names: Sequence[str]) -> list[Doubt]:
    few = np.flatnonzero(look.counts < FEW)
    if not len(few):
        return []
    return [
        Doubt(
            "few_samples",
            f"Fewer than {FEW} samples were given {_listed(few, class_names)}: nothing certain can be said of "
            f"{'this class' if len(few) == 1 else 'these classes'}. Collect more, or look at all of them.",
        )
    ]


def _listed(classes: npt.NDArray[np.int64], class_names: Sequence[str]) -> str:
    named = ", ".join(repr(visible(class_names[k])) for k in classes[:_NAMED])
    return named if len(classes) <= _NAMED else f"{named} and {counted(len(classes) - _NAMED, 'more class')}"
