"""`python -m acto.cli`, as torchrun starts the command."""

import sys

from acto.cli import main

if __name__ == "__main__":
    sys.exit(main())
