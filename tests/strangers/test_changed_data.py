"""A run goes on, and is audited, with the data that it was begun with, wherever they lie now; with no other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import acto
from acto.cli import main
from acto.core.errors import UserError
from acto.data.samples import Dataset, Samples
from acto.run_folder.reading import last_checkpoint
from acto.runs import same_data
from acto.runs.events import EpochDone, Event
from acto.runs.same_data import checks_of, digest_of, refuse_foreign_checkpoint

pytestmark = pytest.mark.kind("resume with other data")

OLD = Path(__file__).parents[1] / "old_run"
FLAGS = ["--method", "standard", "--net", "mlp:4", "--epochs", "2", "--batch-size", "16", "--device", "cpu"]
NAMES = np.array(["ash", "birch", "cedar"])


def arrays(*, seed: int = 0) -> dict[str, np.ndarray]:
    x = np.random.RandomState(seed).randn(36, 4).astype(np.float32)
    labels = np.arange(36) % 3
    return {"x": x, "labels": NAMES[labels], "test_x": x[:6] + 1, "test_labels": NAMES[labels[:6]]}


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that was stopped after its last epoch, before its results were written."""

    run: Path
    data: Path
    capsys: pytest.CaptureFixture[str]

    def go_on(self, *flags: str) -> tuple[int, str]:
        code = main(["train", "--resume", str(self.run), "--no-report", *flags])
        return code, self.capsys.readouterr().err

    def refused(self, *flags: str) -> str:
        """The message of a refusal, which writes nothing."""
        before = contents(self.run)
        code, said = self.go_on(*flags)
        assert code == 2, said
        after = contents(self.run)
        assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= {
            "status.json",  # of a checkpoint that is refused, it says so
            "checksums.json",
        }
        return said


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def interrupted(run: Path) -> None:
    (run / "summary.json").unlink()
    status = json.loads((run / "status.json").read_bytes())
    (run / "status.json").write_text(json.dumps({**status, "state": "interrupted"}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    np.savez(folder / "data.npz", **arrays())
    for name in ("run", "other"):
        seed = ["--seed", "1"] if name == "other" else []
        flags = [*FLAGS, *seed, "--no-report", "--data", str(folder / "data.npz")]
        assert main(["train", *flags, "--out", str(folder / name)]) == 0
        interrupted(folder / name)
    shutil.copy(folder / "data.npz", folder / "spare.npz")
    return folder


@pytest.fixture
def begun(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Begun:
    shutil.copy(made / "spare.npz", made / "data.npz")
    shutil.copytree(made / "run", tmp_path / "run")
    capsys.readouterr()
    return Begun(run=tmp_path / "run", data=made / "data.npz", capsys=capsys)


Change = Callable[[dict[str, np.ndarray]], None]


def scaled(data: dict[str, np.ndarray]) -> None:
    data["x"] = data["x"] * 100


def one_value(data: dict[str, np.ndarray]) -> None:
    data["x"] = data["x"].copy()
    data["x"][7, 2] += 1e-3


def reordered(data: dict[str, np.ndarray]) -> None:
    order = np.roll(np.arange(36), 3)  # the pattern of the labels stays
    data["x"], data["labels"] = data["x"][order], data["labels"][order]


def renamed(data: dict[str, np.ndarray]) -> None:
    for name in ("labels", "test_labels"):
        data[name] = np.where(data[name] == "birch", "beech", data[name])


def a_class_more(data: dict[str, np.ndarray]) -> None:
    data["x"], data["labels"] = np.concatenate([data["x"], data["x"][:3]]), np.append(data["labels"], ["elm"] * 3)


def other_test(data: dict[str, np.ndarray]) -> None:
    data["test_x"] = data["test_x"] + 1


def relabelled(data: dict[str, np.ndarray]) -> None:
    data["labels"] = data["labels"].copy()
    data["labels"][5] = "ash"


def fewer(data: dict[str, np.ndarray]) -> None:
    data["x"], data["labels"] = data["x"][:33], data["labels"][:33]


def wider(data: dict[str, np.ndarray]) -> None:
    for name in ("x", "test_x"):
        data[name] = np.column_stack([data[name], data[name][:, :1]])


@pytest.mark.refused
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (scaled, "36 of 36 training samples, the first '0', have another content"),
        (one_value, "1 of 36 training samples, the first '7', have another content"),
        (reordered, "36 of 36 training samples, the first '0', have another content"),
        (renamed, "1 of the classes are gone ('birch'), 1 of the classes are new ('beech')"),
        (a_class_more, "1 of the classes are new ('elm'); 36 samples then, 39 now"),
        (other_test, "6 of 6 test samples, the first '0', have another content"),
        (relabelled, "1 of 36 training samples, the first '5', have other labels"),
        (fewer, "36 samples then, 33 now"),
        (wider, "36 of 36 training samples, the first '0', have another content"),
    ],
)
def test_changed_arrays(begun: Begun, change: Change, words: str) -> None:
    data = arrays()
    change(data)
    np.savez(begun.data, **data)
    said = begun.refused()
    assert words in said and "the data have changed" in said and "--data" in said


@pytest.mark.right
def test_the_same_data_go_on_without_a_word(begun: Begun) -> None:
    code, said = begun.go_on()
    assert code == 0 and "content" not in said and "times" not in said


@pytest.mark.right
def test_moved_data_are_recorded(begun: Begun) -> None:
    moved = begun.run.parent / "moved.npz"
    begun.data.rename(moved)
    assert begun.go_on("--data", str(moved))[0] == 0
    assert acto.read_run(begun.run).config["data"]["source"] == str(moved)
    assert main(["audit", str(begun.run)]) == 0
    assert begun.go_on()[0] == 0


@pytest.mark.right
def test_a_finished_run_learns_where_its_data_are(begun: Begun) -> None:
    assert begun.go_on()[0] == 0
    moved = begun.run.parent / "moved.npz"
    begun.data.rename(moved)
    assert begun.go_on("--data", str(moved))[0] == 0
    assert main(["audit", str(begun.run)]) == 0


@pytest.mark.refused
def test_a_finished_run_does_not_learn_of_other_data(begun: Begun) -> None:
    assert begun.go_on()[0] == 0
    other = begun.run.parent / "other.npz"
    np.savez(other, **arrays(seed=1))
    assert "another content" in begun.refused("--data", str(other))


@pytest.mark.refused
def test_moved_and_changed_data_are_not_recorded(begun: Begun) -> None:
    other = begun.run.parent / "other.npz"
    np.savez(other, **arrays(seed=1))
    assert "another content" in begun.refused("--data", str(other))


@pytest.mark.refused
def test_an_audit_of_changed_data(begun: Begun) -> None:
    assert begun.go_on()[0] == 0
    np.savez(begun.data, **{**arrays(), "x": arrays()["x"] * 2})
    assert main(["audit", str(begun.run)]) == 2
    assert "another content" in begun.capsys.readouterr().err
    with pytest.raises(UserError, match="another content"):
        acto.audit_run(begun.run)


@pytest.mark.refused
def test_the_checkpoints_of_another_run(begun: Begun, made: Path) -> None:
    shutil.rmtree(begun.run / "checkpoints")
    shutil.copytree(made / "other" / "checkpoints", begun.run / "checkpoints")
    said = begun.refused()
    assert "made with other settings" in said and "seed: 1 when it was made, 0 now" in said


@pytest.mark.refused
def test_the_checkpoints_of_a_run_on_other_data(begun: Begun, made: Path, tmp_path: Path) -> None:
    np.savez(begun.data, **arrays(seed=5))
    flags = [*FLAGS, "--no-report", "--data", str(begun.data), "--out", str(tmp_path / "twin")]
    assert main(["train", *flags]) == 0
    shutil.copy(made / "spare.npz", begun.data)
    shutil.rmtree(begun.run / "checkpoints")
    shutil.copytree(tmp_path / "twin" / "checkpoints", begun.run / "checkpoints")
    assert "made on other data" in begun.refused()


@pytest.mark.refused
@pytest.mark.parametrize(("old", "new"), [("lr: ", "lr: 0.7 #"), ("batch_size: 16", "batch_size: 8")])
def test_settings_edited_by_hand(begun: Begun, old: str, new: str) -> None:
    config = begun.run / "config.yaml"
    config.write_text(config.read_text().replace(old, new, 1))
    said = begun.refused()
    key = old.partition(":")[0]
    assert key in said and "when it was made" in said and "config.yaml" in said


@pytest.mark.right
def test_where_a_run_works_may_be_edited_by_hand(begun: Begun) -> None:
    config = begun.run / "config.yaml"
    config.write_text(config.read_text().replace("workers: 2", "workers: 0"))
    assert begun.go_on()[0] == 0


@pytest.mark.right
@pytest.mark.parametrize("place", ["device", "step", "workers", "data.root", "data.source", "data.cache"])
def test_a_checkpoint_from_another_place(begun: Begun, place: str) -> None:
    checkpoint = last_checkpoint(begun.run)
    assert checkpoint is not None and checkpoint.run is not None
    config = json.loads(json.dumps(checkpoint.run["config"]))
    (config["data"] if "." in place else config)[place.rpartition(".")[2]] = "elsewhere"
    refuse_foreign_checkpoint(checkpoint, config=config, digest=checkpoint.run["data"], folder=begun.run)


@pytest.mark.refused
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method", "gce"], "method"),
        (["--epochs", "3"], "protocol.epochs: 2 there, 3 now"),
        (["--net", "mlp:5"], "net: 'mlp:4' there, 'mlp:5' now"),
        (["--lr", "0.5"], "protocol.plan.lr"),
        (["--seed", "3"], "seed: 0 there, 3 now"),
        (["--noise", "symmetric", "--noise-rate", "0.2"], "data.noise.kind"),
    ],
)
def test_other_settings_on_the_command_line(begun: Begun, flags: list[str], words: str) -> None:
    assert words in begun.refused(*flags)


@pytest.mark.right
def test_a_run_without_checksums_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "interrupted", "--no-report"]) == 0
    assert capsys.readouterr().err.count("content cannot be compared") == 1
    assert (tmp_path / "interrupted" / "data_checks.npy").is_file()


@pytest.mark.refused
def test_without_checksums_the_labels_are_compared(begun: Begun) -> None:
    (begun.run / "data_checks.npy").unlink()
    data = arrays()
    relabelled(data)
    np.savez(begun.data, **data)
    assert "1 of 36 training samples, the first '5', have other labels" in begun.refused()


@pytest.mark.refused
def test_damaged_checksums(begun: Begun) -> None:
    np.save(begun.run / "data_checks.npy", np.zeros(42))
    code, said = begun.go_on()
    assert code == 1 and "data_checks.npy is damaged: it holds float64 of shape (42,)" in said


# acto.fit


class Stop:
    """Ends a run after its first epoch, as Ctrl-C does."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochDone):
            raise KeyboardInterrupt


def fit(x: np.ndarray, out: Path, **settings: object) -> acto.Fitted:
    fixed = {"net": "mlp:4", "method": "standard", "epochs": 2, "batch_size": 16, "device": "cpu"}
    return acto.fit(x, arrays()["labels"], out=out, **fixed, **settings)


@pytest.mark.refused
def test_fit_goes_on_with_the_same_data_only(tmp_path: Path) -> None:
    x = arrays()["x"]
    with pytest.raises(KeyboardInterrupt):
        fit(x, tmp_path / "run", report=Stop())
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="another content"):
        fit(x + 1, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before
    assert fit(x, tmp_path / "run", resume=True).summary["epochs"] == 2


@pytest.mark.refused
def test_a_report_on_other_data(tmp_path: Path) -> None:
    fitted = fit(arrays()["x"], tmp_path / "run")
    held: Dataset = fitted.dataset
    assert held.train.features is not None
    held.train.features[0] += 1
    with pytest.raises(UserError, match=r"1 of .* another content"):
        acto.audit_run(tmp_path / "run", dataset=held)


def part(samples: Samples, *rows: int, **others: object) -> Samples:
    """These rows of features, with other facts in the place of theirs."""
    assert samples.features is not None
    chosen = np.array(rows)
    ids = tuple(samples.ids[row] for row in rows)
    return replace(
        samples, ids=ids, labels=samples.labels[chosen], features=samples.features[chosen], true_labels=None, **others
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> acto.Fitted:
    return fit(arrays()["x"], tmp_path_factory.mktemp("fitted") / "run")


@pytest.mark.refused
def test_other_ids_order_and_classes(fitted: acto.Fitted) -> None:
    data: Dataset = fitted.dataset
    train, test = data.train, data.test
    rows = list(range(len(train)))
    others: dict[str, Dataset] = {
        f"1 of {len(train)} training samples, the first 'x', have other ids": replace(
            data, train=replace(train, ids=("x", *train.ids[1:]))
        ),
        "have another place in the order": replace(data, train=part(train, 1, 0, *rows[2:])),
        "the order of the classes": replace(data, class_names=data.class_names[::-1]),
        f"there were {len(test)} test samples, now {len(test) - 1}": replace(
            data, test=part(test, *range(len(test) - 1))
        ),
    }
    for words, other in others.items():
        with pytest.raises(UserError, match=words):
            acto.audit_run(fitted.folder, dataset=other)


@pytest.mark.refused
def test_a_digest_of_everything(fitted: acto.Fitted) -> None:
    """A checkpoint holds one number for all that the table of checksums says of each sample."""
    names, checks = fitted.dataset.class_names, checks_of(fitted.dataset)
    digest = digest_of(checks, names)
    assert digest_of(checks, names[::-1]) != digest
    for name, matters in (("id", True), ("label", True), ("content", True), ("time", False)):
        other = checks.copy()
        other[name][3] += 1
        assert (digest_of(other, names) != digest) == matters, name


@pytest.mark.refused
def test_a_shape_counts_as_content(fitted: acto.Fitted) -> None:
    samples = fitted.dataset.train
    whole = np.arange(96, dtype=np.uint8)
    tall, wide = (replace(samples, ids=("a",), labels=samples.labels[:1], features=None, true_labels=None,
                          pixels=whole.reshape(1, *shape, 3)) for shape in ((8, 4), (4, 8)))  # fmt: skip
    first, second = (checks_of(replace(fitted.dataset, train=each))["content"][0] for each in (tall, wide))
    assert first != second


# Picture files


def pictures(folder: Path) -> Path:
    for k, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.RandomState(10 * k + i).randint(0, 256, (70 + i, 80, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.bmp")
    return folder


@pytest.fixture(scope="module")
def with_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    flags = [*FLAGS[:2], "--net", "cnn_small", "--epochs", "1", *FLAGS[6:], "--data.size", "16", "--workers", "0"]
    data = pictures(folder / "pictures")
    assert main(["train", *flags, "--no-report", "--data", str(data), "--out", str(folder / "run")]) == 0
    interrupted(folder / "run")
    return folder


@pytest.fixture
def files(with_pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Begun:
    shutil.copytree(with_pictures, tmp_path / "copy")
    config = tmp_path / "copy" / "run" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["data"]["source"] = str(tmp_path / "copy" / "pictures")
    config.write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    return Begun(run=tmp_path / "copy" / "run", data=tmp_path / "copy" / "pictures", capsys=capsys)


@pytest.mark.refused
@pytest.mark.parametrize("name", ["0.bmp", "5.bmp"])
def test_a_picture_replaced_by_another_of_its_size(files: Begun, name: str) -> None:
    path = files.data / "birch" / name
    bytes_before = path.read_bytes()
    path.write_bytes(bytes_before[:-9] + bytes(9))
    said = files.refused()
    assert "1 of" in said and f"birch/{name}" in said and "another content" in said


@pytest.mark.refused
def test_pictures_are_looked_at_here_and_there(files: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many files some, spread over all of them; of each its size, its beginning and its end."""
    paths = sorted(files.data.rglob("*.bmp"))
    assert same_data.MOST_FILES >= 500 and same_data.ENDS >= 4096
    monkeypatch.setattr(same_data, "MOST_FILES", 3)
    monkeypatch.setattr(same_data, "ENDS", 100)

    def seen(path: Path, at: int, *, longer: int = 0) -> bool:
        """Whether another byte at this place is noticed."""
        before, _ = same_data._of_files(tuple(paths))
        content = path.read_bytes()
        changed = bytearray(content + bytes(longer))
        changed[at] ^= 1
        path.write_bytes(changed)
        after, _ = same_data._of_files(tuple(paths))
        path.write_bytes(content)
        return before != after

    assert [seen(paths[place], 60) for place in (0, 1, 8, 16, 17)] == [True, False, True, False, True]
    assert seen(paths[17], -3) and not seen(paths[17], 5000) and seen(paths[1], 5000, longer=1)


@pytest.mark.refused
def test_a_picture_that_is_gone(files: Begun) -> None:
    with pytest.raises(UserError, match=r"cannot read .*gone\.bmp: No such file"):
        same_data._of_files((files.data / "gone.bmp",))


@pytest.mark.right
def test_copied_pictures_have_other_times(files: Begun) -> None:
    for path in files.data.rglob("*.bmp"):
        os.utime(path, (1, 1))
    code, said = files.go_on()
    assert code == 0 and "the times of 18 picture files are others" in said


@pytest.mark.right
def test_moved_pictures(files: Begun) -> None:
    files.data.rename(files.run.parent / "elsewhere")
    code, said = files.go_on("--data", str(files.run.parent / "elsewhere"))
    assert code == 0 and "times" not in said
    assert main(["audit", str(files.run)]) == 0
