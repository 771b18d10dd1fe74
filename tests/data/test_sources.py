"""Every source on small trees with the real layouts, what goes wrong with users' data, and the order of load's work."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acto.compare.published import accuracies
from acto.core.errors import UserError
from acto.data.catalog import OF_THE_PAPER, SOURCES
from acto.data.noise import NoiseSpec, draw_labels, sha256_of_labels, transition_matrix
from acto.data.pictures.kinds import SUFFIXES
from acto.data.readers import cifar, idx
from acto.data.readers.cifar import CIFAR10, CIFAR100
from acto.data.readers.formats import FILE_SUFFIXES, FORMATS
from acto.data.readers.idx import read_idx
from acto.data.readers.place import Place
from acto.data.readers.safe_pickle import load_plain
from acto.data.samples import DataSpec, Samples
from acto.data.sources import load_data
from acto.data.splits import holdout, subset
from acto.runs.recipes.by_data import SETTINGS


@pytest.fixture(autouse=True)
def no_data_root(request, monkeypatch):
    if "cifar" not in request.keywords:
        monkeypatch.delenv("ACTO_DATA_ROOT", raising=False)


def picture(path: Path, *, size=(12, 10), colour=(200, 30, 30), noise_seed: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    if noise_seed is not None:
        pixels = np.random.RandomState(noise_seed).randint(0, 256, (size[1], size[0], 3))
        image = Image.fromarray(pixels.astype(np.uint8))
    image.save(path)
    return path


def folder_tree(root: Path, counts: dict[str, int], *, size=(12, 10), suffix=".png") -> Path:
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            picture(root / name / f"{i:03}{suffix}", size=size, colour=(10 * number, i, 0))
    return root


# Splits


def test_holdout_is_stratified_and_seeded():
    labels = np.repeat([0, 1, 2], [50, 20, 3])
    kept, held_out = holdout(labels, share=0.1, seed=0)
    assert np.bincount(labels[held_out], minlength=3).tolist() == [5, 2, 0]
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(73))
    assert (np.diff(kept) > 0).all()
    assert np.array_equal(holdout(labels, share=0.1, seed=0)[1], held_out)
    assert not np.array_equal(holdout(labels, share=0.1, seed=1)[1], held_out)
    assert np.bincount(labels[holdout(labels, share=0.9, seed=0)[0]]).tolist() == [5, 2, 1]  # one of a class stays
    with pytest.raises(UserError, match="too few to hold out 10% of each class"):
        holdout(np.array([0, 0, 1, 1]), share=0.1, seed=0)


def test_subset_keeps_the_shares_and_every_class():
    labels = np.random.RandomState(0).permutation(np.repeat([0, 1, 2], [600, 300, 4]))
    rows = subset(labels, 90, seed=0)
    counts = np.bincount(labels[rows])
    assert counts.sum() == 90 and counts[2] >= 1
    assert abs(counts[0] - 60) <= 1 and abs(counts[1] - 30) <= 1
    assert (np.diff(rows) > 0).all()
    with pytest.raises(UserError, match=r"subset is 2, but must lie between 3 \(one a class\) and 904"):
        subset(labels, 2, seed=0)


# CIFAR


def cifar_batches(form, *, per_class=3, key=str) -> dict[str, dict]:
    """The official files, small: pixels of sample i are all i (red), label (green), 7 (blue)."""
    random = np.random.RandomState(0)

    def batch():
        labels = random.permutation(np.repeat(np.arange(form.num_classes), per_class))
        planes = np.stack([np.arange(len(labels)) % 256, labels, np.full(len(labels), 7)], axis=1)
        data = np.repeat(planes.astype(np.uint8), 1024, axis=1)
        data[:, 5] = 200  # red of the sixth pixel of the first row
        return {key("data"): data, key(form.labels): labels.tolist(), key("filenames"): ["x.png"] * len(labels)}

    names = [key(f"class {i}") for i in range(form.num_classes)]
    return {name: batch() for name in (*form.train, *form.test)} | {form.meta: {key(form.names): names}}


def write_cifar(root: Path, form, *, key=str, protocol=2, **changes) -> Path:
    folder = root / f"cifar{form.num_classes}" / form.folder
    folder.mkdir(parents=True)
    for name, content in (cifar_batches(form, key=key) | changes).items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def tar_of(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_cifar_of_the_python_archive(tmp_path: Path, protocol):
    key = (lambda text: text.encode()) if protocol == 5 else str
    folder = write_cifar(tmp_path, CIFAR10, key=key, protocol=protocol)
    data = load_data(DataSpec(source="cifar10"), data_root=tmp_path)
    assert (len(data.train), len(data.test), data.num_classes) == (150, 30, 10)
    assert data.class_names[:2] == ("class 0", "class 1")
    assert data.train.pixels.shape == (150, 32, 32, 3)
    expected = cifar_batches(CIFAR10)
    labels = np.concatenate([expected[name]["labels"] for name in CIFAR10.train])
    assert np.array_equal(data.train.labels, labels)
    assert (data.train.pixels[31, 1:] == [1, labels[31], 7]).all()  # second batch, second picture: row 1, its label, 7
    assert data.train.pixels[31, 0, 5].tolist() == [200, labels[31], 7]
    assert np.array_equal(data.train.true_labels, data.train.labels)
    assert data.train.ids[:3] == ("0", "1", "2")
    assert (data.views.pipeline, data.views.mean[0]) == ("cifar", 0.485)
    assert data.noise["rate_realised"] == 0 and not data.test_labels_are_given
    # The same from the archive as it is, and from the folder itself as data root.
    (tmp_path / "packed").mkdir()
    tar_of(folder, tmp_path / "packed" / "cifar-10-python.tar.gz")
    for root in (tmp_path / "packed", folder, folder.parent):
        again = load_data(DataSpec(source="cifar10"), data_root=root)
        assert np.array_equal(again.train.pixels, data.train.pixels)
        assert np.array_equal(again.test.labels, data.test.labels)


def test_cifar_of_parquet_equals_the_archive(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_cifar(tmp_path / "archive", CIFAR100)
    expected = load_data(DataSpec(source="cifar100"), data_root=tmp_path / "archive")
    folder = tmp_path / "copy" / "cifar100"
    folder.mkdir(parents=True)
    (folder / "fine_label_names.txt").write_text("\n".join(f"class-{i}" for i in range(100)))
    for split, samples in (("train", expected.train), ("test", expected.test)):
        half = len(samples) // 2
        for number, part in enumerate((slice(0, half), slice(half, None))):
            files = []
            for pixels in samples.pixels[part]:
                stream = io.BytesIO()
                Image.fromarray(pixels).save(stream, "PNG")
                files.append({"bytes": stream.getvalue(), "path": "x.png"})
            columns = {"img": files, "fine_label": samples.labels[part], "coarse_label": samples.labels[part] // 5}
            parquet.write_table(pyarrow.table(columns), folder / f"{split}-{number:05}-of-00002.parquet")
    noise = NoiseSpec(kind="symmetric", rate=0.2)
    data = load_data(DataSpec(source="cifar100nc", noise=noise), data_root=tmp_path / "copy")
    assert np.array_equal(data.train.pixels, expected.train.pixels)
    assert np.array_equal(data.train.true_labels, expected.train.labels)
    assert np.array_equal(data.test.pixels, expected.test.pixels)
    assert data.class_names[5] == "class-5"
    assert "order of the Parquet rows" in data.notes[0]
    (folder / "fine_label_names.txt").unlink()
    assert load_data(DataSpec(source="cifar100"), data_root=tmp_path / "copy").class_names[5] == "5"
    table = parquet.read_table(folder / "train-00000-of-00002.parquet")
    facts = {"info": {"features": {"fine_label": {"names": [f"named {i}" for i in range(100)]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
    parquet.write_table(table, folder / "train-00000-of-00002.parquet")
    (folder / "data").mkdir()
    for file in folder.glob("*.parquet"):
        file.rename(folder / "data" / file.name)
    assert load_data(DataSpec(source="cifar100"), data_root=tmp_path / "copy").class_names[5] == "named 5"
    table = parquet.read_table(folder / "data" / "test-00000-of-00002.parquet").drop_columns(["img"])
    parquet.write_table(table, folder / "data" / "test-00000-of-00002.parquet")
    with pytest.raises(UserError, match="no column 'img'"):
        load_data(DataSpec(source="cifar100"), data_root=tmp_path / "copy")


def test_cifar80no_is_open_set(tmp_path: Path):
    write_cifar(tmp_path, CIFAR100)
    noise = NoiseSpec(kind="symmetric", rate=0.2)
    data = load_data(DataSpec(source="cifar80no", noise=noise), data_root=tmp_path)
    truth = data.train.true_labels
    assert data.num_classes == 80 and len(data.train) == 300
    assert truth.max() == 99 and data.train.labels.max() < 80
    assert len(data.test) == 240 and data.test.labels.max() == 79
    matrix = transition_matrix("symmetric", rate=0.2, num_classes=100, open_rate=0.2)
    assert np.array_equal(data.train.labels, draw_labels(truth, matrix))
    facts = data.noise
    assert facts["rate_realised"] == np.mean(data.train.labels != truth)
    assert (facts["kind"], facts["rate"], facts["open_rate"], facts["seed"]) == ("symmetric", 0.2, 0.2, 0)
    assert facts["sha256"] == sha256_of_labels(data.train.labels)
    for bad, message in (
        (NoiseSpec(kind="symmetric", rate=0.2, open_rate=0.1), "open_rate of cifar80no is 0.2"),
        (NoiseSpec(kind="instance", rate=0.2), "must be symmetric or asymmetric"),
    ):
        with pytest.raises(UserError, match=message):
            load_data(DataSpec(source="cifar80no", noise=bad), data_root=tmp_path)
    with pytest.raises(UserError, match="choose cifar80no"):
        load_data(DataSpec(source="cifar100nc", noise=replace(noise, open_rate=0.2)), data_root=tmp_path)
    closed = load_data(
        DataSpec(source="cifar80no"), data_root=tmp_path
    )  # no closed-set noise: the open-set classes alone
    assert np.array_equal(closed.train.labels != closed.train.true_labels, closed.train.true_labels >= 80)


def test_cifar_with_peoples_labels(tmp_path: Path):
    write_cifar(tmp_path, CIFAR10)
    clean = load_data(DataSpec(source="cifar10"), data_root=tmp_path).train.labels
    worse, aggre = (clean + 1) % 10, np.where(np.arange(len(clean)) < 30, (clean + 2) % 10, clean)
    with pytest.raises(UserError, match=r"CIFAR-10_human.pt was not found in .*noise\.path"):
        load_data(DataSpec(source="cifar10n"), data_root=tmp_path)
    torch.save({"clean_label": clean, "worse_label": worse, "aggre_label": aggre}, tmp_path / "CIFAR-10_human.pt")
    data = load_data(DataSpec(source="cifar10n"), data_root=tmp_path)
    assert np.array_equal(data.train.labels, worse) and np.array_equal(data.train.true_labels, clean)
    assert (data.noise["kind"], data.noise["name"], data.noise["rate_realised"]) == ("human", "worse_label", 1.0)
    data = load_data(DataSpec(source="cifar10n", noise=NoiseSpec(kind="human", name="aggre_label")), data_root=tmp_path)
    assert data.noise["rate_realised"] == pytest.approx(0.2)
    named = NoiseSpec(kind="human", name="aggre_label", path=str(tmp_path / "CIFAR-10_human.pt"))
    assert np.array_equal(load_data(DataSpec(source="cifar10", noise=named), data_root=tmp_path).train.labels, aggre)
    with pytest.raises(UserError, match="noise kind must be human"):
        load_data(DataSpec(source="cifar10n", noise=NoiseSpec(kind="symmetric", rate=0.2)), data_root=tmp_path)
    with pytest.raises(UserError, match="not for digits"):
        load_data(DataSpec(noise=NoiseSpec(kind="human", name="worse_label")))


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_array_of_a_python_2_pickle():
    """The official archives were written by Python 2: array bytes stand in them as text."""
    content = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x03\x85cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x03\x00\x80\xfftbs."
    )
    data = load_plain(io.BytesIO(content), name="batch")["data"]
    assert data.dtype == np.uint8 and data.tolist() == [0, 128, 255]


@pytest.mark.parametrize("packed", [False, True])
def test_malicious_pickle_in_a_cifar_archive_is_refused(tmp_path: Path, packed):
    trace = tmp_path / "was-here"
    folder = write_cifar(tmp_path / "a", CIFAR100, test={"data": Malicious(trace)})
    root = folder.parent
    if packed:
        root = tmp_path / "b"
        root.mkdir()
        tar_of(folder, root / "cifar-100-python.tar.gz")
    with pytest.raises(UserError, match=r"test was refused: it asks for \w+\.mkdir; only numpy arrays"):
        load_data(DataSpec(source="cifar100"), data_root=root)
    assert not trace.exists()


def test_damaged_cifar_archives_are_refused(tmp_path: Path):
    form, good = CIFAR100, cifar_batches(CIFAR100)
    cases = (
        ({"train": good["train"] | {"data": np.zeros((300, 3071), np.uint8)}}, r"'data' must be uint8 of \(N, 3072\)"),
        (
            {"train": good["train"] | {"fine_labels": [100] + [0] * 299}},
            "1 of 'fine_labels' are not in 0..99: row 0: 100",
        ),
        ({"train": good["train"] | {"fine_labels": [0] * 299}}, "must be 300 whole numbers"),
        ({"train": [1, 2]}, "holds a list"),
        ({"meta": {"fine_label_names": ["one"]}}, "must be a list of 100 class names"),
    )
    for number, (changes, message) in enumerate(cases):
        write_cifar(tmp_path / str(number), form, **changes)
        with pytest.raises(UserError, match=message):
            load_data(DataSpec(source="cifar100"), data_root=tmp_path / str(number))
    folder = write_cifar(tmp_path / "cut", form)
    (folder / "train").write_bytes((folder / "train").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"train was refused|train is not a readable pickle"):
        load_data(DataSpec(source="cifar100"), data_root=tmp_path / "cut")
    (folder / "train").unlink()
    with pytest.raises(UserError, match="no whole CIFAR archive"):
        load_data(DataSpec(source="cifar100"), data_root=tmp_path / "cut")
    (tmp_path / "tar").mkdir()
    (tmp_path / "tar" / "cifar-100-python.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="damaged archive"):
        load_data(DataSpec(source="cifar100"), data_root=tmp_path / "tar")


def test_download_only_when_asked_and_only_the_published_file(tmp_path: Path):
    folder = write_cifar(tmp_path / "there", CIFAR10)
    published = tmp_path / "cifar-10-python.tar.gz"
    tar_of(folder, published)
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    form = replace(CIFAR10, url=published.as_uri(), sha256=digest)
    root = tmp_path / "root"
    root.mkdir()

    def read(download, form):
        return cifar.read(DataSpec(source="cifar10"), Place(path=root, download=download), form=form)

    with pytest.raises(UserError, match="--download fetches the archive"):
        read(False, form)
    with pytest.raises(UserError, match="not the published file: its sha256 is"):
        read(True, replace(form, sha256="0" * 64))
    assert not list((root / "cifar10").iterdir())  # nothing half-trusted stays
    with pytest.raises(UserError, match="could not be fetched"):
        read(True, replace(form, url=(tmp_path / "nowhere" / "cifar-10-python.tar.gz").as_uri()))
    assert len(read(True, form).train) == 150
    assert [path.name for path in (root / "cifar10").iterdir()] == ["cifar-10-python.tar.gz"]
    assert len(read(False, form).train) == 150


@pytest.mark.cifar
def test_real_cifar100():
    root = os.environ.get("ACTO_DATA_ROOT")
    if not root:
        pytest.skip("set ACTO_DATA_ROOT to a folder with the real CIFAR-100")
    data = load_data(DataSpec(source="cifar80no", noise=NoiseSpec(kind="symmetric", rate=0.2)))
    assert (len(data.train), len(data.test), data.num_classes) == (50_000, 8_000, 80)
    assert data.noise["rate_realised"] == pytest.approx(0.36, abs=0.005)
    assert np.bincount(data.train.true_labels).tolist() == [500] * 100
    assert data.class_names[0] == "apple"
    mean = data.train.pixels.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.5071, 0.4865, 0.4409], atol=1e-3)  # the published means of CIFAR-100


# Arrays that come with an installation


def test_digits_are_the_default():
    data = load_data(DataSpec())
    assert (data.name, len(data.train), len(data.test), data.num_classes) == ("digits", 1347, 450, 10)
    assert data.train.pixels.shape == (1347, 8, 8, 1) and data.train.pixels.max() == 255
    assert not data.test_labels_are_given and not data.notes
    assert np.array_equal(data.test.labels, data.test.true_labels)
    assert data.views.pipeline == "digits"
    np.testing.assert_allclose(data.views.mean, data.train.pixels.mean() / 255)
    np.testing.assert_allclose(data.views.std, data.train.pixels.std() / 255)
    assert set(data.train.ids).isdisjoint(data.test.ids)
    other = load_data(DataSpec(holdout_seed=1))
    assert set(other.test.ids) != set(data.test.ids)
    noisy = load_data(DataSpec(noise=NoiseSpec(kind="symmetric", rate=0.4)))
    assert np.array_equal(noisy.test.labels, data.test.labels)  # the test set stays clean
    assert noisy.noise["rate_realised"] == pytest.approx(0.4, abs=0.04)
    assert noisy.noise["sha256"] != data.noise["sha256"]
    with pytest.raises(UserError, match="class list of its own"):
        load_data(DataSpec(classes=("a", "b")))
    with pytest.raises(UserError, match="resize is for large picture files; size is the side to which those of digits"):
        load_data(DataSpec(resize=32))


def test_noise_and_pixel_scale_of_instance_noise_are_recorded():
    noise = NoiseSpec(kind="instance", rate=0.3, pixel_scale="standardized", seed=4)
    facts = load_data(DataSpec(noise=noise)).noise
    assert (facts["pixel_scale"], facts["seed"]) == ("standardized", 4)
    assert facts["rate_realised"] == pytest.approx(0.3, abs=0.05)


def idx_bytes(array: np.ndarray) -> bytes:
    shape = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


def test_fashion_mnist_of_idx_files(tmp_path: Path, monkeypatch):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.RandomState(0).randint(0, 256, (30, 28, 28)).astype(np.uint8)
    labels = np.arange(30) % 10
    for split, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels[rows])))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[rows]))
    data = load_data(DataSpec(source="fashion-mnist"), data_root=tmp_path)
    assert np.array_equal(data.train.pixels[..., 0], pixels[:20])
    assert np.array_equal(data.test.labels, labels[20:])
    assert (data.class_names[9], data.views.pipeline) == ("Ankle boot", "fashion")
    monkeypatch.setattr(idx, "DEBIAN_FASHION_MNIST", folder)
    assert len(load_data(DataSpec(source="fashion-mnist")).train) == 20
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="with its labels"):
        load_data(DataSpec(source="fashion-mnist"), data_root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_bytes(np.zeros((2, 3)))[:-1], "should hold 6 bytes"),
        (idx_bytes(np.zeros((2, 3))) + b"x", "should hold 6 bytes"),
        (b"\x00\x00\x08\x03\x00", "should hold"),
        (b"\x89PNG", "no idx file"),
        (b"", "no idx file"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(tmp_path / "file")
    (tmp_path / "file.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=message):
        read_idx(tmp_path / "file.gz")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(idx_bytes(np.arange(60).reshape(6, 10)))[:-12])
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(tmp_path / "cut.gz")


# The papers' picture sets


def test_web_tree_is_read_as_photographs(tmp_path: Path):
    root = tmp_path / "Datasets" / "web-bird"
    for number, name in enumerate(("001.Black_footed_Albatross", "002.Laysan_Albatross")):
        for i in range(3):
            picture(root / "train" / name / f"{i}.jpg", size=(40, 30), colour=(90 * number, i, 0))
        picture(root / "val" / name / "0.jpg", size=(50, 30))
    data = load_data(DataSpec(source="web-bird"), data_root=tmp_path)
    assert (len(data.train), len(data.test)) == (6, 2)
    assert data.train.ids[3] == "train/002.Laysan_Albatross/0.jpg"
    assert data.train.paths[3] == root / "train/002.Laysan_Albatross/0.jpg"
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.true_labels is None and data.noise["rate_realised"] is None
    assert (data.views.pipeline, data.views.size, data.views.resize) == ("photo", 448, 448)
    assert not data.test_labels_are_given
    assert data.notes == (f"{root} has 2 classes, the published web-bird 200",)
    small = load_data(DataSpec(source="web-bird", size=112), data_root=tmp_path)
    assert (small.views.size, small.views.resize) == (112, 112)
    with pytest.raises(UserError, match="noisy as they come"):
        load_data(DataSpec(source="web-bird", noise=NoiseSpec(kind="symmetric", rate=0.2)), data_root=tmp_path)
    with pytest.raises(UserError, match=r"web-car was not found in .*Datasets/web-car.*web-car/train/CLASS"):
        load_data(DataSpec(source="web-car"), data_root=tmp_path)


def food_tree(root: Path) -> Path:
    food = root / "Datasets" / "food-101"
    nested = food / "food-101"
    for folder in (food / "meta", nested / "meta"):
        folder.mkdir(parents=True)
    keys = [f"{name}/{i}.jpg" for name in ("ramen", "apple_pie") for i in range(3)]
    for i, key in enumerate(keys):
        picture(food / "images" / key, size=(90, 70), colour=(i, 0, 0))
    (food / "meta" / "classes.txt").write_text("class_name\nramen\napple_pie\n")
    (food / "meta" / "imagelist.tsv").write_text("class_name/key\n" + "\n".join(keys) + "\n")
    (food / "meta" / "verified_train.tsv").write_text(
        "class_name/key\tverification_label\nramen/0.jpg\t1\nramen/2.jpg\t0\nramen/stranger.jpg\t1\n"
    )
    (food / "meta" / "verified_val.tsv").write_text("class_name/key\tverification_label\napple_pie/1.jpg\t1\n")
    (nested / "meta" / "classes.txt").write_text("apple_pie\nramen\n")
    (nested / "meta" / "test.txt").write_text("apple_pie/77\nramen/88\nramen/99\n")
    for key in ("apple_pie/77", "ramen/88", "ramen/99"):
        picture(nested / "images" / f"{key}.jpg", size=(90, 70))
    return food


def test_food101n_with_verdicts_for_evaluation(tmp_path: Path):
    food = food_tree(tmp_path)
    data = load_data(DataSpec(source="food101n"), data_root=tmp_path)
    assert data.class_names == ("ramen", "apple_pie")
    assert data.train.ids[0] == "images/ramen/0.jpg" and len(data.train) == 6
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.true_labels.tolist() == [0, -1, 2, -1, 1, -1]  # right, unknown, known to be wrong
    assert data.train.is_known.tolist() == [True, False, True, False, True, False]
    assert data.noise["rate_realised"] == pytest.approx(1 / 3)
    assert data.test.labels.tolist() == [1, 0, 0]
    assert data.test.paths[2] == food / "food-101" / "images" / "ramen" / "99.jpg"
    assert (data.views.size, data.views.resize) == (224, 256)
    assert "1 verdict is for a picture that imagelist.tsv does not have, e.g. ramen/stranger.jpg" in data.notes
    (food / "meta" / "imagelist.tsv").write_text("class_name/key\nramen/0.jpg\nsushi/0.jpg\n")
    with pytest.raises(UserError, match=r"imagelist.tsv line 3 names no class and picture: 'sushi/0.jpg'"):
        load_data(DataSpec(source="food101n"), data_root=tmp_path)
    (food / "food-101" / "meta" / "test.txt").unlink()
    (food / "meta" / "imagelist.tsv").write_text("ramen/0.jpg\n")
    with pytest.raises(UserError, match=r"test.txt cannot be read"):
        load_data(DataSpec(source="food101n"), data_root=tmp_path)


# Folders of one's own


def test_folder_of_small_pictures_is_decoded_and_a_tenth_held_out(tmp_path: Path):
    folder_tree(tmp_path / "pets", {"dog": 20, "cat": 30, ".cache": 3})
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "pets" / "README").write_text("not in a class")
    data = load_data(DataSpec(source=str(tmp_path / "pets")))
    assert (data.name, data.class_names, len(data.train), len(data.test)) == ("pets", ("cat", "dog"), 45, 5)
    assert data.test_labels_are_given
    assert data.train.pixels.shape == (45, 10, 12, 3)
    assert data.views.pipeline == "small" and data.views.size is None
    np.testing.assert_allclose(data.views.mean, data.train.pixels.mean((0, 1, 2)) / 255)
    assert data.views.std[2] == 1.0  # a channel that never changes
    assert np.bincount(data.test.labels).tolist() == [3, 2]
    assert data.notes[0] == "1 file is no picture and was left out, the first: cat/notes.txt"
    assert data.notes[1].endswith("left out: .cache (1, 3 files inside)")
    assert data.notes[2].startswith("no test set: 5 of 50 samples are held out, and accuracy is measured against their")
    position = data.train.ids.index("dog/007.png")
    assert (data.train.pixels[position] == [0, 7, 0]).all() and data.train.labels[position] == 1
    by_name = load_data(DataSpec(source="folder"), data_root=tmp_path / "pets")
    assert by_name.train.ids == data.train.ids


def test_folder_of_large_pictures_stays_on_disk(tmp_path: Path):
    folder_tree(tmp_path, {"a": 5, "b": 5}, size=(80, 70), suffix=".jpg")
    data = load_data(DataSpec(source=str(tmp_path), holdout_share=0.2))
    assert data.train.pixels is None and len(data.train.paths) == 8
    assert (data.views.pipeline, data.views.size, data.views.resize) == ("photo", 224, 256)
    with pytest.raises(UserError, match="needs pixels in memory"):
        load_data(DataSpec(source=str(tmp_path), holdout_share=0.2, noise=NoiseSpec(kind="instance", rate=0.2)))


def test_small_pictures_of_several_sizes_stay_on_disk(tmp_path: Path):
    folder_tree(tmp_path / "a", {"a": 3, "b": 3})
    picture(tmp_path / "a" / "b" / "other.png", size=(20, 20))
    assert load_data(DataSpec(source=str(tmp_path / "a"), holdout_share=0.4)).train.paths is not None


def test_folder_with_train_and_test(tmp_path: Path):
    folder_tree(tmp_path / "train", {"10": 2, "9": 2, "2": 2})
    folder_tree(tmp_path / "test", {"9": 1, "2": 2})
    folder_tree(tmp_path / "val", {"9": 1})
    picture(tmp_path / "train" / "9" / "deeper" / "x.JPEG")
    data = load_data(DataSpec(source=str(tmp_path)))
    assert data.class_names == ("2", "9", "10")  # numbers in numeric order
    assert data.test.labels.tolist() == [0, 0, 1] and not data.test_labels_are_given
    assert "train/9/deeper/x.JPEG" in data.train.ids
    assert data.notes[:2] == (
        "the folders val are left out: test is tested on",
        "the test set has no picture of 1 of 3 classes: '10'",
    )
    picture(tmp_path / "test" / "77" / "x.png")
    with pytest.raises(UserError, match=r"test has classes that .*train has not: '77'"):
        load_data(DataSpec(source=str(tmp_path)))


def test_folder_errors_name_the_class(tmp_path: Path):
    folder_tree(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "empty one").mkdir()
    with pytest.raises(UserError, match=r"class 'empty one' is empty: .*has no picture"):
        load_data(DataSpec(source=str(tmp_path)))
    (tmp_path / "empty one").rmdir()
    with pytest.raises(UserError, match="1 of 3 classes have no training sample: 'cow'"):
        load_data(DataSpec(source=str(tmp_path), classes=("cat", "cow", "dog"), holdout_share=0.5))
    with pytest.raises(UserError, match=r"none of the 2 classes. Did you mean 'dogs'.*dog/000.png: 'dog'"):
        load_data(DataSpec(source=str(tmp_path), classes=("cat", "dogs"), holdout_share=0.5))
    ordered = load_data(DataSpec(source=str(tmp_path), classes=("dog", "cat"), holdout_share=0.5))
    assert ordered.class_names == ("dog", "cat") and ordered.train.ids[0].startswith("cat")
    assert ordered.train.labels[0] == 1
    (tmp_path / "only" / "one").mkdir(parents=True)
    with pytest.raises(UserError, match="has 1 class folders, but at least two are needed"):
        load_data(DataSpec(source=str(tmp_path / "only")))


def test_bad_pictures_are_named_and_dropped_only_when_asked(tmp_path: Path):
    folder_tree(tmp_path, {"a": 6, "b": 6}, size=(90, 90), suffix=".jpg")
    truncated = tmp_path / "a" / "001.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-40])
    (tmp_path / "b" / "002.jpg").write_bytes(b"")
    inside = picture(tmp_path / "noise.png", size=(90, 90), noise_seed=0)
    content = bytearray(inside.read_bytes())
    content[5000:5100] = bytes(100)  # it ends as a PNG should: found only by decoding
    inside.unlink()
    (tmp_path / "b" / "004.jpg").write_bytes(content)
    spec = DataSpec(source=str(tmp_path), holdout_share=0.3)
    with pytest.raises(
        UserError, match=r"2 of 12 pictures .*a/001.jpg: .*; b/002.jpg: the file is empty .*--on-bad-image"
    ):
        load_data(spec)
    data = load_data(spec, on_bad_image="drop")
    assert set(data.dropped) == {"a/001.jpg", "b/002.jpg", "b/004.jpg"}
    assert "3 pictures cannot be decoded and were dropped: a/001.jpg (" in data.notes[0]
    everything = set(data.train.ids) | set(data.test.ids)
    assert everything == {f"{c}/{i:03}.jpg" for c in "ab" for i in range(6)} - set(data.dropped)
    assert data.train.labels.tolist() == [int(name.startswith("b")) for name in data.train.ids]
    assert load_data(replace(spec, on_bad_image="drop")).dropped == data.dropped
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="classes have no training sample: 'a'"):
        load_data(spec, on_bad_image="drop")
    with pytest.raises(UserError, match=r"unknown on_bad_image 'drp'\. Did you mean 'drop'"):
        load_data(spec, on_bad_image="drp")


def test_small_picture_that_is_broken_inside(tmp_path: Path):
    folder_tree(tmp_path, {"a": 4, "b": 4})
    content = bytearray(picture(tmp_path / "a" / "x.png", noise_seed=0).read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "a" / "x.png").write_bytes(content)
    spec = DataSpec(source=str(tmp_path), holdout_share=0.3)
    with pytest.raises(UserError, match=r"picture a/x.png cannot be used: .*--on-bad-image drop"):
        load_data(spec)
    assert load_data(spec, on_bad_image="drop").dropped == ("a/x.png",)


def test_test_set_without_a_usable_picture(tmp_path: Path):
    folder_tree(tmp_path / "train", {"a": 2, "b": 2})
    (tmp_path / "test" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match=r"the test set of .* has no usable sample"):
        load_data(DataSpec(source=str(tmp_path)))


# Manifests


def manifest(root: Path, text: str, *, name="list.csv", pictures=("a.png", "b.png", "c.png", "d.png")) -> DataSpec:
    for number, file in enumerate(pictures):
        picture(root / "pictures" / file, colour=(number, 0, 0))
    (root / name).write_text(text)
    return DataSpec(source=str(root / name))


def test_manifest_with_splits_and_true_labels(tmp_path: Path):
    text = (
        "path,label,split,true_label,note\n"
        "pictures/a.png,cat,train,cat,x\n"
        'pictures/b.png,dog,TRAIN,,"two\nlines"\n'
        "\n"
        "pictures/c.png,cat,train,horse,\n"
        "./pictures/d.png,dog,val,dog,\n"
    )
    data = load_data(manifest(tmp_path, text))
    assert data.name == "list" and data.class_names == ("cat", "dog")
    assert data.train.ids == ("pictures/a.png", "pictures/b.png", "pictures/c.png")
    assert data.train.labels.tolist() == [0, 1, 0]
    assert data.train.true_labels.tolist() == [0, -1, 2]  # known, unknown, none of the classes
    assert data.test.ids == ("pictures/d.png",) and not data.test_labels_are_given
    assert data.noise["rate_realised"] == 0.5
    assert data.notes[0] == "1 true label of list.csv names no class: none of the classes is right there"
    assert (data.train.pixels[2] == [2, 0, 0]).all()
    with pytest.raises(UserError, match="noisy already, noise kind must be none"):
        load_data(replace(DataSpec(source=str(tmp_path / "list.csv")), noise=NoiseSpec(kind="symmetric", rate=0.5)))


def test_manifest_as_tsv_and_parquet(tmp_path: Path):
    rows = [("pictures/a.png", 1), ("pictures/b.png", 2), ("pictures/c.png", 10), ("pictures/d.png", 1)]
    names = tuple(map(str, range(1, 11)))
    text = "file\tclass\n" + "".join(f"{path}\t{label}\n" for path, label in rows)
    spec = replace(manifest(tmp_path, text, name="list.tsv"), path_column="file", label_column="class")
    with pytest.raises(UserError, match=r"class 3 has no sample, though labels run from 1 to 10 \(list.tsv row 4"):
        load_data(spec)
    with pytest.raises(UserError, match="7 of 10 classes have no training sample: '3', '4'"):
        load_data(replace(spec, classes=names))
    three = replace(spec, classes=("1", "2", "10"), holdout_share=0.5)
    from_tsv = load_data(three)
    assert from_tsv.class_names == ("1", "2", "10")
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"file": [path for path, _ in rows], "class": [label for _, label in rows]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
    from_parquet = load_data(replace(three, source=str(tmp_path / "list.parquet")))
    assert from_parquet.train.ids == from_tsv.train.ids
    assert np.array_equal(from_parquet.train.labels, from_tsv.train.labels)
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        load_data(replace(three, source=str(tmp_path / "list.parquet")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\npictures/a.png,cat\n", "no column 'label'. Did you mean 'lable'"),
        ("", "no column 'path'"),
        ("path,label\n", "has no rows"),
        (
            "path,label\npictures/a.png,cat\npictures/x.png,dog\n",
            r"1 of 2 .*list.csv row 3 \(pictures/x.png\): no such file",
        ),
        ("path,label\n../secret.png,cat\n", r"list.csv row 2: '../secret.png' is no path inside"),
        ("path,label\npictures/../../x.png,cat\n", "is no path inside"),
        ("path,label\n/etc/passwd,cat\n", "'/etc/passwd' is no path inside"),
        ("path,label\nC:/x.png,cat\n", "is no path inside"),
        ("path,label\npictures\\a.png,cat\n", "with forward slashes"),
        ("path,label\n,cat\n", "row 2: '' is no path"),
        ("path,label\npictures/a.png,cat\n./pictures/a.png,dog\n", "pictures/a.png occurs in rows 2, 3"),
        ("path,label\npictures/a.png\n", "row 2 has 1 cell, the heading 2"),
        ('path,label\n"pictures/a.png,cat\n', "cannot be read as a table"),
        ("path,label\npictures/a.png,cat\npictures/b.png,\n", r"a label is missing \(1 row\): list.csv row 3"),
        (
            "path,label\npictures/a.png,1\npictures/b.png,1.5\n",
            r"names or whole numbers \(1 row\): list.csv row 3.*'1.5'",
        ),
        ("path,label\npictures/a.png,1\npictures/b.png,nan\n", r"names or whole numbers \(1 row\).*'nan'"),
        ("path,label\npictures/a.png,1\npictures/b.png,-1\n", r"must not be negative \(1 row\): list.csv row 3"),
        ("path,label\npictures/a.png,cat\npictures/b.png,cat\n", "at least two classes are needed"),
        (
            "path,label,split\npictures/a.png,cat,tain\n",
            r"unknown split in .*list.csv row 2 'tain'. Did you mean 'train'",
        ),
        ("path,label,split\npictures/a.png,cat,test\n", "no row has the split 'train'"),
        (
            "path,label,split\npictures/a.png,cat,train\npictures/b.png,dog,train\npictures/c.png,cow,test\n",
            r"none of the 2 classes.*list.csv row 4 \(pictures/c.png\): 'cow'",
        ),
    ],
)
def test_manifest_errors_name_the_row(tmp_path: Path, text, message):
    with pytest.raises(UserError, match=message):
        load_data(manifest(tmp_path, text))


def test_manifest_class_list_and_label_out_of_range(tmp_path: Path):
    text = "path,label,kind\npictures/a.png,0,x\npictures/b.png,2,x\npictures/c.png,1,x\npictures/d.png,0,x\n"
    spec = replace(manifest(tmp_path, text), holdout_share=0.5)
    data = load_data(replace(spec, classes=("cat", "cow", "dog")))  # numbers are positions in the list
    assert data.train.labels.tolist() == [0, 2, 1] or data.train.labels.tolist() == [2, 1, 0]
    with pytest.raises(UserError, match=r"label out of range 0..1 \(1 row\): list.csv row 3"):
        load_data(replace(spec, classes=("cat", "cow")))
    with pytest.raises(UserError, match="no column 'part'"):
        load_data(replace(spec, split_column="part"))
    with pytest.raises(UserError, match="at least two different names"):
        DataSpec(classes=("cat", "cat"))


# Arrays


def test_npz_of_pictures_with_test_set(tmp_path: Path):
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 256, (40, 6, 5)).astype(np.uint8), np.arange(40) % 4
    np.savez(
        tmp_path / "set.npz",
        images=images[:30],
        labels=labels[:30].astype(float),
        true_labels=np.where(np.arange(30) == 3, -1, (labels[:30] + 1) % 4),
        test_images=images[30:],
        test_labels=labels[30:],
        class_names=np.array(["a", "b", "c", "d"]),
    )
    data = load_data(DataSpec(source=str(tmp_path / "set.npz")))
    assert data.train.pixels.shape == (30, 6, 5, 1) and len(data.test) == 10
    assert data.class_names == ("a", "b", "c", "d") and not data.test_labels_are_given
    assert data.train.labels.tolist() == labels[:30].tolist()
    assert data.train.true_labels[:4].tolist() == [1, 2, 3, -1]
    assert data.views.pipeline == "small"


def test_true_labels_of_classes_that_count_from_one(tmp_path: Path):
    labels, truth = np.array([1, 2, 1, 2, 1, 2]), np.array([1, 1, -1, 3, 1, 2])
    np.savez(tmp_path / "set.npz", x=np.zeros((6, 2)), y=labels, true_labels=truth, test_x=np.zeros((1, 2)), test_y=[2])
    data = load_data(DataSpec(source=str(tmp_path / "set.npz")))
    assert data.class_names == ("1", "2")
    assert data.train.true_labels.tolist() == [0, 0, -1, 2, 0, 1]  # -1: unknown; 3: none of the classes


def test_npz_of_features(tmp_path: Path):
    random = np.random.RandomState(0)
    features = random.normal(3, 2, (50, 4))
    features[:, 2] = 1.5
    labels = np.array(["no", "yes"])[np.arange(50) % 2]
    np.savez(tmp_path / "set.npz", x=features, y=labels)
    data = load_data(DataSpec(source=str(tmp_path / "set.npz")))
    assert data.train.features.dtype == np.float32 and data.class_names == ("no", "yes")
    assert data.test_labels_are_given and len(data.test) == 4  # a tenth of 25, twice
    np.testing.assert_allclose(data.views.mean, data.train.features.mean(0), rtol=1e-5)
    assert data.views.std[2] == 1.0 and data.views.pipeline == "vectors"
    assert data.train.ids[0] == "0"
    by_name = load_data(DataSpec(source="arrays"), data_root=tmp_path / "set.npz")
    assert np.array_equal(by_name.train.features, data.train.features)


def test_npy_files_beside_each_other(tmp_path: Path):
    np.save(tmp_path / "embeddings.npy", np.random.RandomState(0).normal(size=(20, 3)))
    np.save(tmp_path / "labels.npy", np.arange(20) % 2)
    np.save(tmp_path / "unrelated.npy", np.array([{}], dtype=object), allow_pickle=True)
    data = load_data(DataSpec(source=str(tmp_path / "embeddings.npy")))
    assert data.train.features.shape == (18, 3) and len(data.test) == 2


X = np.zeros((4, 3))
Y = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"no labels \(labels or y\); it holds 'x'"),
        ({"y": Y}, r"no samples \(x or images or features\)"),
        ({"x": X, "y": Y[:3]}, r"y has shape \(3,\), but x 4 rows"),
        ({"x": X, "y": np.eye(4)}, r"y has shape \(4, 4\)"),
        ({"x": X, "y": Y - 1}, r"must not be negative \(2 rows\): set.npz y row 0: '-1', set.npz y row 2"),
        ({"x": X, "y": Y + 0.5}, r"names or whole numbers \(4 rows\): set.npz y row 0: '0.5'"),
        ({"x": X, "y": np.array([0, 1, np.nan, 1])}, r"whole numbers \(1 row\): set.npz y row 2: 'nan'"),
        ({"x": X, "y": np.array([0, 1, 3, 1])}, "class 2 has no sample, though labels run from 0 to 3"),
        ({"x": X, "y": Y, "class_names": np.array(["a", "b", "c"])}, "1 of 3 classes have no training sample: 'c'"),
        ({"x": X, "y": Y + 7, "class_names": np.array(["a", "b"])}, r"label out of range 0..1 \(4 rows\)"),
        ({"x": np.array([[0.0], [1], [np.inf], [np.nan]]), "y": Y}, "not finite in 2 rows, the first 2, 3"),
        ({"x": np.zeros((4, 8, 8)), "y": Y}, r"must be pictures, uint8 .* it is float64 of \(4, 8, 8\)"),
        ({"x": np.zeros((4, 3, 8, 8), np.uint8), "y": Y}, r"channels seem to come first: transpose\(0, 2, 3, 1\)"),
        ({"x": np.zeros((4, 8, 8, 4), np.uint8), "y": Y}, "must have 1 or 3 channels"),
        (
            {"x": X, "y": Y, "test_x": np.zeros((2, 5)), "test_y": Y[:2]},
            r"a test sample has shape \(5,\), others \(3,\)",
        ),
        ({"x": X, "y": Y, "test_x": X, "test_y": Y + 1}, r"set.npz test_y row 1: '2', set.npz test_y row 3"),
        ({"x": X, "y": Y, "test_x": X}, r"no labels \(test_labels or test_y\)"),
    ],
)
def test_array_errors(tmp_path: Path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UserError, match=message):
        load_data(DataSpec(source=str(tmp_path / "set.npz"), holdout_share=0.5))


def test_pickled_arrays_are_never_loaded(tmp_path: Path):
    trace = tmp_path / "was-here"
    np.savez(tmp_path / "set.npz", x=X, y=np.array([Malicious(trace)] * 4, dtype=object))
    with pytest.raises(UserError, match="cannot be read as numpy arrays"):
        load_data(DataSpec(source=str(tmp_path / "set.npz")))
    assert not trace.exists()


# Noise, hold-out and subset on one's own data


def vectors(path: Path, count=200) -> DataSpec:
    random = np.random.RandomState(0)
    np.savez(path, x=random.normal(size=(count, 3)), y=random.randint(0, 4, count))
    return DataSpec(source=str(path))


def test_injected_noise_leaves_the_holdout_as_it_was(tmp_path: Path):
    spec = vectors(tmp_path / "set.npz")
    plain, noisy = load_data(spec), load_data(replace(spec, noise=NoiseSpec(kind="symmetric", rate=0.5)))
    assert plain.train.ids == noisy.train.ids and plain.test.ids == noisy.test.ids
    assert np.array_equal(plain.test.labels, noisy.test.labels)
    assert np.array_equal(plain.train.labels, noisy.train.true_labels)
    matrix = transition_matrix("symmetric", rate=0.5, num_classes=4)
    assert np.array_equal(noisy.train.labels, draw_labels(plain.train.labels, matrix))
    assert noisy.test_labels_are_given and plain.train.true_labels is None


def test_open_set_noise_on_own_data(tmp_path: Path):
    noise = NoiseSpec(kind="asymmetric", rate=0.2, open_rate=0.5)
    data = load_data(replace(vectors(tmp_path / "set.npz"), noise=noise))
    assert data.class_names == ("0", "1")
    assert data.train.labels.max() == 1 and data.train.true_labels.max() == 3
    assert data.test.labels.max() == 1


def test_subset_follows_the_noise(tmp_path: Path):
    noise = NoiseSpec(kind="symmetric", rate=0.5)
    spec = replace(vectors(tmp_path / "set.npz"), noise=noise)
    whole, part = load_data(spec), load_data(replace(spec, subset=40))
    assert len(part.train) == 40 and part.test.ids == whole.test.ids
    positions = [whole.train.ids.index(name) for name in part.train.ids]
    assert np.array_equal(whole.train.labels[positions], part.train.labels)
    assert part.noise["sha256"] == sha256_of_labels(part.train.labels)


def test_labels_of_a_file(tmp_path: Path):
    spec = vectors(tmp_path / "set.npz")
    plain = load_data(spec)
    every = np.random.RandomState(1).randint(0, 4, 200)
    np.save(tmp_path / "every.npy", every)
    data = load_data(replace(spec, noise=NoiseSpec(kind="file", path=str(tmp_path / "every.npy"))))
    kept = np.array([int(name) for name in plain.train.ids])
    assert np.array_equal(data.train.labels, every[kept])
    assert np.array_equal(data.train.true_labels, plain.train.labels)
    assert np.array_equal(data.test.labels, plain.test.labels)
    assert (data.noise["kind"], data.noise["generator"]) == ("file", "file every.npy")
    np.save(tmp_path / "saved.npy", data.train.labels)  # as a run saves them
    again = load_data(replace(spec, noise=NoiseSpec(kind="file", path=str(tmp_path / "saved.npy"))))
    assert again.noise["sha256"] == data.noise["sha256"]
    np.save(tmp_path / "short.npy", every[:50])
    with pytest.raises(UserError, match="holds 50 labels, but there are 200 samples"):
        load_data(replace(spec, noise=NoiseSpec(kind="file", path=str(tmp_path / "short.npy"))))
    np.save(tmp_path / "far.npy", every + 9)
    with pytest.raises(UserError, match=r"label out of range 0..3 \(200 rows\): .*far.npy label 0"):
        load_data(replace(spec, noise=NoiseSpec(kind="file", path=str(tmp_path / "far.npy"))))


# Which source, and where


def test_unknown_and_missing_sources(tmp_path: Path, monkeypatch):
    with pytest.raises(
        UserError, match=r"unknown data source 'cifr100'.*Did you mean 'cifar100'\? Choices: arrays, cifar10,"
    ):
        load_data(DataSpec(source="cifr100"))
    with pytest.raises(UserError, match="data source no/such/folder does not exist"):
        load_data(DataSpec(source="no/such/folder"))
    with pytest.raises(UserError, match=r"data source list.csv does not exist"):
        load_data(DataSpec(source="list.csv"))
    with pytest.raises(UserError, match=r"cifar100 needs a data root: give --data-root FOLDER or set ACTO_DATA_ROOT"):
        load_data(DataSpec(source="cifar100"))
    with pytest.raises(UserError, match=r"data root /no/such/root \(from --data-root\) does not exist"):
        load_data(DataSpec(source="cifar100"), data_root="/no/such/root")
    monkeypatch.setenv("ACTO_DATA_ROOT", "/no/such/root")
    with pytest.raises(UserError, match="from ACTO_DATA_ROOT"):
        load_data(DataSpec(source="cifar100"))
    with pytest.raises(UserError, match=r"cifar100 was not found in .*cifar100.*cifar-100-python"):
        load_data(DataSpec(source="cifar100"), data_root=tmp_path)
    with pytest.raises(UserError, match="needs its place"):
        monkeypatch.delenv("ACTO_DATA_ROOT")
        load_data(DataSpec(source="folder"))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="is no image folder, manifest"):
        load_data(DataSpec(source=str(tmp_path / "x.json")))


def test_data_root_goes_before_spec_before_environment(tmp_path: Path, monkeypatch):
    roots = [tmp_path / name for name in ("flag", "spec", "variable")]
    for count, root in enumerate(roots, start=2):
        root.mkdir()
        vectors(root / "set.npz", count=100 * count)
    monkeypatch.setenv("ACTO_DATA_ROOT", str(roots[2]))
    assert len(load_data(DataSpec(source="set.npz")).train) == 361
    assert len(load_data(DataSpec(source="set.npz", root=str(roots[1]))).train) == 271
    assert len(load_data(DataSpec(source="set.npz", root=str(roots[1])), data_root=roots[0]).train) == 180


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"holdout_share": 0.0}, "holdout_share is 0.0"),
        ({"subset": 0}, "subset is 0"),
        ({"size": -3}, "size is -3"),
        ({"on_bad_image": "skip"}, "unknown on_bad_image 'skip'"),
        ({"max_image_pixels": 10**12}, "max_image_pixels"),
    ],
)
def test_data_spec_refuses(kwargs, message):
    with pytest.raises(UserError, match=message):
        DataSpec(**kwargs)


def test_sources_are_sorted_and_told():
    assert list(SOURCES) == sorted(SOURCES)
    assert all(source.about for source in SOURCES.values())
    named = (
        (Path(__file__).parents[2] / "docs" / "data.md").read_text().partition("\n## Named")[2].partition("\n## ")[0]
    )
    assert [name for name in SOURCES if name not in FORMATS and f"`{name}`" not in named] == []


def test_every_named_data_set_has_a_setting_and_facts_that_fit():
    assert SETTINGS.keys() == SOURCES.keys() - FORMATS.keys()
    assert FORMATS.keys() <= SOURCES.keys()
    for name, source in SOURCES.items():
        if source.files_of is not None:
            owner = SOURCES[source.files_of]
            assert owner.published is not None and source.published is None, name
            assert (owner.files_of, owner.pipeline) == (None, source.pipeline), name
        if source.open_twin is not None:
            assert SOURCES[source.open_twin].open_rate and not source.open_rate, name


def test_the_papers_data_sets_are_those_of_its_tables():
    printed = [(cell.data, int(cell.table)) for cell in accuracies() if cell.table in ("1", "2", "3")]
    assert [(name, SOURCES[name].paper_table) for name in OF_THE_PAPER] == list(dict.fromkeys(printed))
    assert [SETTINGS[name].epochs for name in OF_THE_PAPER] == [150, 150, 100, 100, 100, 50]


def test_a_suffix_has_one_format():
    assert len(FILE_SUFFIXES) == len(set(FILE_SUFFIXES))
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in FILE_SUFFIXES)
    assert not set(FILE_SUFFIXES) & SUFFIXES


def test_samples_hold_exactly_one_kind_of_content():
    with pytest.raises(AssertionError):
        Samples(ids=("a",), labels=np.zeros(1, np.int64))
