"""Code of a stranger's folder: in a repository's settings, beside the command, in the kernels' cache, in CC."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acto.cli import main
from acto.compare import demo_trials
from acto.compare.sweep_launchers import Place, SlurmLauncher, command
from acto.core.child_processes import NO_CURRENT_FOLDER, environment
from acto.data.loading.decode_workers import Workers
from acto.nets import cpu_kernels
from acto.nets.cpu_kernels import KernelsMissing, kernels
from acto.run_folder.git_commit import git_commit
from acto.run_folder.reading import read_run
from strangers.pipe_files import pipe

pytestmark = pytest.mark.kind("no foreign code")

RAN = 'open("RAN", "w").close()\n'
COMMIT = "0123456789" * 4


# Repositories.


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs git in a new repository, which is the current folder, with a commit of one file."""
    place = tmp_path / "repo"
    place.mkdir()
    monkeypatch.chdir(place)

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    git("init", "-q")
    (place / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-qm", "one")
    return git


def attack_by(git: Callable[..., None], way: str) -> None:
    program = Path("program")
    program.write_text("#!/bin/sh\ntouch RAN\ncat\n")
    program.chmod(0o755)
    if way == "filter":
        git("config", "filter.evil.clean", "./program")
        Path(".git/info").mkdir(exist_ok=True)
        Path(".git/info/attributes").write_text("* filter=evil\n")
    elif way == "hook":
        Path(".git/hooks").mkdir(exist_ok=True)
        program.rename(".git/hooks/post-index-change")
    else:
        git("config", "core.fsmonitor", "./program")
    Path("a.txt").write_text("2")
    os.utime("a.txt", (1, 1))
    Path("RAN").unlink(missing_ok=True)


@pytest.mark.right
@pytest.mark.parametrize("way", ["filter", "hook", "fsmonitor"])
def test_a_repository_that_names_programs(way: str, repository: Callable[..., None]) -> None:
    head = Path(".git/refs/heads").rglob("*").__next__().read_text().strip()
    attack_by(repository, way)
    assert git_commit() == {"commit": head}
    assert not Path("RAN").exists()
    subprocess.run(["git", "status"], capture_output=True)
    assert Path("RAN").exists(), "the attack does not work, and proves nothing"


@pytest.mark.right
def test_training_inside_of_such_a_repository(repository: Callable[..., None]) -> None:
    attack_by(repository, "filter")
    x = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    np.savez("f.npz", x=x, y=np.array(["apple", "pear", "quince"] * 30))
    assert main(["train", "--data", "f.npz", "--method", "standard", "--epochs", "1", "--no-report", "--out", "o"]) == 0
    assert not Path("RAN").exists() and read_run("o").sessions[0]["git"] is not None


def written(inner: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_bytes(os.fsencode(text))
    return inner


BRANCH = {"HEAD": "ref: refs/heads/a\n"}
PACKED = f"# pack-refs with: peeled\n{'f' * 40} refs/remotes/refs/heads/a\n{COMMIT} refs/heads/a\n^{'e' * 40}\n"


@pytest.mark.right
@pytest.mark.parametrize(
    ("files", "commit"),
    [
        ({"HEAD": f"{COMMIT}\n"}, COMMIT),
        (BRANCH | {"refs/heads/a": f"{COMMIT}\n"}, COMMIT),
        (BRANCH | {"packed-refs": PACKED}, COMMIT),
        (BRANCH | {"packed-refs": f"{'e' * 40} refs/heads/b\n" * 200 + PACKED}, COMMIT),
        (BRANCH | {"refs/heads/a": COMMIT + "ab" * 12}, COMMIT + "ab" * 12),
        (BRANCH, None),
        (BRANCH | {"packed-refs": "a text of somebody refs/heads/a\n"}, None),
        ({"HEAD": "ref: refs/heads/.invalid\n", "reftable/tables.list": "x"}, None),
        ({"HEAD": "ref: refs/../secret\n", "refs/heads/b": "", "secret": COMMIT}, None),
        ({"HEAD": "ref: secret\n", "secret": COMMIT}, None),
        ({"HEAD": "ref: refs//etc/passwd\n"}, None),
        ({"HEAD": "a text of somebody\n"}, None),
        ({"HEAD": "ref: refs/heads/a\n", "refs/heads/a": "a text of somebody\n"}, None),
        ({"HEAD": "\udcff" * 9000}, None),
        ({"HEAD": COMMIT + " " * 5000 + "which is not read"}, COMMIT),
    ],
)
def test_the_commit_is_read_from_files(files: dict[str, str], commit: str | None, tmp_path: Path) -> None:
    written(tmp_path / ".git", files)
    (tmp_path / "inner").mkdir()
    assert git_commit(tmp_path / "inner") == (None if commit is None else {"commit": commit})


@pytest.mark.right
def test_the_commit_of_a_worktree(tmp_path: Path) -> None:
    main_one = written(tmp_path / "main" / ".git", {"refs/heads/a": COMMIT})
    written(main_one / "worktrees" / "w", BRANCH | {"commondir": "../..\n"})
    written(tmp_path / "tree", {".git": "gitdir: ../main/.git/worktrees/w\n"})
    assert git_commit(tmp_path / "tree") == {"commit": COMMIT}
    (main_one / "refs/heads/a").unlink()
    written(main_one, {"packed-refs": PACKED.replace("0", "1")})
    assert git_commit(tmp_path / "tree") == {"commit": COMMIT.replace("0", "1")}
    written(main_one / "worktrees" / "w", {"HEAD": "ref: refs/worktree/b\n", "refs/worktree/b": "a" * 40})
    assert git_commit(tmp_path / "tree") == {"commit": "a" * 40}


@pytest.mark.right
@pytest.mark.parametrize("name", ["HEAD", "refs/heads/a", "packed-refs", "commondir"])
def test_pipes_and_devices_in_a_repository(name: str, tmp_path: Path) -> None:
    inner = written(tmp_path / ".git", BRANCH | {"refs/heads/b": ""})
    (inner / name).unlink(missing_ok=True)
    with pipe(inner / name, COMMIT.encode()):
        assert git_commit(tmp_path) is None
    (inner / name).unlink()
    (inner / name).symlink_to("/dev/zero")
    assert git_commit(tmp_path) is None


# Child processes.


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A current folder whose modules leave a trace when they are imported."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)

    def lay(*names: str) -> Path:
        for name in names:
            (folder / f"{name}.py").write_text(RAN)
        return folder / "RAN"

    return lay


@pytest.mark.right
def test_the_children_of_a_sweep(trap: Callable[..., Path]) -> None:
    trace = trap("signal", "difflib", "yaml")
    words = command(Place(out=Path("out"), name="one"), ())
    words = [*words[: words.index("train")], "--help"]
    assert b"usage: acto" in subprocess.run(words, check=True, capture_output=True).stdout
    assert not trace.exists()
    subprocess.run([word for word in words if word != "-P"], capture_output=True)
    assert trace.exists(), "the attack does not work, and proves nothing"


@pytest.mark.right
def test_the_command_as_a_module(trap: Callable[..., Path]) -> None:
    """What Python itself imports before it reaches the command stays Python's affair."""
    trace = trap("yaml", "numpy")
    done = subprocess.run([sys.executable, "-m", "acto.cli", "table", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "acto table" in done.stdout and not trace.exists()


@pytest.mark.right
def test_processes_that_multiprocessing_starts(trap: Callable[..., Path]) -> None:
    trace = trap("socket", "pickle", "multiprocessing")
    with environment(NO_CURRENT_FOLDER):
        process = multiprocessing.get_context("spawn").Process(target=os.getcwd)
        process.start()
    process.join()
    assert process.exitcode == 0 and not trace.exists() and "PYTHONSAFEPATH" not in os.environ


@pytest.mark.right
def test_the_environment_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTO_A", "before")
    monkeypatch.delenv("ACTO_B", raising=False)
    with pytest.raises(OSError), environment({"ACTO_A": "in", "ACTO_B": "in"}):
        assert os.environ["ACTO_A"] == os.environ["ACTO_B"] == "in"
        raise OSError
    assert os.environ["ACTO_A"] == "before" and "ACTO_B" not in os.environ


@pytest.mark.right
def test_every_door_starts_its_processes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    seen: list[str | None] = []

    def look(*arguments: Any, **named: Any) -> Any:
        seen.append(os.environ.get("PYTHONSAFEPATH"))
        return iter(())

    @contextmanager
    def pool(*arguments: Any, **named: Any) -> Iterator[object]:
        look()
        yield object()

    monkeypatch.setattr(demo_trials, "ProcessPoolExecutor", pool)
    with demo_trials.processes(2):
        look()
    workers = Workers(SimpleNamespace(), 0, pinned=False)  # type: ignore[arg-type]
    monkeypatch.setattr(type(workers._loader), "__iter__", look)
    assert list(workers.decode([])) == []
    SlurmLauncher(SimpleNamespace(submit=look)).start(
        SimpleNamespace(flags=()),  # type: ignore[arg-type]
        Place(out=Path("out"), name="one"),
    )
    assert seen == ["1"] * 4 and "PYTHONSAFEPATH" not in os.environ


# The kernels.


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Loads the kernels as a new process would, and says how often the compiler has linked them by now.

    The compiler is a stand-in that copies some library: this processor need not run what a real one makes.
    """
    library = np.linalg._umath_linalg.__file__  # type: ignore[attr-defined]
    log, script = tmp_path / "linked", tmp_path / "my-cc"
    script.write_text(
        f"#!/bin/sh\nfor last; do :; done\ncp '{library}' \"$last\"\n[ $2 = -shared ] && echo >> '{log}'; exit 0\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", f"{script} -pipe")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def load() -> int:
        assert cpu_kernels._library(cpu_kernels._compiler()) is not None
        return len(log.read_text())

    return load


def kept(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache" / "acto").iterdir()
    return file


@pytest.mark.right
def test_kernels_are_kept(compiled: Callable[[], int], tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        assert compiled() == 1 and kept(tmp_path).stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert compiled() == 1


@pytest.mark.right
def test_kernels_of_another_command_or_source_are_compiled_anew(
    compiled: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = cpu_kernels._compiler()
    assert compiled() == 1
    monkeypatch.setenv("CC", f"{compiler[0]} -g0")
    assert [compiled(), compiled()] == [2, 2]
    changed = Path(shutil.copytree(cpu_kernels.SOURCES, tmp_path / "sources"))
    monkeypatch.setattr(cpu_kernels, "SOURCES", changed)
    assert compiled() == 2
    with next(changed.glob("*.c")).open("a") as file:
        file.write("/* changed */\n")
    assert compiled() == 3


@pytest.mark.right
@pytest.mark.parametrize("why", ["the disk is full", "a file in the folder's place"])
def test_kernels_that_cannot_be_kept(
    why: str, compiled: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space", str(path))

    if why == "the disk is full":
        monkeypatch.setattr(cpu_kernels, "write_atomically", refuse)
    else:
        (tmp_path / "cache").touch()
    assert [compiled(), compiled()] == [1, 2]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


@pytest.mark.right
@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:-32]),
        lambda file: file.write_bytes(b""),
        flip,
        lambda file: file.chmod(0o620),
        lambda file: file.chmod(0o602),
        lambda file: (file.rename(file.parent.parent / "elsewhere"), file.symlink_to("../elsewhere")),
        lambda file: (file.unlink(), os.mkfifo(file)),
    ],
    ids=["cut", "without its sum", "empty", "a flipped bit", "a group's", "the world's", "a link", "a pipe"],
)
def test_kept_kernels_that_are_not_as_they_were(
    spoil: Callable[[Path], object], compiled: Callable[[], int], tmp_path: Path
) -> None:
    assert compiled() == 1
    spoil(kept(tmp_path))
    assert [compiled(), compiled()] == [2, 2]


@pytest.mark.right
@pytest.mark.parametrize("whose", ["somebody else's", "open to others"])
def test_another_users_cache(
    whose: str, compiled: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled() == 1
    if whose == "somebody else's":
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
    else:
        (tmp_path / "cache" / "acto").chmod(0o775)
    for count in (2, 3):
        with pytest.warns(UserWarning, match=r"cache/acto belongs to somebody else or can be written to by others"):
            assert compiled() == count


@pytest.mark.right
@pytest.mark.parametrize("name", ["cache", "./cache", ""])
def test_a_cache_in_the_current_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", name)
    assert cpu_kernels._own_folder() == tmp_path / "home" / ".cache" / "acto"


@pytest.mark.refused
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("./gcc", r"there is no C compiler: CC names \./gcc$"),
        ("tools/gcc -O3", "there is no C compiler: CC names tools/gcc$"),
        ("gcc-of-nobody", "there is no C compiler: CC names gcc-of-nobody$"),
        ("gcc 'a", "the variable CC cannot be read .*: gcc 'a$"),
    ],
)
def test_compilers_that_are_not_taken(words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools").mkdir()
    for place in ("gcc", "tools/gcc"):
        (tmp_path / place).write_text("#!/bin/sh\ntouch RAN\n")
        (tmp_path / place).chmod(0o755)
    monkeypatch.setenv("CC", words)
    monkeypatch.setattr(cpu_kernels, "cpu_has_bfloat16", lambda: True)
    cpu_kernels._load.cache_clear()
    try:
        with pytest.raises(KernelsMissing, match=said):
            kernels()
    finally:
        cpu_kernels._load.cache_clear()
    assert not (tmp_path / "RAN").exists()


@pytest.mark.refused
def test_a_path_that_names_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setenv("PATH", ".")
    monkeypatch.setenv("CC", "gcc")
    with pytest.raises(KernelsMissing, match=r"there is no C compiler: CC names gcc$"):
        cpu_kernels._compiler()


@pytest.mark.right
def test_the_compiler_does_not_work_in_the_current_folder(
    compiled: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There an empty entry of CPATH would mean the stranger's headers."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "my-cc"
    script.write_text(script.read_text().replace("for last", f"pwd >> '{tmp_path}/places'\nfor last", 1))
    compiled()
    places = set((tmp_path / "places").read_text().split())
    assert len(places) == 1 and str(tmp_path) not in places
