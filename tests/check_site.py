"""Run by `make docs` on the site: does every link and picture lead somewhere, is nothing fetched from outside, and was
every list and table taken for one?

python tests/check_site.py build/site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
"""Places of addresses that a browser opens by itself."""
VERBATIM = {"pre", "code", "script", "style"}


class Page(HTMLParser):
    """The addresses, the anchors, and the lines that are marked as list or table and became neither, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str, str]] = []
        self.anchors: set[str] = set()
        self.marked: list[str] = []
        self._verbatim = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._verbatim += tag in VERBATIM
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        is_fetched = not (tag == "link" and found.get("rel") in ("canonical", "prev", "next"))
        for name in ("href", "src"):
            if name in found:
                self.links.append(("fetched" if (tag, name) in FETCHED and is_fetched else "link", tag, found[name]))

    def handle_endtag(self, tag: str) -> None:
        self._verbatim -= tag in VERBATIM

    def handle_data(self, data: str) -> None:
        if not self._verbatim:
            self.marked += re.findall(r"^ *[-|] .*", data.partition("\n")[2], flags=re.M)


def problems(site: Path) -> Iterator[str]:
    """Each link that leads nowhere, each address outside that a page fetches by itself, and each mark that is shown."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses begin at the root of a server
            continue
        for line in page.marked:
            yield f"{path.relative_to(site)}: no list or table: {line}"
        for kind, tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if kind == "fetched" and parts.scheme != "data":
                    yield f"{path.relative_to(site)} fetches {link} ({tag})"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{path.relative_to(site)}: {link} leads nowhere"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{path.relative_to(site)}: {link} has no such place"


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1]).resolve()))
    print("\n".join(found) or "the site holds together", file=sys.stderr if found else sys.stdout)
    sys.exit(bool(found))
