"""The pages on kernels and on concurrency name files and names that are there, and constants by their files; so
does the table of CONTRIBUTING.md that says where something new is made known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("kernels", "concurrency")
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("csrc", "kernels", "instsel", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".h", ".cpp") and path.name != Path(__file__).name
}
FILE = re.compile(r"[\w/]+\.(?:py|h|cpp)")


def page(name: str) -> str:
    return (ROOT / f"docs/project/{name}.md").read_text(encoding="utf-8")


def is_there(file: str) -> bool:
    return any(f"/{path}".endswith(f"/{file}") for path in SOURCES)


def absent(text: str) -> list[str]:
    """What stands between backticks and is nowhere: files, and the names in everything else."""
    words = set(re.findall(r"\w+", "\n".join(SOURCES.values())))
    found = []
    for quoted in re.findall(r"`([^`\n]+)`", text):
        if FILE.fullmatch(quoted):
            found += [] if is_there(quoted) else [quoted]
        else:
            found += [word for word in re.findall(r"[A-Za-z_]\w{3,}", quoted) if word not in words]
    return found


def misplaced(text: str) -> list[str]:
    """Constants of a table `| file | constant | ...` that their file does not hold; an empty cell is the file above."""
    lines = text[text.index("| file | constant |") :].partition("\n\n")[0].splitlines()[2:]
    found, file = [], ""
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        file = cells[0].strip("`") or file
        source = next(source for path, source in SOURCES.items() if f"/{path}".endswith(f"/{file}"))
        found += [
            f"{file}: {name}" for name in re.findall(r"`(\w+)`", cells[1]) if not re.search(rf"\b{name}\b", source)
        ]
    return found


def unlike_the_code(text: str) -> list[str]:
    """Constants of the table `| to add | ...` that no file of their row defines, and files of it that are not there."""
    lines = text[text.index("| to add |") :].partition("\n\n")[0].splitlines()[2:]
    found = []
    for line in lines:
        files = re.findall(r"`([\w/]+\.py)`", line)
        found += [file for file in files if file not in SOURCES]
        known = "\n".join(SOURCES.get(file, "") for file in files)
        found += [name for name in re.findall(r"`(_?[A-Z_]{4,})`", line) if not re.search(rf"(?m)^{name}\b", known)]
    return found


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_is_there(name: str) -> None:
    assert absent(page(name)) == []


def test_constants_are_in_the_files_that_the_page_names() -> None:
    assert misplaced(page("kernels")) == []


def test_what_is_not_there_is_found() -> None:
    assert absent("`inference_lock.py`, `no_such.h` and `load_model(nosuchname)`") == ["no_such.h", "nosuchname"]
    moved = page("kernels").replace("| `block_products.h` | `largest_depth`", "| `threads.h` | `largest_depth`")
    assert misplaced(moved)[0] == "threads.h: largest_depth"


def test_something_new_is_made_known_where_the_table_says() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert unlike_the_code(text) == []
    moved = text.replace("`instsel/layers/mixer_functions.py` | `ALONG_TREE`", "`kernels/gone.py` | `_ALONG_TREE`")
    assert unlike_the_code(moved) == ["kernels/gone.py", "_ALONG_TREE"]
