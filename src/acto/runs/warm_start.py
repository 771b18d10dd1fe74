"""Going on from a finished run on data that have changed since: labels were corrected, samples came or went.

The networks start from the run's last checkpoint, and the method's memory stays for every sample whose id and given
label are what they were; all other samples start fresh. The clock goes on with the memory: what a method has counted
over epochs means nothing without their number. The optimizer starts anew.

What must not happen is that a sample which the networks were trained on is tested on. Where a part of the data is held
out, it is drawn here from samples that the run did not train on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from acto.core.errors import RunError, UserError
from acto.core.settings import from_values, merged, plain
from acto.core.text import counted
from acto.data.decision_file import decided_in, together
from acto.data.noise import sha256_of_labels
from acto.data.readers.formats import FILE_SUFFIXES
from acto.data.samples import Dataset, join
from acto.data.tables.encoding import ENCODING_FILE
from acto.data.views.spec import ViewSpec
from acto.methods import METHODS
from acto.nets.weights import read_state
from acto.run_folder.checkpoints import BEST
from acto.run_folder.reading import RunRecord, last_checkpoint, read_json, read_run
from acto.run_folder.writing import RunFolder
from acto.runs.trained_model import TrainedModel, kept_encoding, load_model
from acto.training.loop import Training

INIT_FROM_FILE = "init_from.json"
"""In the new run's folder: what it took over."""
MORE_SHARE, LEAST_MORE = 0.25, 5
"""A run that goes on lasts this share of its epochs longer, or this many epochs, if that is more."""
KEPT_DATA = ("holdout_share", "holdout_seed", "pictures", "size", "resize", "on_bad_image", "max_image_pixels")
"""Settings of the data that stay where the data themselves are others."""
OF_TABLES = ("label_column", "split_column", "true_label_column", "text_column", "columns", "category_columns")
"""Those that stay of a table's as well."""
COUNTS = ("kept", "relabelled", "new", "gone")
"""Samples with id and label as they were, with another label, that were not there, that no longer are."""
_FACTS = {
    "run": str,
    "epochs": int,
    **dict.fromkeys(COUNTS, int),
    "held_out": tuple[str, ...] | None,
    "views": dict,
}
_SHOWN = 5

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Origin:
    """The finished run that training goes on from."""

    path: Path
    epochs: int
    model: TrainedModel
    row_of: Mapping[str, int]
    """Row of each training sample, by its id."""
    given: Sequence[str]
    """(N,) class names, in the order of the rows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WarmStart:
    """Start of a run that goes on from another one."""

    dataset: Dataset
    """Nothing of its test set was trained on."""
    epochs: int
    """Those of the run before: the first epoch's number here."""
    origin: Origin | None
    """None where the run has begun already: its own checkpoint says all."""
    facts: Mapping[str, Any]
    """Content of FILE, in plain values."""

    def hand_over(self, training: Training) -> None:
        """Put networks, memory and clock of the run before into `training`, whose samples are the new ones.

        Raises:
            UserError: settings of the method give its memory another shape.
        """
        if self.origin is None:
            return
        checkpoint = last_checkpoint(self.origin.path)
        if checkpoint is None:
            raise UserError(f"the run in {self.origin.path} has no checkpoint to go on from")
        name = BEST if BEST in checkpoint.files else "training.pt"
        state = read_state(checkpoint.read(name), str(checkpoint.path(name)))
        if state["epochs_done"] != self.epochs:
            raise RunError(f"{self.origin.path}: the last good checkpoint is that of epoch {checkpoint.epoch}")
        now, before = unchanged(self.dataset, self.origin)

        def laid_in(fresh: Mapping[str, torch.Tensor], saved: dict[str, Any], rows: Sequence[str]) -> dict[str, Any]:
            for name in rows:
                table = fresh[name].cpu().clone()
                if name not in saved or saved[name].shape[1:] != table.shape[1:]:
                    raise UserError(
                        f"the memory {name!r} of the run in {self.origin and self.origin.path} has another shape: keep "
                        "its method's settings"
                    )
                table[torch.from_numpy(now)] = saved[name][torch.from_numpy(before)]
                saved[name] = table
            return saved

        method, history = training.method, training.history
        try:
            saved = laid_in(method.state_dict(), dict(state["method"]), method.row_buffers)
            method.load_state_dict(method.adopted(saved))
        except RuntimeError as error:
            raise UserError(f"the networks of {self.origin.path} do not fit these settings: {error}") from error
        history.load_state_dict(laid_in(history.state_dict(), dict(state["history"]), list(history.state_dict())))
        joined = np.setdiff1d(np.arange(len(self.dataset.train)), now)
        method.admit(torch.from_numpy(joined).to(training.device), epochs=self.epochs)
        training.epochs_done = self.epochs

    def begin(self, folder: RunFolder) -> None:
        """Write down what was taken over. The rows of the run before open metrics.csv: the clock goes on."""
        assert self.origin is not None
        folder.truncate_after(-1)
        for row in read_run(self.origin.path).metrics[: self.epochs]:
            folder.add_metrics(int(row["epoch"] or 0), {name: cell for name, cell in row.items() if name != "epoch"})
        folder.save_model(INIT_FROM_FILE, json.dumps(self.facts, indent=1).encode() + b"\n")

    def in_words(self) -> str:
        """One sentence for the user."""
        facts = self.facts
        new = counted(facts["new"], "new one")
        return (
            f"going on from {facts['run']} after {counted(self.epochs, 'epoch')}: the memory of {facts['kept']:,} "
            f"samples is kept, {facts['relabelled']:,} with another label and {new} start fresh, "
            f"{facts['gone']:,} are gone"
        )


def settings_after(run: Path | str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The nested settings of a run that goes on from the one in the folder `run`.

    They are that run's, with `asked` laid on top. If `asked` names other data, only KEPT_DATA stay of the old ones, and
    the class list for a table, whose labels may lack a class now. Without a number of epochs, which is the total, a
    quarter is added.

    Raises:
        UserError: no finished run, another method or network than its own, or too few epochs.
    """
    record = _finished(run)
    settings = dict(record.config)
    method = METHODS[settings["method"]]
    if (own := method.name.replace("-", "_")) in settings:
        # A recipe of today must not fill in what there was not then.
        settings[own] = merged(plain(asdict(method.Config())), settings[own])
    for name in ("method", "net", "features"):
        if (value := asked.get(name)) is not None and value != settings.get(name):
            raise UserError(f"{name} is {value!r}, but the run in {run} has {settings.get(name)!r}")
    if (source := asked.get("data", {}).get("source")) is not None:
        kept = (*KEPT_DATA, *(OF_TABLES if (Path(run) / ENCODING_FILE).exists() else ()))
        settings["data"] = {name: settings["data"][name] for name in kept if name in settings["data"]}
        if Path(source).suffix in FILE_SUFFIXES:
            # Not from the model: to read it may mean to run code that nobody has allowed.
            settings["data"]["classes"] = list((record.labels or {}).get("class_names", ()))
    done = record.model_epochs
    settings["protocol"] = {**settings["protocol"], "epochs": done + max(LEAST_MORE, math.ceil(MORE_SHARE * done))}
    # Its weights are what the run before left; nothing else has to be read or fetched.
    return merged({**settings, "weights": None, "head": None}, {**asked, "init_from": str(run)})


def plan(
    run: Path | str,
    dataset: Dataset,
    *,
    method: str,
    net: str,
    epochs: int,
    folder: Path | None = None,
    trust: bool = False,
) -> WarmStart:
    """Plan how training on `dataset` goes on from the finished run in the folder `run`.

    Args:
        run: the run before; not looked at where `folder` has begun.
        dataset: the data as they are now.
        method: of the new run.
        net: of the new run.
        epochs: total of the new run.
        folder: of the new run, where it is resumed.
        trust: allow a network that is code outside of this package.

    Raises:
        UserError: the run before does not fit; it names the difference.
    """
    if folder is not None and (begun := _begun(folder)) is not None and last_checkpoint(folder) is not None:
        dataset = as_begun(folder, dataset)
        return WarmStart(dataset=dataset, epochs=int(begun["epochs"]), origin=None, facts=begun)
    origin = _read(Path(run), trust=trust)
    model = origin.model
    for name, now, before in (("method", method, model.method), ("net", net, model.net)):
        if now != before:
            raise UserError(f"{name} is {now!r}, but the run in {run} has {before!r}")
    _check_classes(dataset.class_names, model.class_names, run)
    if epochs <= origin.epochs:
        raise UserError(
            f"epochs is {epochs}, the total, but the run in {run} has done {origin.epochs}: ask "
            f"for {origin.epochs + 1} or more (epochs counts the whole way)"
        )
    if (dataset.views.pipeline, dataset.views.size) != (model.views.pipeline, model.views.size):
        raise UserError(
            f"the data are seen as {dataset.views.pipeline} of size {dataset.views.size}, but the run in {run} saw "
            f"{model.views.pipeline} of size {model.views.size}"
        )
    dataset = dataset.encoded_by(model.encoding)
    held_out = _held_out(dataset, origin)
    if held_out is not None:
        dataset = _tested_on(dataset, held_out)
    dataset = replace(dataset, decisions=together(decided_in(Path(run)), dataset.decisions))
    # The networks know their own normalization, which the changed data would shift a little.
    dataset = replace(dataset, views=model.views)
    kept = len(unchanged(dataset, origin)[0])
    known = sum(name in origin.row_of for name in dataset.train.ids)
    facts = {
        "run": str(run),
        "epochs": origin.epochs,
        "kept": kept,
        "relabelled": known - kept,
        "new": len(dataset.train) - known,
        "gone": len(origin.row_of) - known,
        "held_out": sorted(held_out) if held_out is not None else None,
        "views": plain(asdict(model.views)),
    }
    return WarmStart(dataset=dataset, epochs=origin.epochs, origin=origin, facts=facts)


def as_begun(folder: Path, dataset: Dataset) -> Dataset:
    """The data of the run in `folder`, just read, as that run split and sees them; of a run from scratch, as they are.

    Raises:
        RunError: a file of it is damaged.
    """
    dataset = dataset.encoded_by(kept_encoding(folder))
    facts = _begun(folder)
    if facts is None:
        return dataset
    if facts["held_out"] is not None:
        dataset = _tested_on(dataset, set(facts["held_out"]))
    return replace(dataset, views=from_values(ViewSpec, facts["views"]))


def _begun(folder: Path) -> dict[str, Any] | None:
    """Read FILE; None without one."""
    facts = read_json(folder / INIT_FROM_FILE, _FACTS)
    return None if facts is None else {name: facts[name] for name in _FACTS}


def unchanged(dataset: Dataset, origin: Origin) -> tuple[Rows, Rows]:
    """Rows of `dataset.train` whose id and given label are those of a training sample of `origin`; and its rows."""
    now, before = [], []
    for row, (name, label) in enumerate(zip(dataset.train.ids, dataset.train.labels.tolist(), strict=True)):
        old = origin.row_of.get(name)
        if old is not None and origin.given[old] == dataset.class_names[label]:
            now.append(row)
            before.append(old)
    return np.array(now, np.int64), np.array(before, np.int64)


def _finished(run: Path | str) -> RunRecord:
    record = read_run(run)
    if (state := record.status["state"]) != "finished":
        raise UserError(f"the run in {run} has not finished ({state}): `acto train --resume {run}` first")
    return record


def _read(run: Path, *, trust: bool) -> Origin:
    record = _finished(run)
    samples = record.samples()
    return Origin(
        path=run,
        epochs=record.model_epochs,
        model=load_model(run, trust=trust),
        row_of={name: row for row, name in enumerate(samples["id"])},
        given=list(samples["given_label"]),
    )


def _check_classes(now: tuple[str, ...], before: tuple[str, ...], run: Path | str) -> None:
    if now == before:
        return
    parts = []
    for what, names in (
        ("it has no", [name for name in now if name not in before]),
        ("the data lack", [name for name in before if name not in now]),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{what} {', '.join(map(repr, names[:_SHOWN]))}{more}")
    raise UserError(f"the classes are not those of the run in {run}: {'; '.join(parts) or 'their order differs'}")


def _held_out(dataset: Dataset, origin: Origin) -> set[str] | None:
    """Ids to test on instead, where the held-out part has samples that `origin` trained on; None: all is well.

    As many of each class as are held out now, as far as there are samples that `origin` did not train on.

    Raises:
        UserError: there are none.
    """
    trained_on = [name for name in dataset.test.ids if name in origin.row_of]
    if not trained_on or not dataset.test_labels_are_given:
        return None
    wanted = np.bincount(dataset.test.labels, minlength=dataset.num_classes)
    chosen: set[str] = set()
    for part in (dataset.test, dataset.train):  # what is held out already goes first
        for row in np.random.RandomState(0).permutation(len(part)).tolist():
            name, label = part.ids[row], part.labels[row]
            if wanted[label] > 0 and name not in origin.row_of:
                chosen.add(name)
                wanted[label] -= 1
    if not chosen:
        raise UserError(
            f"every sample was trained on by the run in {origin.path}, so none is left to test on: give a test set"
        )
    return chosen


def _tested_on(dataset: Dataset, held_out: set[str]) -> Dataset:
    """The data split anew; the samples keep their order, those that were held out follow."""
    both = join([dataset.train, dataset.test])
    is_held_out = np.array([name in held_out for name in both.ids])
    train, test = both.take(np.flatnonzero(~is_held_out)), both.take(np.flatnonzero(is_held_out))
    facts = {"rate_realised": train.noise_rate, "sha256": sha256_of_labels(train.labels)}
    note = "held out are samples that the run before was not trained on"
    return replace(dataset, train=train, test=test, noise={**dataset.noise, **facts}, notes=(*dataset.notes, note))
