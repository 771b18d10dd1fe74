"""`acto review`: the suspects of a run in the browser."""

from __future__ import annotations

import shlex
import webbrowser
from collections.abc import Sequence
from contextlib import nullcontext

from acto.cli.exit_codes import Terminated
from acto.cli.parser import Parser
from acto.core.errors import MissingPackage, UserError, missing_package
from acto.core.text import counted
from acto.data.readers.place import DATA_ROOT_VARIABLE
from acto.labels.decisions import DecisionLog
from acto.labels.report import LabelReport, read_report
from acto.labels.review_server import ReviewServer
from acto.labels.thumbnails import LARGE_BYTES, LARGE_SIDE, PictureOf, pictures_of
from acto.run_folder.reading import RunRecord, read_run

try:
    from acto.labels.run_audit import judged_samples, training_data

    _missing: MissingPackage | None = None
except ModuleNotFoundError as error:
    # A light installation has no PyTorch: the report is reviewed without pictures.
    if (_missing := missing_package(error, "reading a run's data")) is None:
        raise


def review(tokens: Sequence[str]) -> int:
    """The command `acto review RUN`; returns the exit code: 0 after Ctrl-C, 143 after SIGTERM, ..."""
    parser = Parser(
        "acto review",
        "Serve a run's report page here and save each decision in RUN/decisions.csv at once. Ctrl-C ends it.",
    )
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--port", type=int, metavar="PORT", help="0, the default: a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--data-root", metavar="DIR", help=f"instead of the run's, or of ${DATA_ROOT_VARIABLE}")
    given = parser.given(tokens)
    port = getattr(given, "port", 0)
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}, but must lie in [0, 65535]")
    record, report = read_run(given.run), read_report(given.run)
    picture_of, large_of, note = _pictures(record, report, getattr(given, "data_root", None))
    log = DecisionLog(given.run, report)
    before, code = _num_decided(log), 0
    try:
        with ReviewServer(record, log, picture_of=picture_of, large_of=large_of, port=port) as server:
            for text in (note, log.repaired):
                if text:
                    print(f"note: {text}")
            if log.num_before:
                print(f"{counted(log.num_before, 'decision')} from before this run taken over")
            print(f"{counted(before, 'sample')} of {len(report):,} decided so far, in {log.path}")
            print(f"review at {server.address}\nCtrl-C ends it", flush=True)
            with server.opening_page() if not getattr(given, "no_browser", False) else nullcontext() as page:
                try:
                    if page is not None:
                        webbrowser.open(page.as_uri())
                    server.serve_forever()
                except Terminated as stop:
                    code = stop.exit_code
                except KeyboardInterrupt:
                    pass
    finally:
        log.close()
    done = _num_decided(log)
    print(f"\n{counted(done, 'sample')} decided, {done - before} of them new, in {log.path}")
    if done:
        print(f"next: acto apply {shlex.quote(str(log.path))} --run {shlex.quote(str(record.path))}")
    return code


def _num_decided(log: DecisionLog) -> int:
    return sum(made.decision != "skip" for made in log.decisions.values())


def _pictures(
    record: RunRecord, report: LabelReport, data_root: str | None
) -> tuple[PictureOf | None, PictureOf | None, str]:
    """The samples' pictures, small and large, or None and why there are none."""
    if _missing is not None:
        return None, None, f"no pictures are shown: {_missing}"
    try:
        dataset = training_data(record, data_root=data_root)
    except UserError as error:
        return None, None, f"no pictures are shown, for the data cannot be read: {error}"
    samples = judged_samples(dataset, held_out="held_out" in report.columns)
    if list(samples.ids) != list(report.columns["id"]):
        return None, None, "no pictures are shown, for the report is about other samples than the run's data"
    max_pixels = record.config["data"].get("max_image_pixels")
    large_of = pictures_of(samples, max_pixels=max_pixels, side=LARGE_SIDE, max_bytes=LARGE_BYTES)
    return pictures_of(samples, max_pixels=max_pixels), large_of, ""
