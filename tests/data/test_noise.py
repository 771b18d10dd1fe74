"""Noise on labels: matrices, draws, instance-dependent noise, and labels from files."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from acto.core.errors import UserError
from acto.data.moments import moments
from acto.data.noise import (
    NoiseSpec,
    draw_labels,
    instance_dependent,
    num_closed_classes,
    sha256_of_labels,
    transition_matrix,
)
from acto.data.readers.label_files import read_human_labels, read_label_file

DRAWN_FIRST = [0, 6, 0, 3, 6, 0, 8, 7, 8, 5, 8, 1]
DRAWN_SHA256 = "f522a9a85bdb9229443d881df099b5428f5319e25301039d60a4774d3de0d7ed"


def literal_draws(labels, matrix, seed=0):
    """The published way: one sample after another."""
    random = np.random.RandomState(seed)
    return np.array([np.flatnonzero(random.multinomial(1, matrix[label], 1)[0] == 1)[0] for label in labels])


def test_symmetric_matrix_by_hand():
    expected = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.7]]
    np.testing.assert_allclose(transition_matrix("symmetric", rate=0.3, num_classes=4), expected)


def test_asymmetric_open_set_matrix_by_hand():
    """Four closed classes in a ring, the fifth spread over them, nothing leads to it."""
    expected = [
        [0.6, 0.4, 0, 0, 0],
        [0, 0.6, 0.4, 0, 0],
        [0, 0, 0.6, 0.4, 0],
        [0.4, 0, 0, 0.6, 0],
        [0.25, 0.25, 0.25, 0.25, 0],
    ]
    matrix = transition_matrix("asymmetric", rate=0.4, num_classes=5, open_rate=0.2)
    np.testing.assert_allclose(matrix, expected)


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        ("symetric", {}, "Did you mean 'symmetric'"),
        ("symmetric", {"rate": 1.2}, r"noise rate is 1.2, but must lie in \[0, 1\]"),
        ("symmetric", {"rate": float("nan")}, "noise rate is nan"),
        ("symmetric", {"open_rate": 0.25}, "open_rate 0.25 of 10 classes is no whole number"),
        ("symmetric", {"open_rate": 0.9}, "leaves fewer than 2 classes"),
        ("asymmetric", {"num_classes": 1}, "leaves fewer than 2 classes"),
        (
            "symmetric",
            {"num_classes": 20_001},
            "at most 20,000 classes, and these are 20,001: .* Bring the noisy labels",
        ),
    ],
)
def test_matrix_refuses(kind, kwargs, message):
    with pytest.raises(UserError, match=message):
        transition_matrix(kind, **({"rate": 0.2, "num_classes": 10} | kwargs))


def test_closed_classes_of_cifar80n():
    assert num_closed_classes(100, 0.2) == 80
    assert num_closed_classes(10, 0.0) == 10


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
@pytest.mark.parametrize(("rate", "open_rate"), [(0.2, 0.2), (0.8, 0.0), (0.0, 0.2), (1.0, 0.0)])
@pytest.mark.parametrize("in_runs", [False, True])
def test_draws_equal_the_published_ones(kind, rate, open_rate, in_runs):
    labels = np.random.RandomState(5).randint(0, 20, 3000)
    labels = np.sort(labels) if in_runs else labels
    matrix = transition_matrix(kind, rate=rate, num_classes=20, open_rate=open_rate)
    drawn = draw_labels(labels, matrix, seed=3)
    assert drawn.dtype == np.int64
    assert np.array_equal(drawn, literal_draws(labels, matrix, seed=3))


def test_draws_never_change():
    """The hash was written down once: another numpy must give the same labels."""
    drawn = draw_labels(np.arange(2000) % 10, transition_matrix("symmetric", rate=0.5, num_classes=10))
    assert drawn[:12].tolist() == DRAWN_FIRST
    assert sha256_of_labels(drawn) == DRAWN_SHA256


@pytest.mark.parametrize(
    ("kind", "rate", "total"), [("symmetric", 0.2, 0.36), ("symmetric", 0.8, 0.84), ("asymmetric", 0.4, 0.52)]
)
def test_total_noise_of_cifar80n(kind, rate, total):
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(100), 200))
    drawn = draw_labels(labels, transition_matrix(kind, rate=rate, num_classes=100, open_rate=0.2))
    assert drawn.max() == 79
    assert np.mean(drawn != labels) == pytest.approx(total, abs=0.01)
    open_counts = np.bincount(drawn[labels >= 80], minlength=80)
    assert open_counts.min() > 20  # 50 each on average: spread over all closed classes
    np.testing.assert_array_less(open_counts, 90)


def test_draw_labels_refuses():
    matrix = transition_matrix("symmetric", rate=0.2, num_classes=3)
    with pytest.raises(UserError, match="labels run from 0 to 3, but the matrix has 3 classes"):
        draw_labels([0, 3], matrix)
    with pytest.raises(UserError, match="labels run from -1"):
        draw_labels([0, -1], matrix)
    with pytest.raises(UserError, match="rows sum to 1"):
        draw_labels([0], matrix * 1.1)
    assert draw_labels(np.empty(0, np.int64), matrix).shape == (0,)


def literal_instance_noise(inputs, labels, rate, num_classes, seed):
    """Sample by sample, with the same order of draws."""
    random = np.random.RandomState(seed)
    flip_rates = random.normal(rate, 0.1, len(labels))
    while ((flip_rates < 0) | (flip_rates > 1)).any():
        outside = (flip_rates < 0) | (flip_rates > 1)
        flip_rates[outside] = random.normal(rate, 0.1, outside.sum())
    dice = random.random_sample(len(labels))
    weights = random.standard_normal((num_classes, inputs.shape[1], num_classes))
    noisy = []
    for i, label in enumerate(labels):
        scores = inputs[i] @ weights[label]
        others = [k for k in range(num_classes) if k != label]
        softmax = np.exp(scores[others] - scores[others].max())
        chances = np.zeros(num_classes)
        chances[others] = flip_rates[i] * softmax / softmax.sum()
        chances[label] = 1 - flip_rates[i]
        noisy.append(np.searchsorted(np.cumsum(chances), dice[i], side="right"))
    return np.array(noisy)


@pytest.mark.parametrize("scale", ["raw", "unit", "standardized"])
def test_instance_noise_against_a_literal_loop(scale):
    random = np.random.RandomState(1)
    pixels = random.randint(0, 256, (400, 4, 4, 3)).astype(np.uint8)
    labels = random.randint(0, 6, 400)
    inputs = pixels.astype(np.float64)
    if scale == "unit":
        inputs /= 255
    if scale == "standardized":
        inputs = (inputs - inputs.mean((0, 1, 2))) / inputs.std((0, 1, 2))
    expected = literal_instance_noise(inputs.reshape(400, -1), labels, 0.4, 6, seed=7)
    noisy = instance_dependent(pixels, labels, rate=0.4, num_classes=6, seed=7, scale=scale)
    assert np.array_equal(noisy, expected)
    assert 0.3 < np.mean(noisy != labels) < 0.5


def test_instance_noise_rates_and_scales():
    """The mean rate is .129 where .1 is asked for, and raw pixels send most of a class to one other."""
    random = np.random.RandomState(2)
    brightness = random.uniform(60, 190, (8000, 1, 1, 1))
    pixels = np.clip(brightness + random.normal(0, 40, (8000, 8, 8, 3)), 0, 255).astype(np.uint8)
    labels = random.randint(0, 10, 8000)
    for rate, realised in ((0.1, 0.129), (0.2, 0.2055), (0.4, 0.4)):
        noisy = instance_dependent(pixels, labels, rate=rate, num_classes=10)
        assert np.mean(noisy != labels) == pytest.approx(realised, abs=0.015)
    shares = {}
    for scale in ("raw", "standardized"):
        noisy = instance_dependent(pixels, labels, rate=0.4, num_classes=10, scale=scale)
        wrong = [noisy[(labels == label) & (noisy != label)] for label in range(10)]
        shares[scale] = np.mean([np.bincount(part).max() / len(part) for part in wrong])
    assert shares["raw"] > 0.6 > 0.45 > shares["standardized"]


def test_instance_noise_edges():
    vectors = np.random.RandomState(0).normal(size=(50, 5)).astype(np.float32)
    vectors[:, 0] = 3.0  # a constant feature has no deviation
    labels = np.arange(50) % 5
    assert np.array_equal(instance_dependent(vectors, labels, rate=0.0, num_classes=5), labels)
    assert (instance_dependent(vectors, labels, rate=1.0, num_classes=5) != labels).mean() > 0.7
    one = instance_dependent(vectors, labels, rate=0.5, num_classes=5, seed=1, scale="standardized")
    two = instance_dependent(vectors, labels, rate=0.5, num_classes=5, seed=2, scale="standardized")
    assert not np.array_equal(one, two)
    with pytest.raises(UserError, match="unit"):
        instance_dependent(vectors, labels, rate=0.5, num_classes=5, scale="unit")
    with pytest.raises(UserError, match="labels run from 0 to 4, but there are 3 classes"):
        instance_dependent(vectors, labels, rate=0.5, num_classes=3)
    with pytest.raises(UserError, match="Did you mean 'standardized'"):
        instance_dependent(vectors, labels, rate=0.5, num_classes=5, scale="standardised")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"kind": "simmetric"}, "unknown noise kind 'simmetric'. Did you mean 'symmetric'"),
        ({"kind": "symmetric", "rate": 1.2}, "noise rate is 1.2"),
        ({"kind": "symmetric", "rate": -0.1}, "noise rate is -0.1"),
        ({"rate": 0.2}, "noise kind 'none' has no rate to set"),
        ({"kind": "instance", "rate": 0.2, "open_rate": 0.2}, "no open_rate"),
        ({"kind": "file"}, "needs the path of a label file"),
        ({"kind": "symmetric", "rate": 0.2, "path": "x.npy"}, "reads no file"),
        ({"kind": "instance", "rate": 0.2, "pixel_scale": "0-1"}, "unknown pixel scale"),
        ({"kind": "symmetric", "rate": 0.2, "seed": -1}, "noise seed is -1"),
    ],
)
def test_noise_spec_refuses(kwargs, message):
    with pytest.raises(UserError, match=message):
        NoiseSpec(**kwargs)


def test_sha256_is_over_little_endian_int64():
    expected = hashlib.sha256(struct.pack("<3q", 1, 2, 300)).hexdigest()
    assert sha256_of_labels([1, 2, 300]) == expected
    assert sha256_of_labels(np.array([1, 2, 300], ">i4")) == expected
    assert sha256_of_labels(np.array([1, 0, 2, 0, 300, 0])[::2]) == expected


def test_moments_over_chunks():
    values = np.random.RandomState(0).randint(0, 256, (5000, 2, 3)).astype(np.uint8)
    mean, deviation = moments(values)
    np.testing.assert_allclose(mean, values.astype(float).mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(deviation, values.astype(float).std((0, 1)), rtol=1e-12)


# Label files


def test_label_files_of_every_kind(tmp_path: Path):
    labels = np.array([2, 0, 1])
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "only.npz", anything=labels)
    np.savez(tmp_path / "two.npz", noisy_label=labels, other=labels[::-1])
    (tmp_path / "plain.txt").write_text("2\n0\n1\n")
    (tmp_path / "plain.csv").write_text("2\n0\n1\n")
    (tmp_path / "named.csv").write_text("\ufeffindex,label\n9,2\n8,0\n7,1\n", encoding="utf-8")
    for name in ("labels.npy", "only.npz", "two.npz", "plain.txt", "plain.csv", "named.csv"):
        values = read_label_file(tmp_path / name).in_order(["a", "b", "c"])
        assert [str(value) for value in values] == ["2", "0", "1"], name
    assert read_label_file(tmp_path / "two.npz", name="other").values.tolist() == [1, 0, 2]


def test_label_file_is_matched_by_id(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("id,label\nb,dog\na,cat\n")
    file = read_label_file(tmp_path / "labels.csv")
    assert file.in_order(["a", "b"]) == ["cat", "dog"]
    with pytest.raises(UserError, match="no label for 1 sample, the first 'c'"):
        file.in_order(["a", "c"])
    with pytest.raises(UserError, match="holds 2 labels, but there are 3 samples"):
        file.in_order(["a", "b", "c"])


def test_label_files_refused(tmp_path: Path):
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "square.npy", np.zeros((2, 2)))
    np.savez(tmp_path / "vague.npz", one=[1], two=[2])
    (tmp_path / "ragged.csv").write_text("label,x\n1,2\n1\n")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    for name, message in (
        ("pickled.npy", "holds Python objects, which would have to be unpickled"),
        ("square.npy", "shape"),
        ("vague.npz", "say which are the labels"),
        ("ragged.csv", "row 3 has 1 cell"),
        ("broken.npz", "cannot be read"),
        ("missing.npy", "does not exist"),
        ("labels.pkl", "unknown kind of label file '.pkl'"),
    ):
        with pytest.raises(UserError, match=message):
            read_label_file(tmp_path / name)
    with pytest.raises(UserError, match=r"no column 'on'\. Did you mean 'one'"):
        read_label_file(tmp_path / "vague.npz", name="on")


HUMAN = {
    "clean_label": np.array([0, 1, 2, 3]),
    "worse_label": np.array([0, 2, 2, 1]),
    "aggre_label": np.array([0, 1, 2, 1]),
    "random_label1": np.array([3, 1, 2, 3]),
}


@pytest.mark.parametrize("zipped", [True, False])
def test_human_labels_of_published_files(tmp_path: Path, zipped: bool):
    path = tmp_path / "CIFAR-10_human.pt"
    torch.save(HUMAN, path, _use_new_zipfile_serialization=zipped)
    labels = read_human_labels(path, name="worse_label", class_names="abcd", true_labels=HUMAN["clean_label"])
    assert labels.tolist() == [0, 2, 2, 1]
    with pytest.raises(UserError, match=r"unknown label set.*'worst_label'. Did you mean 'worse_label'"):
        read_human_labels(path, name="worst_label", class_names="abcd", true_labels=HUMAN["clean_label"])
    with pytest.raises(UserError, match="clean_label differs from the data at 2 of 4 pictures"):
        read_human_labels(path, name="worse_label", class_names="abcd", true_labels=np.array([1, 0, 2, 3]))
    with pytest.raises(UserError, match=r"shape \(4,\), but there are 5 samples"):
        read_human_labels(path, name="worse_label", class_names="abcd", true_labels=np.zeros(5, np.int64))
    with pytest.raises(UserError, match=r"label out of range 0..2 .2 rows.: .*row 0: '3', .*row 3: '3'"):
        read_human_labels(path, name="random_label1", class_names="abc", true_labels=HUMAN["clean_label"])


def test_human_labels_converted_to_numpy(tmp_path: Path):
    np.savez(tmp_path / "human.npz", clean_label=[0, 1], noisy_label=[1, 1])
    (tmp_path / "alone").mkdir()
    np.save(tmp_path / "alone" / "human.npy", [1, 1])
    for path in (tmp_path / "human.npz", tmp_path / "alone" / "human.npy"):
        labels = read_human_labels(path, name=None, class_names="ab", true_labels=np.array([0, 1]))
        assert labels.tolist() == [1, 1]


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_malicious_label_file_is_refused(tmp_path: Path, zipped: bool):
    path, trace = tmp_path / "human.pt", tmp_path / "was-here"
    torch.save({"worse_label": Malicious(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"was refused: it asks for \w+\.mkdir"):
        read_human_labels(path, name="worse_label", class_names="abcd", true_labels=HUMAN["clean_label"])
    assert not trace.exists()


def test_other_torch_files_are_refused(tmp_path: Path):
    torch.save({"worse_label": torch.zeros(4)}, tmp_path / "tensors.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, message in (
        ("tensors.pt", r"asks for torch\._utils"),
        ("list.pt", "holds a list"),
        ("text.pt", "refused|readable"),
    ):
        with pytest.raises(UserError, match=message):
            read_human_labels(tmp_path / name, name=None, class_names="abcd", true_labels=HUMAN["clean_label"])
