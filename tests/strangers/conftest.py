"""Attacks by kind: each test here tries one input or one bad day, and says which outcome is right.

    python -m pytest tests/strangers --kinds

prints the table of docs/reliability.md: what was tried, and what became of it.
"""

from __future__ import annotations

from collections import Counter

import pytest

OUTCOMES = ("right", "refused")
"""A test passes with the right result, or with a clear refusal; its mark says which of the two it asks for."""
_COUNTS = pytest.StashKey[Counter[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kinds", action="store_true", help="print tests/strangers as a table: a row a kind of attack")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COUNTS] = Counter()
    config.addinivalue_line("markers", "kind(name): the kind of attack that a test of tests/strangers belongs to")
    for outcome in OUTCOMES:
        config.addinivalue_line("markers", f"{outcome}: the outcome that a test of tests/strangers asks for")


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.parent.name != "strangers":
        return
    if item.get_closest_marker("kind") is None or _outcome_of(item) is None:
        raise pytest.UsageError(f"{item.nodeid} needs the mark kind, and one of {', '.join(OUTCOMES)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report = yield
    kind = item.get_closest_marker("kind")
    if kind is not None and (report.when == "call" or (report.when == "setup" and not report.passed)):
        outcome = _outcome_of(item) if report.passed else "skipped" if report.skipped else "failed"
        item.config.stash[_COUNTS][kind.args[0], str(outcome)] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--kinds", default=False):
        return
    counts = config.stash[_COUNTS]
    columns = (*OUTCOMES, "skipped", "failed")
    rows = {name: [counts[name, column] for column in columns] for name in dict.fromkeys(name for name, _ in counts)}
    rows["**all**"] = [sum(values) for values in zip(*rows.values(), strict=True)]
    terminalreporter.write_line("| kind | tried | right result | refused | not possible here | crashed or silent |")
    terminalreporter.write_line("|---|---|---|---|---|---|")
    for name, values in rows.items():
        terminalreporter.write_line(f"| {name} | {sum(values)} | {' | '.join(map(str, values))} |")


def _outcome_of(item: pytest.Item) -> str | None:
    asked = [outcome for outcome in OUTCOMES if item.get_closest_marker(outcome)]
    return asked[0] if len(asked) == 1 else None
