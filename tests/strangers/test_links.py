"""Links, pipes and second names of files in folders that may be a stranger's: nothing outside of them is touched."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from acto.cli import main
from acto.compare import sweep_launchers
from acto.compare.sweep_launchers import LocalLauncher, Place, SlurmTask
from acto.core import files
from acto.core.errors import RunError, UserError
from acto.core.files import append, open_regular, remove, write_atomically
from acto.core.locks import FolderLock, is_locked
from acto.data.pictures.shrink import ShrinkSpec, shrink
from acto.labels.decisions import DecisionLog
from acto.run_folder.reading import checksum_report, last_checkpoint, read_run
from acto.run_folder.writing import RunFolder
from acto.runs.frozen.feature_file import DRAFT, FeatureFile, folder_of
from label_reports import small
from strangers.pipe_files import pipe
from trained_runs import finished_run

pytestmark = pytest.mark.kind("links in run folders")

OLD_RUNS = Path(__file__).parents[1] / "old_run"
CONFIG = {"method": "standard", "data": {"source": "gone.npz"}}
TEXT = "precious\n" * 5


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file beside the run that keeps its text."""
    path = tmp_path / "victim.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a row of metrics, a checkpoint, samples and a label report."""
    with RunFolder.create(tmp_path / "run", config=CONFIG) as folder:
        folder.add_session(versions={}, device="cpu", argv=["acto"])
        folder.add_metrics(0, {"loss": 1.0})
        folder.save_samples({"id": ["a", "b"]})
        folder.save_probs(np.ones((2, 2)))
        folder.save_labels(np.array([0, 1]), facts={})
        folder.save_checkpoint(0, {"training.pt": b"x"})
        folder.set_status("interrupted", epoch=0)
        small().save(folder.path)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """A pipe that is waited for fails the test, instead of keeping it for ever."""

    def give_up(*of_signal: object) -> None:
        pytest.fail("a pipe is waited for")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def point(path: Path, *, to: Path, hard: bool = False) -> None:
    path.unlink(missing_ok=True)
    if hard:
        path.hardlink_to(to)
    else:
        path.symlink_to(os.path.relpath(to, path.parent))


# Locks.


@pytest.mark.refused
@pytest.mark.parametrize("hard", [False, True], ids=["link", "second name"])
@pytest.mark.parametrize(
    ("command", "lock"), [("train --resume", ".acto-run"), ("review --no-browser", ".acto-review")]
)
def test_a_lock_that_leads_elsewhere(
    command: str, lock: str, hard: bool, tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(OLD_RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    point(Path("interrupted", lock), to=victim, hard=hard)
    if "review" in command:
        small().save("interrupted")
    assert main([*command.split(), "interrupted"]) == 2
    assert (
        f"error: interrupted/{lock} is a {'file that has another name' if hard else 'link'}" in capsys.readouterr().err
    )
    assert victim.read_text() == TEXT


@pytest.mark.refused
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path)])
def test_a_lock_that_is_no_file(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")
    with pytest.raises(UserError, match=r"lock is (no file|a link), and a lock"):
        FolderLock(tmp_path / "lock")
    assert not (tmp_path / "nowhere").exists()


# Drafts.


@pytest.mark.right
@pytest.mark.parametrize("hard", [False, True], ids=["link", "second name"])
@pytest.mark.parametrize("name", ["status.json", "metrics.csv", "samples.csv", "checksums.json", "config.yaml"])
def test_a_draft_that_leads_elsewhere(name: str, hard: bool, run: Path, victim: Path) -> None:
    with RunFolder.open(run) as folder:
        # While the run goes on: what lay there before is cleared away when it begins.
        for draft in (name, "samples.json"):
            point(run / f".{draft}.draft", to=victim, hard=hard)
        folder.add_metrics(1, {"loss": 1.0, "new": 2.0})
        folder.save_samples({"id": ["a", "b", "c"]})
        folder.set_status("finished", epoch=1)
        folder.write_config(CONFIG)
    assert victim.read_text() == TEXT and not list(run.glob(".*.draft"))
    assert read_run(run).samples()["id"] == ["a", "b", "c"] and [row["epoch"] for row in read_run(run).metrics] == [
        0,
        1,
    ]


@pytest.mark.right
def test_a_draft_of_the_label_report(run: Path, victim: Path) -> None:
    before = (run / "label_report.csv").read_bytes()
    point(run / ".label_report.csv.draft", to=victim)
    os.mkfifo(run / ".label_report.json.draft")
    small().save(run)
    assert victim.read_text() == TEXT and (run / "label_report.csv").read_bytes() == before


@pytest.mark.refused
def test_a_draft_that_is_a_folder(run: Path) -> None:
    with RunFolder.open(run) as folder:
        (run / ".status.json.draft" / "inner").mkdir(parents=True)
        with pytest.raises(RunError, match=r"cannot write .*status\.json"):
            folder.set_status("finished")
    assert read_run(run).status["state"] == "interrupted" and (run / ".status.json.draft" / "inner").is_dir()


@pytest.mark.refused
def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.right
def test_what_cannot_be_deleted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "permission denied", str(path))

    (tmp_path / "file").touch()
    monkeypatch.setattr(Path, "unlink", refuse)
    remove(tmp_path / "file")
    assert (tmp_path / "file").exists()


@pytest.mark.right
def test_drafts_that_lay_there_before(run: Path, tmp_path: Path, victim: Path) -> None:
    """Cleared away when the run goes on, be they folders; of a link, the link."""
    (run / ".status.json.draft" / "inner").mkdir(parents=True)
    (run / ".env.json.draft").write_text("half")
    point(run / ".metrics.csv.draft", to=victim)
    point(run / ".summary.json.draft", to=tmp_path / "nowhere")
    with RunFolder.open(run) as folder:
        assert not list(run.glob(".*.draft"))
        folder.set_status("finished")
    assert read_run(run).status["state"] == "finished" and victim.read_text() == TEXT


@pytest.mark.right
def test_a_file_that_is_replaced_is_no_longer_a_link(run: Path, victim: Path) -> None:
    for name in ("summary.json", "metrics.csv"):
        point(run / name, to=victim)
    victim.write_text("epoch,loss\n0,1.0\n")
    with RunFolder.open(run) as folder:
        folder.save_summary({"accuracy": 1})
        folder.truncate_after(0)
        folder.add_metrics(1, {"loss": 2.0})
    assert victim.read_text() == "epoch,loss\n0,1.0\n"
    assert not (run / "metrics.csv").is_symlink() and not (run / "summary.json").is_symlink()


# Files that grow.


@pytest.mark.refused
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_nothing_is_appended_to_what_is_no_file(kind: str, tmp_path: Path, victim: Path) -> None:
    path = tmp_path / "grows.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        point(path, to=victim if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(OSError):
        append(path, b"more\n")
    assert victim.read_text() == TEXT and not (tmp_path / "nowhere").exists()


@pytest.mark.refused
def test_what_is_no_file_is_closed_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    free = os.dup(0)  # the lowest free number
    os.close(free)
    with pytest.raises(OSError):
        open_regular(tmp_path / "pipe", os.O_RDONLY)
    again = os.dup(0)
    os.close(again)
    assert again == free


@pytest.mark.refused
def test_a_link_where_the_system_cannot_refuse_it(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where no flag of open() does."""
    monkeypatch.setattr(files, "_NO_LINK", 0)
    point(tmp_path / "grows.csv", to=victim)
    with pytest.raises(OSError) as refusal:
        append(tmp_path / "grows.csv", b"more\n")
    assert refusal.value.errno == errno.ELOOP and victim.read_text() == TEXT


@pytest.mark.right
def test_a_file_that_grows_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take fewer bytes at once than it is given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda number, data: write(number, data[:3]))
    for _ in range(2):
        append(tmp_path / "grows.csv", b"more and more\n")
    assert (tmp_path / "grows.csv").read_bytes() == b"more and more\n" * 2


@pytest.mark.right
def test_a_file_with_a_second_name_grows_alone(tmp_path: Path, victim: Path) -> None:
    """As in a copy that `cp -al` made."""
    path = tmp_path / "grows.csv"
    point(path, to=victim, hard=True)
    append(path, b"more\n")
    append(path, b"and more\n")
    assert victim.read_text() == TEXT and path.read_text() == f"{TEXT}more\nand more\n"


@pytest.mark.refused
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_decisions_that_lead_elsewhere(
    kind: str, run: Path, victim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "decisions.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        point(path, to=victim if kind == "link" else tmp_path / "made-outside.txt")
    assert main(["review", str(run), "--no-browser"]) == 1
    assert "decisions.csv: it is " in capsys.readouterr().err
    assert victim.read_text() == TEXT and not (tmp_path / "made-outside.txt").exists()
    path.unlink()
    DecisionLog(run, small()).close()  # the lock was let go of


@pytest.mark.refused
def test_the_log_of_a_sweep_that_leads_elsewhere(tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_launchers.subprocess, "Popen", lambda *words, **named: pytest.fail("it was started"))
    place = Place(out=tmp_path, name="one")
    place.log.parent.mkdir()
    point(place.log, to=victim)
    with pytest.raises(RunError, match=r"one\.log: it is a link"):
        LocalLauncher(1).start(SimpleNamespace(flags=()), place)  # type: ignore[arg-type]
    monkeypatch.setattr(sweep_launchers.subprocess, "call", lambda *words, **named: pytest.fail("it was started"))
    with pytest.raises(OSError):
        SlurmTask(place, ())()
    assert victim.read_text() == TEXT


# Checkpoints.


@pytest.mark.refused
def test_checkpoints_that_are_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(OLD_RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    elsewhere = Path("interrupted/checkpoints").rename("elsewhere")
    for name in (".old-precious", ".old-000001-epoch0", ".draft-000009"):
        (elsewhere / name).mkdir()
        (elsewhere / name / "a").write_text(TEXT)
    point(Path("interrupted/checkpoints"), to=elsewhere)
    before = sorted(elsewhere.rglob("*"))
    files = [Path("interrupted", name) for name in ("config.yaml", "metrics.csv", "status.json")]
    contents = [file.read_bytes() for file in files]
    assert main(["train", "--resume", "interrupted"]) == 2
    assert "checkpoints is a link, and checkpoints are neither saved nor deleted through one" in capsys.readouterr().err
    assert sorted(elsewhere.rglob("*")) == before and [file.read_bytes() for file in files] == contents


@pytest.mark.refused
def test_checkpoints_that_become_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / ".old-000001-epoch0").mkdir(parents=True)
    with RunFolder.open(run) as folder:
        shutil.rmtree(run / "checkpoints")
        point(run / "checkpoints", to=tmp_path / "elsewhere")
        with pytest.raises(UserError, match="checkpoints is a link"):
            folder.save_checkpoint(1, {"training.pt": b"y"})
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [".old-000001-epoch0"]


@pytest.mark.right
def test_leftovers_among_checkpoints(run: Path, tmp_path: Path, victim: Path) -> None:
    """Of its own, only: and of a link, the link."""
    outside = tmp_path / "elsewhere"
    (outside / "inner").mkdir(parents=True)
    checkpoints = run / "checkpoints"
    for name in (".old-precious", ".draft-of-a-letter", ".old-000001-epoch0"):
        (checkpoints / name).mkdir()
    (checkpoints / ".old-000001-epoch0" / "deep").symlink_to(outside)
    (checkpoints / ".old-000002-epoch1").symlink_to(outside)
    (checkpoints / ".draft-000002").hardlink_to(victim)
    with RunFolder.open(run) as folder:
        folder.save_checkpoint(1, {"training.pt": b"y"})
    assert (outside / "inner").is_dir() and victim.read_text() == TEXT
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        ".draft-of-a-letter", ".old-precious", "000001-epoch0", "000002-epoch1",
    ]  # fmt: skip


@pytest.mark.right
def test_an_older_checkpoint_that_is_a_link(run: Path, tmp_path: Path) -> None:
    elsewhere = (run / "checkpoints" / "000001-epoch0").rename(tmp_path / "elsewhere")
    (run / "checkpoints" / "000001-epoch0").symlink_to(elsewhere)
    with RunFolder.open(run) as folder:
        for epoch in (1, 2):
            folder.save_checkpoint(epoch, {"training.pt": b"y"})
    assert sorted(path.name for path in elsewhere.iterdir()) == ["manifest.json", "training.pt"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000002-epoch1", "000003-epoch2"]


@pytest.mark.right
def test_a_run_that_is_thrown_away(run: Path, tmp_path: Path, victim: Path) -> None:
    (tmp_path / "elsewhere" / "inner").mkdir(parents=True)
    (run / "folder").symlink_to(tmp_path / "elsewhere")
    (run / "file").symlink_to(victim)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    RunFolder.create(run, config={}, overwrite=True).close()
    assert (tmp_path / "elsewhere" / "inner").is_dir() and victim.read_text() == TEXT
    assert not (run / "checkpoints").is_symlink()


@pytest.mark.right
def test_a_run_folder_that_is_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "runs")
    (tmp_path / "disk" / "one").mkdir()
    (tmp_path / "runs" / "two").symlink_to(tmp_path / "disk" / "one")
    for path in (tmp_path / "runs" / "one", tmp_path / "runs" / "two"):
        with RunFolder.create(path, config={}) as folder:
            folder.add_metrics(0, {"loss": 1.0})
            folder.save_checkpoint(0, {"training.pt": b"x"})
        with RunFolder.open(path) as folder:
            folder.add_metrics(1, {"loss": 1.0})
            folder.save_checkpoint(1, {"training.pt": b"y"})
        found = last_checkpoint(path)
        assert found is not None and found.read("training.pt") == b"y" and len(read_run(path).metrics) == 2


# Pipes.


@pytest.mark.refused
@pytest.mark.parametrize(
    "name", ["status.json", "config.yaml", "metrics.csv", "env.json", "samples.csv", "pred_probs.npy"]
)
def test_a_pipe_in_a_files_place(name: str, run: Path) -> None:
    (run / name).unlink()
    with (
        pipe(run / name),
        pytest.raises((RunError, UserError), match=rf"{name}.*no file, but a folder, a pipe|{name}.*No such d"),
    ):
        record = read_run(run)
        record.samples()
        record.pred_probs()


@pytest.mark.refused
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("calibration.json", "predict run new.npy"),
        ("net1.safetensors", "predict run new.npy"),
        ("label_report.csv", "review run --no-browser"),
        ("labels.json", "doctor run"),
    ],
)
def test_a_pipe_in_a_finished_run(
    name: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path / "run", "mlp:4", (2,), headline=(0.5, 0.5))
    small().save("run")
    np.save("new.npy", np.zeros((3, 2)))
    Path("run", name).unlink(missing_ok=True)
    with pipe(Path("run", name)):
        assert main(command.split()) in (1, 2)
    output = "".join(capsys.readouterr())
    assert name in output and "Traceback" not in output


@pytest.mark.refused
def test_a_pipe_in_a_manifests_place(run: Path) -> None:
    manifest = run / "checkpoints" / "000001-epoch0" / "manifest.json"
    manifest.unlink()
    with pipe(manifest):
        assert [check.state for check in checksum_report(run) if "epoch0" in check.name] == ["damaged"]
        with pytest.raises(RunError, match=r"no checkpoint in .* is usable"):
            last_checkpoint(run)


# Smaller copies, features.


@pytest.mark.refused
@pytest.mark.parametrize("kind", ["folder", "draft", "settings", "lock"])
def test_links_in_an_unfinished_smaller_copy(kind: str, tmp_path: Path, victim: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "a").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(photos / "a" / "x.png")
    (photos / "a" / "y.png").touch()
    with pytest.raises(UserError, match=r"y\.png cannot be used"):
        shrink(photos, out, ShrinkSpec(short=8))
    (out / "a" / "x.png").unlink()
    if kind == "folder":
        (tmp_path / "elsewhere").mkdir()
        (out / "a").rmdir()
        point(out / "a", to=tmp_path / "elsewhere")
    else:
        names = {"draft": "a/.shrinking-0.draft", "settings": ".shrinking.json", "lock": ".shrinking"}
        if kind == "settings":
            victim.write_bytes((out / names[kind]).read_bytes())
        point(out / names[kind], to=victim)
    text = victim.read_text()
    said = {"folder": "is reached through a link", "lock": "a link, and a lock follows none"}.get(kind, "y.png")
    with pytest.raises(UserError, match=said):
        shrink(photos, out, ShrinkSpec(short=8))
    assert victim.read_text() == text and not list(tmp_path.glob("elsewhere/*"))


def feature_file(out: Path) -> FeatureFile:
    return FeatureFile(out, shapes={"x": (4, 2)}, dtype="float32", config={})


@pytest.mark.refused
@pytest.mark.parametrize("name", ["", "x.npy"])
def test_features_that_lead_elsewhere(name: str, tmp_path: Path, victim: Path) -> None:
    out = tmp_path / "features.npz"
    if name:
        with feature_file(out) as file:
            file.add("x", np.ones((2, 2), np.float32))
        victim.write_text(TEXT * 20)
        point(folder_of(out) / name, to=victim)
    else:
        (tmp_path / "elsewhere").mkdir()
        point(folder_of(out), to=tmp_path / "elsewhere")
    with pytest.raises((UserError, RunError), match="it is a link" if name else "is a link, and rows"):
        feature_file(out)
    assert victim.read_text() in (TEXT, TEXT * 20) and not list(tmp_path.glob("elsewhere/*"))


@pytest.mark.right
def test_the_draft_of_a_file_of_features(tmp_path: Path, victim: Path) -> None:
    out = tmp_path / "features.npz"
    with feature_file(out) as file:
        file.add("x", np.ones((4, 2), np.float32))
        point(folder_of(out) / DRAFT, to=victim)
        file.finish({})
    assert victim.read_text() == TEXT and np.load(out)["x"].shape == (4, 2)


@pytest.mark.right
def test_what_the_user_names_may_be_a_link(tmp_path: Path, victim: Path) -> None:
    """It is replaced, as it always was."""
    point(tmp_path / "out.csv", to=victim)
    write_atomically(tmp_path / "out.csv", b"new")
    assert victim.read_text() == TEXT and (tmp_path / "out.csv").read_bytes() == b"new"
