"""A pool read, scored, selected from and exported is what the trainer reads of the pool itself, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_conversation_formats import ROWS, TEMPLATE
from tiny_model import load_models_once, tiny_model_folder
from transformers import AutoTokenizer

from instsel.cli import main
from instsel.export import export

pytestmark = pytest.mark.filterwarnings("ignore:llama-factory")
THINKING = [
    {"role": "user", "content": "why"}, {"role": "assistant", "content": "so", "reasoning_content": "a\n", "weight": 0},
    {"role": "user", "content": "and now"}, {"role": "assistant", "content": "<think>b</think>\n\nthe thing "},
]  # fmt: skip


def pool_of(name: str) -> list[dict[str, Any]]:
    """Rows of one format, of which no two have the same keys: what a table of columns would fill with nulls."""
    row = ROWS[name]
    other = json.loads(json.dumps(row).replace(r"\"b\"", r"\"c\"").replace('"b"', '"c"').replace("it is 3", "4"))
    bare = {key: value for key, value in row.items() if key not in ("tools", "functions")}
    if "messages" in row:
        return [row, other, {"messages": THINKING, "chat_template_kwargs": {"x": 1}}]
    if "prompt" in row:
        return [row, other, {"prompt": THINKING[:3], "completion": THINKING[3:]}]
    return [row, other, {**bare, "conversations": [row["conversations"][-4], row["conversations"][-1]]}]


@pytest.mark.long
@pytest.mark.parametrize("name", ROWS)
def test_what_is_selected_is_exported_as_the_pool_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_models_once(monkeypatch)
    pool = pool_of(name)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    (tmp_path / "all.jinja").write_text(TEMPLATE)
    command = ["perplexity", tmp_path / "rows.jsonl", "--model", tiny_model_folder(), "--context-length", "8192"]
    command += ["--template", tmp_path / "all.jinja", "--score-turns", "all", "--quiet"]
    for ending in ("jsonl", "parquet"):
        run, chosen = tmp_path / f"run {ending}", tmp_path / f"chosen {ending}"
        assert main([*map(str, command), "--format", ending, "--output", str(run)]) == 0
        assert main(["select", str(run), "--budget", "3", "--format", ending, "--output", str(chosen)]) == 0
        for to in ("trl", "axolotl", "llama-factory", "messages"):
            [want, *_] = export(pool, to, tmp_path / f"pool {to}", overwrite=True)
            folder = tmp_path / f"{ending} {to}"
            assert main(["export", str(chosen), "--to", to, "--output", str(folder)]) == 0
            texts = [rows_of(path) for path in (folder / want.name, want)]
            assert texts[0] == texts[1] and len(texts[0]) == 3, to


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("names", [{}, {"instruction": "asked", "response": "said"}], ids=["usual", "mapped"])
def test_answers_that_are_numbers_are_exported_as_they_were_scored(
    ending: str, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of sums: 6 is one token and 6.0 is three, and a column of numbers holds the latter."""
    load_models_once(monkeypatch)
    monkeypatch.chdir(tmp_path)
    asked, said = names.get("instruction", "instruction"), names.get("response", "output")
    pool = [{asked: i, said: answer, "x": answer} for i, answer in enumerate((6, 3.5, 0, 1e22))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    columns = ["--columns", ",".join(f"{field}={column}" for field, column in names.items())] if names else []
    words = [
        "perplexity",
        "rows.jsonl",
        "--model",
        tiny_model_folder(),
        "--format",
        ending,
        "--output",
        "run",
        *columns,
    ]
    assert main(words) == 0
    assert main(["select", "run", "--budget", "4", "--by", "x", "--format", ending, "--output", "chosen"]) == 0
    want = [("3", "1e+22"), ("0", "6"), ("1", "3.5"), ("2", "0")]
    for run, rows in (("run", sorted(want)), ("chosen", want)):
        assert main(["export", run, "--to", "messages", "--output", f"of {run}", *columns]) == 0
        found = [json.loads(line)["messages"] for line in (tmp_path / f"of {run}/instsel.jsonl").open()]
        assert [tuple(turn["content"] for turn in turns) for turns in found] == rows


def rows_of(path: Path) -> list[str]:
    """A file's rows as they are written, in an order that does not depend on theirs."""
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else map(json.loads, text.splitlines())
    return sorted(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize("name", ROWS)
def test_trl_reads_what_the_template_was_given(name: str, tmp_path: Path) -> None:
    """TRL's own code writes the exported rows as text; what was scored lies in that text as it was scored."""
    from instsel.prompts.scored_turns import scored_turns
    from instsel.prompts.templates import turn_prompts
    from instsel.records import to_examples

    data_utils = pytest.importorskip("trl.data_utils")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = TEMPLATE
    pool = pool_of(name)
    [path] = export(pool, "trl", tmp_path)
    for example, line in zip(to_examples(pool), path.read_text().splitlines(), strict=True):
        row = json.loads(line)
        if isinstance(row.get("tools"), str):
            row["tools"] = json.loads(row["tools"])
        keys = {key: row[key] for key in ("prompt", "completion")}
        found = data_utils.apply_chat_template(keys, tokenizer, tools=row.get("tools"))
        pairs = turn_prompts("chat", scored_turns(example, "all"), tokenizer=tokenizer)
        assert all((found["prompt"] + found["completion"]).startswith("".join(pair)) for pair in pairs)
        assert pairs[-1][1] in found["completion"]
