"""Scikit-learn's handwritten digits, which come with the installation."""

from __future__ import annotations

import numpy as np

from acto.data.readers.place import Place
from acto.data.samples import DataSpec, Raw, clean_samples
from acto.data.splits import holdout

TEST_SHARE = 0.25


def read(spec: DataSpec, place: Place) -> Raw:
    """Load the digits, a quarter of each class as clean test set."""
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    everything = clean_samples(pixels, bunch.target.astype(np.int64))
    train, test = holdout(everything.labels, share=TEST_SHARE, seed=spec.holdout_seed)
    return Raw(
        name=spec.source,
        train=everything.take(train),
        test=everything.take(test),
        class_names=tuple(map(str, range(10))),
        clean=True,
    )
