"""Pictures inside of larger files: their paths, and the cache of what a Parquet file compresses."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from acto.core.errors import UserError
from acto.data.pictures import table_pictures
from acto.data.pictures.files import BadImage, decode_rgb, inspect
from acto.data.pictures.packed import in_table, open_picture, packed, size_and_time
from acto.data.pictures.table_pictures import stored
from record_data import LEVELS, picture, struct_table


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "acto" / "pictures"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    pyarrow.parquet.write_table(struct_table(6), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def read(path: Path) -> bytes:
    with open_picture(path) as file:
        return file.read()


def test_a_stretch_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"head" + picture(1, 0) + b"tail")
    path = packed(tmp_path / "big", 4, len(picture(1, 0)), "dir/../x/ä b.png")
    assert path.parent.parent == tmp_path / "big" and path.name == "__b.png"
    assert read(path) == picture(1, 0) and size_and_time(path)[0] == len(picture(1, 0))
    assert size_and_time(path)[1] == os.stat(tmp_path / "big").st_mtime_ns
    assert inspect(path).width == 12
    assert np.asarray(decode_rgb(str(path)))[0, 0, 1] == LEVELS[1]
    assert read(packed(tmp_path / "big", 4, 10**12, "x"))[-4:] == b"tail"
    with pytest.raises(BadImage, match="empty"):
        inspect(packed(tmp_path / "big", 10**12, 5, "x"))
    with pytest.raises(BadImage, match="no such file"):
        inspect(packed(tmp_path / "gone", 4, 5, "x"))


def test_a_folder_of_such_a_name_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tar" / "@4+5"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(0, 3))
    assert read(folder / "a.png") == picture(0, 3)


def test_rows_of_a_table(table: Path, cache: Path) -> None:
    assert [read(in_table(table, 0, row, "x")) for row in range(6)] == [picture(row % 2, row) for row in range(6)]
    (file,) = cache.iterdir()
    before = file.stat().st_mtime_ns
    assert stored(table, 0).file == file and file.stat().st_mtime_ns == before
    with pytest.raises(BadImage, match="no such file"):
        inspect(in_table(table, 0, 6, "x"))
    with pytest.raises(UserError, match="label holds int64, and no picture files"):
        stored(table, 1)
    with pytest.raises(UserError, match="has 2 columns, and none of the number 7"):
        stored(table, 7)


def test_what_is_deleted_damaged_or_old_is_made_again(table: Path, cache: Path) -> None:
    path = in_table(table, 0, 3, "x")
    assert read(path) == picture(1, 3)
    (file,) = cache.iterdir()
    file.unlink()
    assert read(path) == picture(1, 3)
    for content in (b"", b"short", file.read_bytes()[:-9]):
        file.write_bytes(content)
        table_pictures._stored.cache_clear()
        assert read(path) == picture(1, 3)
    pyarrow.parquet.write_table(struct_table(6, first=100), table)
    os.utime(table, ns=(1, 1))
    assert read(path) == picture(1, 103)
    assert not [name for name in os.listdir(cache) if name.endswith(".draft")]


def test_a_place_that_cannot_be_written_to_is_said(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"no place for them: .*Set XDG_CACHE_HOME"):
        stored(table, 0)


def test_one_picture_many_times_over_is_no_small_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acto.core.files._UNSUSPECTED_BYTES", 1 << 20)
    noise = os.urandom(8 << 10)
    rows = pa.array([{"bytes": noise, "path": None}] * 400, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pyarrow.parquet.write_table(pa.table({"image": rows}), tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 16 << 10
    with pytest.raises(UserError, match="damaged, or a bomb"):
        stored(tmp_path / "bomb.parquet", 0)
    assert not list(cache.iterdir())
