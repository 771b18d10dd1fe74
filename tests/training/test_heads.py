"""Heads that begin at class centroids, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acto.core.errors import UserError
from acto.core.types import Task
from acto.data.loading.loader import DeviceData
from acto.data.samples import Samples
from acto.data.views.spec import ViewSpec
from acto.nets.base import Net
from acto.nets.build import build_net
from acto.nets.weights import load_weights
from acto.runs.recipes.by_data import setting_for
from acto.runs.resolve import run_of
from acto.runs.run import Run
from acto.training import heads
from acto.training.heads import SCALES, _left_out, begin_at_centroids
from acto.training.loop import Training
from acto.training.protocol import Protocol
from toys import TOYS, method_of

DIM, CLASSES = 6, 3


def clusters(num_samples: int = 60, *, wrong: float = 0.4) -> tuple[Tensor, Tensor, Tensor]:
    """Features around three directions, given labels, of which a part is wrong, and the true ones."""
    random = np.random.default_rng(0)
    true = np.arange(num_samples) % CLASSES
    features = np.eye(CLASSES, DIM)[true] * 2 + random.normal(size=(num_samples, DIM)) * 0.4 + 0.5
    features *= random.uniform(0.5, 2, size=(num_samples, 1))
    given = np.where(random.random(num_samples) < wrong, random.integers(CLASSES, size=num_samples), true)
    return torch.from_numpy(features).float(), torch.from_numpy(given), torch.from_numpy(true)


def problem(
    name: str, features: Tensor, given: Tensor, *, weights: Tensor | None = None, classes: int = CLASSES
) -> tuple[Training, DeviceData]:
    samples = Samples(ids=tuple(map(str, range(len(given)))), labels=given.numpy(), features=features.numpy())
    spec = ViewSpec(pipeline="vectors", mean=(0.0,) * DIM, std=(1.0,) * DIM)
    torch.manual_seed(0)

    def make() -> Net:
        return Net(nn.Identity(), name="toy", input_shape=(DIM,), feature_dim=DIM, num_classes=classes)

    task = Task(given, classes, 0.4, "user", weights)
    method = method_of(name)(TOYS[name].config, task, make)
    return Training(method, Protocol(epochs=9, batch_size=16)), DeviceData(samples, spec, seed=0)


def by_loops(features: Tensor, given: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Head and share, one sample after another."""

    def centroid(k: int, without: int | None = None) -> Tensor:
        rows = [i for i in range(len(given)) if given[i] == k and i != without]
        if not rows:
            return torch.zeros(DIM)
        whole = torch.stack([weights[i] * features[i] / features[i].norm() for i in rows]).sum(0)
        return whole / whole.norm()

    length = torch.stack([row.norm() for row in features]).mean()
    cosines = torch.stack(
        [
            torch.stack([row @ centroid(k, i if given[i] == k else None) / row.norm() for k in range(CLASSES)])
            for i, row in enumerate(features)
        ]
    )
    sizes = features.norm(dim=1) / length
    losses = [
        sum(weights[i] * F.cross_entropy(s * sizes[i] * cosines[i], given[i]) for i in range(len(given)))
        for s in SCALES
    ]
    scale = SCALES[int(torch.stack([torch.as_tensor(loss) for loss in losses]).argmin())]
    head = torch.stack([scale / length * centroid(k) for k in range(CLASSES)])
    return head, float((cosines.argmax(1) == given).float().mean())


@pytest.mark.parametrize("weighed", [False, True])
def test_the_head_is_what_plain_loops_find(weighed: bool) -> None:
    features, given, true = clusters()
    weights = torch.linspace(0.5, 1.5, len(given)) if weighed else None
    training, data = problem("standard", features, given, weights=weights)
    share = begin_at_centroids(training, data, seed=0)
    head, expected = by_loops(features, given, torch.ones(len(given)) if weights is None else weights)
    net = training.method.nets[0]
    torch.testing.assert_close(net.head.weight, head)
    assert share == pytest.approx(expected) and not net.head.bias.any() and net.training
    right = (net.eval()(features).argmax(1) == true).float().mean()
    assert right > 0.95 and (given == true).float().mean() < 0.8, "wrong labels do not move a centroid by much"


def test_the_scale_tells_how_far_labels_are_to_be_believed() -> None:
    """With as many wrong labels as right ones its predictions are soft, with right labels they are sure."""
    sure = []
    for wrong in (0.0, 0.7):
        features, given, _ = clusters(300, wrong=wrong)
        training, data = problem("standard", features, given)
        begin_at_centroids(training, data, seed=0)
        net = training.method.nets[0].eval()
        sure.append(float(F.softmax(net(features), 1).amax(1).mean().detach()))
    assert sure[0] > 0.9 > 0.6 > sure[1]


@pytest.mark.parametrize("name", [name for name in TOYS if method_of(name).num_nets == 2])
def test_further_networks_begin_elsewhere_and_copies_with_their_own(name: str) -> None:
    features, given, _ = clusters()
    training, data = problem(name, features, given)
    method = training.method
    begin_at_centroids(training, data, seed=0)
    first, second = (net.head.weight for net in method.nets)
    assert not torch.allclose(first, second)
    assert F.cosine_similarity(first, second).min() > 0.9
    for net in method.modules():
        if isinstance(net, Net):
            assert any(torch.equal(net.head.weight, own) for own in (first, second)), "a teacher began elsewhere"
    begun, again = problem(name, features, given)
    begin_at_centroids(begun, again, seed=1)
    assert torch.equal(begun.method.nets[0].head.weight, first), "only the draws depend on the seed"
    assert not torch.equal(begun.method.nets[1].head.weight, second)


def test_networks_whose_heads_were_equal_begin_elsewhere_too() -> None:
    """Heads of zeros, say, that a network of one's own has."""
    features, given, _ = clusters()
    training, data = problem("decoupling", features, given)
    for net in training.method.nets:
        nn.init.zeros_(net.head.weight)
    begin_at_centroids(training, data, seed=0)
    first, second = (net.head.weight for net in training.method.nets)
    head, _ = by_loops(features, given, torch.ones(60))
    torch.testing.assert_close(first, head)
    assert second.any() and not torch.allclose(first, second)


def test_samples_of_no_weight_move_no_head() -> None:
    features, given, true = clusters(300)
    right = given == true
    training, data = problem("acto", features, given, weights=torch.where(right, 1.0, 1e-6))
    begin_at_centroids(training, data, seed=0)
    clean = torch.stack([F.normalize(features[right & (given == k)]).mean(0) for k in range(CLASSES)])
    for net in training.method.nets:
        assert F.cosine_similarity(net.head.weight, clean).min() > 0.995


@pytest.mark.parametrize("bound", ["PER_CLASS", "MOST_NUMBERS"])
def test_of_very_many_samples_of_a_class_a_draw_is_looked_at(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, given, _ = clusters()
    keep = torch.cat([torch.arange(60)[given == 0], torch.arange(60)[given == 1], torch.arange(60)[given == 2][:4]])
    features, given = features[keep], given[keep]
    monkeypatch.setattr(heads, bound, 7 if bound == "PER_CLASS" else 7 * DIM * CLASSES)
    training, data = problem("standard", features, given)
    begin_at_centroids(training, data, seed=2)
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(2))
    drawn = torch.cat([order[given[order] == k][:7] for k in range(CLASSES)])
    assert given[drawn].bincount().tolist() == [7, 7, 4]
    head, _ = by_loops(features[drawn], given[drawn], torch.ones(len(drawn)))
    torch.testing.assert_close(training.method.nets[0].head.weight, head)


def test_with_very_many_classes_fewer_samples_choose_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of all samples by all classes would be too large."""
    features, _, _ = clusters()
    looked_at = []

    def left_out(rows: Tensor, *others: Tensor) -> Tensor:
        looked_at.append(len(rows))
        return _left_out(rows, *others)

    monkeypatch.setattr(heads, "_left_out", left_out)
    monkeypatch.setattr(heads, "MOST_NUMBERS", 10 * 60)
    training, data = problem("standard", features, torch.arange(60), classes=60)
    begin_at_centroids(training, data, seed=0)
    assert looked_at == [10]
    torch.testing.assert_close(F.normalize(training.method.nets[0].head.weight), F.normalize(features))


def test_features_of_no_length_make_no_head_of_any() -> None:
    features, given, _ = clusters()
    training, data = problem("standard", 1e-8 * features, given)
    begin_at_centroids(training, data, seed=0)
    lengths = training.method.nets[0].head.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 256.0))


def test_a_class_without_samples_is_not_predicted() -> None:
    features, given, _ = clusters()
    training, data = problem("acto steady", features, given, classes=4)
    share = begin_at_centroids(training, data, seed=0)
    net = training.method.nets[0].eval()
    assert share is not None and torch.isfinite(net.head.weight).all() and not net.head.weight[3].any()
    assert (net(features).argmax(1) < 3).all()


def test_a_head_that_weights_brought_stays(tmp_path: Path) -> None:
    made = build_net("mlp:8", input_shape=(DIM,), num_classes=CLASSES)
    torch.save(made.state_dict(), tmp_path / "w.pth")
    for classes, new in ((CLASSES, False), (CLASSES + 1, True)):
        net = build_net("mlp:8", input_shape=(DIM,), num_classes=classes)
        assert net.has_new_head
        load_weights(net, str(tmp_path / "w.pth"))
        assert net.has_new_head is new
    features, given, _ = clusters()
    training, data = problem("acto steady", features, given)
    before = [net.head.weight.clone() for net in training.method.nets]
    training.method.nets[1].has_new_head = False
    assert begin_at_centroids(training, data, seed=0) is None
    assert all(torch.equal(net.head.weight, own) for net, own in zip(training.method.nets, before, strict=True))


def test_whose_head_begins_there() -> None:
    """Weights of one's own for one's own data; the papers' data sets keep what their papers did."""
    weights = {"net": "torchvision:mobilenet_v2", "weights": "torchvision"}
    for source, more, head in (
        ("mine", weights, "centroids"),
        ("mine", {**weights, "head": "random"}, "random"),
        ("mine", {}, None),
        ("mine", {"features": "torchvision:mobilenet_v2", "weights": "torchvision"}, None),
        ("web-bird", weights, None),
        ("web-bird", {**weights, "head": "centroids"}, "centroids"),
    ):
        run = run_of({"data": {"source": source}, **more}, setting_for(source, pipeline="photo"))
        assert run.head == head, (source, more)


def test_without_pretrained_weights_there_are_no_centroids() -> None:
    with pytest.raises(UserError, match="head 'centroids' is for the pretrained network that is trained"):
        Run(head="centroids")
    with pytest.raises(UserError, match="head 'centroids' is for the pretrained network that is trained"):
        Run(head="centroids", weights="torchvision", features="torchvision:resnet18", net="mlp")
    with pytest.raises(UserError, match=r"head .*centroid'.*centroids"):
        Run(head="centroid")  # type: ignore[arg-type]
