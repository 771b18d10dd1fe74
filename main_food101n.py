"""ACTO's command for Food101N, with the flags of its public code: `python main_food101n.py --help`."""

import sys

from acto.cli.papers import main

if __name__ == "__main__":
    sys.exit(main("main_food101n.py"))
