"""The command line: its files hold what the library computes, its errors are one line, its codes the customary ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main

pytestmark = pytest.mark.usefixtures("one_loading")

ROWS = 90


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_alpaca(tmp_path_factory.mktemp("input") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return instsel.Scorer(tiny_model_folder(), device="cpu")


def held(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def command(method: str, rows: Path, output: Path, *more: object) -> list[str]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", "32"]
    return [method, str(rows), *model, "--output", str(output), *map(str, more)]


def numbers(table: Any, name: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in table.column(name).to_pylist()], dtype=float)


def close(got: np.ndarray, want: np.ndarray) -> bool:
    """Equal but for the rounding of other batches, and NaN in the same places; a wrong row moves scores by tenths."""
    return bool(np.allclose(got, want, rtol=0, atol=2e-5, equal_nan=True)) and bool(np.isfinite(want).any())


def test_score_writes_what_score_batch_gives(rows: Path, scorer: instsel.Scorer, tmp_path: Path) -> None:
    assert main(command("score", rows, tmp_path / "run")) == 0
    table = pq.read_table(tmp_path / "run/scores.parquet")
    records = held(rows)
    requests = [
        (r["instruction"] + "\n" + (r["input"] + "\n" if r["input"].strip() else ""), r["output"]) for r in records
    ]
    want = instsel.score_batch(scorer, requests)
    assert table.column("status").to_pylist() == want.status.tolist()
    assert set(want.status) == {"ok", "empty_target", "too_long"}
    assert close(numbers(table, "mean_logprob"), want.mean_logprob)
    assert close(numbers(table, "sum_logprob"), want.sum_logprob)
    assert table.column("num_tokens").to_pylist() == want.num_tokens.tolist()
    for name in ("id", "instruction", "input", "output"):
        assert table.column(name).to_pylist() == [r[name] for r in records]


@pytest.mark.parametrize("kind", ["ppl", "loss"])
def test_ifd_writes_what_the_library_gives(rows: Path, scorer: instsel.Scorer, tmp_path: Path, kind: str) -> None:
    from instsel.methods.ifd import ifd

    assert main(command("ifd", rows, tmp_path / "run", "--kind", kind)) == 0
    table = pq.read_table(tmp_path / "run/scores.parquet")
    want = ifd(scorer, held(rows), kind=kind)
    assert close(numbers(table, "ifd"), want.ifd) and table.column("status").to_pylist() == want.status.tolist()


@pytest.mark.long
@pytest.mark.parametrize("rule", ["paper", "release"])
def test_wici_writes_what_the_library_gives(rows: Path, scorer: instsel.Scorer, tmp_path: Path, rule: str) -> None:
    from instsel.methods.wici import wici

    options = ["--rule", rule, "--num-neighbors", 12, "--num-probes", 3]
    assert main(command("wici", rows, tmp_path / "run", *options)) == 0
    table = pq.read_table(tmp_path / "run/scores.parquet")
    want = wici(scorer, held(rows), rule=rule, num_neighbors=12, num_probes=3)
    assert table.column("probes").to_pylist() == want.probes.tolist()
    assert close(numbers(table, "score"), want.score) and table.column("status").to_pylist() == want.status.tolist()
    assert table.column("selectable").to_pylist() == want.selectable.tolist()
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    (found,) = manifest["findings"].values()
    assert -1 <= found["low"] <= found["rho"] <= found["high"] <= 1
    assert found["rows"] == int((np.isfinite(want.score) & np.isfinite(want.ifd)).sum())


def test_wici_takes_given_probes_and_similarities(
    rows: Path, scorer: instsel.Scorer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from instsel.methods.wici import wici

    rng = np.random.default_rng(5)
    probes, similarity = rng.integers(-1, ROWS, (ROWS, 2)), rng.uniform(-1, 1, (ROWS, 2))
    probes[probes == np.arange(ROWS)[:, None]] = -1
    np.save(tmp_path / "probes.npy", probes)
    np.save(tmp_path / "similarity.npy", similarity)
    options = ["--probes", tmp_path / "probes.npy", "--similarity", tmp_path / "similarity.npy"]
    assert main(command("wici", rows, tmp_path / "run", *options)) == 0
    want = wici(scorer, held(rows), probes=probes, similarity=similarity)
    assert close(numbers(pq.read_table(tmp_path / "run/scores.parquet"), "score"), want.score)
    np.save(tmp_path / "probes.npy", np.where(probes >= 0, -1, probes))
    assert main(command("wici", rows, tmp_path / "run", *options)) == 2, "other probes are another run"
    np.save(tmp_path / "probes.npy", np.maximum(probes, np.arange(ROWS)[:, None]))
    capsys.readouterr()
    assert main(command("wici", rows, tmp_path / "own", *options)) == 2
    assert re.search(r"probes must be other rows, but row \d+ is its own probe\n", capsys.readouterr().err)


def test_grape_writes_what_the_library_gives(scorer: instsel.Scorer, tmp_path: Path) -> None:
    from instsel.methods.grape import grape

    groups = [
        {"instruction": f"say {i}", "candidates": [{"response": f"the {j} " * (1 + i % 4)} for j in range(i % 5)]}
        for i in range(70)
    ]
    (tmp_path / "groups.jsonl").write_text("".join(json.dumps(group) + "\n" for group in groups))
    assert main(command("grape", tmp_path / "groups.jsonl", tmp_path / "run", "--normalize", "sum")) == 0
    table = pq.read_table(tmp_path / "run/scores.parquet")
    want = grape(scorer, groups, normalize="sum")
    assert table.column("best").to_pylist() == want.best.tolist() and len(set(want.best)) > 2
    assert table.column("status").to_pylist() == want.status.tolist()
    assert table.column("candidates").to_pylist() == [group["candidates"] for group in groups]


@pytest.mark.long
def test_the_same_command_twice_gives_the_same_bytes(rows: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("one", "two"):
        assert main(command("wici", rows, tmp_path / name, "--num-neighbors", 8)) == 0
        tables.append(pq.read_table(tmp_path / name / "scores.parquet"))
    assert tables[0].equals(tables[1])
    assert (tmp_path / "one/scores.parquet").read_bytes() == (tmp_path / "two/scores.parquet").read_bytes()


def test_jsonl_keeps_the_rows_as_they_came(tmp_path: Path) -> None:
    odd = [
        {"instruction": "a", "output": "b", "status": "mine", "x": 10**30, "deep": {"k": [1, {"z": None}]}},
        {"instruction": "é\u2028", "output": "c", "x": 0.1, "only here": True},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in odd))
    assert main(command("score", tmp_path / "rows.jsonl", tmp_path / "run", "--format", "jsonl")) == 0
    got = held(tmp_path / "run/scores.jsonl")
    assert [{name: row[name] for name in was} for row, was in zip(got, odd, strict=True)] == odd
    assert [row["instsel_status"] for row in got] == ["ok", "ok"] and "status" not in got[1]


@pytest.mark.long
def test_finished_interrupted_merged_and_selected(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command("wici", rows, run, "--num-neighbors", 8)) == 0
    said = capsys.readouterr().out
    assert f"wici: {ROWS} rows in " in said and "sharing factor" in said and "Spearman" in said
    assert main(command("wici", rows, run, "--num-neighbors", 8)) == 0
    assert "already finished" in capsys.readouterr().out
    assert main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert "wici, finished" in said and f"influence: {ROWS} of {ROWS} rows (100.0%)" in said and "num_neighbors" in said
    first = (run / "scores.parquet").read_bytes()
    assert main(["merge", str(run), "--overwrite"]) == 0
    assert (run / "scores.parquet").read_bytes() == first
    assert (
        main(["select", str(run), "--budget", "10%", "--max-similarity", "1", "--output", str(tmp_path / "best")]) == 0
    )
    assert "diversity by the run's own embeddings" in capsys.readouterr().out
    chosen, table = pq.read_table(tmp_path / "best/selected.parquet"), pq.read_table(run / "scores.parquet")
    picked = chosen.column("row").to_pylist()
    assert len(picked) == 9 and chosen.column("id").to_pylist() == [f"row-{i}" for i in picked]
    best = numbers(table, "score")
    assert (np.diff(best[picked]) <= 0).all() and best[picked[0]] == np.nanmax(best)


def test_the_plan_counts_what_the_run_forwards(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("ifd", rows, tmp_path / "run", "--dry-run", "--no-timing")) == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(command("ifd", rows, tmp_path / "run")) == 0
    stats = json.loads((tmp_path / "run/manifest.json").read_text())["stats"]
    planned = {line.split()[0]: line.split()[-1] for line in said.splitlines()[1:]}
    assert planned["tree"] == f"{stats['tokens_forwarded']:,}" and planned["packs"] == f"{stats['packs']:,}"
    assert float(planned["estimated"]) > 0


def test_an_input_that_changed_since_the_start_is_refused(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "rows.jsonl"
    shutil.copy(rows, mine)
    assert main(command("score", mine, tmp_path / "run")) == 0
    mine.write_text(mine.read_text().replace("thing 3", "thing 4"))
    assert main(command("score", mine, tmp_path / "run")) == 2
    assert "other settings: input_digest (" in capsys.readouterr().err
    assert main(command("score", mine, tmp_path / "run", "--overwrite")) == 0
    moved = shutil.move(mine, tmp_path / "elsewhere.jsonl")
    assert main(command("score", Path(moved), tmp_path / "run")) == 0, "the same rows under another name are the same"


def test_too_many_failed_rows_end_the_run_with_1_after_writing_all(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import instsel.engine.scoring as scoring

    real = scoring.score_batch

    def third_fails(*args: Any, **options: Any) -> Any:
        batch = real(*args, **options)
        hit = np.flatnonzero(batch.status == "ok")[::3]
        batch.status[hit] = "nonfinite"
        batch.mean_logprob[hit] = np.nan
        return batch

    monkeypatch.setattr(scoring, "score_batch", third_fails)
    assert main(command("score", rows, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "nonfinite of 90 rows: more than --max-failures 5.0% failed" in said
    assert pq.read_table(tmp_path / "run/scores.parquet").num_rows == ROWS
    assert main(command("score", rows, tmp_path / "run", "--max-failures", "50%")) == 0
