"""Rows that are no examples: a status and its reason in place of a number, and nothing changed for the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from tiny_model import load_models_once, tiny_model_folder

import instsel
from instsel.cli import main
from instsel.records import Unreadable, to_examples, to_groups

BAD: list[Any] = [{"instruction": "a", "output": {"no": "text"}}, {"instruction": ["a"], "output": "b"}, None]
PLACES = [0, 3, 8]  # of the bad ones among the others


def with_bad(rows: list[dict[str, Any]]) -> tuple[list[Any], np.ndarray]:
    """Rows with the bad ones among them, and which are not bad."""
    out: list[Any] = list(rows)
    for place, bad in zip(PLACES, BAD, strict=True):
        out.insert(place, bad)
    return out, np.array([row not in PLACES for row in range(len(out))])


CALLS: dict[str, dict[str, Any]] = {
    "perplexity": {},
    "ifd": {},
    "wici": {"num_neighbors": 4, "num_probes": 2},
    "miwv": {},
    "nuggets": {"num_anchors": 3, "measure": "gain"},
    "rico": {"assessment": [{"instruction": "say", "output": "the thing"}]},
    "deita": {},
    "selectit": {},
}


@pytest.mark.parametrize("name", CALLS)
def test_the_others_have_what_they_have_without_them(name: str, scorer: instsel.Scorer) -> None:
    rows = example_rows(9)
    mixed, good = with_bad(rows)
    method: Any = getattr(instsel, name)
    alone = method(scorer, rows, **CALLS[name])
    with pytest.warns(UserWarning, match=r"3 of 12 rows cannot be read.*row 0 \(counting from 0\): column 'output'"):
        found = method(scorer, mixed, **CALLS[name])
    assert len(found) == len(mixed)
    assert found.status[~good].tolist() == ["unreadable"] * 3
    assert found.status[good].tolist() == alone.status.tolist() and "ok" in found.status
    row_of = np.flatnonzero(good)
    for column, values in found.to_dict().items():
        kept = [value for value, is_good in zip(values, good, strict=True) if is_good]
        lost = [value for value, is_good in zip(values, good, strict=True) if not is_good]
        expected = alone.to_dict()[column]
        if column in ("probes", "neighbor"):  # numbers of rows
            expected = np.where(np.array(expected) < 0, -1, row_of[np.array(expected)]).tolist()
            assert kept == expected and np.all(np.array(lost) == -1)
        elif column == "influence" and name == "rico":  # its noise is drawn by the row's number
            assert np.isfinite(np.array(kept, float)).all()
        elif np.array(expected).dtype.kind == "f" and name != "rico":
            np.testing.assert_allclose(np.array(kept, float), np.array(expected, float), rtol=1e-4, atol=1e-5)
            assert np.isnan(np.array(lost, float)).all(), column
    if name == "nuggets":
        assert found.anchor_rows.tolist() == row_of[alone.anchor_rows].tolist()


def test_a_group_that_cannot_be_read(scorer: instsel.Scorer) -> None:
    groups = [{"instruction": "a", "candidates": "text"}, {"instruction": "a", "candidates": ["b", "c"]}]
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        found = instsel.grape(scorer, groups)
    assert found.status.tolist() == ["unreadable", "ok"] and found.best[0] == -1 and len(found.scores[0]) == 0


def test_given_embeddings_of_such_a_row_are_nobodys_neighbour(scorer: instsel.Scorer) -> None:
    rows = [*example_rows(3), BAD[0]]
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0.01]])
    with pytest.warns(UserWarning, match="1 of 4"):
        found = instsel.miwv(scorer, rows, embedder=vectors)
    assert found.neighbor.tolist() == [1, 0, 1, -1]


def test_where_no_row_can_be_read_it_is_an_error(scorer: instsel.Scorer) -> None:
    with pytest.raises(ValueError, match=r"row 0 \(counting from 0\): column 'output'"):
        instsel.ifd(scorer, BAD[:2])
    with pytest.raises(TypeError, match="row 0"):
        instsel.ifd(scorer, [None])


def test_records_raise_unless_told_otherwise() -> None:
    rows = [{"instruction": "a", "output": "b"}, BAD[0]]
    with pytest.raises(ValueError, match="row 1"):
        to_examples(rows)
    good, bad = to_examples(rows, on_error="status")
    assert good.response == "b" and isinstance(bad, Unreadable) and "output" in bad.reason
    with pytest.raises(ValueError, match="on_error"):
        to_groups([], on_error="ignore")  # type: ignore[arg-type]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two files of turns; in the second a tool's turn, on line 3, after a blank one."""
    load_models_once(monkeypatch)
    turns = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "the thing"}]
    good, bad = json.dumps({"messages": turns}), json.dumps({"messages": [{"role": "oracle", "content": "x"}, *turns]})
    (tmp_path / "a.jsonl").write_text(f"{good}\n" * 4)
    (tmp_path / "b.jsonl").write_text(f"{good}\n\n{bad}\n{good}\n")
    return [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]


def run(files: list[str], output: Path, *more: str) -> int:
    words = ["perplexity", *files, "--model", tiny_model_folder(), "--output", str(output), "--quiet", *more]
    return main([*words, "--shard-rows", "3"])  # what is said of a row may be of the second shard


def test_a_run_goes_on_and_names_file_and_line(files: list[str], tmp_path: Path, capsys: Any) -> None:
    assert run(files, tmp_path / "run") == 1  # one of seven is more than 5 %
    said = capsys.readouterr().err
    assert f"1 of 7 rows cannot be read and get the status unreadable; {files[1]}, line 3: " in said
    assert "1 unreadable of 7 rows" in said and "role 'oracle'" in said
    table = pq.read_table(tmp_path / "run/scores.parquet").to_pydict()
    assert table["status"] == ["ok"] * 5 + ["unreadable", "ok"] and table["mean_logprob"][5] is None
    assert [reason and "role 'oracle'" in reason for reason in table["status_reason"]] == [None] * 5 + [True, None]
    assert len({round(value, 5) for value in table["mean_logprob"] if value is not None}) == 1
    assert main(["merge", str(tmp_path / "run"), "--output", str(tmp_path / "again.parquet"), "--quiet"]) == 0
    assert pq.read_table(tmp_path / "again.parquet").to_pydict() == table
    assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "report.html")]) == 0
    assert "role &#x27;oracle&#x27; is not one of" in (tmp_path / "report.html").read_text()
    select = ["select", str(tmp_path / "run"), "--budget", "7", "--output", str(tmp_path / "chosen"), "--quiet"]
    main(select)
    assert "unreadable" not in pq.read_table(tmp_path / "chosen/selected.parquet").column("status").to_pylist()


def test_more_failures_may_be_allowed_and_none(files: list[str], tmp_path: Path, capsys: Any) -> None:
    assert run(files, tmp_path / "run", "--max-failures", "0.2") == 0
    capsys.readouterr()
    assert run(files, tmp_path / "strict", "--strict") == 2
    assert capsys.readouterr().err.startswith(f"instsel: error: {files[1]}, line 3: column 'messages': role 'oracle'")
    assert run(files[:1], tmp_path / "good", "--strict") == 0
    assert "status_reason" not in pq.read_table(tmp_path / "good/scores.parquet").column_names


@pytest.mark.long
def test_workers_give_the_same(files: list[str], tmp_path: Path) -> None:
    run(files, tmp_path / "alone")
    run(files, tmp_path / "spread", "--workers", "2")
    alone, spread = (pq.read_table(tmp_path / name / "scores.parquet").to_pydict() for name in ("alone", "spread"))
    assert spread["status"] == alone["status"] and spread["status_reason"] == alone["status_reason"]


def test_a_file_without_a_row_that_can_be_read_is_an_error(files: list[str], tmp_path: Path, capsys: Any) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": [1], "output": "x"}\n' * 3)
    assert run([str(bad)], tmp_path / "run") == 2
    assert f"no row of the input can be read as alpaca; the first, {bad}, line 1: " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_such_rows_are_neither_selected_nor_exported(files: list[str], tmp_path: Path, capsys: Any, kind: str) -> None:
    run(files, tmp_path / "run", "--format", kind)
    words = ["--budget", "7", "--quiet", "--output", str(tmp_path / "chosen")]
    assert main(["select", str(tmp_path / "run"), *words]) == 0
    for source, warnings in (("chosen", 0), ("run", 1), (f"run/scores.{kind}", 1)):
        capsys.readouterr()
        words = ["--to", "messages", "--quiet", "--output", str(tmp_path / "out"), "--overwrite"]
        assert main(["export", str(tmp_path / source), *words]) == 0
        said = capsys.readouterr().err.splitlines()
        assert said == ["instsel: warning: 1 of 7 rows are left out: their status is unreadable"] * warnings
        made = [json.loads(line) for line in (tmp_path / "out/instsel.jsonl").read_text().splitlines()]
        assert [row["messages"][-1]["content"] for row in made] == ["the thing"] * 6


def test_a_users_own_column_of_that_name_leaves_no_row_out(tmp_path: Path) -> None:
    rows = [{"instruction": "say", "output": "x", "status": "unreadable"}] * 2
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "rows.jsonl"), "--to", "trl", "--output", str(out), "--quiet"]) == 0
    assert len((out / "instsel.jsonl").read_text().splitlines()) == 2
