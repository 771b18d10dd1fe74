"""Settings by data set: what varies from one to the next stands here and nowhere else, with its source.

Sources, named in the comments: [paper] the settings that ACTO's paper gives, [script] the defaults or the published
command of its public scripts, [ours] chosen here, without test data, as docs/decisions.md tells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Settings for training on a data set.

    Attributes:
        net: a name of acto.nets.build.
        weights: None or "torchvision".
        head: see acto.runs.run.Run.
        epochs: total number.
        warmup_epochs: epochs before a method begins to distrust labels.
        batch_size: samples a step.
        optimizer: "sgd" or "adam".
        weight_decay: of every weight.
        lr: of net 0 (ACTO's RTM) after the warm-up.
        schedule: of net 0, see acto.training.plans.
        warmup_lr: of net 0 in the warm-up.
        lr1: of net 1 where the networks differ by design (ACTO's NTM).
        schedule1: of that network.
        form: ACTO's, where nobody asks for another.
        mixes: ACTO's steady form mixes samples, as it is made for; without it both terms have their published weights.
        selection: ACTO's rule in its published form, "both" or "robust".
        label_smoothing: of every cross-entropy.
        precision: auto, or float32 for networks so small that changing formats costs more than it saves.
        tau: ACTO's memorization threshold.
        like_cifar100: take the constants that papers give for CIFAR-100, not those for CIFAR-10.
        like_cifar80n: take those for CIFAR80N, open-set noise, where a paper has any; else like_cifar100 decides.
        assumed_noise_rate: for methods that ask for it, where the data cannot tell.
    """

    net: str
    weights: str | None = None
    head: Literal["random", "centroids"] | None = None
    epochs: int
    warmup_epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adam"] = "sgd"
    weight_decay: float = 5e-4
    lr: float
    schedule: str = "cosine"
    warmup_lr: float | None = None
    lr1: float | None = None
    schedule1: str | None = None
    form: Literal["published", "steady"] = "published"
    mixes: bool = True
    selection: Literal["both", "robust"] = "both"
    label_smoothing: float = 0.0
    precision: str = "auto"
    tau: float = 0.025
    like_cifar100: bool = False
    like_cifar80n: bool = False
    assumed_noise_rate: float | None = None

    def lasting(self, epochs: int) -> Setting:
        """The same for another number of epochs: the warm-up and the named epochs of schedules keep their shares."""

        def scaled(schedule: str | None) -> str | None:
            kind, _, rest = (schedule or "").partition(":")
            if kind not in ("cosine", "linear") or not rest:
                return schedule
            first, low, *last = rest.split(",")
            numbers = [f"{float(first) * share:g}", low, *(f"{float(n) * share:g}" for n in last)]
            return f"{kind}:{','.join(numbers)}"

        share = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            warmup_epochs=max(round(self.warmup_epochs * share), min(self.warmup_epochs, 1)),
            schedule=scaled(self.schedule) or self.schedule,
            schedule1=scaled(self.schedule1),
        )


# Both CIFAR columns of Table 1. Network, optimizer, batch, decay, epochs, warm-up, both rates and tau: [paper]. The
# cosine's end points: [script]. That NTM follows `baseline`: [ours], the first of three readings of the public code.
CIFAR_NUST = Setting(
    net="cnn7", epochs=150, warmup_epochs=50, batch_size=128,
    lr=0.01, warmup_lr=0.01, schedule="cosine:20,5e-4,100", lr1=0.08, schedule1="baseline", like_cifar100=True,
)  # fmt: skip

# Table 2. Batch, rate, decay, epochs: [paper]; warm-up, NTM's rate and both plans: [script]. The noise rate: the
# default in the public code of an earlier method (PLM) for these data.
WEB = Setting(
    net="resnet50", weights="torchvision", epochs=100, warmup_epochs=20, batch_size=16,
    lr=0.005, warmup_lr=0.001, schedule="cosine:20,5e-4,100", lr1=0.001, schedule1="baseline",
    selection="robust", label_smoothing=0.35, assumed_noise_rate=0.25,
)  # fmt: skip

# Table 3. All of it: [script], the published Food101N command. The noise rate: what its authors estimate.
FOOD101N = Setting(
    net="resnet50", weights="torchvision", epochs=50, warmup_epochs=5, batch_size=100,
    lr=5e-4, warmup_lr=1e-3, schedule="cosine:5,5e-5,50", lr1=1e-3, schedule1="baseline",
    selection="robust", label_smoothing=0.35, assumed_noise_rate=0.2,
)  # fmt: skip

# Everything below: [ours].
CIFAR_HUMAN = replace(
    CIFAR_NUST, net="preact_resnet18", lr=0.02, warmup_lr=0.02, schedule="cosine:50,2e-4,150", lr1=0.02,
    like_cifar100=False,
)  # fmt: skip
SMALL_PICTURES = Setting(
    net="cnn_small", epochs=60, warmup_epochs=15, batch_size=64, precision="float32",
    lr=0.02, warmup_lr=0.02, schedule="cosine", lr1=0.04, schedule1="constant", form="steady",
)  # fmt: skip
# For the demo: chosen by benchmarks/demo_settings.py on 1,347 pictures of Fashion-MNIST shrunk to 8x8, with 40 epochs;
# 32 keep the demo within its 150 seconds.
DIGITS = replace(
    SMALL_PICTURES, net="cnn_tiny", epochs=32, warmup_epochs=6, weight_decay=2e-3, lr=0.05, warmup_lr=0.05, lr1=0.1,
    selection="robust", label_smoothing=0.2, tau=0.1,
)  # fmt: skip
PHOTOS = replace(
    WEB, net="resnet18", weights=None, epochs=60, warmup_epochs=12, batch_size=64,
    lr=0.02, warmup_lr=0.02, schedule="cosine", lr1=0.02, schedule1="cosine", label_smoothing=0.0,
    assumed_noise_rate=None, form="steady",
)  # fmt: skip
# A table of features has no view that hides what an MLP could memorize: a warm-up of a quarter of the run is too long.
# Chosen on 3,000 pictures each of MNIST and of the first half of Fashion-MNIST as rows of pixels, 30 epochs, one seed,
# symmetric, asymmetric and instance-dependent noise: of warm-ups of 1, 2, 3 and 7 epochs 1 found the wrong labels best.
# So it is on few rows, and mixed features are memorized sooner than plain ones: docs/decisions.md.
VECTORS = replace(SMALL_PICTURES, net="mlp", batch_size=128, warmup_epochs=1, mixes=False)
# Thousands of rows are enough steps in half the epochs; in the other half wrong labels are learned: docs/decisions.md.
THOUSANDS_OF_VECTORS = VECTORS.lasting(30)
THOUSANDS = 2_000
# Steps of 128 rows are half spent on asking for small products. Chosen by benchmarks/vector_batches.py, which has the
# numbers: rates eight times as high find as much in batches of 1024, in less than half the time.
VECTORS_IN_BULK = replace(
    VECTORS, batch_size=1024, warmup_epochs=2, lr=0.16, warmup_lr=0.16, lr1=0.32, precision="auto"
)
MANY_VECTORS = 50_000

SETTINGS: dict[str, Setting] = {
    "cifar100nc": CIFAR_NUST,
    "cifar80no": replace(CIFAR_NUST, like_cifar80n=True),
    "cifar10": CIFAR_HUMAN,
    "cifar100": replace(CIFAR_HUMAN, like_cifar100=True),
    "cifar10n": CIFAR_HUMAN,
    "cifar100n-human": replace(CIFAR_HUMAN, like_cifar100=True),
    "web-aircraft": WEB,
    "web-bird": WEB,
    "web-car": WEB,
    "food101n": FOOD101N,
    "digits": DIGITS,
    "fashion-mnist": SMALL_PICTURES,
}
BY_PIPELINE: dict[str, Setting] = {
    "cifar": replace(CIFAR_HUMAN, form="steady"),
    "photo": PHOTOS,
    "small": SMALL_PICTURES,
    "digits": DIGITS,
    "fashion": SMALL_PICTURES,
    "vectors": VECTORS,
}


def setting_for(source: str, *, pipeline: str | None = None, num_samples: int = 0) -> Setting:
    """The setting of a named source, or of data that a path turned out to be.

    Args:
        source: as in acto.data.samples.DataSpec.
        pipeline: kind of the data, see ViewSpec.pipeline.
        num_samples: to train on, 0 where it is not known.
    """
    return SETTINGS.get(source) or setting_of_kind(pipeline or "small", num_samples)


def setting_of_kind(pipeline: str, num_samples: int) -> Setting:
    """The setting of `num_samples` training samples that nobody has named."""
    if pipeline != "vectors":
        return BY_PIPELINE[pipeline]
    if num_samples >= MANY_VECTORS:
        return VECTORS_IN_BULK
    return THOUSANDS_OF_VECTORS if num_samples >= THOUSANDS else VECTORS


FINE_TUNING = 0.25
"""Learning rates of pretrained weights, as a part of those from scratch: docs/decisions.md."""


FEW_TUNED, LEAST_TUNED = 4_096, 1 / 16
"""Below so many samples these rates are in proportion to their number, down to this part, after one epoch's warm-up."""


def fine_tuned(setting: Setting, num_samples: int) -> Setting:
    """`setting`, which is for networks that begin from nothing, for pretrained weights and so many training samples."""
    part = min(max(num_samples / FEW_TUNED, LEAST_TUNED), 1)
    warmup = setting.warmup_epochs if part == 1 else min(setting.warmup_epochs, 1)
    return replace(setting, head="centroids", warmup_epochs=warmup, **_rates(setting, FINE_TUNING * part))


SLOWEST = 1 / 8
"""Least part of a recipe's learning rates that few rows of features get."""


def with_batch(setting: Setting, size: object) -> Setting:
    """`setting` with batches of `size`: for rows of features learning rates are in proportion.

    They have no crops to vary them, and at the rates of large batches a network learns a few hundred labels by heart in
    some epochs. Batches that are larger than a recipe's own get no higher rates. A size that is no whole number above 1
    passes; the protocol refuses it.
    """
    if setting.net != VECTORS.net or not isinstance(size, int) or size < 2:
        return setting
    own, wanted = (max(batch / VECTORS.batch_size, SLOWEST) for batch in (setting.batch_size, size))
    share = min(wanted, max(own, 1.0)) / own
    return replace(setting, batch_size=size, **_rates(setting, share))


def _rates(setting: Setting, share: float) -> dict[str, Any]:
    rates = {name: getattr(setting, name) for name in ("lr", "warmup_lr", "lr1")}
    return {name: share * rate for name, rate in rates.items() if rate is not None}


SMALLEST_BATCH = 8
STEPS_AN_EPOCH = 16
"""Small data are cut into at least so many batches, as far as SMALLEST_BATCH allows: a recipe counts in epochs, and an
epoch of one step teaches nothing."""


def for_size(setting: Setting, num_samples: int) -> Setting:
    """The setting with batches that small data have enough of."""
    size = batch_size_for(num_samples, most=setting.batch_size)
    return replace(with_batch(setting, size), batch_size=size)


def batch_size_for(num_samples: int, *, most: int) -> int:
    """The largest power of two that leaves STEPS_AN_EPOCH, between SMALLEST_BATCH and `most`."""
    fitting = 1 << max(num_samples // STEPS_AN_EPOCH, 1).bit_length() - 1
    return min(max(fitting, SMALLEST_BATCH), most)
