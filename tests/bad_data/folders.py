"""Cases of image folders and of the pictures in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from acto.data.samples import DataSpec
from acto.data.sources import load_data
from bad_data import pictures
from bad_data.corpus import Case, Found, Pairs, found_in
from bad_data.pictures import CLASSES, MARKS, encoded, picture, write_all

FILES = ("cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png")
WHOLE: Pairs = {name: (label, mark) for name, label, mark in zip(FILES, CLASSES, MARKS, strict=True)}


def read(folder: Path) -> Found:
    return found_in(load_data(DataSpec(source=str(folder / "pets"), holdout_share=0.5), workers=1))


def tree(folder: Path) -> Path:
    write_all(folder / "pets", FILES)
    return folder / "pets"


def replaced(content: bytes, folder: Path) -> None:
    (tree(folder) / "dog" / "c.png").write_bytes(content)


def _pipe(folder: Path) -> None:
    path = tree(folder) / "dog" / "c.png"
    path.unlink()
    pictures.pipe(path)


def _dangling(folder: Path) -> None:
    path = tree(folder) / "dog" / "c.png"
    path.unlink()
    path.symlink_to("nowhere.png")


PICTURES = [
    *(
        Case(
            reader="picture files",
            name=name,
            make=partial(replaced, make(110)),
            read=read,
            pairs={**WHOLE, "dog/c.png": ("dog", 110)},
        )
        for name, make in pictures.GOOD.items()
    ),
    *(
        Case(
            reader="picture files",
            name=name,
            make=partial(replaced, content),
            read=read,
            says=("dog/c.png", message),
        )
        for name, (content, message) in pictures.BAD.items()
    ),
    Case(reader="picture files", name="a pipe", make=_pipe, read=read, says=("dog/c.png", "a pipe, not a file")),
    Case(reader="picture files", name="link to nowhere", make=_dangling, read=read, says=("dog/c.png", "no such file")),
]


# Folders --------------------------------------------------------------------------------------------------------


def _with(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: change(tree(folder))


def _renamed(old: str, new: str) -> Callable[[Path], object]:
    return _with(lambda pets: os.rename(pets / old, pets / new))


def _bytes_renamed(pets: Path) -> None:
    os.rename(pets / "dog", os.path.join(os.fsencode(pets), b"chien\xe9"))


def _file_renamed(pets: Path) -> None:
    os.rename(pets / "dog" / "c.png", os.path.join(os.fsencode(pets / "dog"), b"c\xff.png"))


def _link_out(pets: Path) -> None:
    outside = pets.parent / "elsewhere"
    os.rename(pets / "dog", outside)
    (pets / "dog").symlink_to(outside)


def _file_link_out(pets: Path) -> None:
    os.rename(pets / "dog" / "c.png", pets.parent / "secret.png")
    (pets / "dog" / "c.png").symlink_to(pets.parent / "secret.png")


def _links_in_a_ring(pets: Path) -> None:
    (pets / "cat" / "more").symlink_to(pets / "dog")
    (pets / "dog" / "more").symlink_to(pets / "cat")


def _numbers(folder: Path) -> None:
    write_all(folder / "pets", ("10/a.png", "9/b.png", "01/c.png", "1/d.png"))
    for number, name in enumerate(("10", "9", "01", "1")):
        (folder / "pets" / name / "z.png").write_bytes(encoded(picture(200 + 10 * number)))


def _trained_and_tested(classes: tuple[str, ...]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_all(folder / "pets" / "train", FILES)
        for name in classes:
            path = folder / "pets" / "test" / name / "t.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(encoded(picture(200)))

    return make


def _only(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / "pets" / name).mkdir(parents=True)

    return make


def _refused(name: str, make: Callable[[Path], object], *says: str) -> Case:
    return Case(reader="image folders", name=name, make=make, read=read, says=says)


def _handled(name: str, make: Callable[[Path], object], pairs: Pairs, *notes: str) -> Case:
    return Case(reader="image folders", name=name, make=make, read=read, pairs=pairs, notes=notes)


def _as(label: str) -> Pairs:
    """The pairs after the folder dog was renamed."""
    return {
        name.replace("dog/", f"{label}/"): (kind.replace("dog", label), mark) for name, (kind, mark) in WHOLE.items()
    }


FOLDERS = [
    _refused("no such folder", lambda folder: None, "pets does not exist"),
    _refused("an empty folder", _only("."), "pets has 0 class folders"),
    _refused("one class", _only("cat"), "pets has 1 class folders"),
    _refused("an empty class", _with(lambda pets: (pets / "fish").mkdir()), "class 'fish' is empty", "pets/fish"),
    _refused(
        "a class of hidden pictures",
        _with(lambda pets: [os.rename(p, p.with_name(f".{p.name}")) for p in (pets / "dog").iterdir()]),
        "class 'dog' is empty",
    ),
    _refused(
        "a class of other files",
        _with(lambda pets: [p.rename(p.with_suffix(".txt")) for p in (pets / "dog").iterdir()]),
        "class 'dog' is empty",
    ),
    _refused(
        "a link to the folder above",
        _with(lambda pets: (pets / "dog" / "up").symlink_to("..")),
        "dog/up/dog is a link to a folder that it lies in",
    ),
    _refused("a link to its own folder", _with(lambda pets: (pets / "dog" / "me").symlink_to(".")), "dog/me is a link"),
    _refused("two links in a ring", _with(_links_in_a_ring), "is a link to a folder that it lies in"),
    _refused("a test class that training has not", _trained_and_tested(("cat", "fish")), "pets/test", "'fish'"),
    _refused(
        "a file where a folder should be", lambda folder: (folder / "pets").write_text("x"), "pets is no image folder"
    ),
    _handled("whole", tree, WHOLE),
    _handled("a class folder that is a link out of the root", _with(_link_out), WHOLE, "lead out of", "dog/c.png ->"),
    _handled("a picture that is a link out of the root", _with(_file_link_out), WHOLE, "1 picture", "dog/c.png ->"),
    _handled(
        "files that are no pictures", _with(lambda pets: (pets / "dog" / "notes.txt").touch()), WHOLE, "dog/notes.txt"
    ),
    _handled("a class name that is not UTF-8", _with(_bytes_renamed), _as("chien\udce9")),
    _handled(
        "a file name that is not UTF-8",
        _with(_file_renamed),
        {("dog/c\udcff.png" if name == "dog/c.png" else name): pair for name, pair in WHOLE.items()},
    ),
    _handled("a class name that is HTML", _renamed("dog", "<script>x<script>"), _as("<script>x<script>")),
    _handled("a class name that is a formula", _renamed("dog", "=HYPERLINK(1)"), _as("=HYPERLINK(1)")),
    _handled("a class name with a line break", _renamed("dog", "a\nb"), _as("a\nb")),
    _handled(
        "a Cyrillic look-alike of a class name",
        _renamed("dog", "c\u0430t"),
        _as("c\u0430t"),
        "look alike",
        r"'c\u0430t'",
    ),
    _handled("class names that differ by case", _renamed("dog", "Cat"), _as("Cat"), "'Cat', 'cat'"),
    _handled("a class name with an invisible mark", _renamed("dog", "cat\u200b"), _as("cat\u200b"), r"'cat\u200b'"),
    _handled(
        "numbers as class names, one written twice",
        _numbers,
        {
            "01/c.png": ("01", 110),
            "01/z.png": ("01", 220),
            "1/d.png": ("1", 160),
            "1/z.png": ("1", 230),
            "9/b.png": ("9", 60),
            "9/z.png": ("9", 210),
            "10/a.png": ("10", 10),
            "10/z.png": ("10", 200),
        },
    ),
    _handled(
        "a test set that lacks a class",
        _trained_and_tested(("cat",)),
        {**{f"train/{name}": pair for name, pair in WHOLE.items()}, "test/cat/t.png": ("cat", 200)},
    ),
]

CASES = [*PICTURES, *FOLDERS]
