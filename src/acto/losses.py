"""Losses of the methods as functions on logits and labels, for a training loop of one's own.

    from acto.losses import generalized_cross_entropy
    loss = generalized_cross_entropy(model(x), y, q=0.7).mean()

The methods of `acto train` are built of these very functions. Where nothing else is said a loss is (B,), one number a
sample: take the mean, or `masked_mean` over those that a rule of `acto.selection` picked. Of several processes
`masked_mean` and `prior_penalty` give each its share of the value for the global batch, which adds up over them; DDP
takes the mean of gradients, so multiply by the number of processes there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from acto.methods.agce import asymmetric_cross_entropy, normalized_cross_entropy
from acto.methods.anl import active_negative
from acto.methods.blocks.losses import (
    cross_entropy,
    jensen_shannon,
    masked_mean,
    negative_entropy,
    negative_learning,
    prior_penalty,
    soft_cross_entropy,
    symmetric_divergence,
)
from acto.methods.gce import generalized_cross_entropy
from acto.methods.sce import reverse_cross_entropy
from acto.selection import ActoSelector, Selected

__all__ = [
    "ActoLoss",
    "active_negative",
    "asymmetric_cross_entropy",
    "cross_entropy",
    "generalized_cross_entropy",
    "jensen_shannon",
    "masked_mean",
    "negative_entropy",
    "negative_learning",
    "normalized_cross_entropy",
    "prior_penalty",
    "reverse_cross_entropy",
    "soft_cross_entropy",
    "symmetric_divergence",
]


class ActoLoss(nn.Module):
    """ACTO's loss on the logits of two networks of one's own: warm-up first, then selection, mining and consistency.

    criterion = ActoLoss(labels, num_classes=10, warmup_epochs=5)
    loss = criterion(index, robust=f(weak), non_robust=g(weak), robust_strong=f(strong), epoch=epoch)

    The robust network f is the model; g is trained beside it, learns every given label, and is thrown away. It should
    learn faster, say with a rate twice as high. For one process.

    Args:
        labels: see acto.selection.ActoSelector.
        num_classes: K.
        **settings: see there.

    Raises:
        UserError: labels or settings that cannot be used.
    """

    def __init__(self, labels: Any, *, num_classes: int, **settings: Any) -> None:
        super().__init__()
        self.selector = ActoSelector(labels, num_classes=num_classes, **settings)
        self.last: Selected | None = None
        """Selection of the last call."""

    def forward(
        self, index: Tensor, *, robust: Tensor, non_robust: Tensor, robust_strong: Tensor | None = None, epoch: int
    ) -> Tensor:
        """Compute the loss of both networks, a scalar with gradient, and update the memory of the samples.

        Args:
            index: (B,) int64 numbers of the samples in the training set.
            robust: (B, K) logits of f.
            non_robust: (B, K) logits of g.
            robust_strong: (B, K) logits of f for another, stronger augmentation; needed after the warm-up, unless the
                setting consistency is False.
            epoch: from 0.

        Raises:
            UserError: shapes or numbers that do not fit.
        """
        step = self.selector.step(index, robust=robust, non_robust=non_robust, robust_strong=robust_strong, epoch=epoch)
        self.last = self.selector.selected_in(step, index)
        return step.loss

    def label_quality(self) -> Tensor | None:
        """(N,) trust in each given label, 0 to 1, 1 = trustworthy; None before the end of the warm-up."""
        return self.selector.label_quality()
