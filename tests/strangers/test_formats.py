"""Picture formats: what Pillow reads is read, what is not read is named."""

from __future__ import annotations

import io
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from acto.cli import main
from acto.core.errors import UserError
from acto.data.for_prediction import read_new
from acto.data.pictures import kinds
from acto.data.pictures.files import BadImage, decode_rgb
from acto.data.pictures.kinds import FORMATS, SUFFIXES, UNREAD
from acto.data.samples import DataSpec
from acto.data.sources import load_data

pytestmark = pytest.mark.kind("picture formats")

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0"


def encoded(colour: int, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, colour, colour)).save(stream, kind, **options)
    return stream.getvalue()


def tree(root: Path, kind: str, suffix: str) -> Path:
    for label, colour in (("c0", 40), ("c1", 200)):
        (root / label).mkdir(parents=True)
        for i in range(3):
            (root / label / f"{i}{suffix}").write_bytes(encoded(colour + i, kind))
    return root


def spec_of(root: Path) -> DataSpec:
    return DataSpec(source=str(root), holdout_share=0.4)


@pytest.mark.right
@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("AVIF", ".avif"),
        ("AVIF", ".AVIF"),
        ("JPEG2000", ".jp2"),
        ("JPEG2000", ".J2K"),
        ("JPEG", ".jpe"),
        ("PPM", ".pnm"),
    ],
)
def test_what_pillow_reads_is_read(tmp_path: Path, kind: str, suffix: str):
    if kind not in FORMATS:
        pytest.skip(f"this Pillow has no {kind}")
    data = load_data(spec_of(tree(tmp_path, kind, suffix)), workers=1)
    assert (len(data.train), len(data.test)) == (4, 2)
    means = data.train.pixels.reshape(4, -1).mean(1)
    assert np.abs(means - np.where(data.train.labels == 0, 41, 201)).max() < 6
    assert len(read_new(str(tmp_path)).samples) == 6


@pytest.mark.right
def test_large_pictures_of_new_formats_stay_within_the_limit():
    for kind in {"AVIF", "JPEG2000"} & set(FORMATS):
        with pytest.raises(BadImage, match="16x16 pixels are more than the limit of 100"):
            decode_rgb(encoded(9, kind), max_pixels=100)
        with pytest.raises(BadImage):
            decode_rgb(encoded(9, kind)[:-8])


@pytest.mark.right
def test_pictures_that_are_not_read_are_named_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tree(tmp_path, "PNG", ".png")
    for name in ("a.HEIC", "b.heif", "c.jxl", "d.NEF"):
        (tmp_path / "c0" / name).write_bytes(HEIC)
    (tmp_path / "c1" / "notes.txt").touch()
    expected = (
        "1 file is no picture and was left out, the first: c1/notes.txt",
        "4 pictures are left out, for their format is not read (HEIC 2, JPEG XL 1, camera raw 1), the first: "
        "c0/a.HEIC; save them as JPEG or PNG",
    )
    assert load_data(spec_of(tmp_path), workers=1).notes[:2] == expected
    assert read_new(str(tmp_path)).notes == expected
    assert main(["data", "check", str(tmp_path), "--data.holdout_share", "0.4"]) == 0
    assert f"note: {expected[1]}" in capsys.readouterr().out


@pytest.mark.refused
def test_a_class_in_a_format_that_is_not_read(tmp_path: Path):
    tree(tmp_path, "PNG", ".png")
    (tmp_path / "phone").mkdir()
    for i in range(3):
        (tmp_path / "phone" / f"{i}.heic").write_bytes(HEIC)
    says = r"class 'phone' is empty: .*but 3 pictures of a format that is not read \(HEIC 3\): save them as JPEG or PNG"
    with pytest.raises(UserError, match=says):
        load_data(spec_of(tmp_path))
    with pytest.raises(
        UserError, match=r"phone has no picture .*but 3 pictures of a format that is not read \(HEIC 3\)"
    ):
        read_new(str(tmp_path / "phone"))
    with pytest.raises(UserError, match=r"0.heic is HEIC, which is not read: save it as JPEG or PNG"):
        read_new(str(tmp_path / "phone" / "0.heic"))


@pytest.mark.refused
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (HEIC, "it is HEIC; save it"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is JPEG XL"),
        (b"8BPS\0\1", "it is Photoshop"),
        (b"%PDF-1.7", "it is PDF"),
        (b"<!doctype HTML><p>404", "it is a web page"),
        (b"\0\0\0\x18ftypmp42", "it is a video"),
        (b"nothing known", r"PPM.*\)$"),
    ],
)
def test_a_file_under_the_name_of_a_picture_is_named(tmp_path: Path, content: bytes, kind: str):
    (tmp_path / "x.jpg").write_bytes(content)
    for source in (tmp_path / "x.jpg", content):
        with pytest.raises(BadImage, match=f"not a picture of a known kind .*{kind}"):
            decode_rgb(source)


@pytest.mark.refused
def test_a_manifest_of_such_files(tmp_path: Path):
    tree(tmp_path, "PNG", ".png")
    (tmp_path / "c0" / "x.heic").write_bytes(HEIC)
    rows = [f"{label}/{i}.png,{label}" for label in ("c0", "c1") for i in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows, "c0/x.heic,c0"]))
    with pytest.raises(UserError, match=r"row 8 \(c0/x.heic\): not a picture of a known kind .*it is HEIC"):
        load_data(spec_of(tmp_path / "list.csv"))


@pytest.mark.right
def test_every_suffix_that_is_read_has_a_decoder():
    assert {".jpg", ".png", ".webp", ".tif", ".gif", ".bmp"} <= SUFFIXES
    assert (".avif" in SUFFIXES) == ("AVIF" in FORMATS) and (".jp2" in SUFFIXES) == ("JPEG2000" in FORMATS)
    extras = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
    built_with = {kind for kind, name in extras.items() if name in features.get_supported()}
    assert {"JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"} | built_with == set(FORMATS)


@pytest.mark.right
def test_what_pillow_was_built_without_is_named_as_unread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    without = runpy.run_path(kinds.__file__)
    assert {".avif", ".jp2", ".webp"} <= without["UNREAD"].keys() and "AVIF" not in without["FORMATS"]
    assert without["SUFFIXES"].isdisjoint(without["UNREAD"]) and UNREAD.keys().isdisjoint(SUFFIXES)
