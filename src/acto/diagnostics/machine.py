"""`acto doctor`: what is wrong with this machine, or with a run's folder, and what to do about it.

torch is never imported here. What needs it happens in a process of its own (acto.diagnostics.probe), so that a broken
installation or a driver that crashes is a finding and not the end.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from acto.core.files import write_atomically
from acto.core.locks import FolderLock
from acto.core.resources import usable_cores
from acto.core.text import bytes_in_words
from acto.diagnostics.findings import Finding

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

DISTRIBUTION = "acto-lnl"
NAMESAKE = "acto"
"""Another project's distribution, which brings an import package of the same name."""
LEAST_DISK, LEAST_SHARED = 2**30, 2**28
"""Bytes. A batch of 128 pictures of 224 pixels in two views takes 37 MiB, and each worker keeps two of them there."""
LEAST_FILES = 1024
"""Open files; every worker and every queue to one takes a few."""
PROBE_SECONDS = 300.0


def look_around(*, out: Path | str) -> list[Finding]:
    """Versions, the disk under `out`, shared memory, limits: all that needs no torch."""
    return [
        Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}"),
        *packages(),
        disk(Path(out)),
        *shared_memory(),
        open_files(),
        cores(),
    ]


# Versions.


def packages() -> Iterator[Finding]:
    """A line for each package that acto needs or can use, beside the versions that it asks for."""
    try:
        wanted, extras = requires(DISTRIBUTION) or [], metadata(DISTRIBUTION).get_all("Provides-Extra") or []
        yield Finding("ok", "acto", version(DISTRIBUTION))
    except PackageNotFoundError:
        yield Finding("BAD", "acto", "is not installed, only found", "install it from its clone: pip install .")
        return
    yield from namesake()
    # What training needs, other extras ask for as well.
    askers = ["", "train", *(extra for extra in extras if extra not in ("train", "all", "dev", "docs"))]
    seen = {DISTRIBUTION}
    for asker in askers:
        for requirement in map(Requirement, wanted):
            marker = requirement.marker
            if requirement.name not in seen and (marker is None or marker.evaluate({"extra": asker})):
                seen.add(requirement.name)
                yield _package(requirement.name, str(requirement.specifier), extra=asker)


def namesake() -> Iterator[Finding]:
    """Look for the other project that is called acto: two packages of one name lie in one folder, file over file."""
    try:
        found = version(NAMESAKE)
    except PackageNotFoundError:
        return
    text = f"the distribution {NAMESAKE} {found} is another project, and its files lie where those of {DISTRIBUTION} do"
    advice = f"pip uninstall {NAMESAKE} {DISTRIBUTION}, then install {DISTRIBUTION} again, from its clone or wheel"
    yield Finding("BAD", "namesake", text, advice)


def _package(name: str, bounds: str, *, extra: str) -> Finding:
    install = f'pip install "{DISTRIBUTION}[{extra}]"' if extra else f'pip install "{name}{bounds}"'
    try:
        found = version(name)
    except PackageNotFoundError:
        if extra:
            return Finding("ok", name, f"not installed, only needed for the extra {extra}: {install}")
        return Finding("BAD", name, f"is not installed (needed: {bounds or 'any version'})", install)
    if satisfies(found, bounds):
        return Finding("ok", name, found)
    return Finding("warn" if extra else "BAD", name, f"{found}, but acto is made for {bounds}", install)


def satisfies(found: str, bounds: str) -> bool:
    """Compare the version `found` with `bounds`, such as ">=2.6,<3". Only the release numbers count.

    So 2.6.0a0+nv24 is 2.6.0: makers of containers build torch from such states.
    """
    try:
        return not bounds or Version(found).base_version in SpecifierSet(bounds)
    except InvalidVersion:
        return False


# The machine.


def disk(out: Path) -> Finding:
    """Free space where runs go, and whether a file can be written, put on the disk, renamed and locked there."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    try:
        free = shutil.disk_usage(place).free
        with tempfile.TemporaryDirectory(prefix=".acto-doctor-", dir=place) as folder:
            FolderLock(Path(folder) / "lock").release()
            write_atomically(Path(folder) / "file", b"acto")
    except Exception as error:  # an OSError, or what a lock made of it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Finding(
            "BAD", "disk", f"runs cannot be written to {place}: {reason}", "choose another folder with --out"
        )
    text = f"{bytes_in_words(free)} free in {place.absolute()}; a file was written, synced, renamed and locked there"
    if free < LEAST_DISK:
        return Finding("warn", "disk", text, "make room, or choose another folder with --out")
    return Finding("ok", "disk", text)


def shared_memory(place: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Look at shared memory, where workers leave decoded pictures; containers often have 64 MiB of it."""
    if not place.is_dir():  # macOS has no such folder and no such limit
        return
    free = shutil.disk_usage(place).free
    text = f"{bytes_in_words(free)} free in {place}, through which workers hand over pictures"
    if free < LEAST_SHARED:
        advice = "start the container with more (docker run --shm-size=2g), or train with --workers 0"
        yield Finding("warn", "shared memory", text, advice)
    else:
        yield Finding("ok", "shared memory", text)


def open_files() -> Finding:
    """The limit of open files."""
    if resource is None:
        return Finding("ok", "open files", "this system tells no limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"at most {'any number' if soft == resource.RLIM_INFINITY else soft}"
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        more = LEAST_FILES if hard == resource.RLIM_INFINITY else min(hard, LEAST_FILES)
        advice = f"raise it before training: ulimit -n {more}" if more > soft else "ask the administrator for more"
        return Finding("warn", "open files", text, f"{advice}; with few, workers fail to start")
    return Finding("ok", "open files", text)


def cores() -> Finding:
    """Count the cores, and those that this process may use."""
    there, usable = os.cpu_count() or 1, usable_cores()
    text = f"{usable} usable" + (f" of {there}" if usable < there else "")
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and 0 < int(asked) < usable:
        advice = "unset OMP_NUM_THREADS to use all, unless several runs share the machine"
        return Finding("warn", "cores", f"{text}, but OMP_NUM_THREADS={asked}", advice)
    return Finding("ok", "cores", text)


# What needs torch.


def probe(*, data_root: str | None) -> list[Finding]:
    """Devices and data sets, looked at by another process."""
    if find_spec("torch") is None:
        text = "not installed: this light installation audits labels and reads reports, and trains nothing"
        return [Finding("ok", "training", text)]
    command = [sys.executable, "-P", "-m", "acto.diagnostics.probe", *([data_root] if data_root else [])]
    # The same places to import from as here, however this process came by them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    advice = 'install it again: pip install --force-reinstall "torch>=2.6,<3" "torchvision>=0.21,<1"'
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        text = f"torch or a device did not answer within {PROBE_SECONDS:.0f} s"
        return [Finding("BAD", "torch", text, "try CUDA_VISIBLE_DEVICES= acto doctor, which leaves the GPU alone")]
    if done.returncode:
        killed = done.returncode < 0
        what = f"it was killed by signal {-done.returncode}" if killed else _last_line(done.stderr.splitlines())
        return [Finding("BAD", "torch", f"does not work here: {what}", advice)]
    return [Finding(**finding) for finding in json.loads(done.stdout)]


def _last_line(lines: Iterable[str]) -> str:
    return next((line.strip() for line in reversed(list(lines)) if line.strip()), "it ended without a word")
