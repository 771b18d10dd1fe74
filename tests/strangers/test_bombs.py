"""Small files that unpack to gigabytes, texts that fill memory, and what is no file but is given as one."""

from __future__ import annotations

import io
import os
import pickle
import socket
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import acto
from acto.cli import main
from acto.core import files
from acto.core.errors import RunError, UserError
from acto.data.readers.label_files import read_human_labels, read_label_file
from acto.data.readers.parquet import read_parquet
from acto.labels.decisions import read_decisions
from acto.nets.weights import read_state
from acto.run_folder.reading import load_array

pytestmark = pytest.mark.kind("bombs")
MB = 2**20


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """Load what the commands need, which is not counted."""
    main(["data", "check", "nowhere.csv"])


@contextmanager
def little_memory(most: int = 64 * MB) -> Iterator[None]:
    """Python and numpy set aside no more than `most` bytes inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def pictures(count: int) -> list[str]:
    return [f"{i}.png" for i in range(count)]


def one_text(count: int, length: int = MB) -> object:
    """A column of `count` rows with one text, which a Parquet file holds once."""
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(np.zeros(count, np.int32)), ["x" * length])


def write(path: Path, columns: dict[str, object], **options: object) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, compression="zstd", **options)
    return path


@contextmanager
def little_arrow(most: int = 300 * MB) -> Iterator[None]:
    """Arrow sets aside no more than `most` bytes inside."""
    pyarrow = pytest.importorskip("pyarrow")
    before = pyarrow.default_memory_pool()
    watched = pyarrow.proxy_memory_pool(before)
    pyarrow.set_memory_pool(watched)
    try:
        yield
        assert watched.max_memory() < most
    finally:
        pyarrow.set_memory_pool(before)


@pytest.mark.refused
@pytest.mark.parametrize("column", ["label", "split", "true_label"])
def test_a_dictionary_of_one_long_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str) -> None:
    rows = 20_000
    columns = {"path": pictures(rows), "label": ["ant", "bee"] * (rows // 2)} | {column: one_text(rows)}
    path = write(tmp_path / "list.parquet", columns)
    assert path.stat().st_size < 100_000
    # The text itself takes 41 MB, what is imported on the way up to 12; unpacked it would be 1.1 GB.
    with little_memory(128 * MB), little_arrow():
        assert main(["data", "check", str(path)]) == 2
    said = capsys.readouterr().out
    assert f"{path} has {path.stat().st_size} bytes and would unpack to" in said and "a bomb" in said


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What unpacks to over 8 MB is suspected, so that files are made in a moment."""
    monkeypatch.setattr(files, "_UNSUSPECTED_BYTES", 8 * MB)


@pytest.mark.refused
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.usefixtures("small_limit")
def test_structures_of_one_picture(tmp_path: Path, dictionary: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pictures = one_text(30) if dictionary else pyarrow.array([bytes(MB)] * 30)
    column = pyarrow.StructArray.from_arrays([pictures], ["bytes"])
    path = write(tmp_path / "train.parquet", {"img": column, "label": np.arange(30) % 10})
    with little_memory(), little_arrow(16 * MB), pytest.raises(UserError, match=r"train\.parquet has .* unpack to"):
        read_parquet(path, ("img", "label"))


@pytest.mark.refused
@pytest.mark.usefixtures("small_limit")
def test_lists_of_one_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.ListArray.from_arrays(np.arange(0, 41, 4), one_text(40))
    path = write(tmp_path / "list.parquet", {"path": pictures(10), "label": column})
    with little_memory(), little_arrow(16 * MB), pytest.raises(UserError, match=r"list\.parquet has .* unpack to"):
        read_parquet(path, ("path", "label"))


@pytest.mark.refused
@pytest.mark.parametrize("inside", ["structure", "list", "large list"])
@pytest.mark.usefixtures("small_limit")
def test_one_text_of_many_rows_inside(tmp_path: Path, inside: str) -> None:
    """Each batch of rows has the text once, and is small; written out, it is as large as all rows together."""
    pyarrow = pytest.importorskip("pyarrow")
    rows, texts = 600, one_text(600, 50_000)
    if inside == "structure":
        column = pyarrow.StructArray.from_arrays([texts], ["bytes"])
    else:
        kind = pyarrow.ListArray if inside == "list" else pyarrow.LargeListArray
        column = kind.from_arrays(np.arange(rows + 1), texts)
    path = write(tmp_path / "list.parquet", {"path": pictures(rows), "label": column})
    with little_memory(), little_arrow(16 * MB), pytest.raises(UserError, match=r"list\.parquet has .* unpack to"):
        read_parquet(path, ("path", "label"))


@pytest.mark.right
@pytest.mark.usefixtures("small_limit")
def test_a_column_without_values_takes_nothing(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    nothing = pyarrow.array([None] * 600, pyarrow.string())
    columns = {"path": pictures(600), "label": one_text(600, 10_000), "split": nothing}
    read = read_parquet(write(tmp_path / "list.parquet", columns), ("path", "label"), optional=("split",))
    assert read["split"] == [None] * 600 and read["label"] == ["x" * 10_000] * 600


@pytest.mark.refused
def test_the_bounds_of_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_UNSUSPECTED_BYTES", 1000)
    for unpacked, packed in ((1000, 1), (2000, 20)):
        files.check_bomb("file", unpacked=unpacked, packed=packed)
        with pytest.raises(UserError, match=rf"file has {packed} bytes and would unpack to {unpacked + 1}: "):
            files.check_bomb("file", unpacked=unpacked + 1, packed=packed)
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        for name in "abc":
            archive.writestr(name, bytes(500))
        with pytest.raises(UserError, match="would unpack to 1500"):
            files.check_zip(archive, "file", packed=1)


@pytest.mark.refused
@pytest.mark.usefixtures("small_limit")
def test_texts_that_share_their_beginnings(tmp_path: Path) -> None:
    texts = ["x" * MB + str(i % 2) for i in range(30)]
    delta = {"label": "DELTA_BYTE_ARRAY"}
    path = write(
        tmp_path / "list.parquet", {"path": pictures(30), "label": texts}, use_dictionary=False, column_encoding=delta
    )
    with little_memory(), little_arrow(16 * MB), pytest.raises(UserError, match=r"list\.parquet has .* unpack to"):
        read_parquet(path, ("path", "label"))


@pytest.mark.refused
@pytest.mark.usefixtures("small_limit")
def test_pages_that_unpack_a_thousandfold(tmp_path: Path) -> None:
    texts = ["x" * MB + str(i % 2) for i in range(30)]
    path = write(tmp_path / "list.parquet", {"path": pictures(30), "label": texts}, use_dictionary=False)
    with little_memory(), little_arrow(16 * MB), pytest.raises(UserError, match=r"list\.parquet has .* unpack to"):
        read_parquet(path, ("path", "label"))


@pytest.mark.refused
def test_lists_of_many_values(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    column = pyarrow.ListArray.from_arrays(np.arange(0, 10**7 + 1, 10**5), np.zeros(10**7, np.int8))
    path = write(tmp_path / "list.parquet", {"path": pictures(100), "label": column})
    with little_memory(), little_arrow(), pytest.raises(UserError, match="claims 10000000 rows or values"):
        read_parquet(path, ("path", "label"))


@pytest.mark.right
def test_long_tables_of_ordinary_names(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    rows = 50_000
    labels = pyarrow.array([None if i % 1000 == 7 else f"class {i % 300}" for i in range(rows)])
    columns = {"path": pictures(rows), "label": labels.dictionary_encode(), "n": np.arange(rows)}
    path = write(tmp_path / "list.parquet", columns | {"s": pyarrow.array([{"bytes": b"a"}] * rows)})
    read = read_parquet(path, ("path", "label", "n"), optional=("s",))
    assert read["path"] == pictures(rows) and read["label"] == labels.to_pylist() and read["s"][-1] == {"bytes": b"a"}
    assert read["n"] == list(range(rows))


def claiming_archive(size: int) -> bytes:
    """What torch.save writes, deflated; its list of contents claims `size` bytes for one of the files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/version", "3\n")
        archive.infolist()[0].file_size = size
    return buffer.getvalue()


@pytest.fixture
def features(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.savez(tmp_path / "f.npz", x=x, y=np.arange(30) % 3)
    return tmp_path / "f.npz"


def train(features: Path, *more: str) -> list[str]:
    out = str(features.parent / "run")
    return ["train", "--data", str(features), "--method", "standard", "--epochs", "1", "--out", out, *more]


@pytest.mark.refused
def test_a_deflated_checkpoint(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bomb.pth").write_bytes(claiming_archive(3 * 2**30))
    assert main(train(features, "--weights", str(tmp_path / "bomb.pth"))) == 2
    said = capsys.readouterr().err
    assert "bomb.pth' has" in said and "would unpack to 32" in said and not (tmp_path / "run").exists()


@pytest.mark.refused
def test_a_deflated_state_in_a_run() -> None:
    with pytest.raises(RunError, match=r"training\.pt has .* bytes and would unpack to"):
        read_state(claiming_archive(3 * 2**30), "training.pt")


@pytest.mark.refused
def test_an_archive_in_the_place_of_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "pred_probs.npy")
    with pytest.raises(RunError, match=r"pred_probs\.npy is damaged: it is an archive"):
        load_array(tmp_path / "pred_probs.npy")


@pytest.mark.refused
def test_one_long_text_many_times_in_a_pickle(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "CIFAR-10_human.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"worse_label": ["x" * MB] * 1000}, protocol=2))
    with little_memory(), pytest.raises(UserError, match=r"worse_label must hold 1000 whole numbers"):
        read_human_labels(
            tmp_path / "CIFAR-10_human.pt",
            name="worse_label",
            class_names=tuple("abcdefghij"),
            true_labels=np.zeros(1000, np.int64),
        )


@pytest.mark.refused
def test_one_long_label_among_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(2000)]
    rows[7] = f"7.png,{'c' * 100_000}"
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    with little_memory():
        assert main(["data", "check", str(tmp_path / "list.csv")]) == 2
    assert "a label has 100,000 characters, and may have 1,000: " in (said := capsys.readouterr().out)
    assert "list.csv row 9" in said and len(max(said.split("\n"), key=len)) < 500
    with little_memory(), pytest.raises(UserError, match=r"100,000 characters.*row 3"):
        acto.audit(["a", "b", "a", "c" * 100_000] * 500, np.full((2000, 2), 0.5), class_names=["a", "b"])


@pytest.mark.right
def test_a_label_of_a_thousand_characters() -> None:
    names = ["a" * 1000, "b"]
    report = acto.audit([names[0], "b"], [[0.9, 0.1], [0.2, 0.8]], class_names=names)
    assert report.columns["given_label"] == names


@pytest.mark.refused
def test_a_sparse_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,label\na.png,ant\n")
    os.truncate(path, 2**36)
    with little_memory():
        assert main(["data", "check", str(path)]) == 2
    assert f"{path} holds a NUL character: it is no text" in capsys.readouterr().err


@pytest.mark.refused
def test_a_table_with_a_nul_character(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,label\na.png,ant\nb.png,b\0e\n")
    assert main(["data", "check", str(path)]) == 2
    assert f"{path} row 3 holds a NUL character: it is no text" in capsys.readouterr().err


@pytest.mark.refused
@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP", b"iTXt"])
def test_pictures_with_texts_that_unpack(tmp_path: Path, capsys: pytest.CaptureFixture[str], chunk: bytes) -> None:
    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packed = zlib.compress(bytes(100 * MB), 1)
    text = {b"zTXt": b"k\0\0", b"iCCP": b"k\0\0", b"iTXt": b"k\0\1\0\0\0"}[chunk] + packed
    head, body = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0), zlib.compress(bytes(8 * 25))
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(chunk, text) + part(b"IDAT", body) + part(b"IEND", b"")
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(png)
    with little_memory():
        assert main(["data", "check", str(tmp_path / "set")]) in (1, 2)
    assert "ant/a.png" in "".join(capsys.readouterr())


# What is no file ------------------------------------------------------------------------------------------------


@contextmanager
def ended_pipe() -> Iterator[Path]:
    """What `<(...)` in a shell stands for. Nobody writes any more, so that a careless reader goes on at once."""
    reading, writing = os.pipe()
    os.close(writing)
    yield Path(f"/dev/fd/{reading}")
    os.close(reading)


DOORS: dict[str, Callable[[Path, Path], list[str]]] = {
    "list.csv": lambda path, data: ["data", "check", str(path)],
    "list.parquet": lambda path, data: ["data", "check", str(path)],
    "set.npz": lambda path, data: train(path),
    "net.pth": lambda path, data: train(data, "--weights", str(path)),
    "net.safetensors": lambda path, data: train(data, "--weights", str(path)),
    "settings.yaml": lambda path, data: ["train", "--config", str(path)],
    "study.yaml": lambda path, data: ["sweep", str(path), "--out", str(data.parent / "sweep")],
}


@pytest.mark.refused
@pytest.mark.parametrize("name", DOORS)
def test_a_pipe_where_a_command_takes_a_file(
    features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with ended_pipe() as pipe:
        (tmp_path / name).symlink_to(pipe)
        assert main(DOORS[name](tmp_path / name, features)) == 2
    assert f"{tmp_path / name} is a pipe, not a file: save what comes out of it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not (tmp_path / "sweep").exists()


@pytest.mark.refused
@pytest.mark.parametrize("kind", ["device", "socket", "directory"])
def test_what_else_is_no_file(features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = tmp_path / "net.pth"
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "device":
            path.symlink_to("/dev/null")
        elif kind == "directory":
            path.mkdir()
        else:
            bound.bind(os.path.relpath(path))
        assert main(train(features, "--weights", str(path))) == 2
    assert f"{path} is a {kind}, not a file" in capsys.readouterr().err


@pytest.mark.right
def test_a_name_that_no_file_can_have_is_nothing_irregular() -> None:
    assert files.irregular("a\0b") == files.irregular("nowhere") == files.irregular(__file__) == ""
    assert files.irregular("/") == "a directory, not a file"


@pytest.mark.refused
def test_a_pipe_for_labels_and_decisions(tmp_path: Path) -> None:
    report = acto.audit([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    with ended_pipe() as pipe:
        for name in ("labels.csv", "labels.npy", "labels.pt"):
            (tmp_path / name).symlink_to(pipe)
        for name in ("labels.csv", "labels.npy"):
            with pytest.raises(UserError, match=f"{name} is a pipe"):
                read_label_file(tmp_path / name)
        with pytest.raises(UserError, match=r"labels\.pt is a pipe"):
            read_human_labels(
                tmp_path / "labels.pt", name=None, class_names=("a", "b"), true_labels=np.zeros(2, np.int64)
            )
        with pytest.raises(UserError, match=r"labels\.csv is a pipe"):
            read_decisions(tmp_path / "labels.csv", report)
