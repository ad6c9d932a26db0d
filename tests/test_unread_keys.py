"""What rows hold and the prompt does not is said once, with the keys and the numbers of rows."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import tiny_model_folder

import instsel
from instsel.cli import main
from instsel.records import to_examples, to_groups


def turns(**extra: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "say"}, {"role": "assistant", "content": "the thing", **extra}]


def said(rows: Any, read: Any = to_examples) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(rows)
    return [str(one.message) for one in caught]


def test_keys_of_turns_and_columns_beside_them_are_counted_by_row() -> None:
    rows = [
        {"messages": turns(tool_calls=[{"name": "f"}], weight=0), "tools": [{"name": "f"}]},
        {"messages": [*turns(weight=1), *turns(weight=1)], "tools": "[]"},
        {"messages": turns(reasoning_content="so", name=None), "tools": None, "id": 7},
    ]
    [text] = said(rows)
    assert text.startswith("not part of the prompt: ")
    for part in ("'tools' (2 rows)", "'weight' (2 rows)", "'tool_calls' (1 row)", "'reasoning_content' (1 row)"):
        assert part in text
    assert "'id'" not in text and "'name'" not in text


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "loss": False}]}, "loss"),
        ({"prompt": "a", "completion": [{"role": "assistant", "content": "b", "thinking": "x"}]}, "thinking"),
        ({"prompt": "a", "completion": {"role": "assistant", "content": "b", "thinking": "x"}}, "thinking"),
        ({"instruction": "a", "output": "b", "weight": 0.5}, "weight"),
        ({"prompt": "a", "chosen": turns(refusal="x")[1:], "rejected": turns()[1:]}, "refusal"),
        ({"messages": np.array(turns(weight=np.array([1])), dtype=object)}, "weight"),
    ],
    ids=str,
)
def test_every_format_says_it(row: dict[str, Any], key: str) -> None:
    read = to_groups if "chosen" in row else to_examples
    assert said([row], read) == [f"not part of the prompt: {key!r} (1 row)"]


def test_what_is_read_or_holds_nothing_is_not_said() -> None:
    empty = turns(tool_calls=[], reasoning_content="", weight=None, name=float("nan"))
    assert not said([{"messages": empty, "tools": None, "system": "be kind", "score": 3}])


def test_a_command_says_it_once_and_its_manifest_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"messages": turns(weight=1), "tools": [{"name": "f"}] if i % 2 else None} for i in range(30)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["ifd", str(tmp_path / "pool.jsonl"), "--model", tiny_model_folder(), "--output", str(tmp_path / "run")]
    assert main([*command, "--shard-rows", "10"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "not part of the prompt" in line]
    assert lines == ["instsel: warning: not part of the prompt: 'weight' (30 rows), 'tools' (15 rows)"]
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["not_in_prompt"] == {"weight": 30, "tools": 15}
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "not part of the prompt" not in capsys.readouterr().err


def test_python_says_it() -> None:
    scorer = instsel.Scorer(tiny_model_folder())
    with pytest.warns(UserWarning, match=r"not part of the prompt: 'weight' \(2 rows\)"):
        instsel.perplexity(scorer, [{"messages": turns(weight=1)}] * 2)
