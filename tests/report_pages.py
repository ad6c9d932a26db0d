"""What a page holds: its elements, what it would fetch, the data of its table."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any


class Tags(HTMLParser):
    """The page's elements, with what stands in them; elements must close in order."""

    VOID = ("meta", "br", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def loading(tags: Tags) -> list[str]:
    """What would be fetched, or run besides the page's own script."""
    found = [tag for tag, _ in tags.seen if tag in ("img", "link", "iframe", "object", "embed", "image", "base")]
    found += [name for _, attrs in tags.seen for name in attrs if name.startswith("on") or name in ("src", "action")]
    found += [str(attrs["href"]) for _, attrs in tags.seen if not str(attrs.get("href", "#")).startswith("#")]
    return found + ["script"] * (sum(tag == "script" for tag, _ in tags.seen) - 2)


def data_of(page: str) -> dict[str, Any]:
    """What the table of rows is made of."""
    found = re.search(r'<script type="application/json" id="rows-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))
