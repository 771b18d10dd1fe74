"""ACTO's command for the web data sets, with the flags of its public code: `python main_web.py --help`."""

import sys

from acto.cli.papers import main

if __name__ == "__main__":
    sys.exit(main("main_web.py"))
