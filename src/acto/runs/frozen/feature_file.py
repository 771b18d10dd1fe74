"""Rows of features on their way into an .npz: kept on the disk as they come, so that a killed process loses little.

While the work is under way, OUT.npz.part/ holds a .npy for each array of rows, which grow at their ends, and
progress.json: the settings that decide the rows, and after each stretch of rows how many there are and the checksum
of them all. Rows that nobody has counted are cut off, and counted ones must match their checksum. Rows are appended and
not written through a memory map: on a full disk that would kill the process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.core.documents import read_json
from acto.core.errors import RunError, UserError
from acto.core.files import (
    OnPoint,
    append,
    disk_errors,
    open_own,
    pass_point,
    sha256_of,
    sync_folder,
    write_atomically,
)
from acto.core.locks import FolderLock

PROGRESS, LOCK, DRAFT = "progress.json", "lock", "draft.npz"
_BLOCK = 16 * 2**20
_DAWN = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the .npz: equal arrays give equal bytes."""

Marks = list[tuple[int, int]]
"""Rows so far, and the CRC-32 of their bytes; ascending."""


def folder_of(out: Path) -> Path:
    """Return the folder that keeps the rows of the .npz `out` until it is whole."""
    return out.with_name(f"{out.name}.part")


class FeatureFile:
    """An .npz that is being made. Leave the context to let others into its folder.

    Args:
        out: the .npz to be made; beside it come OUT.npz.sha256 and, meanwhile, OUT.npz.part/.
        shapes: (rows, columns) by the arrays' names.
        dtype: of these arrays.
        config: plain values; rows that were computed under others are not gone on with.
        overwrite: replace `out` if it is there, and begin anew where the settings are others.
        on_point: called at "rows appended", "rows counted", "file written", "file renamed" and "checksum written".

    Attributes:
        notes: what was found damaged and is done again.
        dtype: of the arrays of rows.

    Raises:
        UserError: `out` is there; its folder is in use, or was begun with other settings, which are named.
        RunError: the disk has too little room, or refuses.
    """

    def __init__(
        self,
        out: Path,
        *,
        shapes: Mapping[str, tuple[int, int]],
        dtype: str,
        config: Mapping[str, Any],
        overwrite: bool = False,
        on_point: OnPoint = pass_point,
    ) -> None:
        self.out, self.folder = out, folder_of(out)
        self.notes: list[str] = []
        self._shapes, self.dtype, self._on_point = dict(shapes), np.dtype(dtype), on_point
        # As JSON gives it back.
        self._config: dict[str, Any] = json.loads(json.dumps(config))
        if self.folder.is_symlink():
            raise UserError(
                f"{self.folder} is a link, and rows are kept in a folder alone; delete it or name another --out"
            )
        with disk_errors(f"make {self.folder}"):
            self.folder.mkdir(exist_ok=True)
        self._lock = FolderLock(self.folder / LOCK)
        try:
            with disk_errors(f"write {self.folder}"):
                self._marks = self._found(overwrite=overwrite)
                self._require_space()
        except BaseException:
            self._leave()
            raise

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def done(self, name: str) -> int:
        """Count the rows of the array `name` that are there."""
        return self._marks[name][-1][0] if self._marks[name] else 0

    def add(self, name: str, rows: npt.NDArray[Any]) -> None:
        """Append rows (n, columns) to the array `name`, and put them on the disk.

        Raises:
            RunError: the disk refuses; what was there before stays.
        """
        assert rows.dtype == self.dtype and rows.shape[1:] == self._shapes[name][1:]
        assert self.done(name) + len(rows) <= self._shapes[name][0]
        data = rows.tobytes()
        before = self._marks[name][-1][1] if self._marks[name] else 0
        with disk_errors(f"add to {self.folder}", "The rows before are safe: the same command goes on."):
            append(self._path(name), data)
            self._on_point("rows appended")
            self._marks[name].append((self.done(name) + len(rows), zlib.crc32(data, before)))
            self._write_progress()
            self._on_point("rows counted")

    def finish(self, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
        """Write the .npz, the rows first, then the other `arrays`; returns its sha256.

        Raises:
            RunError: the disk refuses; the rows stay.
        """
        assert all(self.done(name) == rows for name, (rows, _) in self._shapes.items())
        draft, sums = self.folder / DRAFT, self.out.with_name(f"{self.out.name}.sha256")
        with disk_errors(f"write {self.out}", "The rows are safe: the same command goes on."):
            draft.unlink(missing_ok=True)  # be it a link
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
                for name in self._shapes:
                    with self._path(name).open("rb") as source, _member(archive, name) as target:
                        shutil.copyfileobj(source, target, _BLOCK)
                for name, array in arrays.items():
                    with _member(archive, name) as target:
                        np.lib.format.write_array(target, array, allow_pickle=False)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            digest = sha256_of(draft)
            self._on_point("file written")
            sums.unlink(missing_ok=True)  # of an older file
            os.replace(draft, self.out)
            sync_folder(self.out.parent)
            self._on_point("file renamed")
            write_atomically(sums, f"{digest}  {self.out.name}\n".encode())
            self._on_point("checksum written")
            self._clear()
        return digest

    def _found(self, *, overwrite: bool) -> dict[str, Marks]:
        """The marks of the rows that can be relied on; all else is cut off."""
        progress = self._read_progress()
        differences = _differences(progress["config"], self._config) if progress else []
        is_finished = progress is not None and all(
            progress["marks"][name][-1:] and progress["marks"][name][-1][0] == rows
            for name, (rows, _) in self._shapes.items()
        )
        if self.out.exists() and not overwrite and (differences or not is_finished):
            raise UserError(f"{self.out} is there already: choose another --out, or replace it with --overwrite")
        if differences and not overwrite:
            raise UserError(
                f"{self.folder} was begun with other settings: {'; '.join(differences)}. Give those again to go on, or "
                "begin anew with --overwrite"
            )
        if progress is None or differences:
            self._clear()
        marks: dict[str, Marks] = {}
        for name in self._shapes:
            counted = [] if progress is None or differences else progress["marks"][name]
            marks[name] = self._checked(name, counted)
            if counted and len(marks[name]) < len(counted):
                kept = marks[name][-1][0] if marks[name] else 0
                self.notes.append(f"{self._path(name)} is damaged after row {kept}: the rows from there are done again")
        self._marks = marks
        self._write_progress()
        return marks

    def _checked(self, name: str, marks: Marks) -> Marks:
        """The marks up to which the file is right; it is cut there, or made."""
        path, header = self._path(name), self._header(name)
        row_bytes = self.dtype.itemsize * self._shapes[name][1]
        good: Marks = []
        if not path.exists() or path.stat().st_size < len(header):
            write_atomically(path, header)
            return good
        with open(path, "r+b", opener=open_own) as file:
            if file.read(len(header)) != header:
                marks = []
                file.seek(0)
                file.write(header)
            rows = check = 0
            for until, wanted in marks:
                if not rows <= until <= self._shapes[name][0]:
                    break
                data = file.read((until - rows) * row_bytes)
                check = zlib.crc32(data, check)
                if len(data) != (until - rows) * row_bytes or check != wanted:
                    break
                good.append((until, wanted))
                rows = until
            file.truncate(len(header) + rows * row_bytes)
        return good

    def _header(self, name: str) -> bytes:
        buffer = io.BytesIO()
        facts = {"descr": self.dtype.str, "fortran_order": False, "shape": self._shapes[name]}
        np.lib.format.write_array_header_1_0(buffer, facts)
        return buffer.getvalue()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _read_progress(self) -> dict[str, Any] | None:
        """Read progress.json; None if there is none. A damaged one counts as none, with a note."""
        path = self.folder / PROGRESS
        if not path.is_file():
            return None
        try:
            content = read_json(path)
            marks = {name: [(int(rows), int(check)) for rows, check in content["marks"][name]] for name in self._shapes}
            config = dict(content["config"])
        except (ValueError, KeyError, TypeError):
            self.notes.append(f"{path} is damaged: the work begins anew")
            return None
        return {"config": config, "marks": marks}

    def _write_progress(self) -> None:
        content = {"config": self._config, "marks": self._marks}
        write_atomically(self.folder / PROGRESS, json.dumps(content, indent=1).encode())

    def _require_space(self) -> None:
        """The rows are there twice while the .npz is written."""
        row_bytes = {name: self.dtype.itemsize * columns for name, (_, columns) in self._shapes.items()}
        needed = sum((2 * rows - self.done(name)) * row_bytes[name] for name, (rows, _) in self._shapes.items())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise RunError(
                f"{self.out} needs {needed / 1e6:.1f} MB (the rows twice while it is written), but the disk has "
                f"{free / 1e6:.1f} MB free"
            )

    def _clear(self) -> None:
        for path in (*map(self._path, self._shapes), self.folder / PROGRESS, self.folder / DRAFT):
            path.unlink(missing_ok=True)

    def _leave(self) -> None:
        """Let others in; take the folder away where nothing is in it but the lock."""
        with contextlib.suppress(OSError):
            if os.listdir(self.folder) == [LOCK]:
                (self.folder / LOCK).unlink()
                self.folder.rmdir()
        self._lock.release()


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    return archive.open(zipfile.ZipInfo(f"{name}.npy", _DAWN), "w", force_zip64=True)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {_short(old.get(name))}, not {_short(new.get(name))}"
        for name in (*old, *(name for name in new if name not in old))
        if old.get(name) != new.get(name)
    ]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # a checksum
