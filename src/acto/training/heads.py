"""Heads that begin at class centroids, for networks whose bodies are pretrained.

Such a body tells most classes apart before it has seen a label, and wrong labels hardly move the mean of a class. A
head of random weights knows nothing of that, and while it learns it, the body learns wrong labels.

Source: Qi, Brown, Lowe, "Low-shot learning with imprinted weights", CVPR 2018, https://arxiv.org/abs/1712.07136.
[ours]: the scale, for which samples are left out of their centroids, and the draws for further networks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from acto.core.distributed import gather
from acto.core.types import Stream, TrainingData
from acto.nets.base import Net
from acto.training.features import MOST_NUMBERS
from acto.training.loop import Training

PER_CLASS = 256
"""Samples of a class that are looked at; docs/decisions.md has what more of them gain."""
SCALES = tuple(2 ** (quarter / 4) for quarter in range(33))
"""Factors of the cosines among which is chosen."""


@torch.no_grad()
def begin_at_centroids(training: Training, data: TrainingData, *, seed: int) -> float | None:
    """Let heads that no weights came for begin at the centroids of the classes, in place.

    A centroid is the direction of the sum of the features, each of length 1, of the samples that were given the class.
    The first network has all of them, every further one a bootstrap draw: equal networks would learn alike, and methods
    that compare two would see nothing. Copies of a network, such as teachers, stay its copies.

    Args:
        training: nothing of it trained; the bodies of its networks are equal.
        data: the training samples; of a class that has many a draw is looked at.
        seed: of the draws.

    Returns:
        Share in [0, 1] of these samples whose given label's centroid is the nearest, each sample left out of its own;
        None where the weights brought a head, which stays.
    """
    method = training.method
    nets = [net for net in method.nets if isinstance(net, Net)]
    if not all(net.has_new_head for net in nets):
        return None
    others = [net for net in method.modules() if isinstance(net, Net) and not any(net is own for own in nets)]
    copies = [[copy for copy in others if torch.equal(copy.head.weight, net.head.weight)] for net in nets]
    features, index = _features(nets[0], training, data, seed=seed)
    labels, weight = method.labels[index], method.weighed(torch.ones_like(features[:, 0]), index)
    directions, length = F.normalize(features), features.norm(dim=1).mean()

    def sums(counts: Tensor) -> Tensor:
        start = directions.new_zeros(method.task.num_classes, directions.shape[1])
        return start.index_add_(0, labels, counts[:, None] * directions)

    few = slice(MOST_NUMBERS // method.task.num_classes)
    outputs = _left_out(features[few], labels[few], weight[few], sums(weight)) / length
    losses = [(weight[few] * F.cross_entropy(scale * outputs, labels[few], reduction="none")).sum() for scale in SCALES]
    # Of a body whose batch statistics are not those of its weights, features may be far longer while it is trained.
    scale = (SCALES[int(torch.stack(losses).argmin())] / length).clamp(max=SCALES[-1])

    random = torch.Generator().manual_seed(seed)
    for number, net in enumerate(nets):
        counts = weight
        if number:
            drawn = torch.randint(len(index), (len(index),), generator=random)
            counts = weight * torch.bincount(drawn, minlength=len(index)).to(weight)
        for begun in (net, *copies[number]):
            begun.head.weight.copy_(scale * F.normalize(sums(counts)))
            begun.head.bias.zero_()
    return float((outputs.argmax(1) == labels[few]).float().mean())


def _left_out(features: Tensor, labels: Tensor, weight: Tensor, sums: Tensor) -> Tensor:
    """(M, K) lengths of the features times their cosines with the classes' sums, each sample left out of its own."""
    directions = F.normalize(features)
    cosines = directions @ F.normalize(sums).T
    own = F.normalize(sums[labels] - weight[:, None] * directions)
    cosines.scatter_(1, labels[:, None], (directions * own).sum(1, keepdim=True))
    return features.norm(dim=1, keepdim=True) * cosines


def _features(net: Net, training: Training, data: TrainingData, *, seed: int) -> tuple[Tensor, Tensor]:
    """(M, D) features that `net` sees and (M,) sample numbers, shuffled, and the same in all processes."""
    labels, num_classes = training.method.labels.cpu(), training.method.task.num_classes
    drawn = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    drawn = drawn[labels[drawn].argsort(stable=True)]
    sizes = labels.bincount(minlength=num_classes)
    place = torch.arange(len(drawn)) - (sizes.cumsum(0) - sizes)[labels[drawn]]
    most = max(min(PER_CLASS, MOST_NUMBERS // (net.feature_dim * num_classes)), 1)
    stream = Stream(index=drawn[place < most], views=("none",), batch_size=training.protocol.batch_size)
    mode = net.training
    net.eval()
    parts = []
    for batch in data.batches(stream, epoch=0):
        with training.autocast():
            seen = net.features(batch.views[0])
        parts.append(gather(seen.float(), batch.index)[0])
    net.train(mode)
    features, index = (torch.cat(rows) for rows in zip(*parts, strict=True))
    return features, index
