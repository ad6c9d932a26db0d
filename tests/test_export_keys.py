"""Keys of turns and the columns beside them go through scoring, selecting and exporting as they were."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from row_tables import loaded
from tiny_model import tiny_model_folder

from instsel.cli import main
from instsel.export import export


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
OTHER = {"id": "c2", "type": "function", "function": {"name": "find", "arguments": {"text": "x"}}}
POOL: list[dict[str, Any]] = [
    {"id": 0, "messages": [
        {"role": "system", "content": "be kind", "name": "host"}, {"role": "user", "content": "add 1 and 2"},
        {"role": "assistant", "reasoning_content": "a call", "content": None, "tool_calls": [CALL]},
        {"role": "user", "content": "it is 3"}, {"role": "assistant", "content": "the thing", "weight": 1},
    ], "tools": [tool("add", a={"type": "int"}, b={"type": "int"})]},
    {"id": 1, "messages": [
        {"content": "find x", "role": "user"},
        {"role": "assistant", "content": "a king", "thinking": "so", "tool_calls": [OTHER], "weight": 0},
    ], "tools": [tool("find", text={"type": "string"})], "chat_template_kwargs": {"x": True}},
    {"id": 2, "messages": [{"role": "user", "content": "no"}, {"role": "assistant", "content": "the thing"}]},
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@pytest.mark.parametrize("source", ["parquet", "jsonl"])
def test_a_pool_scored_selected_and_exported_is_the_pool(
    source: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in POOL))
    command = ["perplexity", str(tmp_path / "pool.jsonl"), "--model", tiny_model_folder(), "--format", source]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    command = ["select", str(tmp_path / "run"), "--budget", "3", "--max-similarity", "1", "--format", ending]
    assert main([*command, "--output", str(tmp_path / "chosen")]) == 0
    capsys.readouterr()
    for to in ("messages", "axolotl", "llama-factory", "trl"):
        assert main(["export", str(tmp_path / "chosen"), "--to", to, "--output", str(tmp_path / to)]) == 0
        warned = capsys.readouterr().err
        rows = loaded(tmp_path / to / ("instsel.json" if to == "llama-factory" else "instsel.jsonl"))
        found = [row.pop("messages") if to != "trl" else [*row.pop("prompt"), *row.pop("completion")] for row in rows]
        want = [row["messages"] for row in POOL]
        if to == "llama-factory":  # its own role for a call, as JSON text
            told = json.dumps(CALL["function"])
            call = {"role": "function_call", "reasoning_content": "a call", "content": told}
            want[0] = [call if turn.get("content", "") is None else turn for turn in want[0]]
        assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, want))
        beside = [{name: row[name] for name in ("tools", "chat_template_kwargs") if name in row} for row in POOL]
        if to == "llama-factory":
            assert "llama-factory: kept in turns, where it is not read: " in warned
            assert "'tool_calls' (1 row)" in warned  # beside a text
            info = json.loads((tmp_path / to / "dataset_info.json").read_text())["instsel"]
            assert info["columns"]["tools"] == "tools" and all(isinstance(row.get("tools", ""), str) for row in rows)
            rows = [{**row, "tools": json.loads(row["tools"])} if row else row for row in rows]
        else:
            assert not warned
        assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, beside))


def test_what_alpaca_cannot_hold_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning) as caught:
        export(POOL, "alpaca", tmp_path / "python")
    [text] = [str(one.message) for one in caught]
    assert text.startswith("alpaca: left out, for which alpaca has no place: ")
    for part in ("'tools' (2 rows)", "'tool_calls' (2 rows)", "'reasoning_content' (1 row)", "'name' (1 row)"):
        assert part in text
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in POOL))
    assert main(["export", str(tmp_path / "pool.jsonl"), "--to", "alpaca", "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == f"instsel: warning: {text}\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(POOL[2:], "alpaca", tmp_path / "plain")


def test_turns_of_prompt_and_completion_stay_where_they_are(tmp_path: Path) -> None:
    user, call = (
        {"role": "user", "content": "x", "name": "me"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    )
    row = {
        "prompt": [user],
        "completion": [call, {"role": "user", "content": "3"}, {"role": "assistant", "content": "y"}],
    }
    found = loaded(export([row], "trl", tmp_path)[0])
    assert found == [row]
    assert loaded(export([row], "messages", tmp_path / "m")[0]) == [{"messages": row["prompt"] + row["completion"]}]


@pytest.mark.parametrize("whole", [True, False])
def test_turns_of_preference_pairs_keep_their_keys(whole: bool, tmp_path: Path) -> None:
    user = {"role": "user", "content": "x", "name": "me"}
    answers = [{"role": "assistant", "content": text, "thinking": text} for text in ("a", "b")]
    before = [user] if whole else []
    row = {
        "prompt": [user],
        "chosen": [*before, answers[0]],
        "rejected": [*before, answers[1]],
        "tools": [tool("f")],
    }
    want = {"prompt": [user], "chosen": [answers[0]], "rejected": [answers[1]], "tools": [tool("f")]}
    assert loaded(export([row], "trl", tmp_path)[0]) == [want]
    want = {"messages": [user], "chosen": answers[0], "rejected": answers[1], "tools": [tool("f")]}
    assert loaded(export([row], "axolotl", tmp_path / "a")[0]) == [want]


def test_sharegpt_turns_are_renamed_and_keep_their_keys_in_order(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "x"}, {"weight": 1, "from": "gpt", "loss": True, "value": "y"}]}
    want = [{"role": "user", "content": "x"}, {"weight": 1, "role": "assistant", "loss": True, "content": "y"}]
    found = loaded(export([row], "messages", tmp_path)[0])[0]["messages"]
    assert json.dumps(found) == json.dumps(want)


def test_the_best_of_a_group_after_turns_with_keys(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "say", "name": "me"}]
    row = {"prompt": turns, "candidates": ["a", "b"], "best": 1, "tools": [{"name": "f"}]}
    found = loaded(export([row], "messages", tmp_path)[0])
    assert found == [{"messages": [*turns, {"role": "assistant", "content": "b"}], "tools": [{"name": "f"}]}]
