"""Run by `make wheel` with the interpreter of a clean environment: does the installed wheel work by itself?

The clean environment holds the wheel alone; its dependencies are lent from the development environment, whose path is
the first argument, so that torch need not be installed twice.
"""

import sys
from importlib import import_module
from pathlib import Path

lender = Path(sys.argv[1]).resolve()
# Behind the clean environment's own packages; .pth files, and so the editable install, are not read.
sys.path.append(str(next(lender.glob("lib/python*/site-packages"))))

acto = import_module("acto")
home = Path(acto.__file__).resolve().parent
assert lender not in home.parents and "site-packages" in home.parts, f"acto came from {home}, not from the wheel"
assert (home / "py.typed").exists(), "py.typed is missing: type checkers would ignore the package"
assert (home / "pages" / "templates" / "demo.html.jinja").exists(), "the demo's template is missing"
assert (home / "cli" / "help.json").exists(), "the table of `acto COMMAND --help` is missing"
kernels = {path.name for path in (home / "nets" / "kernels").iterdir()}
assert {"lanes.h", "winograd.c", "norm_relu.c"} <= kernels, f"the C kernels' sources are missing: {kernels}"
methods = import_module("acto.methods").METHODS
assert list(methods) == sorted(methods), "METHODS is not in order"
import_module("acto.cli")
print(f"the wheel works: {len(methods)} methods")
