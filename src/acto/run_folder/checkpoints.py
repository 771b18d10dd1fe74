"""Checkpoints of a run: written whole or not at all, checked by their sums when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from acto.core.documents import as_record, read_json
from acto.core.errors import RunError, UserError
from acto.core.files import OnPoint, disk_errors, pass_point, read_file, remove, sha256_of, sync_folder, write_new


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """Finding about one file of a run."""

    name: str
    state: Literal["ok", "missing", "damaged", "leftover"]
    """leftover: an interrupted save or deletion left it; the next save or `--resume` clears it away."""
    detail: str = ""


# Folders NNNNNN-epochE with their files and a manifest. NNNNNN counts the saves, so that a run that was resumed from an
# older checkpoint never writes over another one.
_CHECKPOINT = re.compile(r"(\d{6})-epoch(\d+)")
_LEFTOVER = re.compile(r"\.draft-\d{6,}|\.old-\d{6}-epoch\d+")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MANIFEST = "manifest.json"
BEST = "best.pt"
"""File of the state after the best epoch so far, in a run that may end early: a copy of training.pt as it was then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint whose checksums held when it was looked up."""

    epoch: int
    """The last epoch that it contains."""
    folder: Path
    files: tuple[str, ...]
    run: dict[str, Any] | None
    """Facts of the run that made it: its settings, and a checksum of its data. None in those of older versions."""
    note: str | None
    """For the user: which newer checkpoint was damaged and passed over; None if this is the newest."""

    def path(self, name: str) -> Path:
        """Return the path of a file; raise KeyError for a name that the checkpoint does not have."""
        if name not in self.files:
            raise KeyError(f"checkpoint {self.folder} has no file {name!r}, only {', '.join(self.files)}")
        return self.folder / name

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        with disk_errors(f"read {self.folder / name}"):
            return read_file(self.path(name))


def save_checkpoint(
    folder: Path,
    *,
    epoch: int,
    files: Mapping[str, bytes],
    run: Mapping[str, Any] | None = None,
    keep: str | None = None,
    on_point: OnPoint = pass_point,
) -> str:
    """Add a checkpoint to `folder` and delete all but it and one before it.

    Args:
        folder: made if it is missing.
        epoch: the last epoch done, from 0.
        files: their names and bytes.
        run: see Checkpoint.
        keep: name of the checkpoint before it that is known to be good; None: the newest one there.
        on_point: called at "start"; for each file at "half NAME" and "written NAME"; at "manifest written", "renamed"
            and "older deleted".

    Returns:
        The new checkpoint's name.

    Raises:
        RunError: less than twice the size is free, or the disk refuses. The older checkpoints are untouched then.
        UserError: `folder` is a link.
    """
    assert files and all(_FILE.fullmatch(name) and name != MANIFEST for name in files), f"file names {list(files)}"
    with disk_errors(f"save the checkpoint of epoch {epoch} in {folder}", "The checkpoints before it are untouched."):
        folder.mkdir(exist_ok=True)
        clear_leftovers(folder)
        _require_space(folder, epoch, 2 * sum(map(len, files.values())))
        older = _checkpoint_names(folder)
        serial = int(older[-1][:6]) + 1 if older else 1
        draft = folder / f".draft-{serial:06d}"
        name = f"{serial:06d}-epoch{epoch}"
        on_point("start")
        try:
            draft.mkdir()
            for file, data in files.items():
                write_new(draft / file, data, on_half=partial(on_point, f"half {file}"))
                on_point(f"written {file}")
            content = {
                file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for file, data in files.items()
            }
            write_new(draft / MANIFEST, _manifest(epoch, content, run))
            sync_folder(draft)
            on_point("manifest written")
            os.rename(draft, folder / name)
        except OSError:
            remove(draft)
            raise
        sync_folder(folder)
        on_point("renamed")
        kept = keep if keep in older else (older[-1] if older else None)
        for old in older:
            if old != kept:
                # Renamed first: half a deletion must not look like a damaged checkpoint.
                with contextlib.suppress(OSError):
                    os.rename(folder / old, folder / f".old-{old}")
        clear_leftovers(folder)
        on_point("older deleted")
    return name


def start_over(run: Path) -> str:
    """The sentence for a run that cannot be mended: which command begins it anew, with the settings that it had."""
    config, out = shlex.quote(f"{run}/config.yaml"), shlex.quote(str(run))
    return f"To start over with the same settings: acto train --config {config} --out {out} --overwrite"


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose checksums hold; None if there is none at all.

    Raises:
        RunError: there are some, and all are damaged; it says how, and how to start over.
    """
    faults: list[str] = []
    for name in reversed(_checkpoint_names(folder)):
        content, fault = _examine(folder / name)
        if content is None:
            faults.append(f"{name}: {fault}")
            continue
        note = f"checkpoint {'; '.join(faults)}. Going on from {name} instead." if faults else None
        return Checkpoint(
            epoch=content["epoch"],
            folder=folder / name,
            files=tuple(content["files"]),
            run=content.get("run"),
            note=note,
        )
    if faults:
        raise RunError(f"no checkpoint in {folder} is usable ({'; '.join(faults)}). {start_over(folder.parent)}")
    return None


def check_checkpoints(folder: Path) -> list[FileCheck]:
    """A line for each checkpoint, oldest first, and for each leftover."""
    checks = []
    for name in _checkpoint_names(folder):
        content, fault = _examine(folder / name)
        checks.append(
            FileCheck(name=f"{folder.name}/{name}", state="damaged" if content is None else "ok", detail=fault)
        )
    return checks + [FileCheck(name=f"{folder.name}/{path.name}", state="leftover") for path in _leftovers(folder)]


def _checkpoint_names(folder: Path) -> list[str]:
    """Oldest first."""
    return sorted(path.name for path in folder.glob("*-epoch*") if _CHECKPOINT.fullmatch(path.name))


def _leftovers(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(".*-*") if _LEFTOVER.fullmatch(path.name))


def clear_leftovers(folder: Path) -> None:
    """Delete what interrupted saves and deletions left among the checkpoints.

    Errors are left to the next time: an undeletable old checkpoint is no reason to lose a run.

    Raises:
        UserError: `folder` is a link: what lies behind it may be anybody's.
    """
    if folder.is_symlink():
        raise UserError(
            f"{folder} is a link, and checkpoints are neither saved nor deleted through one; put a folder in its place "
            "(for more room move the whole run: a link to a run's folder is followed)"
        )
    for path in _leftovers(folder):
        remove(path)


def _require_space(folder: Path, epoch: int, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"cannot save the checkpoint of epoch {epoch} in {folder}: the disk has {free / 1e6:.1f} MB free, and "
            f"{needed / 1e6:.1f} MB (twice its size) are needed. The checkpoints before it are untouched; make room "
            "and go on with --resume"
        )


def _manifest(epoch: int, files: Mapping[str, Any], run: Mapping[str, Any] | None) -> bytes:
    """The manifest guards the files, and its own checksum guards the manifest."""
    content = {"epoch": epoch, "files": files, **({} if run is None else {"run": run})}
    return json.dumps({**content, "sha256": _digest(content)}, indent=1).encode()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _examine(checkpoint: Path) -> tuple[dict[str, Any] | None, str]:
    """A checkpoint's manifest and "", or None and what is wrong."""
    try:
        content = read_json(checkpoint / MANIFEST)
        claimed = content.pop("sha256")
        if claimed != _digest(content):
            return None, "its manifest differs from its checksum"
        as_record({"epoch": None, **content}, {"epoch": int, "files": dict, "run": dict | None}, MANIFEST)
        for name, facts in content["files"].items():
            path = checkpoint / name
            if not path.is_file():
                return None, f"{name} is missing"
            if path.stat().st_size != facts["bytes"]:
                return None, f"{name} has {path.stat().st_size} bytes, not {facts['bytes']}"
            if sha256_of(path) != facts["sha256"]:
                return None, f"{name} differs from its checksum"
    except FileNotFoundError:
        return None, "its manifest is missing"
    except UserError:
        return None, "its manifest is damaged"
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"
    except (ValueError, KeyError, AttributeError, TypeError):
        return None, "its manifest is damaged"
    return content, ""
