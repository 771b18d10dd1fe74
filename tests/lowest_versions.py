"""Run by `make lowest`: print the lowest version that pyproject.toml allows of each package, for pip's --requirement.

torch and torchvision are left out: the lowest have gigabytes. So what is tried is all that needs neither: audits of
probabilities, consensus, reports, decisions, records of runs, settings.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

LEFT_OUT = {"torch", "torchvision"}
FOR_TESTS = ("pytest", "hypothesis")
"""Packages of the extra dev that the tests take."""


def lowest(pyproject: str) -> list[str]:
    """Return "NAME==VERSION" for each package with a lower bound."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["parquet"]]
    wanted += [line for line in extras["dev"] if line.startswith((*FOR_TESTS, "pandas"))]
    found = dict(re.findall(r"^([\w.-]+)[^>]*>=([\w.]+)", "\n".join(wanted), flags=re.M))
    return [f"{name}=={version}" for name, version in found.items() if name not in LEFT_OUT]


if __name__ == "__main__":
    print("\n".join(lowest((Path(__file__).parents[1] / "pyproject.toml").read_text())))
