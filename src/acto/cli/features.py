"""`acto features`: what a trained network sees in the samples of a source, kept as vectors to train on.

The vectors come with the ids, labels, truth and split that `acto train` gives the pictures, so a run on them answers
the same question; and since the network stays as it is, an epoch costs seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.progress import BarColumn, TimeRemainingColumn

from acto.cli.parser import Parser, out_file
from acto.cli.progress import Bar
from acto.core.device import resolve_device
from acto.core.errors import UserError, check_range, choose
from acto.core.resources import usable_cores
from acto.core.settings import fields_of, from_values
from acto.core.text import bytes_in_words, counted, duration, visible
from acto.data.samples import Dataset, DataSpec
from acto.data.sources import load_data
from acto.runs.frozen.backbone import SMALL_SIDE, make_backbone
from acto.runs.frozen.extraction import LIKENESS, Extracted, extract
from acto.runs.frozen.feature_file import folder_of
from acto.runs.resolve import SHORT, checked

DTYPES = ("float16", "float32")
PRECISIONS = ("auto", "bfloat16", "float32")


def features(tokens: Sequence[str]) -> int:
    """`acto features SOURCE --net NAME --weights FILE`; returns the exit code.

    Raises:
        UserError: for anything that was asked for and cannot be done.
    """
    parser = _parser()
    given, settings, unknown = parser.divided(tokens)
    parser.refuse(unknown)
    for flag in ("net", "weights"):
        if flag not in given:
            raise UserError(f"acto features needs --{flag} (`acto features --help` tells more)")
    of_data = {"source": given["source"], **settings.get("data", {})}
    if of_data.keys() & {"size", "resize"}:
        raise UserError("give the pictures' size as --size; it scales what lies around the window in proportion")
    spec = from_values(DataSpec, checked({"data": of_data})["data"])
    out = out_file(given.get("out", "features.npz"), source=spec.source, suffixes=(".npz",))
    if out.exists() and not given.get("overwrite", False) and not folder_of(out).exists():
        raise UserError(f"{out} is there already: choose another --out, or replace it with --overwrite")
    for flag in ("size", "batch_size"):
        if flag in given:
            check_range(f"--{flag.replace('_', '-')}", given[flag], low=1)
    check_range("--workers", given.get("workers", 0), low=0)
    dtype = choose("dtype", given.get("dtype", "float32"), DTYPES)
    choose("precision", given.get("precision", "auto"), PRECISIONS)
    device = resolve_device(given.get("device", "auto"))
    bar = Bar("{task.completed:,.0f}/{task.total:,.0f} samples", BarColumn(), TimeRemainingColumn(compact=True))
    bar.say(f"reading {visible(spec.source)}")
    data = load_data(spec, data_root=spec.root)
    for text in data.notes:
        bar.say(f"note: {text}")
    backbone = make_backbone(
        given["net"],
        given["weights"],
        data,
        size=given.get("size"),
        device=device,
        trust=given.get("trust_net", False),
        say=lambda text: bar.say(f"note: {text}"),
    )

    def tell(done: int, total: int) -> None:
        bar.show(done, total, sign=f"{done:,} of {total:,} samples")

    try:
        done = extract(
            data,
            backbone,
            out,
            dtype=dtype,
            precision=given.get("precision", "auto"),
            batch_size=given.get("batch_size"),
            workers=given.get("workers", min(4, usable_cores())),
            max_pixels=spec.max_image_pixels,
            overwrite=given.get("overwrite", False),
            say=bar.say,
            tell=tell,
        )
    except KeyboardInterrupt:
        bar.stop()
        bar.say(f"what is done lies in {folder_of(out)}: the same command goes on")
        raise
    finally:
        bar.stop()
    _show(done, data, as_json="json" in given)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "acto features",
        "Run a trained network over every sample of SOURCE and keep what its last layer sees as feature vectors: "
        "`acto train --data features.npz` trains on them. SOURCE is what `acto train --data` takes, and so are "
        "--data-root, --subset, --noise, --noise-rate and every other --data.FIELD. A killed command goes on where it "
        "was when it is given again.",
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("--net", metavar="NAME", help="torchvision:NAME, timm:NAME, or one of acto's networks")
    parser.add_argument(
        "--weights", metavar="FILE", help="a .safetensors or .pth file, torchvision, timm, or none (random, seed 0)"
    )
    parser.add_argument("--out", metavar="FILE", help="where to (features.npz)")
    parser.add_argument(
        "--size",
        metavar="N",
        type=int,
        help=f"pixels a side that the network sees (picture files: as in training; others: at least {SMALL_SIDE})",
    )
    parser.add_argument("--dtype", metavar="NAME", help="of the vectors: float32 or float16 (float32)")
    parser.add_argument("--batch-size", metavar="B", type=int, help="samples at a time (32 on a CPU, else 256)")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps (auto)")
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="what the network computes in: float32, bfloat16, or auto: bfloat16 where the device has it and the "
        f"vectors' cosines with float32's exceed {LIKENESS} (auto)",
    )
    parser.add_argument("--workers", metavar="W", type=int, help="processes that decode picture files (4 at most)")
    parser.add_argument("--trust-net", action="store_true", help="allow --net package.module:callable to run")
    parser.add_argument("--overwrite", action="store_true", help="replace --out, and work begun with other settings")
    parser.add_argument("--json", action="store_true", help="JSON instead of words on stdout")
    short = {name: key for name, key in SHORT.items() if name != "--data"}
    parser.add_settings(fields_of(DataSpec, "data"), short=short, shown=False)
    return parser


def _show(done: Extracted, data: Dataset, *, as_json: bool) -> None:
    """The results on stdout."""
    rate = done.computed / done.seconds if done.computed and done.seconds else None
    if as_json:
        facts = {
            "out": str(done.out),
            "sha256": done.sha256,
            "num_train": len(data.train),
            "num_test": len(data.test),
            "num_classes": data.num_classes,
            "num_features": done.num_features,
            "test_labels_are_given": data.test_labels_are_given,
            "seconds": done.seconds,
            "samples_per_second": rate,
        }
        print(json.dumps(facts))
        return
    speed = f", {rate:,.0f} samples/s" if rate else ""
    held_out = ", held out of the training data: their labels may be wrong too" if data.test_labels_are_given else ""
    print(f"{counted(done.num_features, 'feature')} each of {data.name}, {duration(done.seconds)}{speed}")
    print(f"{counted(len(data.train), 'training sample')} and {counted(len(data.test), 'test sample')}{held_out}")
    print(f"{done.out}: {bytes_in_words(done.out.stat().st_size)}, its sha256 in {done.out.name}.sha256")
    print(f"train on it: acto train --data {done.out}")
