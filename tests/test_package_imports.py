"""Which package imports which: as docs/project/design.md says, and no two modules in a circle."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/project/design.md").read_text(encoding="utf-8")
# By their names once installed: what lies in kernels/ becomes instsel.kernels.
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("instsel", "kernels")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
MODULES = {name if name.startswith("instsel") else f"instsel.{name}": path for name, path in MODULES.items()}
SOURCES = {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}


@functools.cache
def imported(name: str, source: str) -> frozenset[str]:
    """The modules of instsel that a module's import statements name, wherever in its text they stand."""
    every: set[str] = set()
    package = name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            found = [f"{base}.{alias.name}" for alias in node.names]
            found = [one if one in MODULES else base for one in found]
            found = [one for one in found if one != package]  # `from . import _native`
        else:
            continue
        every.update(one for one in found if one.partition(".")[0] == "instsel")
    return frozenset(every)


def package_of(module: str) -> str:
    """The part of instsel that a module belongs to; of what it gives by itself, `instsel`."""
    return [*module.split("."), "instsel"][1]


def arrows(sources: dict[str, str]) -> dict[str, set[str]]:
    """The other packages that each package imports."""
    found: dict[str, set[str]] = {}
    for name, source in sources.items():
        own = package_of(name)
        found.setdefault(own, set()).update(package_of(one) for one in imported(name, source))
        found[own].discard(own)
    return found


def table(page: str) -> dict[str, tuple[set[str], set[str]]]:
    """What a page says of each package, in its order: imports from rows above, and from rows below."""
    lines = page[page.index("| package |") :].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = [re.findall(r"`([\w.]+)`", cell) for row in rows for cell in (row[0], row[2], row[3])]
    return {one[0]: (set(above), set(below)) for one, above, below in zip(*[iter(names)] * 3, strict=True)}


def differences(page: str, sources: dict[str, str]) -> set[str]:
    """Arrows that stand on one side alone, and those that are not in the column of their direction."""
    said, code = table(page), arrows(sources)
    order = list(said)
    found = {f"{name} has no row" for name in code.keys() - said.keys()}
    found |= {f"{name} does not exist" for name in said.keys() - code.keys()}
    for name in said.keys() & code.keys():
        above, below = said[name]
        found |= {f"{name} -> {other} is not named" for other in code[name] - above - below}
        found |= {f"{name} -> {other} is gone" for other in (above | below) - code[name]}
        found |= {f"{name} -> {other} goes down" for other in above if other not in order[: order.index(name)]}
        found |= {f"{name} -> {other} goes up" for other in below if other in order[: order.index(name)]}
    return found


def test_the_page_names_all_arrows_between_packages() -> None:
    assert differences(PAGE, SOURCES) == set()


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("instsel.records.files", "from instsel.runs.manifest import FORMAT"),
        ("instsel.records.files", "def late():\n    from ..runs import manifest"),
        ("instsel.records.files", "import instsel.runs.manifest"),
    ],
)
def test_an_import_that_is_not_named_is_found(module: str, statement: str) -> None:
    changed = {**SOURCES, module: f"{SOURCES[module]}\n{statement}\n"}
    assert differences(PAGE, changed) == {"records -> runs is not named"}


def test_an_arrow_that_is_gone_or_goes_the_other_way_is_found() -> None:
    without = {**SOURCES, **{name: "" for name in SOURCES if package_of(name) == "export"}}
    assert differences(PAGE, without) == {"export -> records is gone", "export -> runs is gone"}
    moved = re.sub(r"\n\| `prompts` .*", "", PAGE)
    first = next(line for line in PAGE.splitlines() if line.startswith("| `prompts` "))
    moved = moved.replace("\n| `records` ", f"\n{first}\n| `records` ")
    assert differences(moved, SOURCES) == {"prompts -> records goes down"}


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other, each the next one; none where there is no circle."""
    graph = {name: imported(name, source) & set(sources) for name, source in sources.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(SOURCES) == []
    name = "instsel.kernels.triton_pairs"
    late = f"{SOURCES[name]}\ndef late():\n    from .logprobs import Logprobs\n"
    assert {name, "instsel.kernels.logprobs"} <= set(circle({**SOURCES, name: late}))
