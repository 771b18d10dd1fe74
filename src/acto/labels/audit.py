"""Audit of labels, from probabilities and from what training saw. torch is never imported here.

A label is an issue where the model predicts another class. Of a model that was not trained to distrust these labels
more is asked: acto.labels.rules has the rules, acto.labels.scores what ranks the labels, acto.labels.rate the estimate
of the noise, and acto.labels.belief what speaks against all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose
from acto.core.sample_columns import in_order, of_report
from acto.data.alignment import as_pandas, by_class, in_one_order
from acto.data.classes import encode
from acto.data.label_columns import Labels, check_one_each, read_column
from acto.labels.belief import doubts, first_suspects, is_wide
from acto.labels.confirmed import noise_beside
from acto.labels.rate import Unseen, estimate_noise
from acto.labels.report import SEPARATOR, LabelReport, Table
from acto.labels.rules import RULES, VOTE, VOTERS, Issues
from acto.labels.scores import BLOCK, SCORES, Probs, look_at
from acto.labels.scores import label_quality as score_of

SUM_TOLERANCE = 0.02
"""Rows of probabilities may miss 1 by this: half precision does."""
MOST_DUPLICATES = 20
"""Ids that a cell of duplicates names."""
LATE_SHARE = 0.5
"""A label that is first fitted after this share of the epochs was learned late."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """Record of what training saw of the samples, beside the final probabilities."""

    columns: Mapping[str, npt.NDArray[Any]]
    """Those that training recorded, (N,) each, by the names of acto.core.sample_columns."""
    other_predictions: tuple[Labels, ...] = ()
    """(N,) classes, of the method's predictions beside the headline."""
    epochs: int = 0
    """Epochs trained."""


def audit(
    labels: Sequence[Any] | npt.NDArray[Any],
    pred_probs: npt.ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    label_quality: npt.ArrayLike | None = None,
    score: str | None = None,
    rule: str | None = None,
    robust: bool = False,
    confirmed: Sequence[bool] | npt.NDArray[Any] | None = None,
    seed: int = 0,
) -> LabelReport:
    """Rank labels by how little they can be trusted, and estimate the noise.

    Probabilities should come from a model that did not memorize these labels: a robust one such as ACTO's RTM, or
    held-out folds.

    Args:
        labels: (N,) as given: class numbers 0 to K - 1, or names of `class_names`. Numbers that could be either, and
            would be other classes, are refused.
        pred_probs: (N, K) probabilities; rows add up to 1. A data frame is aligned: its rows with the index of the
            labels, its columns with class_names.
        class_names: K names in the order of the columns; None: the names of a data frame's columns, or the numbers.
        ids: (N,) names of the samples; None: row numbers.
        paths: (N,) picture files.
        label_quality: (N,) trust in each label in [0, 1], 1 = trustworthy; None: `score`.
        score: what ranks the labels, a name of acto.labels.scores.SCORES: relative_confidence (None), self_confidence,
            normalized_margin or entropy_weighted.
        rule: what is called wrong, a name of acto.labels.rules.RULES, cleanlab's filters among them; None: two_of_four,
            or with `robust` predicted_neq_given.
        robust: the model was trained on these labels and distrusted them, as ACTO does.
        confirmed: (N,) True where a person holds the label right: it is never suspected, and counts as right.
        seed: of no effect any more: the intervals are computed, not drawn.

    Raises:
        UserError: lengths, shapes, NaN, labels or probabilities out of range, with the first rows; a data frame whose
            rows or columns do not fit; an unknown score or rule, or a score beside label_quality.
    """
    if score is not None:
        choose("score", str(score), SCORES)
        if label_quality is not None:
            raise UserError("label_quality already ranks the labels: leave out score, or leave out label_quality")
    if rule is not None:
        choose("rule", str(rule), RULES)
    rows = {
        "labels": labels, "pred_probs": pred_probs, "label_quality": label_quality, "ids": ids, "paths": paths,
        "confirmed": confirmed,
    }  # fmt: skip
    aligned = in_one_order({name: as_pandas(values) for name, values in rows.items()})
    ids, paths = aligned["ids"], aligned["paths"]
    labels, label_quality, confirmed = map(_plain, (aligned["labels"], aligned["label_quality"], aligned["confirmed"]))
    pred_probs, class_names = by_class(aligned["pred_probs"], class_names, labels)
    pred_probs = _plain(pred_probs)
    probs = _checked_probs(pred_probs)
    num_samples, num_classes = probs.shape
    names = tuple(map(str, class_names)) if class_names is not None else tuple(map(str, range(num_classes)))
    if len(names) != num_classes or len(set(names)) != len(names):
        raise UserError(f"class_names must be {num_classes} different names, one a column, but there are {len(names)}")
    columns = {"labels": labels, "ids": ids, "paths": paths, "label_quality": label_quality, "confirmed": confirmed}
    for what, values in columns.items():
        if values is not None and (length := _length(what, values)) != num_samples:
            raise UserError(f"{what} has {length} entries, but pred_probs has {num_samples} rows")
    check_one_each(labels)
    given = encode(read_column(labels, where=lambda i: f"row {i}"), names)
    return report_on(
        given, probs, names, ids=ids, paths=paths, label_quality=label_quality, score=score, rule=rule, robust=robust,
        confirmed=None if confirmed is None else _checked_mask(confirmed),
    )  # fmt: skip


def report_on(
    given: Labels,
    pred_probs: npt.ArrayLike,
    class_names: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    label_quality: npt.ArrayLike | None = None,
    score: str | None = None,
    rule: str | None = None,
    trained: Trained | None = None,
    unseen: Unseen | None = None,
    robust: bool = False,
    held_out: Probs | None = None,
    duplicates: Sequence[Sequence[int]] = (),
    confirmed: npt.NDArray[np.bool_] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> LabelReport:
    """The same as `audit` of labels that are class numbers for certain, with what else is known of the samples.

    Args:
        given: (N,) class numbers.
        pred_probs: (N, K) probabilities; rows add up to 1.
        class_names: K names.
        ids: see audit.
        paths: see audit.
        texts: (N,) what is shown of samples that are rows of a table.
        label_quality: see audit.
        score: see audit.
        rule: see audit.
        trained: what training saw.
        unseen: what the model makes of labels that it has not seen.
        robust: see audit.
        held_out: (M, K) probabilities of M more samples, on which the model was not trained: they follow the others in
            all that has a row for each sample. How many labels are wrong is estimated from the others.
        duplicates: groups of row numbers of samples with nearly the same content.
        confirmed: see audit.
        facts: see LabelReport; None: source is "pred_probs".
    """
    parts = [_checked_probs(part) for part in (pred_probs, held_out) if part is not None]
    names, num_seen, num_samples = tuple(class_names), len(parts[0]), sum(map(len, parts))
    num_classes = parts[0].shape[1]
    assert num_classes == len(names) and num_samples == len(given), (num_classes, num_samples, len(names), len(given))
    ids = list(map(str, ids if ids is not None else range(num_samples)))
    looks = [look_at(labels, part) for labels, part in zip(np.split(given, [num_seen]), parts, strict=False)]
    look = looks[0]
    if label_quality is not None:
        quality, score = _checked_quality(label_quality), None
    else:
        score = score if score is not None else SCORES[0]
        quality = np.concatenate([score_of(each, part, score) for each, part in zip(looks, parts, strict=True)])
    issues, rule = list(map(Issues, looks, parts)), _rule(rule, robust=robust)
    is_issue = np.concatenate([each.by(rule) for each in issues])
    predicted, confidence, prob_given = (
        np.concatenate([getattr(each, name) for each in looks]) for name in ("predicted", "confidence", "prob_given")
    )
    if confirmed is not None and confirmed.any():
        is_issue, quality = is_issue & ~confirmed, np.where(confirmed, 1.0, quality)
    else:
        confirmed = None
    near, conflicting = _duplicate_columns(duplicates, given, ids)
    of_names = np.array(names)
    columns: Table = {
        "id": ids,
        "path": list(map(str, paths)) if paths is not None else [""] * num_samples,
        **({"text": list(texts)} if texts is not None else {}),
        "given_label": of_names[given].tolist(),
        "predicted_label": of_names[predicted].tolist(),
        "suggested_label": np.where(is_issue, of_names[predicted], "").tolist(),
        "is_label_issue": is_issue,
        "label_quality": quality.astype(np.float32),
        "confidence": confidence.astype(np.float32),
        "prob_given": prob_given.astype(np.float32),
    }
    if held_out is not None:
        columns["held_out"] = np.arange(num_samples) >= num_seen
    if trained is not None:
        if trained.other_predictions:
            agree = np.all([other == predicted for other in trained.other_predictions], axis=0)
            columns["networks_agree"] = agree
        columns |= {name: np.asarray(values) for name, values in trained.columns.items()}
    columns |= {"near_duplicates": near, "conflicting_duplicates": conflicting}
    columns["reason"] = list(_reasons(columns, epochs=trained.epochs if trained is not None else 0))
    if confirmed is None:
        noise = estimate_noise(look, unseen=unseen)
    else:
        noise = noise_beside(look, confirmed[:num_seen], unseen=unseen)
        columns["is_confirmed"] = confirmed
        columns["reason"] = [
            f"A person holds this label right. {reason}".strip() if holds else reason
            for reason, holds in zip(columns["reason"], confirmed.tolist(), strict=True)
        ]
    noise = replace(noise, counts=np.bincount(given, minlength=num_classes))
    facts = {"source": "pred_probs", **(facts or {}), **_how(issues[0], rule, score)}
    if confirmed is not None:
        facts["confirmed"] = int(confirmed.sum())
    if held_out is not None:
        facts["num_held_out"] = len(held_out)
    return LabelReport(
        class_names=names,
        columns=in_order(columns, of_report()),
        noise=noise,
        facts=facts,
        warnings=doubts(look, noise, names, unseen=unseen, facts=facts),
        look_first=first_suspects(
            look,
            is_issue,
            quality,
            held_out=looks[1] if held_out is not None else None,
            can_promise=unseen is None or not is_wide(noise),
        ),
    )


def find_issues(given: Labels, probs: Probs, *, robust: bool) -> tuple[npt.NDArray[np.bool_], Labels]:
    """Find the labels that are thought to be wrong, (N,) bool, and the class that the model names instead, (N,).

    Args:
        given: (N,) class numbers.
        probs: (N, K).
        robust: the model was trained on these labels and distrusted them: what it predicts is evidence enough. Else the
            default rule for other people's probabilities.
    """
    look = look_at(given, probs)
    return Issues(look, probs).by(_rule(None, robust=robust)), look.predicted


def _rule(asked: str | None, *, robust: bool) -> str:
    return asked if asked is not None else "predicted_neq_given" if robust else VOTE


def _how(issues: Issues, rule: str, score: str | None) -> dict[str, Any]:
    """Facts on how labels were judged."""
    if rule != VOTE:
        return {"rule": rule, "score": score}
    found = {name: int(issues.by(name).sum()) for name in (*VOTERS, "predicted_neq_given")}
    return {"rule": rule, "score": score, "rule_counts": found}


# Checks at the door ---------------------------------------------------------------------------------------------


def _plain(values: Any) -> Any:
    """Tensors and columns of data frames as arrays; all else as it is."""
    if hasattr(values, "detach"):  # numpy knows neither gradients nor devices nor bfloat16
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values) if hasattr(values, "__array__") else values


def _length(what: str, values: Any) -> int:
    try:
        return len(values)
    except TypeError:
        raise UserError(f"{what} must be a list or an array, not {type(values).__name__}") from None


def _checked_probs(values: npt.ArrayLike) -> Probs:
    try:
        probs = np.asarray(values)
        # Half and single precision stay: widened, (50,000, 5,000) of them would take 2 GB more.
        if probs.dtype.kind != "f" or probs.itemsize > 8:
            probs = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"pred_probs must be an (N, K) array of numbers: {error}") from error
    if probs.ndim != 2 or probs.shape[1] < 2:
        raise UserError(f"pred_probs must be (N, K) with at least two classes, but its shape is {probs.shape}")
    if len(probs) == 0:
        raise UserError("pred_probs has no rows")
    faults = {
        "pred_probs has NaN or infinite values": lambda rows: ~np.isfinite(rows).all(axis=1),
        "pred_probs must lie in [0, 1]": lambda rows: ((rows < 0) | (rows > 1 + SUM_TOLERANCE)).any(1),
        "rows of pred_probs must add up to 1 (are these logits?)": lambda rows: np.abs(rows.sum(1) - 1) > SUM_TOLERANCE,
    }
    step = max(1, BLOCK // probs.shape[1])
    for problem, is_bad in faults.items():
        blocks = (probs[start : start + step].astype(np.float64) for start in range(0, len(probs), step))
        _refuse_rows(np.concatenate([is_bad(block) for block in blocks]), problem)
    return probs


def _checked_quality(values: npt.ArrayLike) -> Probs:
    quality = np.asarray(values, dtype=np.float64)
    if quality.ndim != 1:
        raise UserError(f"label_quality must be (N,), but its shape is {quality.shape}")
    _refuse_rows(~((quality >= 0) & (quality <= 1)), "label_quality must lie in [0, 1]")
    return quality


def _checked_mask(values: Any) -> npt.NDArray[np.bool_]:
    mask = np.asarray(values)
    if mask.ndim != 1:
        raise UserError(f"confirmed must be (N,), but its shape is {mask.shape}")
    if mask.dtype != bool:  # row numbers, taken for truth, would confirm nearly all labels
        raise UserError(f"confirmed must be True or False for each sample, but it is {mask.dtype}, such as {mask[0]!r}")
    return mask


def _refuse_rows(bad: npt.ArrayLike, problem: str) -> None:
    if len(rows := np.flatnonzero(bad)):
        shown = ", ".join(map(str, rows[:5]))
        raise UserError(f"{problem}: {len(rows)} {'row' if len(rows) == 1 else 'rows'} ({shown})")


# Words ----------------------------------------------------------------------------------------------------------


def _duplicate_columns(
    groups: Sequence[Sequence[int]], given: Labels, ids: Sequence[str]
) -> tuple[list[str], list[str]]:
    near, conflicting = [""] * len(ids), [""] * len(ids)
    for group in groups:
        by_class: dict[int, list[int]] = {}
        for row in group:
            by_class.setdefault(int(given[row]), []).append(row)
        for row in group:
            # Thousands of copies of one picture are common: nothing here may grow with the square of a group.
            near[row] = _listed((other for other in group if other != row), len(group) - 1, ids)
            mine = by_class[int(given[row])]
            if len(mine) < len(group):
                others = (other for label, rows in by_class.items() if label != given[row] for other in rows)
                conflicting[row] = _listed(others, len(group) - len(mine), ids)
    return near, conflicting


def _listed(rows: Iterator[int], count: int, ids: Sequence[str]) -> str:
    """The ids of the first MOST_DUPLICATES of `count` rows, and how many are left out."""
    shown = SEPARATOR.join(ids[row] for row in islice(rows, MOST_DUPLICATES))
    return shown if count <= MOST_DUPLICATES else f"{shown}{SEPARATOR}and {count - MOST_DUPLICATES:,} more"


def _reasons(columns: Table, *, epochs: int) -> Iterator[str]:
    """A few sentences on each issue, and on labels that a duplicate contradicts; nothing on the others."""

    def column(name: str, default: Any) -> Any:
        return columns[name] if name in columns else [default] * len(columns["id"])

    for issue, predicted, given, confidence, prob, agree, held_out, selected, visits, first, memorized, conflict in zip(
        columns["is_label_issue"],
        columns["predicted_label"],
        columns["given_label"],
        columns["confidence"],
        columns["prob_given"],
        column("networks_agree", None),
        column("held_out", False),
        column("times_selected", 0),
        _selectable(columns),
        column("first_epoch_fit", None),
        column("memorization", float("nan")),
        columns["conflicting_duplicates"],
        strict=True,
    ):
        parts = []
        if issue:
            parts.append(f"The model sees {predicted!r} ({_percent(confidence)}), not {given!r} ({_percent(prob)}).")
            if agree is not None:
                parts.append("Both networks say so." if agree else "The other network disagrees.")
            if visits > 0:
                if selected:
                    parts.append(f"Training took the label for clean in {selected} of {visits} visits.")
                else:
                    parts.append("Training never took the label for clean.")
            if first is not None and not held_out:  # training never saw such a one
                if first < 0:
                    parts.append("The model never predicted it in training.")
                elif epochs > 0 and first >= LATE_SHARE * epochs:
                    parts.append(f"The model first predicted it late (epoch {first + 1} of {epochs}).")
            if memorized >= LATE_SHARE:
                parts.append("Only the network that memorizes fits it.")
        if conflict:
            parts.append(f"Nearly the same sample has another label: {conflict}.")
        yield " ".join(parts)


def _selectable(columns: Table) -> Sequence[int]:
    """(N,) visits that could have selected the sample."""
    if "reliability" not in columns or "times_selected" not in columns:
        return [0] * len(columns["id"])
    reliability = np.asarray(columns["reliability"], dtype=np.float64)
    selected = np.asarray(columns["times_selected"], dtype=np.float64)
    visits = np.asarray(columns.get("visits", np.zeros(len(selected))))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(reliability > 0, np.rint(selected / reliability), np.where(np.isnan(reliability), 0, visits))
    return found.astype(np.int64).tolist()


def _percent(share: float) -> str:
    return (
        f"{100 * share:.0f} %" if 0.005 <= share <= 0.995 else (f"{100 * share:.2g} %" if share < 0.5 else "over 99 %")
    )
