"""ACTO's CIFAR command, with the flags of its public code: `python main.py --help`."""

import sys

from acto.cli.papers import main

if __name__ == "__main__":
    sys.exit(main("main.py"))
