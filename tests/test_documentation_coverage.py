"""Nothing that a user meets is left out of the documentation: names, flags, statuses, errors, variables, methods."""

from __future__ import annotations

import argparse
import ast
import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import command_line
import docstrings
import messages
import pytest

import instsel
from instsel.cli import build_parser
from instsel.engine.results import STATUSES
from instsel.methods.registry import BUILT_IN

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ERRORS = (DOCS / "reference/errors.md").read_text(encoding="utf-8")
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "reference").glob("*.md")))
NOT_DESCRIBED_BY_ITSELF = {"instsel.kernels", "instsel.__version__"}  # a module with a page, and the version


def described(pages: str) -> set[str]:
    """What the pages take from docstrings, or describe as data."""
    return set(re.findall(r"^\s*\.\. (?:auto\w+|py:data):: (\S+)", pages, re.MULTILINE))


def public_names() -> Iterator[str]:
    """Every public name: of the package, its kernels and prompts, and of the adapters, read without their hosts."""
    yield from (f"instsel.{name}" for name in instsel.__all__)
    for module in ("kernels", "prompts"):
        yield from (f"instsel.{module}.{name}" for name in importlib.import_module(f"instsel.{module}").__all__)
    for path in sorted((ROOT / "instsel/integrations").glob("[a-z]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                yield f"instsel.integrations.{path.stem}.{node.name}"


def test_every_public_name_is_in_the_reference() -> None:
    missing = set(public_names()) - described(REFERENCE) - NOT_DESCRIBED_BY_ITSELF
    assert not missing, f"not in docs/reference: {sorted(missing)}"
    assert "instsel.kernels" in REFERENCE and "instsel.__version__" in REFERENCE
    fewer = REFERENCE.replace(".. autofunction:: instsel.wici\n", "")
    assert set(public_names()) - described(fewer) - NOT_DESCRIBED_BY_ITSELF == {"instsel.wici"}


def test_what_the_reference_names_exists_and_has_a_docstring() -> None:
    for name in sorted(described(REFERENCE)):
        if name.startswith("instsel.integrations."):
            continue  # their hosts may be absent; the test above reads their names from the files
        parts = name.split(".")
        held = instsel
        for depth, part in enumerate(parts[1:], start=2):
            held = getattr(held, part, None) or importlib.import_module(".".join(parts[:depth]))
        assert isinstance(held, tuple) or (inspect.getdoc(held) or "").strip(), name


def data_that_differs(pages: str) -> dict[str, list[str]]:
    """Data that pages describe by hand, with the values they name, where those are not its values."""
    described = re.findall(r"^\.\. py:data:: (\S+)\n\n(.+?)\n\n", pages, re.MULTILINE | re.DOTALL)
    named = {name: re.findall(r"``(\w+)``", text) for name, text in described}
    held = {name: getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in named}
    return {name: values for name, values in named.items() if sorted(values) != sorted(held[name])}


def test_data_described_by_hand_has_the_values_it_names() -> None:
    assert data_that_differs(REFERENCE) == {}
    wrong = data_that_differs(REFERENCE.replace("``cpu`` and ``triton``", "and ``cuda``"))
    assert wrong == {"instsel.kernels.BACKENDS": ["reference", "cuda"]}


def test_every_flag_of_every_command_is_in_the_reference_with_its_meaning() -> None:
    assert "\n```{command-line}\n```\n" in (DOCS / "reference/command_line.md").read_text(encoding="utf-8")
    parser = build_parser()
    assert command_line.undocumented(parser) == []
    text = command_line.reference(parser)
    shared, _, commands = text.partition("## instsel ")
    for name, command in command_line.commands_of(parser).items():
        own = commands[("## instsel " + commands).index(f"## instsel {name}\n") :].partition("## instsel ")[0]
        place = own if name in command_line.COMMANDS else own + shared
        for action in command_line.arguments_of(command):
            for word in action.option_strings or [str(action.metavar)]:
                assert re.search(rf"\| .*`{re.escape(word)}[ `]", place), f"instsel {name}: {word}"


def test_a_flag_without_help_is_found() -> None:
    parser = argparse.ArgumentParser(prog="instsel")
    commands = parser.add_subparsers()
    command = commands.add_parser("wici", help="influence")
    command.add_argument("--said", help="what it does")
    command.add_argument("--unsaid")
    commands.add_parser("unsaid")
    assert command_line.undocumented(parser) == ["instsel wici --unsaid", "instsel unsaid"]


def test_every_status_has_a_row() -> None:
    section = ERRORS.partition("## Statuses\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \| .{10,}? \|", section, re.MULTILINE)) == set(STATUSES)


def unlisted(page: str) -> list[str]:
    """Modules whose errors and warnings stand under no heading of the page."""
    named = re.findall(r"^```\{messages\} (.+)$", page, re.MULTILINE)
    listed = {path for line in named for folder in line.split() for path in messages.modules(folder)}
    spoken = [path for folder in ("instsel", "kernels") for path in messages.modules(folder)]
    return [
        str(path)
        for path in spoken
        if path not in listed and list(messages.messages_of((ROOT / path).read_text(encoding="utf-8")))
    ]


def test_every_error_stands_under_a_heading() -> None:
    assert unlisted(ERRORS) == []
    assert "instsel/methods/grape.py" in unlisted(
        ERRORS.replace("```{messages} instsel/methods", "```{messages} kernels")
    )
    for line in re.findall(r"^```\{messages\} (.+)$", ERRORS, re.MULTILINE):
        for folder in line.split():
            assert messages.modules(folder) and (ROOT / folder).exists(), folder


def test_messages_are_read_from_the_sources() -> None:
    listed = messages.listing(["instsel/selection", "instsel/runs/lock.py"])
    assert "- `` budget must be at least 1 row, got … `` (ValueError)" in listed.split("\n")
    assert "is being written by" in listed and "FolderInUseError" in listed
    assert list(messages.messages_of("warnings.warn(f'{n} rows')\nraise AssertionError('ours')")) == [
        ("warning", "… rows")
    ]


def test_every_variable_of_the_environment_is_named() -> None:
    sources = [path.read_text("utf-8") for folder in ("instsel", "kernels") for path in (ROOT / folder).rglob("*.py")]
    read = set(re.findall(r"\bINSTSEL_[A-Z_]+", "\n".join(sources)))
    assert "INSTSEL_TRACEBACK" in read and read <= set(re.findall(r"INSTSEL_[A-Z_]+", ERRORS))


def test_every_method_has_a_page_and_a_line_in_the_comparison() -> None:
    comparison = (DOCS / "methods/index.md").read_text(encoding="utf-8")
    for name in BUILT_IN:
        assert (DOCS / f"methods/{name}.md").is_file() and f"[{name}]({name}.md)" in comparison, name
        assert re.search(rf"^\| {name}\b.*\|.+\|", comparison, re.MULTILINE), f"{name} has no formula"
        assert f"\n{name}\n" in comparison, f"{name} is in no table of contents"


def test_docstrings_become_what_sphinx_reads() -> None:
    written = inspect.cleandoc(
        """Scores of `x`, *all* of them.

            score = a_ * b

        first       a number,
                    of two lines
        second, up  `other`
        - a point

        Points:
        - one `a`
        - two

        >>> f(1)  # doctest: +SKIP
        2
        """
    )
    found = "\n".join(docstrings.to_rst(written.split("\n")))
    assert found.startswith("Scores of ``x``, \\*all\\* of them.\n\n::\n\n    score = a_ * b\n")
    assert "Points:\n\n- one ``a``\n- two\n" in found and ">>> f(1)  # doctest: +SKIP\n2" in found
    listed = "\n".join(docstrings.to_rst(["first       a number,", "            of two lines", "second, up  `other`"]))
    assert listed == "``first``\n    a number,\n    of two lines\n``second``, ``up``\n    ``other``\n"


@pytest.mark.parametrize("module", [docstrings, messages])
def test_examples_are_real(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted and not found.failed
