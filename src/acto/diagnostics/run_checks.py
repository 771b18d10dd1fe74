"""The state of a run's folder for `acto doctor RUN`: is it whole, do its files agree, can it go on, and how."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from acto.core.documents import read_json, read_yaml
from acto.core.errors import RunError, UserError
from acto.core.locks import is_locked
from acto.core.text import bytes_in_words, counted
from acto.data.decision_file import DECISIONS_FILE as DECISIONS
from acto.data.noise import sha256_of_labels
from acto.diagnostics.findings import Finding, Severity
from acto.labels.decisions import read_decisions
from acto.labels.report import NAME as REPORT
from acto.labels.report import read_report
from acto.run_folder.checkpoints import Checkpoint, FileCheck, newest_checkpoint, start_over
from acto.run_folder.epoch_table import EpochTable
from acto.run_folder.reading import MARK, RunRecord, checksum_report, read_run

AT_THE_START = ("env.json", "labels.json", "noisy_labels.npy")
AT_THE_END = ("samples.csv", "samples.json", "pred_probs.npy", "calibration.json", "net0.safetensors", "summary.json")
WRITTEN_ANEW = ("checksums.json", "status.json", "env.json", "labels.json", "timing.csv")
"""Without them a run goes on, and writes them again. What they said of the past is lost."""

HALF = "half written"
"""Words of acto.run_folder.epoch_table for a row that a kill cut off."""


def examine(path: Path | str) -> list[Finding]:
    """Examine the run in the folder `path`, which is only read.

    Raises:
        UserError: it is no run's folder.
    """
    run = _Folder(Path(path))
    findings = [run.state(), *run.files(), *run.rows()]
    if run.record is not None:
        findings += [*run.samples(), *run.report()]
    return [*findings, run.way_on()]


class _Folder:
    """A run's folder while it is looked at.

    Args:
        path: of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.shell = path, shlex.quote(str(path))
        self.checks = checksum_report(path)
        self.config = _mapping(path / "config.yaml")
        self.status = _mapping(path / "status.json")
        self.summary = _mapping(path / "summary.json")
        self.unreadable = ""
        self.record: RunRecord | None = None
        try:
            self.record = read_run(path)
            self.status = self.record.status
        except (RunError, UserError) as error:
            self.unreadable = str(error)
        self.phase = str(self.status.get("state", "unknown"))
        if self.phase == "running" and not is_locked(path / MARK):
            self.phase = "died"
        done = self.status.get("epoch")
        self.epochs_done = done + 1 if isinstance(done, int) else 0
        self.checkpoint: Checkpoint | None = None
        self.no_checkpoint = ""
        try:
            self.checkpoint = newest_checkpoint(path / "checkpoints")
        except RunError as error:
            self.no_checkpoint = str(error)

    @property
    def epochs(self) -> int | None:
        """Return the epochs of the whole run, as far as its configuration can be read."""
        protocol = self.config.get("protocol")
        epochs = protocol.get("epochs") if isinstance(protocol, Mapping) else None
        return epochs if type(epochs) is int else None

    @property
    def may_end_early(self) -> bool:
        """Say whether a finished run may have done fewer epochs than asked."""
        protocol = self.config.get("protocol")
        return isinstance(protocol, Mapping) and protocol.get("stop_early") is not None

    @property
    def resume(self) -> str:
        return f"acto train --resume {self.shell}"

    def state(self) -> Finding:
        """Report what status.json says."""
        done = counted(self.epochs_done, "epoch") if self.epochs_done else "no epoch"
        of = f" of {self.epochs}" if self.epochs else ""
        message = str(self.status.get("message") or "")
        text = f"{self.phase}, {done}{of} done{f': {message}' if message else ''}"
        if self.unreadable and not self.status:
            return Finding("BAD", "state", self.unreadable, f"delete status.json, then: {self.resume}")
        if self.phase == "died":
            return Finding("warn", "state", f"{text}: its process was killed, or the machine went down")
        return Finding("ok" if self.phase in ("finished", "running") else "warn", "state", text)

    def files(self) -> Iterator[Finding]:
        """Checksums, and what should be there by now."""
        # Before its first epoch a run may have died with nothing to show for it.
        may_lack = AT_THE_START if not self.epochs_done else ()
        bad = [
            check
            for check in self.checks
            if check.state == "damaged" or (check.state == "missing" and check.name not in may_lack)
        ]
        whole = sum(check.state == "ok" for check in self.checks)
        named = {check.name for check in self.checks}
        wanted = ["config.yaml", "status.json", *(AT_THE_START if self.epochs_done else ())]
        wanted += AT_THE_END if self.phase == "finished" else ()
        bad += [
            FileCheck(name=name, state="missing")
            for name in wanted
            if name not in named and not (self.path / name).is_file()
        ]
        yield Finding("ok", "files", f"{whole} are as their checksums say")
        for check in bad:
            detail = f": {check.detail}" if check.detail else ""
            spare = check.name.startswith("checkpoints/") and self.checkpoint is not None
            state: Severity = "warn" if spare or HALF in check.detail else "BAD"
            yield Finding(state, check.name, f"{check.state}{detail}", self._mend(check, spare=spare))
        leftovers = [check.name for check in self.checks if check.state == "leftover"]
        if leftovers:
            names = ", ".join(leftovers)
            text = f"{names}: what an interrupted save left; harmless, and the next save or --resume clears it away"
            yield Finding("ok", "leftovers", text)

    def _mend(self, check: FileCheck, *, spare: bool) -> str:
        name = check.name
        if spare:
            return "nothing to do: another one is whole"
        if HALF in check.detail:
            return "nothing to do: the row is written again" if self.phase != "finished" else "put a copy back"
        if name in WRITTEN_ANEW and self.phase != "finished":
            return f"delete it, then: {self.resume}" if check.state == "damaged" else self.resume
        if name in (*AT_THE_END, *_nets(name)) and self.phase == "finished" and self.checkpoint is not None:
            summary = shlex.quote(f"{self.path}/summary.json")
            return f"made again from the last checkpoint by: rm -f {summary} && {self.resume}"
        if name == "noisy_labels.npy":
            return f"put a copy back, or delete it: labels are drawn again from the seed by: {self.resume}"
        if name in WRITTEN_ANEW:
            return "put a copy back; the results do not depend on it"
        if name == "config.yaml":
            return "put a copy back; without it the run cannot go on, only its tables can be read"
        if name.startswith("checkpoints/") and self.phase == "finished":
            return "the results stand; only the last epochs cannot be looked at again"
        return f"put a copy back. {start_over(self.path)}"

    def rows(self) -> Iterator[Finding]:
        """Check that metrics.csv has a row for every epoch."""
        try:
            epochs = [row["epoch"] for row in EpochTable(self.path / "metrics.csv").rows()]
        except RunError:
            return  # among the files already
        if not epochs and not self.epochs_done:
            return
        least = self.epochs if self.phase == "finished" and self.epochs and not self.may_end_early else self.epochs_done
        if self.phase != "finished" and self.checkpoint is not None:
            # A signal between the last step of an epoch and its row leaves a status that is one ahead.
            least = min(least, self.checkpoint.epoch + 1)
        there = {epoch for epoch in epochs if isinstance(epoch, int) and 0 <= epoch < least}
        if gaps := least - len(there):  # counted, not listed: the number may be anything
            first = next(epoch for epoch in range(least) if epoch not in there)
            which = f"lacks the rows of {counted(gaps, 'epoch')}, the first {first}"
        else:
            which = "" if epochs == list(range(len(epochs))) else "is out of order"
        if which:
            yield Finding("BAD", "metrics.csv", which, f"put a copy back. {start_over(self.path)}")
        else:
            yield Finding("ok", "metrics.csv", f"a row for each of {counted(len(epochs), 'epoch')}")

    def samples(self) -> Iterator[Finding]:
        """Check that all tables of samples have equally many rows, and that the labels are those of labels.json."""
        record = self.record
        assert record is not None
        facts = record.labels
        if facts is None:
            return
        again = f"it was changed by other means: put a copy back. {start_over(self.path)}"
        count = facts.get("num_labels")
        try:
            labels = record.noisy_labels()
            recorded = dict(facts.get("noise", {})).get("sha256")
            digest = sha256_of_labels(labels)
            if len(labels) != count or recorded not in (None, digest):
                yield Finding("BAD", "noisy_labels.npy", "its labels are not those that labels.json tells of", again)
            if self.summary.get("labels_sha256", digest) != digest:
                yield Finding("BAD", "summary.json", "it was made with other labels than noisy_labels.npy", again)
        except RunError:
            return  # among the files already
        if self.phase != "finished":
            return
        try:
            table = record.samples()
            probs = record.pred_probs()
        except RunError as error:
            if all(check.state == "ok" for check in self.checks):
                yield Finding("BAD", "samples", str(error), again)
            return
        ids = table.get("id", [])
        if (
            len(ids) != count
            or len(set(map(str, ids))) != len(ids)
            or probs.shape != (count, len(facts["class_names"]))
        ):
            text = f"samples.csv has {counted(len(ids), 'row')} and pred_probs.npy {probs.shape}, for {count} labels"
            yield Finding("BAD", "samples", text, again)
        elif not np.isfinite(probs).all():
            yield Finding("BAD", "samples", "pred_probs.npy has values that are no numbers", again)
        else:
            yield Finding("ok", "samples", f"{counted(count, 'label')}, rows and probabilities, which agree")

    def report(self) -> Iterator[Finding]:
        """The label report and what people decided by it."""
        audit = f"acto audit {self.shell}"
        there = [name for name in (f"{REPORT}.csv", f"{REPORT}.json", "report.html") if (self.path / name).is_file()]
        decided = (self.path / DECISIONS).is_file()
        if not there:
            if decided:
                text = f"{DECISIONS} is there, and no report that it belongs to"
                yield Finding("warn", "label report", text, f"make it again: {audit}")
            elif self.phase == "finished":
                yield Finding("ok", "label report", f"none yet; {audit} makes it")
            return
        if len(there) < 3:
            yield Finding("warn", "label report", f"only {' and '.join(there)}", f"make it again: {audit}")
            return
        try:
            report = read_report(self.path)
        except RunError as error:
            yield Finding("warn", "label report", str(error), f"make it again: {audit}")
            return
        assert self.record is not None
        count = (self.record.labels or {}).get("num_labels", len(report))
        num_judged = len(report) - int(np.sum(report.columns.get("held_out", 0)))
        if num_judged != count:
            text = f"it has {counted(num_judged, 'row')} for {counted(count, 'sample')}"
            yield Finding("warn", "label report", text, f"make it again: {audit}")
            return
        yield Finding("ok", "label report", f"{counted(int(report.is_label_issue.sum()), 'suspect')}")
        if decided:
            try:
                decisions = read_decisions(self.path / DECISIONS, report)
                yield Finding("ok", "decisions", f"on {counted(len(decisions), 'sample')}")
            except UserError as error:
                yield Finding(
                    "BAD", "decisions", str(error), f"`acto review {self.shell}` drops a row that was cut off"
                )

    def way_on(self) -> Finding:
        """Say whether the run can go on, and by which command."""
        if self.phase == "running":
            return Finding("ok", "next", f"a process works on it: {self._holder()}")
        if self.phase == "finished" and self.summary:
            return Finding("ok", "next", f"it is finished; acto review {self.shell} goes through its suspects")
        if not self.config:
            return Finding("BAD", "next", "it cannot go on without its configuration", "begin a new run")
        if self.no_checkpoint:
            return Finding("BAD", "next", "no checkpoint is usable", start_over(self.path))
        if (missing := self._missing_source()) is not None:
            advice = f"bring it back, or say where it is: {self.resume} --data-root DIR"
            return Finding("BAD", "next", f"its data, {missing}, are not there", advice)
        if self.checkpoint is None:
            return Finding("ok", "next", "it can go on, from its first epoch", self.resume)
        needed = 2 * sum(self.checkpoint.path(name).stat().st_size for name in self.checkpoint.files)
        free = shutil.disk_usage(self.path).free
        if free < needed:
            text = f"the disk has {bytes_in_words(free)} free, and two checkpoints take {bytes_in_words(needed)}"
            return Finding("BAD", "next", text, f"make room, then: {self.resume}")
        after = counted(self.checkpoint.epoch + 1, "epoch")
        return Finding("ok", "next", f"it can go on after {after}", self.resume)

    def _holder(self) -> str:
        pid, host = self.status.get("pid"), self.status.get("host")
        return f"process {pid} on {host}"

    def _missing_source(self) -> str | None:
        """The path that the run was trained on, if it is one and is gone."""
        data = self.config.get("data")
        source = data.get("source") if isinstance(data, Mapping) else None
        # A name without a separator or an ending may be a data set's; whether that is there shows `acto doctor`.
        if not isinstance(source, str) or ("/" not in source and "." not in source):
            return None
        root = data.get("root") if isinstance(data, Mapping) else None
        places = [Path(source).expanduser(), *([Path(root).expanduser() / source] if root else [])]
        return None if any(place.exists() for place in places) else source


def _nets(name: str) -> tuple[str, ...]:
    """`name`, if it is that of a network's weights."""
    return (name,) if name.startswith("net") and name.endswith(".safetensors") else ()


def _mapping(path: Path) -> dict[str, Any]:
    """A JSON or YAML file's mapping; empty where there is none: the checksums have their own word on that."""
    try:
        found = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    except (FileNotFoundError, UserError):
        return {}
    return found if isinstance(found, dict) else {}
