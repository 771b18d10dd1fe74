"""`acto data shrink`: a copy that trains as its originals do, and originals that nothing happens to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from acto.cli import main
from acto.core.errors import UserError
from acto.data.pictures import shrink as shrinking
from acto.data.pictures.files import inspect, scaled_rgb
from acto.data.pictures.shrink import ShrinkSpec, shrink

SHORT = 24
LOSSLESS = ("a.png", "palette.png", "sixteen.png", "alpha.png", "l.webp", "t.tif", "b.bmp", "g.gif", "tiny.png")
LOSSY = ("a.jpg", "cmyk.jpg", "turned.jpg", "w.webp")


def picture(seed: int, size: tuple[int, int] = (90, 60)) -> Image.Image:
    corners = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return corners.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinking.os, "sync", lambda: None)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of many kinds in two classes, a table, and what is neither."""
    root = tmp_path / "photos"
    folder = root / "cat" / "summer 24"
    folder.mkdir(parents=True)
    (root / "dog").mkdir()
    made = picture(0)
    turn = Image.Exif()
    turn[0x0112] = 6
    for name in ("t.tif", "b.bmp", "a.jpg"):
        made.save(folder / name)
    made.save(folder / "a.png", icc_profile=b"of other pixels")
    made.quantize(16).save(folder / "palette.png")
    made.quantize(16).save(folder / "g.gif")
    Image.fromarray(np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) * 27).save(folder / "sixteen.png")
    see_through = made.copy()
    see_through.putalpha(100)
    see_through.save(folder / "alpha.png")
    made.save(folder / "l.webp", lossless=True)
    made.save(folder / "w.webp", quality=95)
    made.convert("CMYK").save(folder / "cmyk.jpg")
    made.save(folder / "turned.jpg", exif=turn)
    picture(1, (30, 20)).save(folder / "tiny.png")
    picture(1, (30, 20)).save(folder / "tiny_turned.jpg", exif=turn, quality=95)
    for k in range(6):
        picture(2 + k).save(root / "dog" / f"{k}.jpg")
    (root / "labels.csv").write_text("path,label\n" + "".join(f"dog/{k}.jpg,{'xy'[k % 2]}\n" for k in range(6)))
    (root / "phone.heic").write_bytes(b"x")
    (root / ".hidden.png").write_bytes(b"x")
    return root


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_copy_is_what_training_sees(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, small = content(photos), tmp_path / "small"
    assert main(["data", "shrink", str(photos), "--out", str(small), "--short", str(SHORT), "--quality", "97"]) == 0
    assert content(photos) == before
    told = capsys.readouterr().out
    assert "20 pictures, 2 of them small enough as they are" in told and "copied along: labels.csv" in told
    assert ".heic 1" in told and ".hidden.png (1)" in told and f"next: acto train --data {small}" in told
    assert content(small).keys() == content(photos).keys() - {"phone.heic", ".hidden.png"}
    assert not list(small.rglob(".*"))
    for name in (*LOSSLESS, *LOSSY):
        path = Path("cat", "summer 24", name)
        seen, copied = (np.asarray(scaled_rgb(root / path, short=SHORT)).astype(int) for root in (photos, small))
        difference = np.abs(seen - copied)
        assert difference.max() == 0 if name in LOSSLESS else 0 < difference.mean() < 6, name
        facts = inspect(small / path)
        assert min(facts.width, facts.height) <= SHORT and not facts.turned
        assert facts.format == ("PNG" if name == "g.gif" else inspect(photos / path).format)
        assert (small / path).stat().st_mtime_ns == (photos / path).stat().st_mtime_ns
    with Image.open(small / "cat/summer 24/a.png") as copied:
        assert "icc_profile" not in copied.info
    tiny = Path("cat", "summer 24", "tiny_turned.jpg")
    assert (inspect(small / tiny).width, inspect(small / tiny).height, inspect(small / tiny).turned) == (20, 30, False)
    assert (small / "cat/summer 24/tiny.png").read_bytes() == (photos / "cat/summer 24/tiny.png").read_bytes()


def test_training_on_a_lossless_copy_is_training_on_the_originals(tmp_path: Path) -> None:
    for k in range(20):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(k, (70 + k, 80)).save(path)
    assert main(["data", "shrink", str(tmp_path / "photos"), "--out", str(tmp_path / "small"), "--short", "24"]) == 0
    for name in ("photos", "small"):
        command = ["train", "--data", str(tmp_path / name), "--method", "standard", "--net", "cnn_tiny", "--epochs=1"]
        command += ["--data.pictures=large", "--data.size=20", "--data.resize=24", "--workers=0", "--no-report"]
        assert main([*command, "--batch-size=8", "--out", str(tmp_path / f"run {name}")]) == 0
    tables = {(tmp_path / f"run {name}" / "samples.csv").read_bytes() for name in ("photos", "small")}
    assert len(tables) == 1


def test_a_table_that_was_copied_along_fits(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shrink(photos, tmp_path / "small", ShrinkSpec(short=SHORT))
    main(["data", "check", str(tmp_path / "small" / "labels.csv")])
    told = capsys.readouterr().out
    assert "6 training samples of 2 classes" in told and "cannot be used: none" in told


def test_bad_pictures_are_named_when_all_others_are_there(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (photos / "dog" / "0.jpg").read_bytes()
    (photos / "dog" / "0.jpg").write_bytes(whole[:300])
    (photos / "cat" / "empty.png").touch()
    command = ["data", "shrink", str(photos), "--out", str(tmp_path / "small"), "--short", str(SHORT)]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "2 of 21 pictures cannot be used" in told and "0.jpg" in told and "empty.png" in told
    assert "--on-bad-image drop" in told and (tmp_path / "small" / "dog" / "5.jpg").is_file()
    assert main(["data", "shrink", str(photos), "--out", str(tmp_path / "small"), "--short", "25"]) == 2
    assert "unfinished copy with other settings" in capsys.readouterr().err

    (photos / "dog" / "0.jpg").write_bytes(whole)
    picture(99).save(photos / "dog" / "1.jpg")
    (tmp_path / "small" / "dog" / "2.jpg").write_bytes(b"")  # as a power cut leaves it
    os.utime(tmp_path / "small" / "dog" / "2.jpg", ns=(0, (photos / "dog" / "2.jpg").stat().st_mtime_ns))
    done: list[str] = []
    scaled = shrinking.scaled_rgb
    monkeypatch.setattr(shrinking, "scaled_rgb", lambda path, **how: done.append(path.name) or scaled(path, **how))
    assert main([*command, "--on-bad-image", "drop"]) == 0
    assert sorted(done) == ["0.jpg", "1.jpg", "2.jpg"]
    told = capsys.readouterr().out
    assert "20 pictures" in told and "17 were there already" in told and "left out: picture" in told
    assert not list((tmp_path / "small").rglob(".*"))


def test_a_full_disk_loses_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[Path] = []

    def full(draft: Path, target: Path) -> None:
        if target.suffix == ".jpg" and len(replaced) >= 3:
            raise OSError(28, "No space left on device", str(draft))
        replaced.append(target)
        os.rename(draft, target)

    with monkeypatch.context() as patch:
        patch.setattr(shrinking.os, "replace", full)
        assert main(["data", "shrink", str(photos), "--out", str(tmp_path / "small"), "--short", str(SHORT)]) == 1
    assert not list((tmp_path / "small").rglob("*.draft"))
    assert shrink(photos, tmp_path / "small", ShrinkSpec(short=SHORT)).num_pictures == 20


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("photos", "lie in one another"),
        ("photos/small", "lie in one another"),
        (".", "lie in one another"),
        ("link/small", "lie in one another"),
        ("full", "is not empty"),
        ("full/file", "is a file"),
    ],
)
def test_nothing_is_written_over_or_into_anything(out: str, words: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    (tmp_path / "link").symlink_to(photos)
    before = content(tmp_path)
    with pytest.raises(UserError, match=words):
        shrink(photos, tmp_path / out, ShrinkSpec(short=SHORT))
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nowhere", "--out", "small"], "nowhere does not exist"),
        (["photos/labels.csv", "--out", "small"], "is no folder: give the folder that holds the pictures"),
        (["empty", "--out", "small"], "empty has no picture"),
        (["photos"], "needs --out SMALL"),
        (["--out", "small"], "needs a FOLDER"),
        (["photos", "--out", "small", "--quality", "0"], r"quality is 0, but must lie in [1, 100]"),
        (["photos", "--out", "small", "--short", "big"], "short must be a whole number"),
        (["photos", "--out", "small", "--sort", "3"], "Did you mean '--short'"),
        (["photos", "--out", "small", "--on-bad-image", "keep"], "Choices: drop, error"),
    ],
)
def test_what_cannot_be_is_refused(
    flags: list[str],
    words: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["data", "shrink", *flags]) == 2
    assert words in capsys.readouterr().err and not Path("small").exists()


# The cache that there was


def test_a_run_begun_with_a_cache_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(Path(__file__).parents[1] / "old_run", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "interrupted" / "config.yaml"
    config.write_text(config.read_text().replace("cache: null", "cache: /fast/pictures"))
    assert main(["train", "--resume", "interrupted", "--no-report"]) == 0
    told = capsys.readouterr().err
    assert told.count("the setting data.cache (/fast/pictures) of this run has no effect any more") == 1
    assert main(["audit", "interrupted"]) == 0
    assert main(["train", "--resume", "finished", "--no-report"]) == 0
    assert "data.cache" not in capsys.readouterr().err


@pytest.mark.parametrize("form", ["flag", "file"])
def test_a_cache_asked_for_is_refused_with_what_helps(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("data: {source: digits, cache: memory}\n")
    asked = ["--data", "digits", "--data.cache=memory"] if form == "flag" else ["--config", str(tmp_path / "run.yaml")]
    assert main(["train", *asked, "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert "data.cache is gone" in told and "acto data shrink FOLDER --out SMALL" in told


def test_a_file_of_settings_of_before_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("data: {source: digits, cache: null}\n")
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--print-config"]) == 0
    assert "cache" not in capsys.readouterr().out
