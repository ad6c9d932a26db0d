"""Results as tables: every array comes back as it was, and nothing in a notebook's table is markup of the data's."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from example_rows import example_rows

import instsel
from instsel.engine.result_table import ResultTable

ROWS = [*example_rows(13), {"instruction": "none", "input": "", "output": ""}]


def results(scorer: instsel.Scorer) -> dict[str, Any]:
    pairs = [(row["instruction"], row["output"]) for row in ROWS]
    groups = [{"instruction": "say", "candidates": ["the thing", "a king"][: i % 3]} for i in range(len(ROWS))]
    return {
        "batch": instsel.score_batch(scorer, pairs, token_logprobs=True),
        "ifd": instsel.ifd(scorer, ROWS),
        "wici": instsel.wici(scorer, ROWS, num_neighbors=4, num_probes=2),
        "grape": instsel.grape(scorer, groups),
    }


COLUMNS = {
    "batch": ["mean_logprob", "sum_logprob", "num_tokens", "is_greedy", "status", "token_logprobs"],
    "ifd": ["direct", "conditional", "ifd", "num_tokens", "status"],
    "wici": [
        "score", "gain", "ifd", "one_shot_ifd", "influence", "probes", "similarity", "status",
        "selectable", "demonstration_cut",
    ],
    "grape": ["best", "scores", "status"],
}  # fmt: skip


def same(got: Any, want: Any) -> bool:
    """The values of a column, NaN and None being one."""
    got, want = (float("nan") if value is None else value for value in (got, want))
    if hasattr(want, "__len__") and not isinstance(want, str):
        return len(got) == len(want) and all(same(g, w) for g, w in zip(got, want, strict=True))
    return bool(got == want) or (got != got and want != want)


def test_every_table_of_a_result_holds_its_arrays(scorer: instsel.Scorer) -> None:
    for name, result in results(scorer).items():
        assert len(result) == len(ROWS) and set(result.status) == {"ok", "empty_target"}
        assert set(result.to_dict()) == set(COLUMNS[name]), name
        frame, polars, arrow = result.to_pandas(), result.to_polars(), result.to_arrow()
        assert len(frame) == len(polars) == arrow.num_rows == len(ROWS)
        for column in COLUMNS[name]:
            values = getattr(result, column)
            tables = (result.to_dict()[column], arrow[column].to_pylist(), frame[column], polars[column].to_list())
            for held in tables:
                assert same(list(held), list(values)), (name, column)
        if name != "grape":
            bad = result.status != "ok"
            numbers = COLUMNS[name][0]
            assert np.isnan(frame[numbers][bad]).all() and arrow[numbers].null_count == bad.sum() > 0


def test_results_of_no_rows_are_tables_of_no_rows(scorer: instsel.Scorer) -> None:
    batch = instsel.score_batch(scorer, [])
    assert batch.to_dict() == {name: [] for name in COLUMNS["batch"][:-1]}
    assert len(batch.to_pandas()) == 0 and "no rows" in batch._repr_html_()
    assert instsel.grape(scorer, []).to_arrow().column_names == COLUMNS["grape"]


def test_fields_that_are_no_columns_stay_out_whatever_their_length(scorer: instsel.Scorer) -> None:
    found = instsel.wici(scorer, ROWS, num_neighbors=4, num_probes=2)
    assert found.embeddings is not None and len(found.embeddings) == len(found)
    assert not {"embeddings", "stats", "rule"} & set(found.to_dict())


def test_a_notebook_shows_the_first_rows_and_obeys_none_of_the_text(scorer: instsel.Scorer) -> None:
    batch = instsel.score_batch(scorer, [(row["instruction"], row["output"]) for row in ROWS])
    shown = batch._repr_html_()
    assert shown.count("<tr>") == 1 + 10 and "and 4 more rows" in shown
    assert "13 ok, 1 empty_target" in shown and f"{batch.mean_logprob[3]:.4g}" in shown

    import dataclasses

    evil = dataclasses.replace(batch, status=np.array(["<script>alert(1)</script>"] * len(batch)))
    assert "<script>" not in evil._repr_html_() and "&lt;script&gt;" in evil._repr_html_()


def test_a_missing_library_says_what_to_install(scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = instsel.score_batch(scorer, [("a", "b")])
    for package, method in (("pandas", batch.to_pandas), ("polars", batch.to_polars)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"{package} is not installed: pip install 'instsel\[tables\]'"):
            method()


def test_results_need_none_of_the_libraries_until_asked() -> None:
    program = (
        "import sys, instsel.engine.results\nprint(sorted({'pandas', 'polars', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_every_result_is_a_table() -> None:
    for name in dir(instsel):
        value = getattr(instsel, name)
        if name.endswith("Result") or name == "ScoreBatch":
            assert issubclass(value, ResultTable), name
