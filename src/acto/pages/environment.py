"""The jinja2 environment of all pages."""

from __future__ import annotations

import jinja2


def environment() -> jinja2.Environment:
    """Return a new environment: names from outside are escaped, and a value that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("acto.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
