"""Findings about a machine or a folder: one line each, with what to do where something is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from acto.core.text import counted, visible

Severity = Literal["ok", "warn", "BAD"]
SEVERITIES: tuple[Severity, ...] = ("ok", "warn", "BAD")
"""From good to bad. BAD: something will fail. warn: something is slower, older or less than it could be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    state: Severity
    name: str
    text: str
    advice: str = ""
    """Advice on what to do: a sentence, or a command."""


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst state among them; ok if there are none."""
    return max((finding.state for finding in findings), key=SEVERITIES.index, default="ok")


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """For a terminal: state, name and text in columns, the advice below, and what it all comes to."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<4}  {finding.name:<{width}}  {visible(finding.text)}".rstrip())
        if finding.advice:
            lines.append(f"{'':<4}  {'':<{width}}  -> {visible(finding.advice)}")
    counts = Counter(finding.state for finding in findings)
    bad, warned = counts["BAD"], counts["warn"]
    if bad:
        lines.append(f"{counted(bad, 'thing')} must be mended" + (f", {counted(warned, 'warning')}" if warned else ""))
    else:
        lines.append("all is well" if not warned else f"nothing must be mended; {counted(warned, 'warning')}")
    return lines


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Plain values: the worst state, and every finding."""
    return {"state": worst(findings), "findings": [asdict(finding) for finding in findings]}
