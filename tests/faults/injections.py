"""Traps laid in a child before it runs the command: they kill, signal, refuse, spoil or hold back at a moment."""

from __future__ import annotations

import builtins
import errno
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import torch
from lab import Injection

from acto.cli import train
from acto.core import files
from acto.methods.base import Method
from acto.run_folder import writing
from acto.runs import resolve
from acto.training import evaluation
from acto.training.loop import Training

Act = Callable[[], None]
POINTS = ("start", "half training.pt", "written training.pt", "manifest written", "renamed", "older deleted")
"""Inside a save, as run_folder.checkpoints.save_checkpoint names them."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def send(signum: int) -> Act:
    return lambda: os.kill(os.getpid(), signum)


def together(*injections: Injection) -> Injection:
    def lay(path: Path) -> None:
        for inject in injections:
            inject(path)

    return lay


# Moments.


def at_step(step: int, act: Act) -> Injection:
    """Before the step with that number, counted from this life's first."""

    def lay(path: Path) -> None:
        numbers = count()
        training_of_step = Training.autocast

        def autocast(training: Training) -> Any:
            if training.method.training and next(numbers) == step:
                act()
            return training_of_step(training)

        Training.autocast = autocast

    return lay


def in_save(number: int, point: str, act: Act) -> Injection:
    """At a point inside this life's checkpoint of that number, counted from 0."""

    def lay(path: Path) -> None:
        saves = count(-1)
        current = next(saves)

        def on_point(name: str) -> None:
            nonlocal current
            if name == "start":
                current = next(saves)
            if (current, name) == (number, point):
                act()

        writing.pass_point = on_point

    return lay


def before(module: Any, name: str, act: Act, *, number: int = 0) -> Injection:
    """Before the call of that number of a function that its module looks up by name."""

    def lay(path: Path) -> None:
        numbers, function = count(), getattr(module, name)

        def with_act(*args: Any, **kwargs: Any) -> Any:
            if next(numbers) == number:
                act()
            return function(*args, **kwargs)

        setattr(module, name, with_act)

    return lay


def in_data(act: Act) -> Injection:
    """While the data are read, before there is a folder."""
    return together(before(resolve, "load_data", act), before(train, "load_data", act))


def in_evaluation(epoch: int, act: Act) -> Injection:
    return before(evaluation, "accuracy", act, number=epoch)


def in_report(act: Act) -> Injection:
    """When training is finished and the labels are looked through."""
    return before(train, "audit_at_the_end", act)


def swallowed(step: int, signum: int) -> Injection:
    """The signal comes while Python destroys an object, where it ignores every exception."""

    class Doomed:
        def __del__(self) -> None:
            os.kill(os.getpid(), signum)

    def act() -> None:
        Doomed()

    return at_step(step, act)


# The disk.

WRITING = os.O_WRONLY | os.O_RDWR


def disk_operations(do: Callable[[int, str], None]) -> Injection:
    """Call `do` with number and name before every operation by which this process changes the run's folder."""

    def lay(path: Path) -> None:
        numbers, root = count(), str(path)

        def told(operation: str, place: Any) -> None:
            where = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fspath(place)
            if where.startswith(root):
                do(next(numbers), f"{operation} {where.removeprefix(root).lstrip('/') or 'the folder'}")

        def wrap(name: str) -> None:
            function = getattr(os, name)

            def wrapped(place: Any, *args: Any, **kwargs: Any) -> Any:
                told(name, place)
                return function(place, *args, **kwargs)

            setattr(os, name, wrapped)

        for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "ftruncate", "write", "pwrite"):
            wrap(name)
        os_open = os.open

        def wrapped_os_open(place: Any, how: int, *args: Any, **kwargs: Any) -> int:
            if how & WRITING:
                told("open", place)
            return os_open(place, how, *args, **kwargs)

        def wrapped_open(place: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode != "rb":
                told("open", place)
            file = builtins.open(place, mode, *args, **kwargs)  # noqa: SIM115 (its user closes it)
            return file if mode == "rb" else Told(file, lambda: told("write", place))

        os.open = wrapped_os_open
        files.open = wrapped_open

    return lay


class Told:
    """A file that tells of every write, once what was written before is with the system."""

    def __init__(self, file: Any, tell: Act) -> None:
        self.file, self.tell = file, tell

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        self.file.flush()
        self.tell()
        return self.file.write(data)


def note_operations(log: Path) -> Injection:
    """Write the names of the disk operations down, a line each."""

    def do(number: int, name: str) -> None:
        with log.open("a") as file:
            file.write(f"{name}\n")

    return disk_operations(do)


def at_operation(number: int, act: Act) -> Injection:
    return disk_operations(lambda here, name: act() if here == number else None)


def refused_operation(number: int, code: int, *, times: int) -> Injection:
    """The disk refuses so many operations from that one on."""

    def do(here: int, name: str) -> None:
        if number <= here < number + times:
            raise OSError(code, os.strerror(code), name)

    return disk_operations(do)


def small_files(limit: int) -> Act:
    """From now on the kernel refuses what makes a file larger, in the middle of a write."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


# Numbers, memory, the clock.


def spoiled(number: int, how: str) -> Injection:
    """From the step of that number on: the loss is NaN, or infinite, or fine with a gradient that is not.

    The last for that step alone.
    """

    def lay(path: Path) -> None:
        numbers = count()
        for method in _with_a_loss_of_their_own(Method):
            _spoil(method, how, lambda here: here == number if how == "gradient" else here >= number, numbers)

    return lay


def _with_a_loss_of_their_own(kind: type[Method]) -> list[type[Method]]:
    return [sub for sub in kind.__subclasses__() if "loss" in vars(sub)]


def _spoil(method: type[Method], how: str, bad: Callable[[int], bool], numbers: Any) -> None:
    loss = method.loss

    def spoiled_loss(self: Method, batches: Any, clock: Any) -> Any:
        result = loss(self, batches, clock)
        if not bad(next(numbers)):
            return result
        weights = next(p for p in self.nets[clock.turn % len(self.nets)].parameters() if p.requires_grad)
        wrong = {"nan": result.loss * torch.nan, "infinite": result.loss * torch.inf}
        # The derivative of a root at 0 is infinite, and 0 times that is no number; the value is 0.
        return replace(result, loss=wrong.get(how, result.loss + (weights * 0).sqrt().sum()))

    method.loss = spoiled_loss


def raising(error: BaseException) -> Act:
    def act() -> None:
        raise error

    return act


def little_memory(extra: int) -> Act:
    """From now on this process may have so many bytes more than it has."""

    def act() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        now = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + extra, resource.RLIM_INFINITY))

    return act


def jumping_clock(path: Path) -> None:
    """The wall clock goes back and forth by days with every look at it."""
    jumps = count()

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            number = next(jumps)
            return datetime.now(tz) + timedelta(days=(-400, 30, -7000)[number % 3])

    import time

    wall = time.time
    time.time = lambda: wall() + (-4e7, 3e6, -6e8)[next(jumps) % 3]
    writing.datetime = Jumping
