"""A terminal that goes away, signals, files that never come, locks that keep nobody out."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

import numpy as np
import pytest
from hanging_decoder import Hanging

from acto.cli import main, train
from acto.cli.exit_codes import guarded
from acto.cli.progress import Reporter
from acto.compare.sweep_launchers import last_words
from acto.core import locks, waiting
from acto.core.errors import UserError
from acto.core.locks import FolderLock, is_locked
from acto.core.signals import STOPPING, on_signals, spared_children
from acto.core.terminal import Screen
from acto.core.waiting import Stalled, in_threads
from acto.data.loading.decode_workers import Request, Workers
from acto.data.views.spec import ViewSpec
from acto.run_folder.reading import read_run
from acto.run_folder.writing import RunFolder
from acto.runs.events import Event, StepDone

pytestmark = pytest.mark.kind("a terminal that goes away")
TINY = [
    *("train", "--data", "digits", "--method", "standard", "--subset", "64", "--batch-size", "64", "--no-report"),
    *("--epochs", "2", "--device", "cpu", "--precision", "float32"),
]


def pipe_without_a_reader() -> int:
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


def closed_terminal() -> int:
    ours, theirs = pty.openpty()
    os.close(ours)
    return theirs


def clogged_pipe() -> int:
    _, theirs = os.pipe()
    os.set_blocking(theirs, False)
    while True:
        try:
            os.write(theirs, b"." * 4096)
        except BlockingIOError:
            return theirs


STREAMS = {
    "a reader that is gone": pipe_without_a_reader,
    "a closed terminal": closed_terminal,
    "a full disk": lambda: os.open("/dev/full", os.O_WRONLY),
    "a pipe that does not wait": clogged_pipe,
}


@pytest.fixture
def a_terminal_that_closes() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def opened() -> Iterator[list[TextIO]]:
    files: list[TextIO] = []
    yield files
    for file in files:
        file.close()  # would raise if something were left to be written to where nobody reads


@pytest.mark.right
@pytest.mark.parametrize("stream", STREAMS)
def test_a_training_goes_on_without_its_terminal(
    stream: str, opened: list[TextIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        opened.append(os.fdopen(STREAMS[stream](), "w", buffering=1))
        monkeypatch.setattr(sys, name, opened[-1])
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 0
    assert read_run(tmp_path / "run").status["state"] == "finished"


@pytest.mark.right
def test_a_training_goes_on_with_closed_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # as Python has it where the descriptor is closed
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 0
    assert sys.stderr is None


CLOSED = """
import os, sys
from acto.core.terminal import screens
with screens(lasting=True):
    print("lost")
    number = os.open(sys.argv[1], os.O_WRONLY)
    os.system("echo said by another >&2")
    os.write(number, b"whole")
    children = os.system("[ -e /proc/self/fd/0 ] && [ -e /proc/self/fd/2 ]") == 0
sys.exit(7 if number > 2 and children else 8)
"""


@pytest.mark.right
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    assert subprocess.run(command, timeout=60).returncode == 7
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.refused
@pytest.mark.parametrize(("stream", "said"), [("a reader that is gone", ""), ("a full disk", "No space left")])
def test_what_is_printed_for_its_own_sake_fails_with_code_1(stream: str, said: str) -> None:
    output = STREAMS[stream]()  # Python's own code for it, at its exit, is 120
    code = "import sys; from acto.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=output, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(output)
    assert done.returncode == 1 and said in done.stderr and bool(said) == bool(done.stderr)


@pytest.mark.right
def test_a_descriptor_without_a_reader_leads_to_nowhere(opened: list[TextIO]) -> None:
    opened.append(os.fdopen(pipe_without_a_reader(), "w"))
    screen = Screen(opened[-1], lasting=True)
    screen.write("lost")
    screen.flush()
    assert os.write(opened[-1].fileno(), b"of another") == 10  # a child process that has it gets no SIGPIPE


@pytest.mark.right
def test_a_full_pipe_is_written_to_again_when_there_is_room(opened: list[TextIO]) -> None:
    ours, theirs = os.pipe()
    for end in (ours, theirs):
        os.set_blocking(end, False)
    opened.append(os.fdopen(theirs, "w"))
    screen = Screen(opened[-1], lasting=True)
    for _ in range(2000):
        screen.write("." * 100)
        screen.flush()
    came = os.read(ours, 65536)
    for _ in range(10):
        screen.write("later")
        screen.flush()
        came += os.read(ours, 65536)
    assert came.endswith(b"later" * 9)  # of the rest only what the buffer holds is kept
    os.close(ours)


@pytest.mark.right
def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        assert guarded(lambda: os.kill(os.getpid(), signal.SIGHUP) or 5) == 5
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.refused
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGHUP, "SIGHUP"),
        (signal.SIGQUIT, "SIGQUIT"),
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGXCPU, "SIGXCPU"),
        (signal.SIGALRM, "SIGALRM"),
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 3, "SIGRTMIN+3"),
    ],
)
def test_every_signal_has_a_message(number: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # a shell's & and nohup have the tests ignore some
    try:
        assert guarded(lambda: os.kill(os.getpid(), number) or 0) == 128 + number
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == f"stopped by {name}\n"
    assert last_words(tmp_path, start=0, exit_code=-number) == f"killed by {name}"


@pytest.mark.refused
def test_a_closing_terminal_hangs_up_more_than_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_terminal_that_closes: None
) -> None:
    class Stopping(Reporter):
        def __call__(self, event: Event) -> None:
            if isinstance(event, StepDone) and event.epoch == 1:
                os.kill(os.getpid(), signal.SIGHUP)

    def again(folder: RunFolder, state: str, **facts: object) -> None:
        if state == "interrupted":
            os.kill(os.getpid(), signal.SIGHUP)
        note(folder, state, **facts)

    note = RunFolder.set_status
    monkeypatch.setattr(train, "Reporter", Stopping)
    monkeypatch.setattr(RunFolder, "set_status", again)
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 128 + signal.SIGHUP
    status = read_run(tmp_path / "run").status
    assert (status["state"], status["message"], status["epoch"]) == ("interrupted", "stopped by SIGHUP", 0)


@pytest.mark.right
def test_the_inner_of_two_blocks_takes_a_signal() -> None:
    took: list[str] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with on_signals([signal.SIGHUP], lambda *_: took.append("outer")):
            with on_signals([signal.SIGHUP], lambda *_: took.append("inner")):
                os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, lambda *_: took.append("theirs"))
        with on_signals([signal.SIGHUP], lambda *_: took.append("outer")):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert took == ["inner", "outer", "theirs"]


@pytest.mark.right
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_plain_signals_are_taken_where_they_are_ignored_and_each_time(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)  # as a shell's & has it
    try:
        with on_signals([number], stop):
            for _ in range(2):
                with pytest.raises(Stop):
                    os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.right
def test_signals_that_end_a_process_are_told_from_others() -> None:
    ending = "HUP INT QUIT TERM USR1 USR2 ALRM VTALRM PROF XCPU XFSZ"
    others = "KILL STOP TSTP TTIN TTOU CONT CHLD URG WINCH ABRT BUS FPE ILL SEGV SYS TRAP"
    assert {getattr(signal, f"SIG{name}") for name in ending.split()} <= set(STOPPING)
    assert set(range(signal.SIGRTMIN, signal.SIGRTMAX + 1)) <= set(STOPPING)
    assert not {getattr(signal, f"SIG{name}") for name in others.split()} & set(STOPPING)


@pytest.mark.right
def test_children_are_spared_all_but_sigterm_and_the_parent_nothing() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with spared_children():
        inside = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert set(STOPPING) - {signal.SIGTERM} <= inside and signal.SIGTERM not in inside
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.right
def test_another_thread_than_the_main_one_handles_no_signals() -> None:
    done: list[object] = []

    def serve() -> None:
        with on_signals(STOPPING, stop):
            done.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert done == [before]


class Stop(Exception):
    """Raised by a signal in these tests."""


def stop(signum: int, frame: FrameType | None) -> None:
    raise Stop


@pytest.mark.refused
def test_a_worker_that_hangs_is_named_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    def warned(paths: list[str]) -> None:
        named.extend(paths)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    monkeypatch.setattr(waiting, "GRACE", 0.05)
    monkeypatch.setattr(waiting, "warn_of", warned)
    workers = Workers(Hanging(ViewSpec(pipeline="photo", size=8), max_pixels=None), 1, pinned=False)
    request = Request((str(tmp_path / "facts"),), ("none",), np.zeros((1, 1, 4), np.float32))
    with on_signals([signal.SIGTERM], stop), pytest.raises(Stop):
        list(workers.decode([request]))
    workers.close()
    pid, *spared = (tmp_path / "facts").read_text().split()
    assert named == ["/net/cat.png"]
    assert spared == ["True", "False"]  # what a terminal sends to all its processes does not reach the worker
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.right
def test_a_file_that_comes_late_is_waited_for_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    came = threading.Event()
    warned: list[list[str]] = []

    def note(files: Iterator[str]) -> None:
        warned.append(list(files))
        came.set()

    monkeypatch.setattr(waiting, "PATIENCE", 0.02)
    monkeypatch.setattr(waiting, "warn_of", note)

    def work(name: str) -> str:
        return name if name != "late" or came.wait(5) else "never"

    names = ["a", "late", "b"]
    assert list(in_threads(work, names, threads=2, file_of=lambda name: f"{name}.png")) == names
    assert warned[0] == ["late.png"]


@pytest.mark.refused
def test_a_signal_waits_for_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    came = threading.Event()
    monkeypatch.setattr(waiting, "PATIENCE", 0.02)
    monkeypatch.setattr(waiting, "GRACE", 0.02)
    monkeypatch.setattr(waiting, "warn_of", lambda files: os.kill(os.getpid(), signal.SIGTERM))
    begun: list[str] = []
    with on_signals(STOPPING, stop), pytest.raises(Stop):
        list(in_threads(lambda name: (begun.append(name), came.wait(20)), ["never", "later"], threads=1))
    assert not came.is_set()
    (thread,) = [each for each in threading.enumerate() if "serve" in each.name]
    assert thread.daemon  # nor does Python's exit
    came.set()
    thread.join()
    assert begun == ["never"]


@pytest.mark.refused
def test_an_error_in_a_thread_comes_in_its_turn() -> None:
    results = in_threads(lambda number: 6 // number, [3, 2, 0, 1], threads=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.refused
def test_a_flock_that_does_nothing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", lambda descriptor, kind: None)
    first = FolderLock(tmp_path / "lock")
    assert is_locked(tmp_path / "lock")
    in_use = rf"in use by process {os.getpid()} on .*, or delete {tmp_path / 'lock'}.held if that process has ended"
    with pytest.raises(UserError, match=in_use):
        FolderLock(tmp_path / "lock", on_wait=lambda: None)
    first.release()
    assert not is_locked(tmp_path / "lock")
    FolderLock(tmp_path / "lock").release()


@pytest.mark.right
def test_a_file_in_place_of_a_lock_means_nothing_where_flock_works(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "lock.held").touch()  # copied from elsewhere
    assert not is_locked(tmp_path / "lock")
    with open(tmp_path / "lock") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # somebody else is looking
        assert not is_locked(tmp_path / "lock")
    lock = FolderLock(tmp_path / "lock")
    assert is_locked(tmp_path / "lock")
    lock.release()
    with open(tmp_path / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.right
def test_a_network_folder_locks_files_for_writing_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock = fcntl.flock

    def strict(descriptor: int, kind: int) -> None:
        if kind & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", strict)
    FolderLock(tmp_path / "lock").release()
    (tmp_path / "lock.held").touch()
    assert not is_locked(tmp_path / "lock")


@pytest.mark.right
def test_a_lock_that_is_looked_at_for_an_instant_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, looks = fcntl.flock, [1, 2]

    def looked_at(descriptor: int, kind: int) -> None:
        if looks:
            raise BlockingIOError(looks.pop())
        flock(descriptor, kind)

    monkeypatch.setattr(locks.fcntl, "flock", looked_at)
    FolderLock(tmp_path / "lock").release()


@pytest.mark.right
def test_what_is_waited_for_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(Stalled, match="waiting for a, b") as caught:
        waiting.warn_of(["b", "a", "b"])
    many = [f"{i}.png" for i in range(4)] + ["98.png", "99.png", "9a.png"]
    with pytest.warns(Stalled, match=r"for 0\.png, 1\.png, 2\.png, 3\.png, 98\.png and 2 more for 60 seconds"):
        waiting.warn_of(many)
    with pytest.warns(Stalled, match=r"for a\\x1b for 60 seconds"):
        waiting.warn_of(["a\x1b"])
    show = caught.list[0]
    code = guarded(lambda: __import__("warnings").showwarning(show.message, show.category, "code.py", 7) or 0)
    assert code == 0
    assert capsys.readouterr().err == (
        "warning: waiting for a, b for 60 seconds: does that disk or network folder answer? Ctrl-C ends it\n"
    )
