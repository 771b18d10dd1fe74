"""Fetching a published file, and trusting it only by its checksum."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import urllib.request
from pathlib import Path

from acto.core.errors import UserError

_CHUNK = 2**20
_TIMEOUT_SECONDS = 60


def download(url: str, target: Path, *, sha256: str) -> None:
    """Fetch `url` into `target`, written beside it and renamed only when its checksum is right.

    Raises:
        UserError: the address cannot be reached, the folder not written, or the content is not the published one.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as stream, part.open("wb") as file:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise UserError(f"{url} is not the published file: its sha256 is {digest.hexdigest()}, not {sha256}")
        os.replace(part, target)
    except (http.client.HTTPException, OSError) as error:
        raise UserError(f"{url} could not be fetched into {target}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
