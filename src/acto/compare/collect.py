"""Records for a repository: of every finished run the small files, without names of machines, users and paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from acto.compare.finished_runs import without_places
from acto.core.errors import UserError
from acto.core.files import disk_errors, write_atomically
from acto.run_folder.encoding import json_bytes
from acto.run_folder.reading import MARK, read_run

AS_THEY_ARE = ("summary.json", "metrics.csv", "timing.csv")
SESSION = ("started", "python", "platform", "processors", "threads", "device", "versions", "git")
"""Facts of a session that stay in env.json."""


def collect(runs: Path, target: Path) -> list[str]:
    """Copy the small files of every finished run that lies in `runs` into a folder of the same name in `target`.

    config.yaml loses the data root and the folders before a file's name, env.json the machine's name, the command line
    and the kernel, labels.json the notes on the data, which may name files. What is in `target` already is replaced.

    Returns:
        The folders' names.

    Raises:
        UserError: there is no such folder as `runs`.
        acto.core.errors.RunError: a record is damaged, or the disk refuses.
    """
    if not runs.is_dir():
        raise UserError(f"{runs} is no folder of runs")
    names = []
    for folder in sorted(path.parent for path in runs.glob(f"*/{MARK}")):
        record = read_run(folder)
        if record.status["state"] != "finished" or record.summary is None:
            continue
        place = target / folder.name
        with disk_errors(f"collect {folder}"):
            place.mkdir(parents=True, exist_ok=True)
            for name in AS_THEY_ARE:
                if (folder / name).is_file():
                    write_atomically(place / name, (folder / name).read_bytes())
            text = yaml.safe_dump(without_places(record.config), sort_keys=False)
            write_atomically(place / "config.yaml", text.encode())
            sessions = [_impersonal(session) for session in record.sessions]
            write_atomically(place / "env.json", json_bytes({"sessions": sessions}))
            if record.labels is not None:
                kept = {k: v for k, v in record.labels.items() if k != "notes"}
                write_atomically(place / "labels.json", json_bytes(kept))
        names.append(folder.name)
    return names


def _impersonal(session: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: session[name] for name in SESSION if name in session}
    if isinstance(platform := kept.get("platform"), str):
        kept["platform"] = platform.partition("-")[0]
    return kept
