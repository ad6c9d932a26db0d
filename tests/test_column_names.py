"""Columns that are added beside others: no name is taken twice, nothing is lost, and ours are read as ours."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from run_folders import texts, write_influence, write_run
from tiny_model import load_models_once, tiny_model_folder

from instsel.cli import main
from instsel.records.files import read_rows
from instsel.report import build_page, read_report
from instsel.runs.column_names import allot_names
from instsel.runs.durable_files import digest_file

ROWS = 24


def hostile(count: int) -> dict[str, list[Any]]:
    """Columns of the input under our names, which would turn any choice round if they were taken for ours."""
    numbers = [float(1000 - row) for row in range(count)]
    return {
        **{name: numbers for name in ("score", "ifd", "mean_logprob", "similarity", "num_tokens")},
        "status": ["too_long"] * count,
        "selectable": [False] * count,
        "probes": ["none"] * count,
        "one_shot_ifd": [""] * count,
        "row": [-1] * count,
        "cluster": ["theirs"] * count,
    }


def scores_of(method: str) -> dict[str, Any]:
    """Made-up columns of a method's result; row 2 cannot be selected."""
    rng = np.random.default_rng(3)
    status = np.where(np.arange(ROWS) == 2, "empty_target", "ok")
    values = np.where(status == "ok", rng.permutation(ROWS) / ROWS, np.nan)
    shared = {"num_tokens": rng.integers(1, 20, ROWS), "status": status}
    if method == "ifd":
        return {"direct": -values, "conditional": -values / 2, "ifd": values, **shared}
    if method == "perplexity":
        return {"mean_logprob": -values, "perplexity": np.exp(values), **shared}
    if method == "wici":
        lists = {"one_shot_ifd": rng.random((ROWS, 3)), "similarity": rng.random((ROWS, 3))}
        probes = (np.arange(ROWS)[:, None] + [1, 2, 3]) % ROWS
        return {"score": values, "ifd": values + 0.5, "selectable": status == "ok", "probes": probes, **lists, **shared}
    return {"score": values, **shared}


def select(source: Path, output: Path, *flags: object, budget: int = 6) -> list[int]:
    words = ["select", str(source), "--output", str(output), "--quiet", "--budget", str(budget)]
    assert main([*words, *map(str, flags)]) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    table = pq.read_table(output / manifest["output"]["name"])
    return table[manifest["output"]["columns"]["row"]].to_pylist()


def command(method: str, source: Path, output: Path, *flags: object) -> list[str]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32", "--quiet"]
    return [method, str(source), *model, "--output", str(output), *map(str, flags)]


def test_names_are_free_and_stay_where_they_can() -> None:
    rng = np.random.default_rng(0)
    pieces = ["ifd", "instsel_ifd", "instsel_ifd_2", "instsel_ifd_3", "instsel_instsel_ifd", "text", "_2"]
    for _ in range(300):
        taken = [name for name in pieces if rng.random() < 0.5]
        added = [name for name in pieces if rng.random() < 0.4]
        found = allot_names(added, taken)
        assert list(found) == added and len({*found.values()}) == len(added)
        assert not {*found.values()} & {*taken}
        assert all(found[name] == name for name in added if name not in taken)
    assert allot_names(["ifd"], ["ifd", "instsel_ifd", "instsel_ifd_2"]) == {"ifd": "instsel_ifd_3"}


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_scored_again_and_again_nothing_is_lost(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each generation scores other prompts' wording, so that its numbers differ and cannot be taken for another's."""
    load_models_once(monkeypatch)
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in example_rows(8)))
    generations: list[list[dict[str, Any]]] = []
    for number, template in enumerate(["plain", "alpaca", "{instruction}: {input}", "Say {instruction} {input} "]):
        run = tmp_path / f"run{number}"
        assert main(command("perplexity", source, run, "--template", template, "--format", suffix)) == 0
        source = run / f"scores.{suffix}"
        generations.append(read_rows(source))
        names = json.loads((run / "manifest.json").read_text())["output"]["columns"]
        expected = ["mean_logprob", "instsel_mean_logprob", "instsel_mean_logprob_2", "instsel_mean_logprob_3"]
        assert names["mean_logprob"] == expected[number]
    for before, after in itertools.pairwise(generations):
        assert [{name: row[name] for name in old} for row, old in zip(after, before, strict=True)] == before
        assert len(after[0]) - len(before[0]) == len(generations[0][0]) - len(example_rows(1)[0])
    last = [row["instsel_mean_logprob_3"] for row in generations[-1]]
    assert all(value != row["mean_logprob"] for value, row in zip(last, generations[-1], strict=True))
    order = sorted(range(8), key=lambda row: -last[row])
    assert select(tmp_path / "run3", tmp_path / "chosen", "--by", "mean_logprob") == order[:6]
    assert select(tmp_path / "run3", tmp_path / "usual") == order[:6]


@pytest.mark.long
@pytest.mark.parametrize("method", ["ifd", "perplexity", "wici", "nuggets", "rico", "miwv", "deita", "selectit"])
def test_a_choice_does_not_depend_on_what_the_input_is_called(method: str, tmp_path: Path) -> None:
    """A folder as it was written before manifests told names; the control is the same run over plain columns."""
    plain, clash = tmp_path / "plain", tmp_path / "clash"
    for folder, pool in ((plain, texts(ROWS)), (clash, {**texts(ROWS), **hostile(ROWS)})):
        write_run(folder, method, pool, scores_of(method))
    flags: list[tuple[str, ...]] = [()]
    if method == "wici":
        flags += [("--procedure", "paper"), ("--procedure", "release")]
    for number, flag in enumerate(flags):
        found = [select(folder, tmp_path / f"{folder.name}{number}", *flag) for folder in (plain, clash)]
        assert found[0] == found[1] and len(found[0]) == 6 and 2 not in found[0]
    reports = [read_report([folder]) for folder in (plain, clash)]
    assert [one.name for one in reports[0].measures] == [one.name for one in reports[1].measures]
    for one, other in zip(reports[0].measures, reports[1].measures, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    assert reports[0].failed == reports[1].failed == {"empty_target": [2]}
    assert reports[0].companions == reports[1].companions
    assert reports[0].texts[0].answer == reports[1].texts[0].answer


@pytest.mark.long
@pytest.mark.parametrize("method", ["ifd", "perplexity", "wici"])
def test_a_run_tells_its_columns(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_models_once(monkeypatch)
    rows = [{name: row[name] for name in ("instruction", "input", "output")} for row in example_rows(ROWS)]
    theirs = hostile(ROWS)
    pools = {
        "plain": rows,
        "clash": [{**row, **{name: theirs[name][i] for name in theirs}} for i, row in enumerate(rows)],
    }
    flags = ("--num-neighbors", 8, "--num-probes", 3) if method == "wici" else ()
    found = {}
    for name, pool in pools.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
        for suffix in ("parquet", "jsonl"):
            run = tmp_path / f"{name}-{suffix}"
            assert main(command(method, tmp_path / f"{name}.jsonl", run, "--format", suffix, *flags)) == 0
            found[name, suffix] = select(run, tmp_path / f"{name}-{suffix}-chosen", "--max-similarity", 1)
    lone = tmp_path / "elsewhere.parquet"
    lone.write_bytes((tmp_path / "clash-parquet/scores.parquet").read_bytes())
    flags = ("--embeddings", tmp_path / "e.npy") if method == "wici" else ()
    np.save(tmp_path / "e.npy", np.eye(ROWS))
    found["lone", "parquet"] = select(lone, tmp_path / "lone-chosen", *flags)
    assert len({tuple(rows) for rows in found.values()}) == 1, found
    assert len(found["lone", "parquet"]) == 6


def test_names_given_mean_our_columns_before_those_of_the_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = {**texts(ROWS), "score": [float(-row) for row in range(ROWS)], "mine": [float(row) for row in range(ROWS)]}
    run = write_run(tmp_path / "run", "nuggets", pool, {"score": np.arange(ROWS) / 10, "status": ["ok"] * ROWS})
    highest = list(range(ROWS - 1, ROWS - 7, -1))
    assert select(run, tmp_path / "ours", "--by", "score") == highest
    assert select(run, tmp_path / "file", "--by", "instsel_score") == highest
    assert select(run, tmp_path / "mine", "--by", "mine") == highest
    arguments = ["select", str(run), "--budget", "6", "--output", str(tmp_path / "said")]
    assert main(arguments) == 0
    assert "by score (column instsel_score)" in capsys.readouterr().out
    parameters = [
        json.loads((tmp_path / name / "manifest.json").read_text())["parameters"] for name in ("ours", "file")
    ]
    assert parameters[0] == parameters[1] and parameters[0]["by"] == "score"


def test_a_selection_of_a_selection_of_a_selection(tmp_path: Path) -> None:
    """Row numbers of each are kept; what decided is still the run's own score."""
    run = write_run(tmp_path / "run", "ifd", {**texts(ROWS), **hostile(ROWS)}, scores_of("ifd"))
    source, numbers = run, np.arange(ROWS)
    for generation, column in enumerate(["instsel_row", "instsel_row_2", "instsel_row_3"]):
        output = tmp_path / f"chosen{generation}"
        words = ["select", str(source), "--output", str(output), "--budget", str(12 - 4 * generation), "--quiet"]
        assert main([*words, "--by", "ifd"]) == 0
        own = json.loads((output / "manifest.json").read_text())["output"]["columns"]
        assert own["row"] == column and own["ifd"] == "instsel_ifd"
        table = pq.read_table(output / "selected.parquet")
        assert len({*table.column_names}) == len(table.column_names)
        numbers = numbers[table[column].to_pylist()]
        source = output
    ifd = scores_of("ifd")["ifd"]
    assert numbers.tolist() == np.argsort(-np.nan_to_num(ifd, nan=-1), kind="stable")[:4].tolist()
    page = build_page(read_report([tmp_path / "chosen0"]))
    assert "What was selected" in page and "too_long" not in page
    alone = read_report([tmp_path / "chosen2"])
    assert alone.selection is not None and alone.selection.rows.tolist() == [0, 1, 2, 3] and alone.score.name == "ifd"


def test_export_takes_the_best_answer_by_our_column(tmp_path: Path) -> None:
    groups = {"instruction": ["say"] * 3, "candidates": [["no", "yes"]] * 3, "best": [0, 0, 0]}
    scores = {"best": np.array([1, 1, 1]), "status": ["ok"] * 3}
    run = write_run(tmp_path / "run", "grape", groups, scores)
    assert main(["export", str(run), "--to", "messages", "--output", str(tmp_path / "out"), "--quiet"]) == 0
    assert [row["messages"][-1]["content"] for row in read_rows(tmp_path / "out/instsel.jsonl")] == ["yes"] * 3
    mine = write_run(tmp_path / "mine", "ifd", {**texts(3), "best": ["yes", "no", "no"]}, {"ifd": [0.1, 0.2, 0.3]})
    assert main(["export", str(mine), "--to", "messages", "--output", str(tmp_path / "mine-out"), "--quiet"]) == 0
    assert len(read_rows(tmp_path / "mine-out/instsel.jsonl")) == 3


def test_a_file_with_columns_twice_is_refused_and_merge_mends_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the third generation's Parquet looked like when every clashing column became `instsel_NAME`."""
    load_models_once(monkeypatch)
    rows = [{**row, "status": "a", "instsel_status": "b"} for row in example_rows(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    assert main(command("perplexity", tmp_path / "rows.jsonl", run)) == 0
    table = pq.read_table(run / "scores.parquet")
    names = [name.replace("instsel_status_2", "instsel_status") for name in table.column_names]
    pq.write_table(table.rename_columns(names).replace_schema_metadata(None), run / "scores.parquet")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["output"] = {
        "name": "scores.parquet",
        "bytes": (run / "scores.parquet").stat().st_size,
        "digest": digest_file(run / "scores.parquet"),
    }
    (run / "manifest.json").write_text(json.dumps(manifest))
    for words in (["select", str(run), "--budget", "3"], command("ifd", run / "scores.parquet", tmp_path / "x")[:-2]):
        assert main([*words, "--output", str(tmp_path / "refused")]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and "'instsel_status' 2 times" in said[0] and "instsel merge" in said[0]
    assert main(["merge", str(run), "--quiet"]) == 0
    assert main(["select", str(run), "--budget", "3", "--output", str(tmp_path / "chosen"), "--quiet"]) == 0
    again = pq.read_table(tmp_path / "chosen/selected.parquet")
    assert again["status"].to_pylist() == ["a"] * 3 and again["instsel_status"].to_pylist() == ["b"] * 3
    assert again["instsel_status_2"].to_pylist() == ["ok"] * 3


def test_an_older_file_whose_columns_were_overwritten_is_read_by_its_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In JSON lines the third generation's columns stood where the second's had been."""
    load_models_once(monkeypatch)
    theirs = {"perplexity": 1.0, "instsel_mean_logprob": 0.0, "instsel_perplexity": 0.0}
    rows = [{**row, **theirs, "mean_logprob": float(-i)} for i, row in enumerate(example_rows(8))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    assert main(command("perplexity", tmp_path / "rows.jsonl", run, "--format", "jsonl")) == 0
    now = read_rows(run / "scores.jsonl")
    wanted = sorted(range(8), key=lambda i: -now[i]["instsel_mean_logprob_2"])
    older = [{name: row[name.replace("logprob", "logprob_2") if name == "instsel_mean_logprob" else name]
              for name in row if not name.endswith("_2")} for row in now]  # fmt: skip
    (run / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in older))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["output"] = {"name": "scores.jsonl", "digest": digest_file(run / "scores.jsonl")}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert select(run, tmp_path / "chosen", "--by", "mean_logprob") == wanted[:6]


def test_plain_files_mean_what_they_say(tmp_path: Path) -> None:
    """A file that no run wrote: every column by its name."""
    table = {"score": [1.0, 3.0, 2.0], "status": ["ok", "other", "ok"], "instsel_score": [9.0, 8.0, 7.0]}
    pq.write_table(pa.table(table), tmp_path / "mine.parquet")
    assert select(tmp_path / "mine.parquet", tmp_path / "a", budget=2) == [2, 0]
    assert select(tmp_path / "mine.parquet", tmp_path / "b", "--by", "instsel_score", budget=2) == [0, 2]
    assert select(tmp_path / "a", tmp_path / "c", budget=2) == [0, 1]


def test_the_report_ranks_a_selection_by_what_decided(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "run", ROWS, pool={**texts(ROWS), "score": [0.0] * ROWS})
    select(run, tmp_path / "chosen", "--by", "score")
    report = read_report([tmp_path / "chosen"])
    assert report.whole and report.score.name == "score" and report.selection is not None
    assert report.selection.by == "score" and "the highest by wICI" in build_page(report)
    assert report.highest[:6] == report.selection.rows.tolist()
