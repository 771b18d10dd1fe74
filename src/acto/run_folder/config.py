"""The configuration in a run's folder, and what may differ when the run goes on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from acto.core.documents import as_record, read_yaml
from acto.core.errors import UserError
from acto.run_folder.encoding import plain_values

CONFIG = {
    "method": str,
    "net": str,
    "seed": int,
    "data": {"source": str, "root": str | None, "subset": int | None, "noise": dict | None},
    "protocol": {"epochs": int},
}
"""Types of the settings in config.yaml that are looked at without building the run."""
INSTEAD_OF_CACHE = "pictures are decoded in every epoch, and `acto data shrink FOLDER --out SMALL` makes that fast"


def read_config(path: Path) -> dict[str, Any]:
    """Read config.yaml of the run's folder `path`, without the cache of pictures, which earlier versions had.

    Raises:
        UserError: there is none, or it holds no settings.
    """
    config = _read_whole(path)
    config.get("data", {}).pop("cache", None)  # it never decided a result
    return config


def notes_on_config(path: Path) -> list[str]:
    """Notes on what the run's folder `path` asks for and no longer has any effect."""
    if (cache := _read_whole(path).get("data", {}).get("cache")) is None:
        return []
    return [f"the setting data.cache ({cache}) of this run has no effect any more: {INSTEAD_OF_CACHE}"]


def _read_whole(path: Path) -> dict[str, Any]:
    file = path / "config.yaml"
    try:
        return as_record(read_yaml(file), CONFIG, str(file))
    except FileNotFoundError as error:
        raise UserError(f"{path} has no config.yaml: the run ended before it began; use --overwrite") from error


def as_reloaded(config: object) -> dict[str, Any]:
    """The configuration as it comes back from config.yaml."""
    return yaml.safe_load(yaml.safe_dump(plain_values(config)))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("method.tau", 0.025), ... A mapping without entries is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differing(
    saved: Mapping[str, Any], asked: Mapping[str, Any], may_differ: Collection[str], there: str, here: str
) -> list[str]:
    """The settings that differ in two configurations, each with the value `there` and the one `here`."""
    # A setting that an older version did not have is null or empty in a newer one: that is no difference.
    before, now = ({key: None if value in ([], ()) else value for key, value in _flat(c)} for c in (saved, asked))
    return [
        f"{key}: {before.get(key, 'not set')!r} {there}, {now.get(key, 'not set')!r} {here}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == free or key.startswith(f"{free}.") for free in may_differ)
    ]


def refuse_other_config(
    path: Path, saved: Mapping[str, Any], asked: Mapping[str, Any], may_differ: Collection[str]
) -> None:
    """Raise UserError if `asked` differs from `saved` in more than the dotted keys `may_differ`; name what differs."""
    if other := differing(saved, asked, may_differ, "there", "now"):
        raise UserError(
            f"the run in {path} was begun with other settings: {'; '.join(other)}. Resume it with its own, or "
            "start over with --overwrite"
        )
