"""What the sources say where something is wrong: the messages of errors and warnings, by module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Errors that a user does not meet: what our own code guarantees, and what another of these lines says in full.
NOT_MET = {"AssertionError", "SystemExit", "Interrupted", "AttributeError", "IndexError", "UnsupportedAttentionError"}
WARNINGS = {"warnings.warn"}
REPORTS = {"complain"}  # of the command line, after "error" or "warning"


def modules(folder: str) -> list[Path]:
    """The Python files of a folder or the file itself, as paths from the project's root."""
    place = ROOT / folder
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    return [file.relative_to(ROOT) for file in files]


def messages_of(source: str) -> Iterator[tuple[str, str]]:
    """Each error's or warning's kind and text, what is filled in as `…`.

    >>> list(messages_of('raise ValueError(f"row {n}: no answer")'))
    [('ValueError', 'row …: no answer')]
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            kind, given = ast.unparse(node.exc.func), node.exc.args
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in WARNINGS:
            kind, given = "warning", node.args
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in REPORTS and len(node.args) == 2:
            kind, given = (node.args[0].value if isinstance(node.args[0], ast.Constant) else ""), node.args[1:]
        else:
            continue
        text = _text(given[0]) if given else ""
        if kind not in NOT_MET and any(letter.isalpha() for letter in text):
            yield ("error" if kind == "type(error)" else kind), text


def listing(folders: list[str]) -> str:
    """The messages of folders as a Markdown list, one line each."""
    found = {(text, kind): None for folder in folders for path in modules(folder) for kind, text in _messages_in(path)}
    return "\n".join(f"- `` {text} `` ({kind})" for text, kind in sorted(found, key=lambda one: one[0].lstrip("…:, ")))


def _messages_in(path: Path) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in messages_of((ROOT / path).read_text(encoding="utf-8"))]


def _text(node: ast.expr) -> str:
    """A message as it is written, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…"
