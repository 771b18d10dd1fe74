"""The demo's results as files: report.html, which needs nothing but itself, and results.json and results.csv."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from acto.core.files import disk_errors, write_atomically
from acto.pages.charts import BOTTOM, HEIGHT, LABEL_DISTANCE, Chart, Curve, draw
from acto.pages.environment import environment

__all__ = ["BOTTOM", "HEIGHT", "LABEL_DISTANCE", "Chart", "Curve", "Suspect", "draw", "write"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A training sample whose label looks wrong."""

    id: str
    pixels: npt.NDArray[np.uint8]
    """(H, W, 1) or (H, W, 3)."""
    given: str
    suggested: str
    label_quality: float
    is_wrong: bool

    @property
    def thumbnail(self) -> str:
        """The picture as a data URI."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels.squeeze(-1) if self.pixels.shape[-1] == 1 else self.pixels).save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write(
    folder: Path,
    results: Mapping[str, Any],
    *,
    table: Sequence[Mapping[str, Any]],
    charts: Sequence[Chart],
    suspects: Sequence[Suspect],
) -> None:
    """Write the three files, each whole or not at all.

    Args:
        folder: where to.
        results: plain values for results.json; its "trials" are the rows of results.csv.
        table: for each noise rate its "title", "rows" of cells and "verdict".
        charts: one for each noise rate.
        suspects: the most suspicious first.

    Raises:
        acto.core.errors.RunError: if the disk refuses.
    """
    template = environment().get_template("demo.html.jinja")
    page = template.render(results=results, table=table, charts=charts, suspects=suspects)
    rows = io.StringIO()
    writer = csv.DictWriter(rows, results["trials"][0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(results["trials"])
    files = {"report.html": page, "results.json": json.dumps(results, indent=1) + "\n", "results.csv": rows.getvalue()}
    with disk_errors(f"write the report into {folder}"):
        for name, text in files.items():
            write_atomically(folder / name, text.encode())
