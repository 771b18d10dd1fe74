"""Print the table of the corpus as Markdown; exit with 1 if an input crashed a reader or passed in silence."""

from __future__ import annotations

import sys

from bad_data.cases import CASES
from bad_data.corpus import table

if __name__ == "__main__":
    text = table(CASES)
    print(text)
    sys.exit(any(line.startswith(("crashed", "silent")) for line in text.splitlines()))
