"""Folders as people and programs leave them: splits by many names, classes called like splits, leftovers."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from acto.cli import main
from acto.core.errors import UserError
from acto.data.check import check_data
from acto.data.for_prediction import read_labelled, read_new
from acto.data.readers.split_folders import SplitName, split_name
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data

pytestmark = pytest.mark.kind("split folders and leftovers")


def fill(root: Path, *folders: str, count: int = 3) -> Path:
    """Pictures in each of the folders, no two alike."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture = Image.linear_gradient("L").resize((8, 8)).convert("RGB")
            picture.putpixel((0, 0), (fill.made % 256, fill.made // 256, i))
            picture.save(root / folder / f"{i}.png")
            fill.made += 1
    return root


fill.made = 0


def loaded(root: Path, *, classes: tuple[str, ...] = ()) -> Dataset:
    return load_data(DataSpec(source=str(root), classes=classes, holdout_share=0.4), workers=1)


def parts(data: Dataset) -> tuple[tuple[str, ...], int, int, bool]:
    return data.class_names, len(data.train), len(data.test), data.test_labels_are_given


def checked(root: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    code = main(["data", "check", str(root), *more])
    said = capsys.readouterr()
    return code, said.out + said.err


# Splits


@pytest.mark.right
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "testing"),
        ("train", "dev"),
        ("train", "eval"),
        ("train", "Test"),
        ("Training", "Testing"),
        ("TRAIN", "TEST"),
        ("Train", "Val"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train2017", "val2017"),
        ("TrainSet", "ValidationSet"),
        ("train_images", "test-images"),
        ("my_train", "my_test"),
        ("01 Training Data", "02 Evaluation Data"),
        ("training", "heldout"),
        ("trainval", "test"),
    ],
)
def test_a_test_folder_beside_a_training_folder_is_the_test_set(tmp_path: Path, train: str, test: str):
    fill(tmp_path, f"{train}/c0", f"{train}/c1")
    fill(tmp_path, f"{test}/c0", f"{test}/c1", count=1)
    data = loaded(tmp_path)
    assert parts(data) == (("c0", "c1"), 6, 2, False)
    assert data.test.ids == (f"{test}/c0/0.png", f"{test}/c1/0.png")


@pytest.mark.right
def test_names_of_splits():
    train, test, val = SplitName("train"), SplitName("test"), SplitName("val")
    expected = {"Training Set": train, "TESTDATA": test, "validation-split": val, "train_val": train, "evalSet": val}
    expected |= {"seg_train": SplitName("train", ("seg",)), "test2": SplitName("test", ("2",))}
    expected |= dict.fromkeys(("trains", "latest", "contest", "devices", "Trainer", "train_test", "chest", "rain"))
    assert {name: split_name(name) for name in expected} == expected


@pytest.mark.right
def test_three_ways_and_folders_that_are_no_split(tmp_path: Path):
    fill(tmp_path, "Train/c0", "Train/c1", "Test/c0", "Val/c0", "Val/c1", "unlabeled")
    (tmp_path / "Test" / "c1").mkdir()  # empty, as it may be in a test set
    data = loaded(tmp_path)
    assert parts(data) == (("c0", "c1"), 6, 3, False)
    assert data.notes == (
        "the folders Val, unlabeled are left out: Test is tested on",
        "the test set has no picture of 1 of 2 classes: 'c1'",
    )


@pytest.mark.right
def test_a_split_inside_a_folder_of_its_own_name(tmp_path: Path):
    fill(
        tmp_path, "seg_train/seg_train/sea", "seg_train/seg_train/street", "seg_test/seg_test/sea", "seg_pred/seg_pred"
    )
    data = loaded(tmp_path)
    assert parts(data) == (("sea", "street"), 6, 3, False)
    assert data.notes[0] == "the folders seg_pred are left out: seg_test is tested on"


@pytest.mark.right
def test_a_test_set_of_one_class_with_folders_in_it_is_not_entered(tmp_path: Path):
    fill(tmp_path, "train/sea", "train/street", "test/sea/day", "test/sea/night")
    assert set(loaded(tmp_path).test.ids) == {f"test/sea/{part}/{i}.png" for part in ("day", "night") for i in range(3)}


@pytest.mark.right
def test_unlabelled_test_pictures_are_noted(tmp_path: Path):
    fill(tmp_path, "train/cat", "train/dog", "test")
    data = loaded(tmp_path)
    assert parts(data) == (("cat", "dog"), 4, 2, True)
    assert data.notes[0] == "the folders test are left out"


@pytest.mark.right
def test_a_test_folder_whose_name_differs_in_more_is_said(tmp_path: Path):
    fill(tmp_path, "train/cat", "train/dog", "test_2021/cat", "test_2021/dog")
    data = loaded(tmp_path)
    assert parts(data) == (("cat", "dog"), 6, 6, False)
    assert data.notes == ("train is the training set, test_2021 the test set",)


@pytest.mark.right
@pytest.mark.parametrize("inside", [("train",), ("train/steam", "train/diesel")], ids=["flat", "with folders"])
def test_a_class_called_train(tmp_path: Path, inside: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    fill(tmp_path, "bus", "car", count=12)
    fill(tmp_path, *inside, count=12 // len(inside))
    code, shown = checked(tmp_path, capsys)
    assert code == 0 and "36 training samples of 3 classes" in shown
    assert ("the folder train is read as a class, as bus, car beside it" in shown) == (len(inside) > 1)
    assert """--data.classes '["diesel", "steam"]' would""" in shown or len(inside) == 1
    if len(inside) > 1:
        data = loaded(tmp_path, classes=("diesel", "steam"))
        assert parts(data)[0] == ("diesel", "steam") and data.notes[0] == "the folders bus, car are left out"


@pytest.mark.right
@pytest.mark.parametrize(
    "names", [("valid", "invalid"), ("test", "control"), ("bullet train", "test tube"), ("steam_train", "tram_train")]
)
def test_classes_with_words_of_splits(tmp_path: Path, names: tuple[str, ...]):
    fill(tmp_path, *names)
    data = loaded(tmp_path)
    assert parts(data) == (tuple(sorted(names)), 4, 2, True)
    exact = {"valid", "test"} & set(names)
    assert [f"the folders {name} are read as classes" in data.notes[0] for name in exact] == [True] * len(exact)
    assert len(data.notes) == 1 + len(exact) and len(loaded(tmp_path, classes=tuple(sorted(names))).notes) == 1


@pytest.mark.refused
@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (
            ("train/a", "train/b", "keep/a", "keep/b"),
            ["may be the training set, or a class beside keep", "same folders"],
        ),
        (("train/steam", "train/diesel", "car"), ["or a class beside car", "pictures too", '["train", "car"]']),
        (("bus/front", "bus/back", "car/front", "car/back", "train/front", "train/back"), ["beside bus, car", "same"]),
        (("train/a", "train/b", "Train/a", "Train/b"), ["several training folders: Train, train"]),
        (("train_1/a", "train_1/b", "test_1/a", "train_2/a", "train_2/b", "test_2/a"), ["several", "train_1, train_2"]),
        (("Training", "Testing"), ["Training, Testing, which look like splits", "Training/CLASS", "a manifest"]),
        (("cats_train", "cats_test", "dogs_train", "dogs_test"), ["cats_train, dogs_train, cats_test, dogs_test"]),
        (("Testing/a", "Testing/b", "source/a", "source/b"), ["Testing, which looks like a test set"]),
        (
            ("cat", "dog", "test/cat", "test/dog"),
            ["test, which looks like a test set", "put the training classes into"],
        ),
        (("Test/a", "Val/a"), ["Test, Val, which looks like a test set", "called train"]),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, folders: tuple[str, ...], says: list[str], capsys):
    fill(tmp_path, *folders)
    with pytest.raises(UserError) as error:
        loaded(tmp_path)
    assert all(text in str(error.value) for text in (*says, "--data.classes"))
    code, shown = checked(tmp_path, capsys)
    assert code == 2 and all(text in shown for text in says)
    top = tuple(sorted({folder.partition("/")[0] for folder in folders}))
    as_classes = loaded(tmp_path, classes=top)  # the way out that the message names
    assert as_classes.class_names == top and len(as_classes.train) + len(as_classes.test) == 3 * len(folders)


@pytest.mark.right
def test_the_classes_of_the_model_tell_how_a_folder_was_read(tmp_path: Path):
    fill(tmp_path, "train/a", "train/b", "keep/a", "keep/b")
    raw, samples = read_labelled(str(tmp_path), ("a", "b"))
    assert raw.class_names == ("a", "b") and len(samples) == 6
    assert "the folders keep are left out" in raw.notes
    raw, samples = read_labelled(str(tmp_path), ("keep", "train"))
    assert raw.class_names == ("keep", "train") and len(samples) == 12


@pytest.mark.right
def test_splits_inside_classes_and_like_folders_inside_classes_are_noted(tmp_path: Path):
    fill(tmp_path / "by class", "cat/train", "cat/test", "dog/Train", "dog/Test")
    (note, *_) = [text for text in loaded(tmp_path / "by class").notes if "splits in them" in text]
    assert "Test (3), Train (3), test (3), train (3)" in note and "train/CLASS" in note
    for name, folders in {
        "one role": ("train", "Train"),
        "no training": ("test", "val"),
        "words": ("train_a", "test_a"),
    }.items():
        fill(tmp_path / name, *(f"{label}/{folder}" for label in ("cat", "dog") for folder in folders))
        assert not any("splits in them" in text for text in loaded(tmp_path / name).notes), name
    fill(tmp_path / "classes", "train", "test", "val")
    notes = loaded(tmp_path / "classes", classes=("train", "test", "val")).notes
    assert not any("splits in them" in text for text in notes)
    fill(tmp_path / "by site", "north/a", "north/b", "south/a", "south/b")
    assert (
        "all classes (north, south) have folders of the same names in them (a, b)"
        in loaded(tmp_path / "by site").notes[0]
    )


@pytest.mark.refused
def test_a_test_class_that_differs_by_case(tmp_path: Path):
    fill(tmp_path, "train/Cat", "train/Dog", "test/Cat", "test/dog")
    with pytest.raises(UserError, match=r"test has classes that .*train has not: 'dog'\. Did you mean 'Dog'\?"):
        loaded(tmp_path)


@pytest.mark.refused
def test_a_folder_around_the_folder_is_named(tmp_path: Path):
    fill(tmp_path, "archive/cat", "archive/dog", "__MACOSX/archive")
    with pytest.raises(UserError, match="archive has several folders: is it the source"):
        loaded(tmp_path)


@pytest.mark.right
def test_a_manifest_spells_splits_as_folders_do(tmp_path: Path):
    fill(tmp_path, "x", count=6)
    splits = ("Train", "TRAINING", "train_set", "train", "Testing", "eval")
    rows = [f"x/{i}.png,{'ab'[i % 2]},{split}" for i, split in enumerate(splits)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    data = loaded(tmp_path / "list.csv")
    assert parts(data) == (("a", "b"), 4, 1, False) and "1 row of list.csv has the split val" in data.notes[0]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows, "y.png,a,test_2"]))
    with pytest.raises(UserError, match="row 8 'test_2'"):
        loaded(tmp_path / "list.csv")
    rows = [f"x/{i}.png,{'ab'[i % 2]},{'HeldOut' if i > 3 else 'train'}" for i in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    assert parts(loaded(tmp_path / "list.csv")) == (("a", "b"), 4, 2, True)


# Leftovers

INSIDE = ["@eaDir", "#recycle", ".AppleDouble", ".thumbnails", ".ipynb_checkpoints", ".git", "@Recycle", "lost+found"]
BESIDE = ["__MACOSX", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "FOUND.000", "#snapshot", ".Trash-1000"]


@pytest.mark.right
@pytest.mark.parametrize("name", INSIDE)
def test_folders_of_leftovers_inside_a_class(tmp_path: Path, name: str):
    fill(tmp_path, "c0", "c1", f"c0/{name}", f"c1/deeper/{name}/x")
    data = loaded(tmp_path)
    assert parts(data) == (("c0", "c1"), 4, 2, True)
    assert f"left out: {name} (2, 6 files inside)" in data.notes[0]
    new = read_new(str(tmp_path))
    assert len(new.samples) == 6 and new.notes == data.notes[:1]


@pytest.mark.right
@pytest.mark.parametrize("name", BESIDE)
def test_folders_of_leftovers_beside_classes_and_splits(tmp_path: Path, name: str):
    fill(tmp_path, "train/c0", "train/c1", "test/c0", f"{name}/train/c0", f"train/{name}", f"test/{name}")
    data = loaded(tmp_path)
    assert parts(data) == (("c0", "c1"), 6, 3, False)
    assert f"left out: {name} (3, 9 files inside)" in "; ".join(data.notes)
    assert len(read_new(str(tmp_path)).samples) == 9


@pytest.mark.right
def test_files_of_leftovers(tmp_path: Path):
    fill(tmp_path, "c0", "c1")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", "._1.png", "ehthumbs.db", "Icon\r"):
        (tmp_path / "c0" / name).write_bytes(b"x")
    (tmp_path / "c0" / ".link").symlink_to("/")
    data = loaded(tmp_path)
    assert parts(data) == (("c0", "c1"), 4, 2, True)
    assert data.notes[0] == (
        "hidden, or left there by systems and programs, and left out: .DS_Store (1), ._* (2), .link (1), Icon\r (1), "
        "Thumbs.db (1), desktop.ini (1), ehthumbs.db (1)"
    )


@pytest.mark.refused
def test_a_class_of_nothing_but_leftovers_says_so(tmp_path: Path):
    fill(tmp_path, "c0", "c1", "c2/@eaDir")
    with pytest.raises(UserError, match=r"class 'c2' is empty: .*but 1 hidden or left there by systems and programs"):
        loaded(tmp_path)


@pytest.mark.refused
def test_an_empty_class_says_what_lies_in_it_and_not_what_lies_in_others(tmp_path: Path):
    fill(tmp_path, "c0", "c1/@eaDir", "c1")
    for name in ("c0/a.txt", "c0/a.heic", "c2/b.txt", "c2/c.md", "c2/d.HEIC"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no picture")
    says = r"class 'c2' is empty: .*\), but 1 picture of a format .* \(HEIC 1\): save .* PNG, 2 other files\. Put"
    with pytest.raises(UserError, match=says):
        loaded(tmp_path)


@pytest.mark.right
def test_a_manifest_that_lists_leftovers_is_noted(tmp_path: Path):
    fill(tmp_path, "c0", "c1", "c0/@eaDir")
    rows = [f"{folder}/{i}.png,{folder[:2]}" for folder in ("c0", "c1", "c0/@eaDir") for i in range(3)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    assert "3 rows of 9 name files that are hidden, or left there" in loaded(tmp_path / "list.csv").notes[0]


@pytest.mark.right
def test_pictures_in_no_class_are_counted(tmp_path: Path):
    fill(tmp_path, "c0", "c1", ".")
    (tmp_path / "README.txt").touch()
    assert (
        f"3 pictures lie in {tmp_path} itself, in no class, and are left out, the first: 0.png"
        in loaded(tmp_path).notes
    )


# acto data check


@pytest.mark.refused
def test_data_check_lists_all_problems_of_a_folder_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fill(tmp_path, "train/cat", "train/Cat", "train/dog", "test/cat", "test/cow", "train/dog/@eaDir", "keep/cat")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "train" / "phone").mkdir()
    (tmp_path / "train" / "phone" / "0.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"")
    (tmp_path / "test" / "cat" / "1.png").write_bytes((tmp_path / "train" / "dog" / "1.png").read_bytes())
    code, shown = checked(tmp_path, capsys)
    assert code == 2
    for text in (
        "1. class 'empty' is empty",
        "2. class 'phone' is empty",
        "(HEIC 1): save them as JPEG or PNG",
        "3. ",
        "classes that",
        "'cow'. Rename",
        "4. 1 picture cannot be used: --on-bad-image drop leaves them out",
        "train/cat/0.png: the file is empty (0 bytes)",
        "names that look alike",
        "across training and test set: 1",
        "what helps: keep one of each group",
        "the folders keep are left out: test is tested on",
        "@eaDir (1, 3 files inside)",
        "for which training would refuse: 4",
    ):
        assert text in shown, text
    assert checked(tmp_path, capsys, "--on-bad-image", "drop")[1].endswith(
        "Rename them as in training, or take them out\n"
    )


@pytest.mark.refused
def test_data_check_lists_all_problems_of_a_manifest_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fill(tmp_path, "x", count=8)
    good = [f"x/{i}.png,{'ab'[i % 2]},train" for i in range(8)]
    bad = ["x/0.png,b,train", "../y.png,a,train", "x/1.png", "no.png,a,train", "x/z.png,,train", "x/w.png,a,tset"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *good, *bad]))
    with pytest.raises(UserError, match="row 12 has 1 cell"):
        loaded(tmp_path / "list.csv")
    code, shown = checked(tmp_path / "list.csv", capsys)
    assert code == 2 and "9 training samples of 2 classes" in shown
    assert "4 (b) to 5 (a)" in shown, "of a picture's two rows the first counts, which says a"
    for text in (
        "row 12 has 1 cell",
        "row 11: '../y.png' is no path",
        "x/0.png occurs in rows 2, 10",
        "unknown split",
    ):
        assert text in shown
    for text in ("1 row has no label, the first: 14", "no.png: no such file", "for which training would refuse: 7"):
        assert text in shown, shown


@pytest.mark.refused
def test_data_check_looks_at_pictures_whose_labels_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fill(tmp_path, "x", count=5)
    (tmp_path / "x" / "3.png").write_bytes(b"no picture")
    (tmp_path / "x" / "2.png").write_bytes((tmp_path / "x" / "1.png").read_bytes())
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(f"x/{i}.png,{2 * i}" for i in range(4)))
    code, shown = checked(tmp_path / "list.csv", capsys)
    assert code == 2 and "4 samples, without labels that can be read" in shown
    for text in ("class 1 has no sample", "x/3.png: not a picture", "train x/1.png (?), train x/2.png (?)"):
        assert text in shown
    with (tmp_path / "list.csv").open("a") as file:
        file.write("\nx/4.png,\n")
    code, shown = checked(tmp_path / "list.csv", capsys)
    assert code == 2 and "5 samples, without" in shown
    assert "1 row has no label, the first: 6" in shown and "class 1 has no sample" in shown
    with (tmp_path / "list.csv").open("a") as file:
        file.write("x/0.png,0\n")
    code, shown = checked(tmp_path / "list.csv", capsys)
    assert code == 2 and "x/0.png occurs in rows 2, 7" in shown and "class 1 has no sample" in shown


@pytest.mark.refused
def test_data_check_of_nothing(tmp_path: Path):
    with pytest.raises(UserError, match="has 0 class folders"):
        check_data(DataSpec(source=str(tmp_path)))


@pytest.mark.refused
def test_data_check_knows_what_the_held_out_part_needs(tmp_path: Path):
    report = check_data(DataSpec(source=str(fill(tmp_path, "a", "b"))))
    assert not report.is_usable
    assert report.refusals == (
        "6 samples are too few to hold out 10% of each class: give a test set or a larger holdout_share "
        "(--data.holdout_share)",
    )
    fill(tmp_path, "c", count=1)
    (tmp_path / "c" / "0.png").write_bytes(b"")
    spec = DataSpec(source=str(tmp_path), on_bad_image="drop", holdout_share=0.4)
    (refusal,) = check_data(spec).refusals
    assert refusal.startswith("1 class has no training sample that can be used: 'c'")
    with pytest.raises(UserError, match="1 of 3 classes have no training sample: 'c'"):
        load_data(spec)


@pytest.mark.refused
def test_data_check_knows_an_empty_test_set(tmp_path: Path):
    fill(tmp_path, "train/a", "train/b", "test/a", count=2)
    for i in range(2):
        (tmp_path / "test" / "a" / f"{i}.png").unlink()
    report = check_data(DataSpec(source=str(tmp_path)))
    assert [text.partition(":")[0] for text in report.refusals] == [
        f"the test set of {tmp_path.name} has no usable sample"
    ]
    assert not any("test set has no picture" in note for note in report.notes), "said once"


@pytest.mark.refused
def test_many_classes_are_not_all_listed(tmp_path: Path):
    names = [f"c{i}" for i in range(40)]
    fill(tmp_path, *(f"{top}/{name}" for top in ("train", "keep") for name in names), count=1)
    with pytest.raises(UserError, match=r"--data.classes with the names of the 40 folders in .*train reads") as error:
        loaded(tmp_path)
    assert "c17" not in str(error.value)
