"""The code blocks of Markdown pages, and how each is run with a small model in place of those that the pages name."""

from __future__ import annotations

import ast
import asyncio
import inspect
import itertools
import json
import re
import shlex
import sys
import types
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instsel.cli import build_parser, main
from instsel.commands.configuration import with_configuration

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^( *)(```+|~~~+|:::+)(.*)$")
_NOT_RUN = re.compile(r"<!--\s*not run:(.*?)-->")
_MODELS = re.compile(r"(?:Qwen|meta-llama|hkust-nlp)/[\w.-]+|\$?\bMODEL\b(?!=)")
_HARNESS = ["python", "-m", "instsel.integrations.lm_eval"]
_VARIABLE = re.compile(r"[A-Z]+=")
_CONTENT = re.compile(r"\$\(cat ([\w.]+)\)")
# Commands that other tests run, since they start processes or score thousands of rows: parsed here.
_RUN_ELSEWHERE = {
    "--workers": "tests/test_worker_runs.py", "--devices": "tests/test_worker_runs.py",
    "--ray": "tests/test_ray_workers.py", "demo": "tests/test_demo_run.py",
}  # fmt: skip
OPTIONAL = ("datasets", "distilabel", "lm_eval", "peft", "ray", "sentence_transformers", "trl")


@dataclass(frozen=True)
class Block:
    """A block of a page: where it stands, its language, its text, and why it is not run, if so."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(markdown: str, page: str = "page.md") -> Iterator[Block]:
    """The blocks with a language, in their order; those of Sphinx's directives are none."""
    lines = markdown.split("\n")
    start, fence, words, indent = 0, "", "", ""
    for number, line in enumerate(lines):
        found = _FENCE.match(line)
        if not fence and found:
            start, indent, fence, words = number, found[1], found[2], found[3].strip()
        elif fence and found and found[2].startswith(fence) and not found[3].strip():
            before = next((one for one in reversed(lines[:start]) if one.strip()), "")
            marked = _NOT_RUN.fullmatch(before.strip())
            text = "\n".join(one.removeprefix(indent) for one in lines[start + 1 : number])
            if words and not words.startswith("{") and "`" in fence:
                yield Block(page, start + 1, words, text, marked[1].strip() if marked else None)
            fence = ""


def commands_in(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as words, comments left out."""
    for line in text.replace("\\\n", " ").split("\n"):
        words = [_CONTENT.sub(_content, word) for word in shlex.split(line, comments=True)]
        if words:
            yield words


def _content(file: re.Match[str]) -> str:
    return Path(file[1]).read_text().rstrip("\n")


def _program_in(words: list[str]) -> str:
    """The Python of a line `NAME=$(python -c "...")`; nothing where a variable is a plain word."""
    return words[-1].removesuffix(")") if words[0].endswith("=$(python") else ""


def check_command(words: list[str]) -> None:
    """That a command is one: of instsel by its parsers, others by what they name. Raises AssertionError."""
    program, *rest = words
    if _VARIABLE.match(program):
        compile(_program_in(words), shlex.join(words), "exec")
    elif program == "instsel":
        plugins = [value for flag, value in itertools.pairwise(rest) if flag == "--plugin"]
        if not {"--help", "--version"} & set(rest):
            try:
                build_parser(plugins).parse_args(with_configuration(rest, lambda words: build_parser(plugins)))
            except (SystemExit, ValueError) as error:
                raise AssertionError(f"{shlex.join(words)}: {error}") from error
    elif program == "make":
        made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(word for word in rest if "=" not in word) <= set(made), f"no such target: {shlex.join(words)}"
    elif program == "pip":
        extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        named = {one for word in rest for part in re.findall(r"\[(.*?)\]", word) for one in part.split(",")}
        assert named <= set(extras), f"no such extra: {shlex.join(words)}"
    elif program.endswith("python"):
        named = rest[1].replace(".", "/") + ".py" if rest[0] == "-m" else rest[0]
        assert rest[0] == "-c" or (ROOT / named).is_file(), f"no such program: {shlex.join(words)}"
    else:
        raise AssertionError(f"a command that this test does not know: {shlex.join(words)}")


class Reader:
    """Does what one page says, in the current folder: blocks in their order, in one namespace.

    `prepared` makes the objects that a page takes as given, by name. What was not run is in `left`, with the reason.
    """

    def __init__(self, model: str, prepared: dict[str, Callable[[], Any]]) -> None:
        self.model, self.prepared = model, prepared
        self.left: list[tuple[str, str]] = []
        self.module = types.ModuleType("documentation_page")  # where dataclasses look for what a block defines

    def run(self, block: Block) -> None:
        """Run a block, or note why not. Raises whatever is wrong with it."""
        text = _MODELS.sub(self.model, block.text)
        save_as_named(text)
        if block.language in ("sh", "bash", "shell", "console"):
            for words in commands_in(text):
                check_command(words)
                if block.reason is None:
                    self._command(block, words)
        elif block.language == "python":
            compile(text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if block.reason is None:
                self._python(block, text)
        elif block.language == "json":
            json.loads(text)
        elif block.language == "yaml":
            import yaml

            assert yaml.safe_load(text) is not None
        elif block.language == "toml" and sys.version_info >= (3, 11):
            import tomllib

            assert tomllib.loads(text)
        elif block.language not in ("toml", "text"):
            raise AssertionError(f"{block}: a language that this test does not know: {block.language}")
        if block.reason is not None:
            self.left.append((str(block), block.reason))

    def _command(self, block: Block, words: list[str]) -> None:
        elsewhere = next(
            (test for word, test in _RUN_ELSEWHERE.items() if word in words and words[0] == "instsel"), None
        )
        if elsewhere is not None:
            assert (ROOT / elsewhere).is_file()
            self.left.append((f"{block}: {shlex.join(words)}", f"run by {elsewhere}"))
        elif words[0] == "instsel":
            code = main(words[1:])
            assert code == 0, f"{block}: {shlex.join(words)} ends with {code}"
        elif _VARIABLE.match(words[0]):
            exec(_program_in(words), {})
        elif words[:3] == _HARNESS:
            self._harness(block, words[3:])
        else:
            raise AssertionError(f"{block}: {shlex.join(words)} is not run; say why by <!-- not run: ... -->")

    def _harness(self, block: Block, words: list[str]) -> None:
        """The harness's command line in this process, since a new one takes its time to import everything."""
        if not is_installed("lm_eval"):
            self.left.append((str(block), "lm_eval is not installed"))
            return
        from lm_eval.__main__ import cli_evaluate

        import instsel.integrations.lm_eval  # noqa: F401

        with unittest.mock.patch.object(sys, "argv", ["lm_eval", *words]):
            cli_evaluate()

    def _python(self, block: Block, text: str) -> None:
        tree = ast.parse(text)
        absent = [name for name in sorted(imported(tree)) if name in OPTIONAL and not is_installed(name)]
        if absent:
            self.left.append((str(block), f"{absent[0]} is not installed"))
            return
        space = self.module.__dict__
        for name in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(space):
            if name in self.prepared:
                space[name] = self.prepared[name]()
        code = compile("\n" * block.line + text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        given = eval(code, space)
        if inspect.iscoroutine(given):
            asyncio.run(given)


def save_as_named(text: str) -> None:
    """Save a block whose first line is a comment with a file's name, as its page says."""
    name = re.match(r"# ([\w/-]+\.(?:py|yaml))\n", text)
    if name is not None:
        Path(name[1]).parent.mkdir(exist_ok=True)
        Path(name[1]).write_text(text)


def imported(tree: ast.AST) -> set[str]:
    """The packages that a program imports, and those that adapters of it need."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.removeprefix("instsel.integrations.").partition(".")[0] for name in names}


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    import importlib.util

    return importlib.util.find_spec(package) is not None
