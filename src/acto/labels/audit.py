"""Audit of labels, from probabilities and from what training saw. torch is never imported here.

A label is an issue where the model predicts another class. Of a model that was not trained to distrust these labels
more is asked: acto.labels.rules has the rules, acto.labels.scores what ranks the labels, acto.labels.rate the estimate
of the noise, and acto.labels.belief what speaks against all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose
from acto.core.lazy_texts import LazyTexts, Rows
from acto.core.sample_columns import in_order, of_report
from acto.core.text import counted
from acto.data.alignment import as_pandas, by_class, in_one_order
from acto.data.classes import encode
from acto.data.label_columns import Labels, check_one_each, is_number, read_column
from acto.labels.belief import doubts, first_suspects, is_wide
from acto.labels.confirmed import noise_beside
from acto.labels.rate import Unseen, estimate_noise
from acto.labels.reasons import duplicate_columns, nothing, reasons
from acto.labels.report import LabelReport, Table
from acto.labels.rules import RULES, VOTE, VOTERS, Issues
from acto.labels.scores import SCORES, TINY, Probs, look_at, refuse_rows

LITTLE_TRUST = 0.5
"""Label quality of a training's record below which a label may be wrong although the model agrees with it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trained:
    """Record of what training saw of the samples, beside the final probabilities."""

    columns: Mapping[str, npt.NDArray[Any]]
    """Those that training recorded, (N,) each, by the names of acto.core.sample_columns."""
    other_predictions: tuple[Labels, ...] = ()
    """(N,) classes, of the method's predictions beside the headline."""
    epochs: int = 0
    """Epochs trained."""
    trust: npt.NDArray[np.floating[Any]] | None = None
    """(N,) in the given labels, in [0, 1], where label_quality takes outliers into account as well."""


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
        pred_probs: (N, K) probabilities; rows add up to 1, negative numbers of at most scores.TINY count as 0. A data
            frame is aligned: its rows with the index of the labels, its columns with class_names. Of a numpy.memmap
            some rows are read at a time.
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
        UserError: lengths, shapes, NaN, labels or probabilities out of range, with the first rows; labels that are
            names without class_names; a data frame whose rows or columns do not fit; an unknown score or rule, or a
            score beside label_quality.
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
    probs = _as_probs(pred_probs)
    num_samples, num_classes = probs.shape
    names = tuple(map(str, class_names)) if class_names is not None else tuple(map(str, range(num_classes)))
    if len(names) != num_classes or len(set(names)) != len(names):
        raise UserError(f"class_names must be {num_classes} different names, one a column, but there are {len(names)}")
    columns = {"labels": labels, "ids": ids, "paths": paths, "label_quality": label_quality, "confirmed": confirmed}
    for what, values in columns.items():
        if values is not None and (length := _length(what, values)) != num_samples:
            raise UserError(f"{what} has {length} entries, but pred_probs has {counted(num_samples, 'row')}")
    check_one_each(labels)
    column = read_column(labels, where=lambda i: f"row {i}")
    if class_names is None and not any(map(is_number, column.texts)):
        raise UserError(
            f"labels are names, {column.texts[0]!r} among them: say with class_names (--classes) which column of "
            "pred_probs is which class"
        )
    given = encode(column, names)
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
    outlier: npt.NDArray[np.floating[Any]] | None = None,
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
        outlier: (N,) see acto.runs.outliers.
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
    parts = [_as_probs(part) for part in (pred_probs, held_out) if part is not None]
    names, num_seen, num_samples = tuple(class_names), len(parts[0]), sum(map(len, parts))
    num_classes = parts[0].shape[1]
    assert num_classes == len(names) and num_samples == len(given), (num_classes, num_samples, len(names), len(given))
    ids = list(map(str, ids)) if ids is not None else LazyTexts(num_samples, _numbers)
    looks = [look_at(labels, part) for labels, part in zip(np.split(given, [num_seen]), parts, strict=False)]
    look, issues, rule = looks[0], list(map(Issues, looks, parts)), _rule(rule, robust=robust)
    if label_quality is not None:
        quality, score = _checked_quality(label_quality), None
    else:
        score = score if score is not None else SCORES[0]
        quality = _joined(each.quality(score) for each in issues)
    is_issue = _joined(each.by(rule) for each in issues)
    predicted = _joined(each.predicted for each in looks)
    if confirmed is not None and confirmed.any():
        is_issue, quality = is_issue & ~confirmed, np.where(confirmed, 1.0, quality)
    else:
        confirmed = None
    near, conflicting = duplicate_columns(duplicates, given, ids)
    of_names = np.array(names)
    columns: Table = {
        "id": ids,
        "path": list(map(str, paths)) if paths is not None else LazyTexts(num_samples, nothing),
        **({"text": list(texts)} if texts is not None else {}),
        "given_label": LazyTexts(num_samples, partial(_names, of_names, given)),
        "predicted_label": LazyTexts(num_samples, partial(_names, of_names, predicted)),
        "suggested_label": LazyTexts(num_samples, partial(_suggested, of_names, predicted, is_issue)),
        "is_label_issue": is_issue,
        "label_quality": quality.astype(np.float32),
        "confidence": _joined(each.confidence for each in looks).astype(np.float32),
        "prob_given": _joined(each.prob_given for each in looks).astype(np.float32),
    }
    if outlier is not None:
        columns["outlier"] = outlier.astype(np.float32)
    if held_out is not None:
        columns["held_out"] = np.arange(num_samples) >= num_seen
    if trained is not None:
        if trained.other_predictions:
            agree = np.all([other == predicted for other in trained.other_predictions], axis=0)
            columns["networks_agree"] = agree
        columns |= {name: np.asarray(values) for name, values in trained.columns.items()}
    columns |= {"near_duplicates": near, "conflicting_duplicates": conflicting}
    if confirmed is not None:
        columns["is_confirmed"] = confirmed
    epochs = trained.epochs if trained is not None else 0
    columns["reason"] = LazyTexts(num_samples, partial(reasons, dict(columns), epochs))
    doubted = None
    if trained is not None:
        doubted = (quality if trained.trust is None else trained.trust)[:num_seen] < LITTLE_TRUST
    if confirmed is None:
        noise = estimate_noise(look, unseen=unseen, doubted=doubted)
    else:
        noise = noise_beside(look, confirmed[:num_seen], unseen=unseen, doubted=doubted)
    noise = replace(noise, counts=np.bincount(given, minlength=num_classes))
    facts = {"source": "pred_probs", **(facts or {}), **_how(issues[0], rule, score)}
    if confirmed is not None:
        facts["confirmed"] = int(confirmed.sum())
    if held_out is not None:
        facts["num_held_out"] = len(held_out)
    if look.num_clipped:
        clipped = f"negative probabilities of at most {TINY:g} that count as 0: {look.num_clipped:,}"
        facts["notes"] = [*facts.get("notes", ()), clipped]
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


def _as_probs(values: npt.ArrayLike) -> Probs:
    try:
        probs = np.asarray(values)
        if probs.dtype.kind == "c":
            raise ValueError("they are complex")
        # Half and single precision stay: widened, (50,000, 5,000) of them would take 2 GB more.
        if probs.dtype.kind != "f" or probs.itemsize > 8:
            probs = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"pred_probs must be an (N, K) array of numbers: {error}") from error
    if probs.ndim != 2 or probs.shape[1] < 2:
        hint = "; of two classes, pass the probabilities of both" if probs.size == len(probs) > 0 else ""
        raise UserError(f"pred_probs must be (N, K) with at least two classes, but its shape is {probs.shape}{hint}")
    if len(probs) == 0:
        raise UserError("pred_probs has no rows")
    return probs


def _checked_quality(values: npt.ArrayLike) -> Probs:
    quality = np.asarray(values, dtype=np.float64)
    if quality.ndim != 1:
        raise UserError(f"label_quality must be (N,), but its shape is {quality.shape}")
    refuse_rows(np.flatnonzero(~((quality >= 0) & (quality <= 1))), "label_quality must lie in [0, 1]")
    return quality


def _checked_mask(values: Any) -> npt.NDArray[np.bool_]:
    mask = np.asarray(values)
    if mask.ndim != 1:
        raise UserError(f"confirmed must be (N,), but its shape is {mask.shape}")
    if mask.dtype != bool:  # row numbers, taken for truth, would confirm nearly all labels
        raise UserError(f"confirmed must be True or False for each sample, but it is {mask.dtype}, such as {mask[0]!r}")
    return mask


def _joined(parts: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    found = list(parts)
    return found[0] if len(found) == 1 else np.concatenate(found)


# Words ----------------------------------------------------------------------------------------------------------


def _numbers(rows: Rows) -> list[str]:
    return list(map(str, rows.tolist()))


def _names(of_names: npt.NDArray[Any], classes: Labels, rows: Rows) -> list[str]:
    return of_names[classes[rows]].tolist()


def _suggested(of_names: npt.NDArray[Any], predicted: Labels, is_issue: npt.NDArray[np.bool_], rows: Rows) -> list[str]:
    return np.where(is_issue[rows], of_names[predicted[rows]], "").tolist()
