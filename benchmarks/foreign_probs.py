"""Other people's probabilities with known label errors: what acto.audit makes of them, beside cleanlab, in one run.

    ACTO_DATA_ROOT=DIR python benchmarks/foreign_probs.py [--size 1000000x100 [--most 2] [--who acto,report,cleanlab]]

DIR/pred_probs holds an .npz a set, with labels (N,), pred_probs (N, K) and is_error (N,). For each set it prints

- the F1 of the default rule, of cleanlab's default filter, and of the best of cleanlab's filters (chosen by the truth);
- the average precision of the default score and of the three published ones;
- the rate, its interval of 95 %, and the interval score (width + 40 times what is missed) beside that of a bootstrap of
  confident learning's flags, which acto used before;
- the suspects to look at first: how many, and how many of them were wrong;
- seconds of flags, score and rate, and of cleanlab's default filter and score.

With --size both are timed on made probabilities instead, in single precision and mapped from the disk, each in a fresh
process: CPU seconds of the whole acto.audit, or cleanlab's find_label_issues_batched, and the memory above the start.
That is the most of RssAnon, which another process reads from /proc 200 times a second: pages of the mapped file, which
the system takes back when it likes, do not count. `report` is the whole command `acto audit --labels ... --pred-probs
...`, its files included. --most sets RLIMIT_DATA (GiB) for acto: memory beyond it is refused.

No constant was chosen on these sets alone: docs/decisions.md tells on what, and what leaving out a family of sets
changes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from acto.cli import main as main_of_acto
from acto.labels.audit import audit
from acto.labels.belief import first_suspects
from acto.labels.rate import estimate_noise
from acto.labels.rules import VOTE, Issues
from acto.labels.scores import SCORES, label_quality, look_at

CLEANLAB_FILTERS = (
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
)
RESAMPLES = 200
MISS = 40
"""Price of what an interval of 95 % misses, in widths."""

Array = npt.NDArray[Any]


def f1(flags: Array, wrong: Array) -> float:
    """Harmonic mean of precision and recall."""
    return 2 * float((flags & wrong).sum()) / max(1, int(flags.sum() + wrong.sum()))


def average_precision(quality: Array, wrong: Array) -> float:
    """Mean precision at each wrong label, the least trusted first."""
    order = np.argsort(quality, kind="stable")
    hits = wrong[order]
    precision: Array = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def interval_score(low: float, high: float, truth: float) -> float:
    """Width of an interval, and what it misses, dearly."""
    return high - low + MISS * max(0.0, low - truth, truth - high)


def bootstrap(flags: Array) -> tuple[float, float]:
    """The percentiles 2.5 and 97.5 of the share of flags in resamples."""
    draws = np.random.default_rng(0).binomial(len(flags), flags.mean(), RESAMPLES) / len(flags)
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def compare(folder: Path) -> None:
    """Print a block a set, and what the targets say."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    rows: list[dict[str, float]] = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            given, probs, wrong = file["labels"].astype(np.int64), file["pred_probs"], file["is_error"]
        start = time.process_time()
        look = look_at(given, probs)
        issues = Issues(look, probs)
        flags, quality, noise = issues.by(VOTE), label_quality(look, probs, SCORES[0]), estimate_noise(look)
        seconds = time.process_time() - start
        start = time.process_time()
        theirs = find_label_issues(given, probs, n_jobs=1)
        get_label_quality_scores(given, probs)
        their_seconds = time.process_time() - start
        filters = {
            name: f1(find_label_issues(given, probs, n_jobs=1, filter_by=name), wrong) for name in CLEANLAB_FILTERS
        }
        precisions = {name: average_precision(label_quality(look, probs, name), wrong) for name in SCORES}
        best_score = max(precisions[name] for name in SCORES[1:])
        truth, before = float(wrong.mean()), bootstrap(issues.by("confident_learning"))
        first = first_suspects(look, flags, quality)
        order = np.flatnonzero(flags)
        order = order[np.argsort(quality[order], kind="stable")]
        rows.append(
            {
                "F1": f1(flags, wrong),
                "cleanlab F1": f1(theirs, wrong),
                "AP": precisions[SCORES[0]],
                "best AP": best_score,
                "held": noise.rate_low <= truth <= noise.rate_high,
                "width": noise.rate_high - noise.rate_low,
                "score": interval_score(noise.rate_low, noise.rate_high, truth),
                "score before": interval_score(*before, truth),
                "seconds": seconds,
                "cleanlab seconds": their_seconds,
            }
        )
        best = max(filters, key=lambda name: filters[name])
        print(
            f"{path.stem}: {truth:.2%} of {len(given):,} wrong\n"
            f"  F1 {rows[-1]['F1']:.3f}  cleanlab's default {rows[-1]['cleanlab F1']:.3f}  its best {best} "
            f"{filters[best]:.3f}\n"
            f"  AP {', '.join(f'{name} {value:.3f}' for name, value in precisions.items())}\n"
            f"  rate {noise.rate:.2%} ({noise.rate_low:.2%} to {noise.rate_high:.2%}), interval score "
            f"{rows[-1]['score']:.3f}; before {before[0]:.2%} to {before[1]:.2%}, {rows[-1]['score before']:.3f}\n"
            "  look first: "
            + ", ".join(
                f"{count:,} at {float(share):.0%}" + (f" ({wrong[order[:count]].mean():.0%} wrong)" if count else "")
                for share, count in first.items()
            )
            + f"\n  CPU seconds {seconds:.2f}, cleanlab {their_seconds:.2f}",
            flush=True,
        )
    if not rows:
        sys.exit(f"{folder} holds no .npz")
    ratios = [row["F1"] / row["cleanlab F1"] for row in rows]
    print(
        f"F1 at least cleanlab's default in {sum(ratio >= 1 for ratio in ratios)} of {len(rows)}, "
        f"never below {min(ratios):.2f} of it\n"
        f"AP at least the best of three less .003 in {sum(r['AP'] >= r['best AP'] - 0.003 for r in rows)}\n"
        f"interval holds the truth in {sum(bool(r['held']) for r in rows)}, median width "
        f"{median(r['width'] for r in rows):.3f}, mean interval score {fmean(r['score'] for r in rows):.3f} "
        f"(before {fmean(r['score before'] for r in rows):.3f})\n"
        f"CPU seconds {sum(r['seconds'] for r in rows):.1f}, cleanlab {sum(r['cleanlab seconds'] for r in rows):.1f}"
    )


def made(folder: Path, num_samples: int, num_classes: int) -> None:
    """Write labels with 20 % noise, and probabilities in single precision, some rows at a time."""
    random = np.random.default_rng(0)
    true = random.integers(0, num_classes, num_samples)
    given = np.where(random.random(num_samples) < 0.2, random.integers(0, num_classes, num_samples), true)
    np.save(folder / "labels.npy", given)
    shape = (num_samples, num_classes)
    probs = np.lib.format.open_memmap(folder / "probs.npy", mode="w+", dtype=np.float32, shape=shape)
    step = max(1, 10**7 // num_classes)
    for start in range(0, num_samples, step):
        rows = slice(start, min(start + step, num_samples))
        block = random.random((rows.stop - start, num_classes), dtype=np.float32)
        block[np.arange(len(block)), true[rows]] += 0.05 * num_classes
        probs[rows] = block / block.sum(1, keepdims=True)
    probs.flush()


def anonymous(pid: int | str) -> int:
    """MiB of a process's memory that no file backs; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0) // 1024


def timed(who: str, folder: Path, most: float | None) -> None:
    """Audit made probabilities in this process, and print CPU seconds, and the memory at the start."""
    if most is not None and who != "cleanlab":
        resource.setrlimit(resource.RLIMIT_DATA, (int(most * 2**30), int(most * 2**30)))
    given, probs = np.load(folder / "labels.npy"), np.load(folder / "probs.npy", mmap_mode="r")
    if who == "cleanlab":
        from cleanlab.experimental.label_issues_batched import find_label_issues_batched
    start, memory = time.process_time(), anonymous("self")
    if who == "cleanlab":
        found = len(find_label_issues_batched(labels=given, pred_probs=probs, n_jobs=1, verbose=False))
    elif who == "acto":
        report = audit(given, probs)
        found = int(report.is_label_issue.sum())
    else:
        del given, probs
        files = {"--labels": "labels.npy", "--pred-probs": "probs.npy", "--out": "report"}
        flags = [word for flag, name in files.items() for word in (flag, str(folder / name))]
        found = main_of_acto(["audit", *flags])
    print(f"{time.process_time() - start:.2f} {memory} {found}", flush=True)


def watch(who: str, size: str, folder: Path, most: float | None) -> None:
    """Run `timed` in a fresh process, watch its memory, and print a line."""
    command = [sys.executable, __file__, "--size", size, "--who", who, "--folder", str(folder)]
    with subprocess.Popen(
        [*command, *(["--most", str(most)] if most else [])], stdout=subprocess.PIPE, text=True
    ) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, anonymous(child.pid))
            time.sleep(0.005)
        assert child.stdout is not None
        lines = child.stdout.read().splitlines()
    if child.returncode:
        sys.exit(f"{who} failed")
    seconds, memory, found = lines[-1].split()
    print(
        f"{who:<9} {seconds} CPU s, {peak - int(memory)} MiB above the start ({peak} in all); found {found}", flush=True
    )


def main() -> None:
    """Compare on the sets, or time on made probabilities."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", help="NxK: time on made probabilities of this size")
    parser.add_argument("--who", default="acto,cleanlab", help="of acto, report, cleanlab")
    parser.add_argument("--most", type=float, help="GiB that acto may take (RLIMIT_DATA)")
    parser.add_argument("--folder", type=Path, help="for internal use: audit what lies there, in this process")
    asked = parser.parse_args()
    if asked.size is None:
        compare(Path(os.environ.get("ACTO_DATA_ROOT", ".")) / "pred_probs")
    elif asked.folder is not None:
        timed(asked.who, asked.folder, asked.most)
    else:
        num_samples, num_classes = map(int, asked.size.split("x"))
        with TemporaryDirectory() as folder:
            made(Path(folder), num_samples, num_classes)
            for who in asked.who.split(","):
                watch(who, asked.size, Path(folder), asked.most)


if __name__ == "__main__":
    main()
