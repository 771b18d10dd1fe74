"""`python -m acto.cli`, as torchrun starts the command."""

import os
import sys

from acto.cli import main

if __name__ == "__main__":
    # Python has put the current folder first, which `acto` never does: a stranger's yaml.py may lie in it.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
    sys.exit(main())
