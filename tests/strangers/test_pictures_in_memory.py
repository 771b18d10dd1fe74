"""Pictures that Pillow has opened, arrays, and what becomes of unusual pixels: the same as for files, or a word."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch.utils.data import Dataset as TorchDataset

from acto.cli import main
from acto.core.errors import UserError
from acto.data.in_memory import as_dataset
from acto.data.pictures.files import decode_rgb, inspect, opened_rgb
from acto.data.samples import DataSpec
from acto.data.sources import load_data

pytestmark = pytest.mark.kind("pictures in memory")

HEIGHT, WIDTH, COUNT = 6, 5, 12
LABELS = [0, 1] * (COUNT // 2)
RANDOM = np.random.RandomState(0)


def draw(channels: int, *, top: int = 256, dtype: str = "uint8") -> np.ndarray:
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    pixels = RANDOM.randint(0, top, shape)
    pixels.flat[:2] = 0, top - 1
    return pixels.astype(dtype)


def colour() -> Image.Image:
    return Image.fromarray(draw(3))


def palette() -> Image.Image:
    image = colour().quantize(8)
    image.info["transparency"] = bytes([0, 128, 255])
    return image


def lab() -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.applyTransform(colour(), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert made is not None
    return made


def key_colour(image: Image.Image, **info: object) -> Image.Image:
    image.info.update(info)
    return image


KINDS: dict[str, tuple[str, Callable[[], Image.Image]]] = {
    "1": ("PNG", lambda: colour().convert("1")),
    "L": ("PNG", lambda: Image.fromarray(draw(1))),
    "L with a transparent level": ("PNG", lambda: key_colour(Image.fromarray(draw(1)), transparency=0)),
    "LA": ("PNG", lambda: Image.fromarray(draw(2))),
    "P with transparency": ("PNG", palette),
    "P of a GIF": ("GIF", lambda: key_colour(colour().quantize(8), transparency=3)),
    "RGB with a transparent colour": ("PNG", lambda: key_colour(colour(), transparency=(0, 0, 0))),
    "RGBA": ("PNG", lambda: Image.fromarray(draw(4))),
    "RGBA of a WebP": ("WEBP", lambda: Image.fromarray(draw(4))),
    "CMYK": ("JPEG", lambda: colour().convert("CMYK")),
    "YCbCr": ("TIFF", lambda: colour().convert("YCbCr")),
    "LAB": ("TIFF", lab),
    "I;16": ("PNG", lambda: Image.fromarray(draw(1, top=65536, dtype="uint16"))),
    "I;16 with a transparent level": (
        "PNG",
        lambda: key_colour(Image.fromarray(draw(1, top=65536, dtype="uint16")), transparency=0),
    ),
    "I;16B": ("TIFF", lambda: Image.fromarray(draw(1, top=65536, dtype=">u2"))),
    "I": ("TIFF", lambda: Image.fromarray(draw(1, top=65536, dtype="int32"))),
    "I of a PGM": ("PPM", lambda: Image.fromarray(draw(1, top=65536, dtype="int32"))),
}
REFUSED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "F": (lambda: Image.fromarray(RANDOM.rand(HEIGHT, WIDTH).astype("float32")), "floating-point pixels .* from 0 to"),
    "I above 16 bits": (lambda: Image.fromarray(draw(1, top=70001, dtype="int32")), "32-bit .* from 0 to 70000: scale"),
    "I below 0": (lambda: Image.fromarray(draw(1, dtype="int32") - 9), "32-bit .* from -9 to 246: scale"),
}


def files(folder: Path, make: Callable[[], Image.Image], kind: str, **options: object) -> list[Path]:
    paths = []
    for i, label in enumerate(LABELS):
        paths.append(folder / str(label) / f"{i:02}.{kind.lower()}")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        make().save(paths[-1], kind, **options)
    return paths


def opened(paths: list[Path]) -> list[Image.Image]:
    """As Image.open gives them, each out of a file of its own in memory: nothing is left open."""
    return [Image.open(io.BytesIO(path.read_bytes())) for path in paths]


def pixels_of(data: object, labels: object = LABELS) -> np.ndarray:
    pixels = as_dataset(data, labels).train.pixels
    assert pixels is not None
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


@pytest.mark.right
@pytest.mark.parametrize("kind", KINDS)
def test_opened_pictures_have_the_pixels_of_their_files(kind: str, tmp_path: Path) -> None:
    suffix, make = KINDS[kind]
    paths = files(tmp_path, make, suffix)
    expected = pixels_of(paths)
    assert len(np.unique(expected)) > (1 if kind == "1" else 20), "the rest of the test needs some content"
    assert np.array_equal(pixels_of(opened(paths)), expected)


@pytest.mark.right
def test_16_bits_are_scaled_by_their_range_not_by_what_is_in_the_picture(tmp_path: Path) -> None:
    dark, bright = np.full((2, 2), 25700, np.uint16), np.full((2, 2), 65535, np.uint16)
    for kind in ("I;16", "I;16L", "I;16B", "I"):
        levels = [
            np.unique(opened_rgb(Image.fromarray(values.astype(">u2" if kind == "I;16B" else "int32")), name="x"))
            if kind in ("I;16B", "I")
            else np.unique(opened_rgb(Image.frombytes(kind, (2, 2), values.astype("<u2").tobytes()), name="x"))
            for values in (dark, bright)
        ]
        assert [found.tolist() for found in levels] == [[100], [255]], kind


@pytest.mark.right
@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "RGBX", "HSV"])
def test_modes_that_no_file_has(mode: str) -> None:
    half = Image.fromarray(np.tile(np.array([[0, 0, 0, 255], [255, 0, 0, 0]], np.uint8), (4, 1, 1)))
    made = {
        "La": lambda: half.convert("LA").convert("La"),
        "RGBa": lambda: half.convert("RGBa"),
        "PA": lambda: half.quantize(4).convert("PA"),
        "RGBX": lambda: half.convert("RGB").convert("RGBX"),
        "HSV": lambda: half.convert("RGB").convert("HSV"),
    }[mode]()
    assert made.mode == mode
    left, right = np.asarray(opened_rgb(made, name="x"))[0]
    assert left.tolist() == [0, 0, 0]
    assert right.tolist() == ([255, 0, 0] if mode in ("RGBX", "HSV") else [255, 255, 255])


@pytest.mark.right
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_exif_turns_opened_pictures_too(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    paths = files(tmp_path, colour, kind, exif=exif)
    expected = pixels_of(paths)
    assert expected.shape[1:3] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    assert np.array_equal(pixels_of(opened(paths)), expected)
    assert np.array_equal(pixels_of([image.convert("RGB") for image in opened(paths)]), expected), "still unturned"


@pytest.mark.right
@pytest.mark.parametrize("orientation", [0, 9, 262])
def test_a_turn_that_does_not_exist_is_none(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (10, 12)).save(tmp_path / "x.jpg", exif=exif)
    facts = inspect(tmp_path / "x.jpg")
    assert (facts.width, facts.height) == decode_rgb(tmp_path / "x.jpg").size == (10, 12) and not facts.turned


@pytest.mark.right
def test_a_dataset_that_yields_pictures(tmp_path: Path) -> None:
    class Pictures(TorchDataset[tuple[Image.Image, int]]):
        def __init__(self, images: list[Image.Image]) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, row: int) -> tuple[Image.Image, int]:
            return self.images[row], LABELS[row]

    exif = Image.Exif()
    exif[0x0112] = 6
    paths = files(tmp_path, colour, "JPEG", exif=exif)
    assert np.array_equal(pixels_of(Pictures(opened(paths)), None), pixels_of(paths))
    mixed = [Image.fromarray(draw(1)), *(colour() for _ in LABELS[1:])]
    assert pixels_of(Pictures(mixed), None).shape[1:] == (HEIGHT, WIDTH, 3), "the first is grey, the others are not"


@pytest.mark.refused
@pytest.mark.parametrize("kind", REFUSED)
def test_pixels_without_an_agreed_range(kind: str, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    paths = files(tmp_path, make, "TIFF")
    with pytest.raises(UserError, match=rf"in row 0 cannot be used: {message}"):
        as_dataset(opened(paths), LABELS)
    with pytest.raises(UserError, match=f"00.tiff: {message}"):
        load_data(DataSpec(source=str(tmp_path)))


@pytest.mark.refused
def test_opened_pictures_that_cannot_be_loaded_any_more(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(RANDOM.randint(0, 256, (40, 40, 3)).astype(np.uint8)).save(content, "JPEG")
    cut = Image.open(io.BytesIO(content.getvalue()[:-300]))
    with pytest.raises(UserError, match="picture in row 1 cannot be used: OSError"):
        as_dataset([Image.new("RGB", (40, 40)), cut], [0, 1])
    closed = Image.open(content)
    content.close()
    with pytest.raises(UserError, match=r"picture in row 1 cannot be used: .*closed"):
        as_dataset([Image.new("RGB", (40, 40)), closed], [0, 1])


# Arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.right
@pytest.mark.parametrize("dtype", ["bool", "uint16", "int64", "float32", "float64"])
def test_arrays_that_are_exactly_pixels(dtype: str) -> None:
    pictures = np.stack([draw(1) for _ in LABELS])
    if dtype == "bool":
        assert set(np.unique(pixels_of(pictures > 99))) == {0, 255}
    else:
        assert np.array_equal(pixels_of(pictures.astype(dtype)), pixels_of(pictures))
    assert np.array_equal(pixels_of(pictures / np.float32(255)), pixels_of(pictures))


@pytest.mark.refused
@pytest.mark.parametrize("as_list", [False, True])
def test_arrays_of_16_bits_are_told_how_to_become_pixels(as_list: bool) -> None:
    pictures = np.stack([draw(1, top=65536, dtype="uint16") for _ in LABELS])
    with pytest.raises(UserError, match=r"uint16 from 0 to 65535.*\(x / 257\)\.round\(\)\.astype\('uint8'\)"):
        as_dataset(list(pictures) if as_list else pictures, LABELS)


@pytest.mark.refused
@pytest.mark.parametrize("pictures", [np.full((4, 3, 3), np.nan), np.ones((4, 3, 3)) * 0.3003, torch.randn(4, 3, 5, 5)])
def test_floats_that_are_no_pixels(pictures: object) -> None:
    with pytest.raises(UserError, match=r"are no pixels: .*Pass uint8"):
        as_dataset(pictures, [0, 1, 0, 1])


# Transparency ---------------------------------------------------------------------------------------------------


def drawing(number: int) -> Image.Image:
    """A black line on transparent ground; the colour is black everywhere."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[number % HEIGHT, :, 3] = 255
    return Image.fromarray(pixels)


def drawings(folder: Path) -> Path:
    for i, label in enumerate(LABELS):
        (folder / f"c{label}").mkdir(parents=True, exist_ok=True)
        drawing(i).save(folder / f"c{label}" / f"{i:02}.png")
    return folder


@pytest.mark.right
def test_a_black_drawing_on_transparent_ground_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = drawings(tmp_path / "black")
    data = load_data(DataSpec(source=str(folder)))
    assert data.train.pixels is not None and all(set(np.unique(one)) == {0, 255} for one in data.train.pixels)
    assert any("12 of 12 pictures say which of their pixels are transparent" in note for note in data.notes)
    assert main(["data", "check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "white is put behind" in said and "all over" not in said
    in_memory = pixels_of([drawing(i) for i in range(COUNT)])
    assert all(set(np.unique(one)) == {0, 255} for one in in_memory)


@pytest.mark.right
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_where_all_is_opaque_pixels_stay(mode: str) -> None:
    picture = colour() if mode == "RGBA" else Image.fromarray(draw(1))
    content = io.BytesIO()
    picture.convert(mode).save(content, "PNG")
    assert np.array_equal(decode_rgb(content.getvalue()), picture.convert("RGB"))


@pytest.mark.right
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "a transparent" in kind])
def test_a_colour_that_stands_for_transparent_becomes_white(kind: str) -> None:
    content = io.BytesIO()
    made = KINDS[kind][1]()
    made.putpixel((0, 0), (0, 0, 0) if made.mode == "RGB" else 0)
    made.save(content, "PNG")
    assert np.asarray(decode_rgb(content.getvalue()))[0, 0].tolist() == [255, 255, 255]


# Next to nothing in them ----------------------------------------------------------------------------------------


def folder_of(root: Path, make: Callable[[int], Image.Image], odd: int) -> Path:
    """So many odd pictures among usual ones."""
    for i, label in enumerate(LABELS):
        (root / f"c{label}").mkdir(parents=True, exist_ok=True)
        (make(i) if i < odd else Image.fromarray(draw(3))).save(root / f"c{label}" / f"{i:02}.png")
    return root


NEXT_TO_NOTHING: dict[str, tuple[Callable[[int], Image.Image], str]] = {
    "black": (lambda i: Image.new("RGB", (WIDTH, HEIGHT)), "are black all over"),
    "white under white": (lambda i: Image.new("RGBA", (WIDTH, HEIGHT), (255, 255, 255, 40 * i)), "are white all over"),
    "transparent all over": (lambda i: Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)), "are white all over"),
    "red": (lambda i: Image.new("RGB", (WIDTH, HEIGHT), (200, 10, 10)), "are of one colour all over"),
    "grey with a little noise": (lambda i: Image.fromarray(100 + draw(1, top=5)), "are of one colour all over"),
    "12 bits in 16": (lambda i: Image.fromarray(draw(1, top=4096, dtype="uint16")), "use at most 17 of 256 levels"),
    "10 bits in 16": (lambda i: Image.fromarray(draw(1, top=1024, dtype="uint16")), "are black all over"),
    "levels 0 and 1": (lambda i: Image.fromarray(draw(1, top=2)), "are black all over"),
}


@pytest.mark.right
@pytest.mark.parametrize("kind", NEXT_TO_NOTHING)
def test_what_has_next_to_nothing_in_it_is_noted(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = NEXT_TO_NOTHING[kind]
    folder = folder_of(tmp_path / "data", make, odd=4)
    expected = f"4 of 12 pictures {words}, as they are read: c0/00.png, c0/02.png, c1/01.png, ..."
    assert main(["data", "check", str(folder)]) == 0
    assert f"note: {expected}" in capsys.readouterr().out
    assert expected in load_data(DataSpec(source=str(folder))).notes
    in_memory = as_dataset(opened(sorted(folder.rglob("*.png"))), LABELS).notes
    assert any(f"4 of 12 pictures {words}" in note for note in in_memory)


@pytest.mark.right
def test_large_pictures_with_nothing_in_them_are_noted_by_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, label in enumerate(LABELS):
        (tmp_path / f"c{label}").mkdir(exist_ok=True)
        size = (90, 80 + i)
        pixels = RANDOM.randint(0, 256, (*size[::-1], 3)).astype(np.uint8)
        (Image.new("RGB", size) if i < 2 else Image.fromarray(pixels)).save(tmp_path / f"c{label}" / f"{i:02}.jpg")
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "2 of 12 pictures are black all over, as they are read: c0/00.jpg, c1/01.jpg\n" in capsys.readouterr().out


@pytest.mark.right
def test_usual_pictures_raise_no_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, lambda i: colour(), odd=0)
    assert main(["data", "check", str(folder)]) == 0
    assert "note:" not in capsys.readouterr().out
    assert len(as_dataset(opened(sorted(folder.rglob("*.png"))), LABELS).notes) == 1, "of the hold-out alone"
