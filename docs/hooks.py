"""Pages that are made while the site is built: commands, methods, Python, notebooks, and what lies above docs/."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

import acto
from acto.cli.completion import parsers
from acto.core.settings import fields_of, plain
from acto.methods import METHODS
from acto.runs.resolve import section

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
RUN = ROOT / "build" / "notebooks"  # with their results


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file in docs/ holds."""
    made = {"methods.md": methods(), "commands.md": commands(), "python.md": python()}
    made |= {page: (ROOT / name).read_text() for name, page in PAGES.items()}
    for name, content in [*made.items(), *notebooks(sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")))]:
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to pages of the site, name the files of the project that are none, and set lists as wide as here
    is asked for.
    """
    above = "" if page.file.src_uri in PAGES.values() else "../"

    def replaced(link: re.Match[str]) -> str:
        text, target, part = link[1], link[2].removeprefix(above), link[3] or ""
        if target.startswith(("https://", "../")) or (above and target == link[2]):
            return link[0]
        if target in PAGES:
            return f"{text}({PAGES[target]}{part})"
        return f"{text}({target.removeprefix('docs/')}{part})" if target.startswith("docs/") else f"`{target}`"

    link = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)]*)?\)")
    parts = re.split(r"^(```.*?^```)", markdown, flags=re.M | re.S)  # every second one is code
    return "".join(text if n % 2 else widened(link.sub(replaced, text)) for n, text in enumerate(parts))


def widened(text: str) -> str:
    """Set what belongs to an item of a list by four columns a level, and an item after it apart: the site's renderer
    wants both, and the files, which are read elsewhere too, have the width of the item's mark.
    """
    lines, width, has_parts = [], 0, False
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip(" "))
        if line and not indent:
            mark = re.match(r"(?:[-*]|\d+\.) +", line)
            if mark and has_parts:
                lines.append("")
            width, has_parts = len(mark[0]) if mark else 0, False
        has_parts = has_parts or bool(width and not line)
        lines.append(" " * (4 * (indent // width) + indent % width - indent if width else 0) + line)
    return "\n".join(lines)


def methods() -> str:
    """Every method's card and settings."""
    rows = [(f"[{m.name}](#{m.name})", m.venue, str(m.num_nets), ", ".join(m.views), m.title) for m in METHODS.values()]
    lines = ["# Methods\n\nThe cards that `acto methods NAME` prints.\n"]
    lines += table("method | venue | networks | views | what it does", rows)
    for method in METHODS.values():
        card = inspect.getdoc(sys.modules[method.__module__])
        fields = fields_of(method.Config, section(method.name))
        lines += [f"\n## {method.name}\n\n```text\n{card}\n```\n"]
        lines += table("setting | default | meaning", [(f"`--{f.key}`", plain(f.default), f.text) for f in fields])
    return "\n".join(lines)


def commands() -> str:
    """Every command's usage and flags, from its parser."""
    lines = ["# Commands\n\nAs `acto COMMAND --help` prints them."]
    for name, parser in parsers().items():
        usage = " ".join(parser.format_usage().split())
        lines += [f"\n## acto {name}\n\n{escape(parser.description)}\n\n```text\n{usage}\n```\n"]
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.dest != "help"]
            rows = [(f"`{' '.join([*a.option_strings, a.metavar or '']).strip()}`", a.help or "") for a in actions]
            lines += [f"**{group.title}**\n", *table("flag | meaning", rows), ""] if rows else []
    return "\n".join(lines)


def python() -> str:
    """The public names, functions first."""
    names = [*sorted(acto.__all__, key=lambda name: (not name.islower(), name)), "runs.events"]
    return "\n\n".join(["# Python", *(f"::: acto.{name}" for name in names)])


def table(head: str, rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """A table in Markdown."""
    lines = [f"| {head} |", f"|{'---|' * (head.count('|') + 1)}"]
    cells = ([" ".join(escape(str(cell), quote=False).replace("|", "&#124;").split()) for cell in row] for row in rows)
    return lines + [f"| {' | '.join(row)} |" for row in cells]


def notebooks(paths: Iterable[Path]) -> Iterator[tuple[str, Any]]:
    """Each notebook as a page, with the pictures in its results."""
    for path in paths:
        notebook = nbformat.read(RUN / path.name if (RUN / path.name).is_file() else path, as_version=4)
        body, resources = MarkdownExporter().from_notebook_node(notebook)
        yield f"notebooks/{path.stem}.md", body
        yield from ((f"notebooks/{name}", data) for name, data in resources["outputs"].items())
