"""The rows of the ablation in Table 4: ACTO with some of its parts switched off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ABLATION: Mapping[str, Mapping[str, bool]] = {
    "+ASS": {"mining": False, "reweighting": False, "consistency": False},
    "+ASS+ASM": {"mining": True, "reweighting": False, "consistency": False},
    "+ASS+DSRW": {"mining": False, "reweighting": True, "consistency": False},
    "+ASS+ASM+DSRW": {"mining": True, "reweighting": True, "consistency": False},
    "+ASS+ASM+DSRW+CR": {"mining": True, "reweighting": True, "consistency": True},
}
"""By the papers' names of the parts: selection (ASS), mining (ASM), re-weighting (DSRW), consistency (CR). The last row
is ACTO as it is; before the first comes Standard."""
SWITCHES = ("mining", "reweighting", "consistency")


def ablation_row(config: Mapping[str, Any]) -> str | None:
    """The row that a run of ACTO belongs to.

    Args:
        config: ACTO's own settings, as in the section `acto` of config.yaml.

    Returns:
        A key of ABLATION; None for a combination that Table 4 does not have.
    """
    switches = {name: config.get(name) for name in SWITCHES}
    return next((label for label, row in ABLATION.items() if row == switches), None)
