"""Events of a run, and who is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Report = Callable[[str, Mapping[str, Any]], None]
"""Told what happens: "start" with facts, "step" with its place, "epoch" with its row, "note" with a text, "finish" with
the summary."""
