"""Decoding of picture files of every kind, and what `acto data check` finds."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from acto.cli import main
from acto.core.errors import UserError
from acto.core.settings import fields_of
from acto.data.check import check_data, check_images
from acto.data.pictures.files import BadImage, PictureFacts, decode_pixels, decode_rgb, inspect, inspect_all, scaled_rgb
from acto.data.samples import DataSpec, Samples


def noise(width=20, height=12, *, seed=0) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8))


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# Decoding


def test_plain_pictures_come_as_they_are(tmp_path: Path):
    image = noise()
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(decode_rgb(encoded(image, kind)), image)
    path = tmp_path / "x.webp"
    image.save(path, lossless=True)
    assert np.array_equal(decode_rgb(path), image)
    assert np.array_equal(decode_rgb(str(path)), image)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "RGBA", "P"])
def test_other_modes_become_rgb(mode):
    image = noise().convert(mode)
    decoded = decode_rgb(encoded(image))
    assert decoded.mode == "RGB"
    opaque = image.convert("RGBA") if mode == "P" else image
    assert np.array_equal(decoded, opaque.convert("RGB"))


def test_palette_with_transparency_warns_of_nothing():
    image = noise().quantize(8)
    image.info["transparency"] = bytes([0, 128, 255])
    content = encoded(image, transparency=bytes([0, 128, 255]))
    white = Image.new("RGBA", (20, 12), "white")
    assert np.array_equal(decode_rgb(content), Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


def test_cmyk_jpeg_and_animated_gif():
    decoded = decode_rgb(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert decoded.mode == "RGB"
    red, green, blue = decoded.getpixel((4, 4))
    assert red > 200 and green < 60 and blue < 60
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 250, 0))
    decoded = decode_rgb(encoded(first, "GIF", save_all=True, append_images=[second]))
    assert decoded.getpixel((0, 0)) == (250, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    """Pillow's own conversion clips everything above 255 to white."""
    values = np.array([[0, 128, 129, 257], [32768, 40000, 65534, 65535]], np.uint16)
    decoded = np.asarray(decode_rgb(encoded(Image.fromarray(values), kind)))
    assert decoded[..., 0].tolist() == [[0, 0, 1, 1], [128, 156, 255, 255]]
    assert (decoded == decoded[..., :1]).all()


def test_pixels_without_an_agreed_range_are_refused():
    for values, message in (
        (np.full((2, 2), 0.5, np.float32), "floating-point pixels"),
        (np.full((2, 2), 70000, np.int32), "32-bit pixels"),
    ):
        with pytest.raises(BadImage, match=message):
            decode_rgb(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(noise(), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert expected.size == ((20, 12) if orientation < 5 else (12, 20))
    assert np.array_equal(decode_rgb(content), expected)
    path = tmp_path / "picture"
    path.write_bytes(content)
    for thorough in (False, True):
        facts = inspect(path, thorough=thorough)
        assert (facts.width, facts.height, facts.turned) == (*expected.size, orientation > 1 and kind != "TIFF")


def test_broken_exif_does_not_lose_the_picture():
    content = encoded(noise(), "PNG", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff\x01")
    assert np.array_equal(decode_rgb(content), noise())


def test_draft_decodes_a_large_jpeg_smaller_but_not_too_small():
    content = encoded(noise(800, 400), "JPEG")
    assert decode_rgb(content, draft_size=(100, 100)).size == (200, 100)
    assert decode_rgb(content, draft_size=(448, 448)).size == (800, 400)
    assert decode_rgb(encoded(noise(800, 400)), draft_size=(100, 100)).size == (800, 400)


def test_bad_files_name_themselves(tmp_path: Path):
    good, jpeg = encoded(noise(200, 200)), encoded(noise(200, 200), "JPEG")
    contents = {
        "empty.png": (b"", r"the file is empty \(0 bytes\)"),
        "cut.png": (good[: len(good) // 2], "truncated|broken"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "text.jpg": (b"<html>not found</html>", "not a picture of a known kind"),
        "header.png": (good[:20], "Truncated"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture of a known"),
    }
    for name, (content, message) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        for look in (decode_rgb, inspect, lambda path: inspect(path, thorough=True)):
            with pytest.raises(BadImage, match=f"picture {path} cannot be used: .*({message})"):
                look(path)
    with pytest.raises(BadImage, match="no such file"):
        decode_rgb(tmp_path / "nothing.png")
    with pytest.raises(BadImage, match="a directory, not a file"):
        decode_rgb(tmp_path)
    with pytest.raises(BadImage, match="picture row 7 cannot"):
        decode_rgb(b"", name="row 7")


def test_size_limit_stands_before_decoding(monkeypatch):
    content = encoded(noise(30, 20))
    assert decode_rgb(content, max_pixels=600).size == (30, 20)
    with pytest.raises(BadImage, match="30x20 pixels are more than the limit of 599"):
        decode_rgb(content, max_pixels=599)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses on its own above twice that, warns below
    with pytest.raises(BadImage, match="more pixels than the limit"):
        decode_rgb(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(BadImage, match="more pixels than the limit"):
        decode_rgb(content)


def test_bad_image_is_the_users_and_travels_between_processes():
    bad = pickle.loads(pickle.dumps(BadImage("a.png", "truncated")))
    assert isinstance(bad, UserError)
    assert (bad.name, bad.problem, str(bad)) == ("a.png", "truncated", "picture a.png cannot be used: truncated")


def test_decode_pixels():
    pictures = [noise(seed=seed) for seed in range(3)]
    contents = [encoded(image) for image in pictures]
    pixels = decode_pixels(contents, size=(20, 12), names=["a", "b", "c"])
    assert np.array_equal(pixels, np.stack([np.asarray(image) for image in pictures]))
    with pytest.raises(BadImage, match="picture b cannot be used: it has 5x5 pixels, the others 20x12"):
        decode_pixels([contents[0], encoded(noise(5, 5))], size=(20, 12), names=["a", "b"])


def test_inspect_all_keeps_the_order_over_chunks(tmp_path: Path):
    paths = []
    for i in range(600):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(b"" if i % 100 == 7 else encoded(Image.new("L", (i + 1, 2))))
    found = inspect_all(paths, workers=3)
    assert [isinstance(facts, BadImage) for facts in found] == [i % 100 == 7 for i in range(600)]
    assert found[599] == PictureFacts(600, 2, "L", False)
    assert inspect_all(paths, workers=1, thorough=True)[598] == PictureFacts(599, 2, "L", False)


def test_a_jpeg_is_never_drafted_below_the_short_side(tmp_path: Path) -> None:
    for width, height in (
        (24, 24),
        (47, 48),
        (48, 48),
        (49, 95),
        (95, 96),
        (96, 97),
        (191, 200),
        (193, 400),
        (24, 900),
    ):
        path = tmp_path / "a.jpg"
        Image.new("RGB", (width, height), (200, 30, 40)).save(path)
        least = min(width, height)
        expected = (24 * width // least, 24 * height // least)
        size = scaled_rgb(path, short=24).size
        # A draft rounds its sides up, so the long side may differ by what a pixel of the short one makes.
        assert min(size) == 24 and abs(max(size) - max(expected)) <= max(expected) / 24


def test_a_picture_too_long_once_scaled_is_refused(tmp_path: Path) -> None:
    thread = tmp_path / "thread.png"
    Image.new("RGB", (1, 400)).save(thread)
    with pytest.raises(
        BadImage, match=r"thread\.png cannot be used: scaled to 24x9600 pixels it has more than the limit"
    ):
        scaled_rgb(thread, short=24, max_pixels=100_000)
    assert scaled_rgb(thread, short=24).size == (24, 9600)


# acto data check


def tree(root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            noise(90, 80, seed=10 * (name == "dog") + i).save(root / name / f"{i}.png")
    return root


def test_check_images_decodes_everything(tmp_path: Path):
    root = tree(tmp_path)
    paths = tuple(sorted(root.glob("*/*.png")))
    content = bytearray(paths[2].read_bytes())
    content[4000:4050] = bytes(50)
    paths[2].write_bytes(content)
    paths[5].unlink()
    ids = tuple(path.relative_to(root).as_posix() for path in paths)
    samples = Samples(ids=ids, labels=np.zeros(8, np.int64), paths=paths)
    problems = check_images(samples, 2)
    assert [(problem.id, problem.path) for problem in problems] == [("cat/2.png", paths[2]), ("dog/1.png", paths[5])]
    assert problems[1].problem == "no such file"
    assert [problem.problem[:9] for problem in check_images(samples, max_pixels=100)][:2] == ["90x80 pix"] * 2
    in_memory = Samples(ids=("0",), labels=np.zeros(1, np.int64), pixels=np.zeros((1, 2, 2, 1), np.uint8))
    assert check_images(in_memory) == ()


def test_help_shows_settings_of_the_data_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--help"]) == 0
    text = capsys.readouterr().out
    shown = set(re.findall(r"^  --([\w.]+)", text, flags=re.M))
    assert shown == {field.key for field in fields_of(DataSpec, "data")}
    assert "(short: --data-root)" in text and "(short: --on-bad-image)" in text


def test_check_data_reports(tmp_path: Path):
    root = tree(tmp_path / "train").parent
    train = root / "train"
    (train / "cat" / "copy.png").write_bytes((train / "cat" / "0.png").read_bytes())
    (train / "dog" / "wrong.png").write_bytes((train / "cat" / "1.png").read_bytes())
    (root / "test" / "cat").mkdir(parents=True)
    (root / "test" / "cat" / "leak.png").write_bytes((train / "cat" / "2.png").read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(90, 80, seed=50).save(train / "dog" / "turned.jpg", exif=exif)
    noise(90, 80, seed=51).convert("L").save(train / "dog" / "grey.png")
    (train / "dog" / "empty.png").write_bytes(b"")
    report = check_data(DataSpec(source=str(root)), workers=2)
    assert (report.num_train, report.num_test) == (13, 1)
    assert dict(report.class_counts) == {"cat": 5, "dog": 8}
    assert [problem.id for problem in report.problems] == ["train/dog/empty.png"]
    assert dict(report.modes) == {"RGB": 12, "L": 1} and report.num_turned == 1
    copies, disagreeing, leaking = report.duplicates
    assert copies.samples == (("train", "train/cat/0.png", "cat"), ("train", "train/cat/copy.png", "cat"))
    assert not copies.disagree and not copies.leak
    assert disagreeing.disagree and not disagreeing.leak
    assert leaking.leak and not leaking.disagree
    assert not report.is_usable and report.noise_rate is None
    (train / "dog" / "empty.png").unlink()
    assert check_data(DataSpec(source=str(root))).is_usable


def test_check_data_in_memory(tmp_path: Path):
    features = np.arange(12.0).reshape(6, 2)
    features[4] = features[1]
    labels, truth = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 1, 0, 1, 1, -1])
    np.savez(tmp_path / "set.npz", features=features, labels=labels, true_labels=truth)
    report = check_data(DataSpec(source=str(tmp_path / "set.npz"), classes=("a", "b")))
    assert report.num_test is None and report.modes == {}
    assert report.duplicates[0].samples == (("train", "1", "b"), ("train", "4", "a"))
    assert report.duplicates[0].disagree
    assert report.noise_rate == pytest.approx(1 / 5)
    unused = check_data(DataSpec(source=str(tmp_path / "set.npz"), classes=("a", "b", "c")))
    assert unused.class_counts["c"] == 0 and not unused.is_usable
