"""Consensus of labels by several people, how far each can be trusted, and which samples to label next.

torch is never imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose, closest
from acto.core.text import counted
from acto.data.alignment import as_pandas, by_class, is_frame
from acto.data.dawid_skene import dawid_skene
from acto.data.label_columns import Labels
from acto.data.vote_forms import VoteCells, read_cells, votes_of
from acto.data.votes import Floats, Votes, agreement_with_others, majority, named, shares
from acto.labels.consensus_report import ConsensusReport
from acto.labels.crowdlab import crowdlab
from acto.labels.report import SEPARATOR, Table

METHODS = ("dawid_skene", "crowdlab", "majority")
SUM_TOLERANCE = 0.02
"""Rows of probabilities may miss 1 by this: half precision does."""
_SHOWN = 5


def consensus(
    labels: Any,
    pred_probs: Any = None,
    *,
    method: str = METHODS[0],
    class_names: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    annotators: Sequence[str] | None = None,
) -> ConsensusReport:
    """Find one label for each sample that several people labelled, and rate samples and people.

    Args:
        labels: an (N, M) array or list of rows, a sample each and an annotator a column; a data frame of that form
            (its index or a column "id" names the samples); or a data frame or mapping of columns in long form: id,
            annotator, label. Gaps are None, NaN, "" and negative numbers; a note says so.
        pred_probs: (N, K) probabilities of a model that has not seen these labels, as from held-out folds; a data frame
            is aligned by its index and columns. With them consensus and quality are better, most where there are few
            labels a sample.
        method: dawid_skene (each annotator has a table of mistakes; with pred_probs the model is one more voice),
            crowdlab (a weighted mean of annotators and model; needs pred_probs) or majority.
        class_names: K names in the order of pred_probs' columns; None: the columns' names, or as the labels say.
        ids: (N,) names of the samples, those included that nobody labelled; None: as the labels say.
        annotators: M names of an array's columns; of a table the columns that are annotators'.

    Raises:
        UserError: labels in another form; an annotator with two different labels for one sample; no sample with two
            labels, without a model; probabilities of other classes or samples.
    """
    choose("method", method, METHODS)

    def read(samples: Sequence[Any] | None) -> VoteCells:
        return read_cells(labels, ids=samples, annotators=annotators)

    return consensus_of(*together(read, pred_probs, class_names=class_names, ids=ids), method=method)


def together(
    read: Callable[[Sequence[Any] | None], VoteCells],
    pred_probs: Any,
    *,
    class_names: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
) -> tuple[Votes, Floats | None]:
    """Read labels and bring a model's probabilities of the same samples into their order.

    Args:
        read: reads the labels, given the names of the samples or None.
        pred_probs: (N, K), an array or a data frame; None: none.
        class_names: see consensus.
        ids: see consensus.

    Raises:
        UserError: they do not fit together.
    """
    cells, pred_probs = read(ids), as_pandas(pred_probs)
    if pred_probs is None:
        return votes_of(cells, class_names), None
    if ids is None and cells.is_long:
        cells = read(_samples_of(cells, pred_probs))
    pred_probs = _in_order_of(cells, pred_probs)
    values = cells.values if isinstance(cells.values, np.ndarray) else np.array([""])
    pred_probs, class_names = by_class(pred_probs, class_names, values)
    probs = _checked_probs(pred_probs, class_names)
    if len(probs) != len(cells.ids):
        raise UserError(f"pred_probs has {counted(len(probs), 'row')}, but there are {len(cells.ids)} samples")
    if class_names is not None:
        return votes_of(cells, class_names), probs
    try:
        return votes_of(cells, tuple(map(str, range(probs.shape[1])))), probs
    except UserError as error:
        raise UserError(
            f"{error}. Without class names the {probs.shape[1]} columns of pred_probs count the classes from 0: give "
            "class_names (--classes)"
        ) from None


def consensus_of(votes: Votes, pred_probs: Floats | None, *, method: str = "dawid_skene") -> ConsensusReport:
    """The same as `consensus` of labels that are class numbers for certain.

    Args:
        votes: of N samples.
        pred_probs: (N, K), rows add up to 1; None: none.
        method: see consensus.

    Raises:
        UserError: nothing tells how good the annotators are.
    """
    choose("method", method, METHODS)
    if method == "crowdlab" and pred_probs is None:
        raise UserError("the method crowdlab needs a model's probabilities (pred_probs, --pred-probs)")
    _, num_annotators, _ = votes.shape
    per_sample = votes.per_sample
    if pred_probs is None and not (per_sample > 1).any():
        raise UserError(
            f"no sample has labels of two annotators ({counted(num_annotators, 'annotator')}, "
            f"{counted(len(votes), 'label')}), so that nothing tells how far they can be trusted: give a model's "
            "probabilities (pred_probs, --pred-probs), or let several people label the same samples"
        )
    facts: dict[str, Any] = {"method": method, "with_model": pred_probs is not None}
    tables: Floats | None = None
    quality: Floats | None = None
    if method == "dawid_skene":
        estimate = dawid_skene(votes, pred_probs)
        probs, tables = estimate.probs, estimate.tables
        facts |= {"turns": estimate.turns, "converged": estimate.converged}
        if estimate.power is not None:
            facts["model_power"] = estimate.power
    elif method == "crowdlab":
        assert pred_probs is not None
        weighted = crowdlab(votes, pred_probs)
        probs, quality = weighted.probs, weighted.annotator_quality
        facts |= {"model_weight": weighted.model_weight}
    else:
        counts = votes.counts()
        # One more vote, spread by the class's frequency: one of one is no certainty.
        probs = (counts + votes.counts().sum(0) / len(votes)) / (per_sample + 1)[:, None]
        chosen = majority(votes, pred_probs)
        agrees = np.bincount(votes.annotators, weights=votes.labels == chosen[votes.samples], minlength=num_annotators)
        quality = shares(agrees, votes.per_annotator)
    if method != "majority":
        chosen = probs.argmax(1)
    chosen = np.where(per_sample > 0, chosen, -1)
    if quality is None:
        on_theirs = np.bincount(votes.annotators, weights=votes.of(probs), minlength=num_annotators)
        quality = shares(on_theirs, votes.per_annotator)
    return ConsensusReport(
        class_names=votes.class_names,
        samples=_samples(votes, probs, chosen, pred_probs),
        annotators=_annotators(votes, probs, chosen, quality),
        probs=probs,
        confusion=_confusion(votes, probs) if tables is None else tables,
        facts={**facts, **_agreement(votes)},
        notes=(*votes.notes, *_notes(votes, facts)),
    )


# Tables ---------------------------------------------------------------------------------------------------------


def _samples(votes: Votes, probs: Floats, chosen: Labels, pred_probs: Floats | None) -> Table:
    rows, per_sample = np.arange(len(chosen)), votes.per_sample
    counts = votes.counts()
    quality = np.where(chosen >= 0, probs[rows, chosen], 0.0)
    table: Table = {
        "id": list(votes.ids),
        "consensus_label": named(votes.class_names, chosen),
        "consensus_quality": quality.astype(np.float32),
        "num_labels": per_sample,
        "agreement": shares(np.where(chosen >= 0, counts[rows, chosen], 0), per_sample).astype(np.float32),
    }
    if pred_probs is not None:
        table["predicted_label"] = named(votes.class_names, pred_probs.argmax(1))
    table["label_next"] = (1 - probs.max(1)).astype(np.float32)
    table["labels"] = _in_words(votes, counts)
    return table


def _in_words(votes: Votes, counts: Labels) -> list[str]:
    """Say what each sample was labelled, the most frequent first: 2 cat; 1 dog."""
    texts: list[list[str]] = [[] for _ in votes.ids]
    samples, classes = np.nonzero(counts)
    times = counts[samples, classes]
    order = np.lexsort((classes, -times, samples))
    for i, k, n in zip(samples[order].tolist(), classes[order].tolist(), times[order].tolist(), strict=True):
        texts[i].append(f"{n} {votes.class_names[k]}")
    return [SEPARATOR.join(parts) for parts in texts]


def _annotators(votes: Votes, probs: Floats, chosen: Labels, quality: Floats) -> Table:
    num_annotators = len(votes.annotator_names)
    shared = votes.per_sample[votes.samples] > 1
    agrees = shared & (votes.labels == chosen[votes.samples])
    num_shared = np.bincount(votes.annotators, weights=shared, minlength=num_annotators).astype(np.int64)
    mistakes = _counts(votes, probs)
    classes = np.arange(len(votes.class_names))
    mistakes[:, classes, classes] = 0
    flat = mistakes.reshape(num_annotators, -1)
    worst = flat.argmax(1)
    right, given = np.divmod(worst, len(classes))
    times = flat[np.arange(num_annotators), worst]
    return {
        "annotator": list(votes.annotator_names),
        "quality": np.nan_to_num(quality).astype(np.float32),
        "num_labels": votes.per_annotator,
        "num_shared": num_shared,
        "agreement_with_consensus": shares(
            np.bincount(votes.annotators, weights=agrees, minlength=num_annotators), num_shared
        ).astype(np.float32),
        "agreement_with_others": agreement_with_others(votes).astype(np.float32),
        "often_given": named(votes.class_names, np.where(times >= 0.5, given, -1)),
        "instead_of": named(votes.class_names, np.where(times >= 0.5, right, -1)),
        "times": np.where(times >= 0.5, times, 0).astype(np.float32),
    }


def _counts(votes: Votes, probs: Floats) -> Floats:
    """(M, K, K) expected number of labels of each annotator by right class [1] and given class [2]."""
    _, num_annotators, num_classes = votes.shape
    cells = votes.annotators * num_classes + votes.labels
    found = [
        np.bincount(cells, weights=np.ascontiguousarray(column)[votes.samples], minlength=num_annotators * num_classes)
        for column in probs.T
    ]
    counts: Floats = np.stack(found).astype(np.float64).reshape(num_classes, num_annotators, num_classes)
    return counts.transpose(1, 0, 2).copy()


def _confusion(votes: Votes, probs: Floats) -> Floats:
    counts = _counts(votes, probs)
    return np.nan_to_num(shares(counts, counts.sum(2, keepdims=True)))


def _agreement(votes: Votes) -> dict[str, float | None]:
    """Share of pairs of labels of a sample that agree, and Krippendorff's alpha for names: 1 is agreement, 0 chance.

    K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011.
    """
    counts, per_sample = votes.counts(), votes.per_sample
    compared = per_sample > 1
    counts, per_sample = counts[compared].astype(np.float64), per_sample[compared]
    same, pairs = (counts * (counts - 1)).sum(1), per_sample * (per_sample - 1)
    total = per_sample.sum()
    if not total:
        return {"pairwise_agreement": None, "alpha": None}
    of_class = counts.sum(0)
    by_chance = 1 - float((of_class * (of_class - 1)).sum()) / max(1, total * (total - 1))
    observed = 1 - float((same / (per_sample - 1)).sum() / total)
    alpha = float(1 - observed / by_chance) if by_chance > 0 else None
    return {"pairwise_agreement": float(same.sum() / pairs.sum()), "alpha": alpha}


def _notes(votes: Votes, facts: dict[str, Any]) -> list[str]:
    found = []
    if without := int((votes.per_sample == 0).sum()):
        first = votes.ids[int(np.flatnonzero(votes.per_sample == 0)[0])]
        found.append(f"{counted(without, 'sample')} without any label, the first {first!r}: no consensus")
    shared = np.bincount(
        votes.annotators, weights=votes.per_sample[votes.samples] > 1, minlength=len(votes.annotator_names)
    )
    silent = votes.per_annotator == 0
    for chosen, words in (
        (silent, "no label"),
        (
            (shared == 0) & ~silent,
            "no sample that others labelled too; the quality rests on "
            + ("the model" if facts["with_model"] else "what annotators have in common"),
        ),
    ):
        if chosen.any():
            names = [votes.annotator_names[j] for j in np.flatnonzero(chosen).tolist()]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            found.append(f"{counted(len(names), 'annotator')} ({', '.join(map(repr, names[:_SHOWN]))}{more}): {words}")
    if not facts.get("converged", True):
        found.append(f"the estimate still moved after {facts['turns']} turns: labels are few, or annotators contradict")
    return found


# Checks at the door ---------------------------------------------------------------------------------------------


def _samples_of(cells: VoteCells, pred_probs: Any) -> list[str]:
    """The samples that probabilities are of, beside labels in long form, which name only those that have one.

    Raises:
        UserError: nobody can say which row of an array is which sample.
    """
    if is_frame(pred_probs):
        return [str(name) for name in pred_probs.index]
    count = len(pred_probs) if hasattr(pred_probs, "__len__") else 0
    if all(text.isdecimal() and int(text) < count for text in cells.ids):
        return list(map(str, range(count)))
    raise UserError(
        "labels in long form name their samples, and pred_probs is an array without names: give ids, the names of its "
        "rows, or a data frame with them as index (in a file: a column id)"
    )


def _in_order_of(cells: VoteCells, pred_probs: Any) -> Any:
    """Bring a data frame of probabilities into the order of the samples; anything else is returned as it is."""
    if not is_frame(pred_probs):
        return pred_probs
    index = [str(name) for name in pred_probs.index]
    if index == list(cells.ids):
        return pred_probs
    if len(set(index)) < len(index):
        twice = next(name for name in index if index.count(name) > 1)
        raise UserError(f"pred_probs has several rows for the sample {twice!r}")
    row_of = {name: row for row, name in enumerate(index)}
    if missing := [name for name in cells.ids if name not in row_of]:
        if len(index) == len(cells.ids) and index == list(map(str, range(len(index)))):
            return pred_probs  # numbers that pandas gave say nothing beside names
        raise UserError(
            f"pred_probs has no row for {counted(len(missing), 'sample')}, the first {missing[0]!r}."
            f"{closest(missing[0], index[:10_000])}"
        )
    return pred_probs.iloc[[row_of[name] for name in cells.ids]]


def _checked_probs(values: Any, class_names: Sequence[str] | None) -> Floats:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy()
    try:
        probs: npt.NDArray[np.float64] = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"pred_probs must be an (N, K) array of numbers: {error}") from error
    if probs.ndim != 2 or probs.shape[1] < 2 or not len(probs):
        raise UserError(f"pred_probs must be (N, K) with at least two classes, but its shape is {probs.shape}")
    if class_names is not None and (
        len(class_names) != probs.shape[1] or len(set(map(str, class_names))) < len(class_names)
    ):
        raise UserError(
            f"pred_probs has {probs.shape[1]} columns, and there are {len(class_names)} class names: there must be one "
            "for each, all different"
        )
    for problem, bad in (
        ("pred_probs has NaN or infinite values", ~np.isfinite(probs).all(1)),
        ("pred_probs must lie in [0, 1]", ((probs < -1e-3) | (probs > 1 + SUM_TOLERANCE)).any(1)),
        ("rows of pred_probs must add up to 1 (are these logits?)", np.abs(probs.sum(1) - 1) > SUM_TOLERANCE),
    ):
        if len(rows := np.flatnonzero(bad)):
            raise UserError(f"{problem}: {counted(len(rows), 'row')} ({', '.join(map(str, rows[:_SHOWN]))})")
    np.clip(probs, 0, None, out=probs)
    probs /= probs.sum(1, keepdims=True)
    return probs
