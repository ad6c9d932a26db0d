"""A fuzzer over rows of messages: any JSON value as row, cell or turn is an example or an error naming the row."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import tiny_model_folder

from instsel.cli import main
from instsel.records import Example, Group, Unreadable, to_examples, to_groups

ROLES = ("system", "user", "assistant", "human", "gpt", "tool", "function", "", "USER")
CELLS = ("messages", "conversations", "prompt", "completion", "response", "instruction", "input", "output", "history",
         "system", "chosen", "rejected", "candidates")  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(ROLES))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(("role", "content", "from", "value", "type", "text", "x")), inner, max_size=3),
    ),
    max_leaves=8,
)
TURN = st.fixed_dictionaries({"role": st.sampled_from(ROLES[:3]), "content": st.one_of(st.text(max_size=5), JSON)})
TURNS = st.lists(st.one_of(TURN, TURN, JSON), max_size=5)
LISTS = st.fixed_dictionaries({"role": st.lists(st.sampled_from(ROLES), max_size=3), "content": st.lists(JSON)})
CELL = st.one_of(st.text(max_size=5), TURNS, TURN, LISTS, JSON, st.lists(TURNS, max_size=2))
ROW = st.one_of(
    st.dictionaries(st.sampled_from(CELLS), CELL, max_size=5),
    st.fixed_dictionaries({"prompt": CELL, "completion": CELL}),
    st.fixed_dictionaries({"messages": CELL}),
    st.fixed_dictionaries({"prompt": CELL, "chosen": CELL, "rejected": CELL}),
    st.fixed_dictionaries({"messages": CELL, "candidates": CELL}),
    JSON,
)
GOOD = {
    "prompt and completion": {"prompt": "a", "completion": "b"},
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
}


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(ROW)
def test_a_row_is_an_example_or_an_error_that_names_it(row: Any) -> None:
    for read, kind in ((to_examples, Example), (to_groups, Group)):
        try:
            found: Any = read([row])
        except (ValueError, TypeError) as error:
            said = str(error)
            assert "\n" not in said and ("row 0" in said or "format" in said or "columns" in said), said
        else:
            assert [type(one) for one in found] == [kind]


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.lists(CELL, min_size=2, max_size=2))
def test_with_a_status_nothing_is_raised(name: str, cells: list[Any]) -> None:
    good = GOOD[name]
    for bad in ({**good, **dict(zip(good, cells, strict=False))}, cells[0] if not isinstance(cells[0], dict) else {}):
        one, other = to_examples([good, bad], on_error="status")
        assert isinstance(one, Example) and isinstance(other, (Example, Unreadable))
        if isinstance(other, Unreadable):
            assert other.reason and "\n" not in other.reason


@pytest.mark.long
@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=4))
def test_the_command_line_says_nothing_of_the_unexpected(rows: list[tuple[Any, Any]]) -> None:
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stderr(said):
        path = Path(directory) / "rows.jsonl"
        lines = [GOOD["prompt and completion"], *({"prompt": a, "completion": b} for a, b in rows)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        command = [
            "perplexity",
            str(path),
            "--model",
            tiny_model_folder(),
            "--dry-run",
            "--quiet",
            "--max-failures",
            "1",
        ]
        assert main(command) in (0, 2) and "unexpected" not in said.getvalue(), said.getvalue()


def test_a_number_that_python_does_not_write() -> None:
    with pytest.raises(ValueError, match=r"row 0 .*thousands of digits"):
        to_examples([{"prompt": "a", "completion": 10**5000}])
