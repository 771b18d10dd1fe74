"""`acto.fit`: training on data in memory, in one call."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_overloads, overload

import numpy as np
import numpy.typing as npt

from acto.core.errors import UserError, choose, closest
from acto.core.settings import merged, nested
from acto.core.text import counted, percent
from acto.data.containers import gather
from acto.data.in_memory import NAME, gather_dataset
from acto.data.samples import Dataset
from acto.labels.report import LabelReport
from acto.labels.run_audit import audit_run
from acto.methods import METHODS
from acto.run_folder.config import INSTEAD_OF_CACHE
from acto.run_folder.reading import held_out_before, read_run
from acto.runs.events import Listeners
from acto.runs.execute import train_run
from acto.runs.loggers import logger_names
from acto.runs.recipes.by_data import for_size, setting_of_kind
from acto.runs.resolve import SHORT, as_found, checked, known_fields, run_of, section, seen_first
from acto.runs.run import Run
from acto.runs.trained_model import TrainedModel, load_model
from acto.runs.warm_start import as_begun, settings_after

OF_DATA_IN_MEMORY = ("data.max_image_pixels",)
"""Settings of data that still matter when they have been read: of a list of picture files, say."""


class Fitted:
    """A model that `fit` trained, and what it knows of the labels."""

    def __init__(
        self,
        folder: Path,
        summary: dict[str, Any],
        dataset: Dataset,
        *,
        classes: npt.NDArray[Any],
        columns: tuple[str, ...] = (),
        trust_net: bool = False,
    ) -> None:
        self.folder = folder
        """The run's folder; without `out` it lasts as long as this object."""
        self.summary = summary
        """Content of summary.json."""
        self.dataset = dataset
        """Data that it was trained and tested on."""
        self.classes = classes
        """(K,) the classes as the labels named them: numbers, booleans or names."""
        self._columns = columns
        self._trust_net = trust_net

    def __repr__(self) -> str:
        accuracy = percent(self.summary["test_accuracy_last10"])
        against = "given labels held out" if self.dataset.test_labels_are_given else "test labels"
        return (
            f"<Fitted {self.summary['method']} on {self.dataset!r}, {counted(self.summary['epochs'], 'epoch')}: "
            f"{accuracy} of the {against}, in {self.folder}>"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """(K,) in the order of the columns of predict_proba."""
        return self.dataset.class_names

    @cached_property
    def report(self) -> LabelReport:
        """Every training sample with what is thought of its label; made when it is first asked for."""
        return audit_run(self.folder, dataset=self.dataset)

    def predict_proba(self, data: Any, *, on_bad_image: str = "error") -> npt.NDArray[np.float32]:
        """(N, K) probabilities of `data`, in any form that `fit` takes; labels in it are ignored.

        Args:
            data: samples.
            on_bad_image: "error", or "nan": picture files that cannot be used have a row of NaN.

        Raises:
            UserError: samples of another kind or shape than those of the training, or pictures that cannot be used.
        """
        gathered = gather(data, columns=self._columns, as_rows=self._model.encoding is not None)
        samples = gathered.samples(np.zeros(len(gathered.content), np.int64))
        return self._model.predict_proba(samples, on_bad_image=on_bad_image)

    def predict(self, data: Any) -> npt.NDArray[Any]:
        """(N,) the most likely class of each sample, in the words of the labels: numbers for numbers, names for names.

        Raises:
            UserError: see predict_proba.
        """
        classes: npt.NDArray[Any] = self.classes[self.predict_proba(data).argmax(1)]
        return classes

    @cached_property
    def _model(self) -> TrainedModel:
        return load_model(self.folder, trust=self._trust_net)


@overload
def fit(
    data: Run,
    labels: Path | str,
    *,
    dataset: Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Listeners = ...,
    log: str | Sequence[str] | None = None,
) -> dict[str, Any]: ...


@overload
def fit(
    data: Any,
    labels: Any = None,
    *,
    out: Path | str | None = None,
    test: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    holdout_share: float | None = None,
    method: str | None = None,
    net: str | None = None,
    epochs: int | None = None,
    noise_rate: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    init_from: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Listeners = ...,
    log: str | Sequence[str] | None = None,
    **settings: Any,
) -> Fitted: ...


def fit(
    data: Any,
    labels: Any = None,
    *,
    out: Path | str | None = None,
    dataset: Dataset | None = None,
    test: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
    ids: Sequence[Any] | None = None,
    holdout_share: float | None = None,
    method: str | None = None,
    net: str | None = None,
    epochs: int | None = None,
    noise_rate: float | None = None,
    seed: int | None = None,
    device: str | None = None,
    init_from: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Listeners = (),
    log: str | Sequence[str] | None = None,
    **settings: Any,
) -> Any:
    """Train on data whose labels are partly wrong, and return a Fitted.

    `fit(run, folder)` is another name of `train_run(run, folder)`; only there `dataset` is taken.

    Args:
        data: an array, tensor, data frame, list or Dataset of torch, see acto.data.in_memory.as_dataset; or what
            acto.load_data returned, which brings its labels, test set, class names and ids.
        labels: (N,) given labels, a data frame's label column by name, or None where the data bring them.
        out: the run's folder; None: a temporary one, deleted together with the returned object.
        dataset: see acto.train_run.
        test: a test set with trustworthy labels; None: a part of the data is held out.
        test_labels: of the test set.
        class_names: in their order; None: from the labels.
        ids: (N,) names of the samples.
        holdout_share: share that is held out without a test set; None: 0.1.
        method: see `acto methods`; None: acto.
        net: see acto.nets.build; None: as the recipe for such data says. Photographs are seen by a frozen network first
            where neither it nor weights or features are given and the weights of one are on the machine.
        epochs: total number; None: as the recipe says.
        noise_rate: share of wrong labels, for the methods that ask for it.
        seed: of initialisation, order, views and the hold-out; None: 0.
        device: auto, cpu, cuda, cuda:N or mps; None: auto.
        init_from: folder of a finished run to go on from, see acto.runs.warm_start.
        resume: go on with the run in `out`.
        overwrite: delete a run that is in `out`.
        report: a listener, or a sequence of them, told what happens, see acto.runs.events.
        log: names of tools that are told, as "tensorboard", see acto.runs.loggers.
        **settings: any other setting of `acto train` by its name: batch_size=64, lr=0.01, warmup_epochs=5, tau=0.05;
            dotted names as **{"protocol.plans.net1.lr": 0.1}.

    Raises:
        UserError: data or settings that cannot be used, or that do not go together.
        acto.runs.failures.Interrupted: after a signal.
        acto.training.divergence.DivergedError: the loss is no longer finite.
    """
    given = _given(locals())
    of_run, of_data = (signature(form).parameters for form in get_overloads(fit))
    if isinstance(data, Run):
        if foreign := [name for name in given if name not in of_run]:
            takes = ", ".join([*of_run][2:])
            raise UserError(f"{foreign[0]} belongs into the Run: fit(run, folder) takes {takes}")
        return train_run(data, labels, **given)
    if foreign := [name for name in given if name not in of_data and name not in settings]:
        raise UserError(f"{foreign[0]} goes with a Run; without one, pass a Dataset as data")
    if log is not None:
        log = logger_names(log)  # before data are read
    for name in ("resume", "overwrite"):
        if name in given and out is None:
            raise UserError(f"{name} is about the run in `out`: say which")

    share = 0.1 if holdout_share is None else holdout_share
    said = {
        "data": {"source": NAME, "holdout_share": share, "holdout_seed": seed or 0}, "method": method, "net": net,
        "protocol.epochs": epochs, "assumed_noise_rate": noise_rate, "seed": seed, "device": device,
    }  # fmt: skip
    asked = _asked(said, settings, init_from=init_from)
    brought = {
        "labels": labels, "test": test, "test_labels": test_labels, "class_names": class_names, "ids": ids,
        "holdout_share": holdout_share,
    }  # fmt: skip
    if isinstance(data, Dataset):
        if wrong := [name for name, value in brought.items() if value is not None]:
            raise UserError(f"{wrong[0]} cannot be given: data that acto.load_data returned bring their own")
        gathered, held = None, data
    else:
        if test is not None and holdout_share is not None:
            raise UserError("holdout_share cannot be given beside test: nothing is held out then")
        before: tuple[str, ...] | None = None
        pictures: str | None = "auto"
        if resume and out is not None:
            before, pictures = held_out_before(out), _pictures_before(out)
        gathered, held = gather_dataset(
            data, **brought | {"holdout_share": share}, seed=seed or 0, held_out=before, pictures=pictures
        )
        asked = as_found(asked, held.views)
        for note in gathered.notes:  # in a script nobody else says it
            warnings.warn(note, stacklevel=2)

    if init_from is None:
        asked, kind = seen_first(asked, held.views.pipeline)
        setting = setting_of_kind(kind, len(held.train))
        if kind != "photo" or asked.get("weights") is None:  # fine-tuned in small batches they teach less
            setting = for_size(setting, len(held.train))
        planned = run_of(asked, setting, num_samples=len(held.train), trust_net=net is not None)
    else:
        planned = Run.from_dict(asked, trust_net=net is not None)
    folder = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="acto-"))
    try:
        summary = train_run(planned, folder, dataset=held, resume=resume, overwrite=overwrite, report=report, log=log)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    held = as_begun(folder, held)
    fitted = Fitted(
        folder,
        summary,
        held,
        classes=gathered.label_values(held.class_names) if gathered is not None else np.array(held.class_names),
        columns=gathered.columns if gathered is not None else (),
        trust_net=planned.trust_net,
    )
    if out is None:
        weakref.finalize(fitted, shutil.rmtree, folder, ignore_errors=True)
    return fitted


def _pictures_before(out: Path | str) -> str | None:
    """The use of picture files that the run in `out` was begun with; of a folder that is none, anything."""
    try:
        return read_run(out).config["data"].get("pictures")
    except UserError:
        return None


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `fit` that are not their defaults, and the settings."""
    named = {p.name: p.default for p in signature(fit).parameters.values() if p.kind is Parameter.KEYWORD_ONLY}
    return {name: arguments[name] for name in named if arguments[name] is not named[name]} | arguments["settings"]


def _asked(said: Mapping[str, Any], settings: Mapping[str, Any], *, init_from: Path | str | None) -> dict[str, Any]:
    """Nested settings from those by dotted key, of which None is left to the recipe, and those by short name."""
    asked = checked(nested({key: value for key, value in said.items() if value is not None}))
    if init_from is not None:
        asked = settings_after(init_from, asked)
    method = choose("method", asked.get("method", "acto"), METHODS)
    for name, value in settings.items():
        asked = merged(asked, nested({_key(name, method): value}))
    return checked(asked, method=method)


def _key(name: str, method: str) -> str:
    """The dotted key of a setting that is given by a short name."""
    known = known_fields(METHODS[method])
    short = {flag[2:].replace("-", "_"): key[2:] for flag, key in SHORT.items()}
    for key in (name, short.get(name, ""), f"{section(method)}.{name}", f"protocol.{name}"):
        if key in known:
            if key.startswith("data.") and key not in OF_DATA_IN_MEMORY:
                raise UserError(f"{name} is for data that are still to be read: give it to acto.load_data")
            return key
    names = [*short, *(key.rpartition(".")[2] for key in known), *known]
    if name in ("cache", "data.cache"):
        raise UserError(f"the setting {name} is gone: {INSTEAD_OF_CACHE}")
    raise UserError(f"unknown setting {name!r} of method {method!r}.{closest(name, names)}")
