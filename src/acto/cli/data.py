"""`acto data check`, and the way to `acto data shrink`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from acto.cli.flags import settings_of
from acto.cli.parser import Parser
from acto.cli.shrink import parser as shrink_parser
from acto.cli.shrink import shrink_command
from acto.core.errors import UserError, choose
from acto.core.settings import from_values
from acto.core.text import aligned, counted, percent, visible
from acto.data.check import DataReport, check_data
from acto.data.samples import DataSpec
from acto.runs.resolve import checked
from acto.runs.resolve import unknown as unknown_setting

SHOWN = 10


def data(tokens: Sequence[str]) -> int:
    """`acto data check SOURCE`: look through a data set; 2 if training on it would be refused. Or `data shrink`."""
    parser = _parser()
    if not tokens or tokens[0] in ("-h", "--help"):
        for each in (parser, shrink_parser()):
            each.print_help()
        return 0 if tokens else 2
    if choose("command", f"data {tokens[0]}", ("data check", "data shrink")) == "data shrink":
        return shrink_command(tokens[1:])
    own, settings, unknown = parser.divided(tokens[1:])
    if unknown:
        name = unknown[0].partition("=")[0]
        raise unknown_setting(name, method="acto", choices=parser.flags(), what="argument")
    if others := sorted(settings.keys() - {"data"}):
        raise UserError(f"`acto data check` takes settings of the data only, not {', '.join(others)}")
    given = {**own, **settings.get("data", {})}
    if "source" not in given:
        raise UserError("`acto data check` needs a SOURCE: a named data set or a path")
    spec = from_values(DataSpec, checked({"data": given})["data"])
    report = check_data(spec, data_root=spec.root)
    print("\n".join(map(visible, _report_lines(report))))
    return 0 if report.is_usable else 2


def _parser() -> Parser:
    parser = Parser(
        "acto data check",
        "Decodes every picture, counts classes and finds equal samples. SOURCE is what `acto train --data` takes.",
    )
    parser.usage = "acto data check SOURCE [--data-root DIR] [--data.FIELD VALUE ...]"
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a named data set, or a path")
    fields, short = settings_of("acto")
    for about_data in (True, False):  # the others are known so that they can be refused by name
        some = [field for field in fields if field.key.startswith("data.") == about_data]
        parser.add_settings(some, short=short, shown=about_data)
    return parser


def _report_lines(report: DataReport) -> Iterable[str]:
    counts = report.class_counts
    if counts:
        test = "no test set: a tenth will be held out"
        if report.num_test is not None:
            test = counted(report.num_test, "test sample")
        classes = counted(len(counts), "class")
        yield f"{report.name}: {counted(report.num_train, 'training sample')} of {classes}; {test}"
        by_size = sorted(counts.items(), key=lambda item: item[1])
        yield f"samples a class: {by_size[0][1]} ({by_size[0][0]}) to {by_size[-1][1]} ({by_size[-1][0]})"
        if len(counts) <= 2 * SHOWN:
            yield from (f"  {line}" for line in aligned((name, str(count)) for name, count in counts.items()))
    else:
        yield f"{report.name}: {counted(report.num_train, 'sample')}, without labels that can be read"
    if report.noise_rate is not None:
        yield f"wrong labels, where the truth is known: {percent(report.noise_rate)}"
    if report.modes:
        yield f"pixel formats: {', '.join(f'{mode} {count:,}' for mode, count in report.modes.items())}"
    if report.num_turned:
        yield f"turned upright as their EXIF data say: {report.num_turned}"
    yield from (f"note: {text}" for text in report.notes)
    yield f"pictures that cannot be used: {len(report.problems) or 'none'}"
    yield from _first(f"{problem.id}: {problem.problem}" for problem in report.problems)
    yield f"groups of equal samples: {len(report.duplicates) or 'none'}"
    if report.duplicates:
        yield f"  with labels that contradict each other: {sum(group.disagree for group in report.duplicates)}"
        yield f"  across training and test set: {sum(group.leak for group in report.duplicates)}"
        worst = sorted(report.duplicates, key=lambda group: (not group.disagree, not group.leak))
        yield from _first(
            ", ".join(f"{split} {name} ({label})" for split, name, label in group.samples) for group in worst
        )
        yield "  what helps: keep one of each group, with its right label; in both sets they flatter the accuracy"
    yield f"for which training would refuse: {len(report.refusals) or 'nothing'}"
    yield from (f"  {number}. {text}" for number, text in enumerate(report.refusals, start=1))


def _first(lines: Iterable[str]) -> Iterable[str]:
    """The first lines, indented, and how many are left out."""
    lines = list(lines)
    yield from (f"  {line}" for line in lines[:SHOWN])
    if len(lines) > SHOWN:
        yield f"  and {len(lines) - SHOWN} more"
