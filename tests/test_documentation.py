"""Every block of code in README.md and docs/ is true: Python runs, commands run, other blocks are what they say.

A block that cannot run here stands after an HTML comment `<!-- not run: why -->`; its commands are checked nonetheless.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from documentation import PAGES, ROOT, Block, Reader, blocks_of, check_command
from tiny_model import load_models_once, make_tiny_model

import instsel
from instsel.cli import main

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "brown")
# Pages whose commands begin with a run or a selection that is there already.
CONTINUED = {"docs/integrations.md": ("runs/pool", "runs/chosen"), "docs/workers.md": ("runs/pool",)}
OWN_TEST = {"docs/workers.md": "tests/test_worker_docs.py"}  # runs the page's Python as scripts of their own


def rows(count: int, first: int = 0) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Name the colour {i} of a thing.",
            "input": f"thing {i % 3}" if i % 3 else "",
            "output": f"It is {COLOURS[i % 8]}{' and so on' * (i % 4)}.",
        }
        for i in range(first, first + count)
    ]


def write_rows(path: Path, found: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


def groups() -> list[dict[str, Any]]:
    return [
        {"instruction": f"Name a colour {i}.", "input": "", "candidates": [{"response": c} for c in COLOURS[:3]]}
        for i in range(6)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The small model, with a chat template."""
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": CHAT}))
    return str(folder)


@pytest.fixture
def place(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages speak of."""
    load_models_once(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_rows(tmp_path / "pool.jsonl", rows(40))
    write_rows(tmp_path / "other.jsonl", rows(8, first=50))
    write_rows(tmp_path / "tasks.jsonl", rows(4, first=60))
    write_rows(tmp_path / "groups.jsonl", groups())
    np.save(tmp_path / "nearest.npy", (np.arange(40) + 1) % 40)
    request = "Rate the request from 1 to 6.\\nTask: {request}\\nRating:\\n"
    answer = "Rate the answer from 1 to 5.\\nTask: {request}\\nAnswer: {response}\\nRating:\\n"
    (tmp_path / "prompts.txt").write_text(answer + "\n")
    (tmp_path / "complexity.txt").write_text(request.replace("\\n", "\n"))
    (tmp_path / "quality.txt").write_text(answer.replace("\\n", "\n"))
    return tmp_path


def prepared(model: str) -> dict[str, Callable[[], Any]]:
    """What pages take as given, each made where a page uses it."""

    def adapted() -> Any:
        peft = pytest.importorskip("peft")
        import transformers

        loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
        return peft.get_peft_model(loaded, peft.LoraConfig(target_modules=["q_proj"], r=2))

    def scorer() -> instsel.Scorer:
        return instsel.Scorer(model)

    return {
        "instsel": lambda: instsel,
        "asyncio": lambda: __import__("asyncio"),
        **dict.fromkeys(("scorer", "larger", "first", "second"), scorer),
        "examples": lambda: rows(10),
        "tasks": lambda: rows(3, first=60),
        "anchors": lambda: rows(3, first=60),
        "groups": groups,
        "pairs": lambda: [("Once upon a", " time"), ("Once upon a", " table")],
        "peft_model": adapted,
    }


def make_runs(model: str, folders: tuple[str, ...]) -> None:
    for folder in folders:
        if folder.endswith("chosen"):
            assert main(f"select runs/pool --budget 5 --output {folder} --quiet".split()) == 0
        else:
            assert main(f"wici pool.jsonl --model {model} --num-neighbors 8 --output {folder} --quiet".split()) == 0


PAGES_WITH_BLOCKS = [page for page in PAGES if any(blocks_of(page.read_text(encoding="utf-8")))]


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_is_true(
    page: Path, place: Path, model: str, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    name = str(page.relative_to(ROOT))
    make_runs(model, CONTINUED.get(name, ()))
    reader = Reader(model, prepared(model))
    monkeypatch.setitem(sys.modules, reader.module.__name__, reader.module)
    for block in blocks_of(page.read_text(encoding="utf-8"), name):
        if block.language == "python" and name in OWN_TEST:
            reader.left.append((str(block), f"run by {OWN_TEST[name]}"))
        else:
            reader.run(block)
    for where, why in reader.left:
        print(f"not run: {where} ({why})")
    record_property("not_run", reader.left)


def test_a_comment_before_a_block_says_why_it_is_not_run() -> None:
    page = "<!-- not run: needs a GPU -->\n\n```sh\nls\n```\n\n```{include} x\n```\n\n```python\n1 / 0\n```\n"
    assert [(block.language, block.reason) for block in blocks_of(page)] == [("sh", "needs a GPU"), ("python", None)]


@pytest.mark.parametrize(
    "command",
    [
        "instsel wici pool.jsonl --model M --output runs/pool --num-neighbours-wrong 3",
        "instsel wicked pool.jsonl --model M",
        "instsel select runs/pool --output x",
        "make nothing",
        "pip install 'instsel[nothing]'",
        "python -m instsel.integrations.nothing",
        "curl something",
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    import shlex

    with pytest.raises(AssertionError):
        check_command(shlex.split(command))


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "import instsel\ninstsel.Scorer(5)"),
        ("python", "x = undefined_name"),
        ("python", "def"),
        ("json", "{'a': 1}"),
        ("yaml", "a: [1"),
        ("sh", "instsel select nowhere --budget 1 --output chosen"),
        ("sh", "make demo"),
        ("fortran", "END"),
    ],
)
def test_a_block_that_is_not_true_is_found(language: str, text: str, place: Path, model: str) -> None:
    with pytest.raises(Exception):  # noqa: B017  (whatever is wrong with each)
        Reader(model, prepared(model)).run(Block("page.md", 1, language, text))


def test_a_marked_block_is_not_run_but_its_flags_are_checked(place: Path, model: str) -> None:
    reader = Reader(model, prepared(model))
    reader.run(Block("page.md", 1, "sh", "instsel wici none.jsonl --model MODEL --output x", "needs a file"))
    assert reader.left == [("page.md:1", "needs a file")] and not Path("x").exists()
    with pytest.raises(AssertionError):
        reader.run(Block("page.md", 1, "sh", "instsel wici none.jsonl --modle MODEL --output x", "needs a file"))
    shutil.rmtree(place / "x", ignore_errors=True)
