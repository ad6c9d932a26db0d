"""Sphinx directives of these pages, and the docstrings' way into them."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import command_line
import docstrings
import messages
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandLine(SphinxDirective):
    """Every command and flag."""

    def run(self) -> list[nodes.Node]:
        return list(self.parse_text_to_nodes(command_line.reference(), allow_section_headings=True))


class Messages(SphinxDirective):
    """The messages of the folders named."""

    required_arguments = 1
    optional_arguments = 20

    def run(self) -> list[nodes.Node]:
        return list(self.parse_text_to_nodes(messages.listing(list(self.arguments))))


def as_rst(app: Sphinx, kind: str, name: str, held: Any, options: Any, lines: list[str]) -> None:
    """A docstring's lines, before autodoc reads them."""
    lines[:] = docstrings.to_rst(lines)


def without_fields(
    app: Sphinx, kind: str, name: str, held: Any, options: Any, arguments: str | None, gives: str | None
) -> tuple[str | None, str | None] | None:
    """A result is not made by its user: its fields are described below, and no call is shown."""
    made_here = kind == "class" and inspect.isclass(held) and dataclasses.is_dataclass(held)
    return ("", None) if made_here else None


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_directive("command-line", CommandLine)
    app.add_directive("messages", Messages)
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("autodoc-process-signature", without_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
