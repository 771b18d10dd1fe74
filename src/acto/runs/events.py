"""Events of a run, and its listeners: functions of one event that print, draw, write a table or stop the run.

from acto.runs.events import EpochDone, Event

def log(event: Event) -> None:
    if isinstance(event, EpochDone):
        print(event.epoch, event.metrics["test_accuracy"])

acto.train_run(run, "runs/logged", report=[log])

Listeners are called in the process that trains, between its steps: what they take, the run takes longer, and an
exception that they raise ends the run as any error does; it can be resumed. Of several processes only the first tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any, cast

from acto.core import distributed
from acto.core.errors import UserError
from acto.runs.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """Training begins, or goes on."""

    run: Run
    device: str
    """In words."""
    precision: str
    """float32, bfloat16 or float16."""
    data: str
    """Name of the data set."""
    num_train: int
    num_test: int
    num_classes: int
    test_labels_are_given: bool
    """The test samples were held out, so that their labels may be wrong too."""
    noise: Mapping[str, Any]
    """Facts of the noise, as in labels.json."""
    epochs_done: int
    folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StepDone:
    """A step of training is done. Everything counts from 0, as in acto.core.types.Clock."""

    epoch: int
    turn: int
    step: int
    steps: int
    """Number of steps in the turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochDone:
    """An epoch is trained, measured and saved."""

    epoch: int
    """From 0."""
    metrics: Mapping[str, Any]
    """Its row of metrics.csv: loss, test_accuracy (nan if it was not measured) and what else the method logs."""
    seconds: float
    """Seconds of training and evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that the user should know."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFinished:
    """All files are written."""

    summary: Mapping[str, Any]
    """Content of summary.json."""


Event = RunStarted | StepDone | EpochDone | Note | RunFinished
Listener = Callable[[Event], None]
NamedListener = Callable[[str, Mapping[str, Any]], None]
"""A listener of before there were types: told "start", "step", "epoch", "note" or "finish", and the event's fields."""
Listeners = Listener | NamedListener | Sequence[Listener | NamedListener]
"""One listener or several. A function that needs two arguments is taken for a NamedListener."""


def tell_all(listeners: Listeners) -> Listener:
    """Tell every one of the listeners, in their order; in processes other than the first, none.

    Raises:
        UserError: something among them cannot be called.
    """
    several = [_listener(each) for each in (listeners if isinstance(listeners, Sequence) else [listeners])]

    def tell(event: Event) -> None:
        if distributed.rank() == 0:
            for listener in several:
                listener(event)

    return tell


def _listener(given: Listener | NamedListener) -> Listener:
    if not callable(given):
        raise UserError(f"report takes functions of one event (acto.runs.events), not {given!r}")
    try:
        signature(given).bind("event")
    except TypeError:
        return _by_name(cast(NamedListener, given))
    except ValueError:  # some functions written in C do not say what they take
        pass
    return cast(Listener, given)


def _by_name(tell: NamedListener) -> Listener:
    names = {RunStarted: "start", StepDone: "step", EpochDone: "epoch", Note: "note", RunFinished: "finish"}

    def listener(event: Event) -> None:
        facts = {field.name: getattr(event, field.name) for field in fields(event)}
        # What an epoch's row and the summary hold stood beside the other facts.
        facts |= facts.pop("metrics", {}) | facts.pop("summary", {})
        tell(names[type(event)], facts)

    return listener
