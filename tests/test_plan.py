"""A dry run says hours and tokens, also of what a folder lacks; shards end by work, and no folder is refused for it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.engine import scoring
from instsel.methods.stages import Stage
from instsel.runner import run_settings, slices, timing
from instsel.runner.slices import Slices
from instsel.runner.timing import PlannedStage, time_stages

pytestmark = pytest.mark.usefixtures("one_loading")


def command(method: str, rows: Path, *more: object) -> list[str]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32", "--quiet"]
    return [method, str(rows), *model, *map(str, more)]


def planned(said: str) -> dict[str, int]:
    """The numbers of a plan by the first word of their line."""
    lines = [line.split() for line in said.splitlines()[1:]]
    return {line[0]: int(line[2].replace(",", "")) for line in lines if line[0] in ("tree", "unshared")}


def shard_names(run: Path, stage: str = "ifd") -> set[str]:
    return {path.name for path in (run / "shards").glob(f"{stage}-*")}


def cut(requests: Any, missing: list[range], **options: Any) -> list[range]:
    stage = Stage("one", lambda part: {}, requests=lambda part: [], slice_rows=64)
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    given: dict[str, Any] = {"shard_rows": None, "device": "cpu", "max_length": None, **options}
    return list(Slices(scorer, 200, **given).of(stage, 200, missing, requests))


def by_length(rows: range) -> list[Any]:
    """Rows from 128 on are sixteen times as long."""
    return [([3, row % 90 + 3] * (64 if row >= 128 else 4), [5]) for row in rows]


def test_slices_are_of_equal_work_and_cover_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(slices.LEAST_TOKENS, "cpu", 1)
    monkeypatch.setitem(slices.FLOPS_OF_A_SHARD, "cpu", 4e7)
    whole = cut(by_length, [range(200)])
    assert [row for rows in whole for row in rows] == list(range(200))
    short, long = ([rows for rows in whole if (rows.start >= 128) is late] for late in (False, True))
    assert max(map(len, long)) * 4 <= min(map(len, short[:-1])), (short, long)
    some = cut(by_length, [range(5, 9), range(120, 190)])
    assert [row for rows in some for row in rows] == [*range(5, 9), *range(120, 190)]
    assert all(any(rows.start >= one.start and rows.stop <= one.stop for one in whole) for rows in some), (
        "what is missing moves no end, or a run that goes on would have other last digits"
    )
    assert cut(by_length, [range(200)], shard_rows=70) == [range(70), range(70, 140), range(140, 200)]


def test_a_folder_goes_on_with_any_size_of_its_shards(tmp_path: Path) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", 60)
    run = tmp_path / "run"
    assert main(command("ifd", rows, "--output", run, "--shard-rows", 16)) == 0
    whole = pq.read_table(run / "scores.parquet")
    for more in (["--shard-rows", 5], []):
        victim = sorted((run / "shards").glob("ifd-*"))[1]
        kept = shard_names(run) - {victim.name}
        (run / "scores.parquet").unlink()
        victim.unlink()
        assert main(command("ifd", rows, "--output", run, *more)) == 0
        assert kept < shard_names(run), "what is whole is kept"
        again = pq.read_table(run / "scores.parquet")
        assert again.column("id").equals(whole.column("id"))
        assert np.allclose(*(t.column("ifd").to_numpy(zero_copy_only=False) for t in (again, whole)), atol=1e-5,
                           equal_nan=True)  # fmt: skip


def test_a_folder_whose_shards_say_their_size_is_a_setting_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the version before left it: the size is in the settings' digest that every shard carries."""
    rows, run = write_alpaca(tmp_path / "rows.jsonl", 40), tmp_path / "run"
    describe = run_settings.describe

    def older(configuration: Any, source: Any, fingerprint: Any, known: Any) -> Any:
        return describe(configuration, source, fingerprint, {**known, "shard_rows": 10})

    monkeypatch.setattr(run_settings, "describe", older)
    assert main(command("ifd", rows, "--output", run, "--shard-rows", 10)) == 0
    monkeypatch.setattr(run_settings, "describe", describe)
    manifest = json.loads((run / "manifest.json").read_text())
    assert "shard_rows" in manifest["compared"]
    manifest["stages"] = [[name, count, 10] for name, count in manifest["stages"]]
    (run / "manifest.json").write_text(json.dumps({**manifest, "state": "interrupted"}))
    (run / "scores.parquet").unlink()
    victim = sorted((run / "shards").glob("ifd-*"))[2]
    kept = shard_names(run) - {victim.name}
    # Its number was of shards, not of rows; the name alone says nothing.
    victim.unlink()
    first = sorted((run / "shards").glob("ifd-*"))[1]
    first.rename(first.with_name(first.name.replace("00010", "00001")))
    kept = {name.replace("00010", "00001") for name in kept}
    assert main(command("ifd", rows, "--output", run, "--shard-rows", 7)) == 0
    assert kept < shard_names(run) and not (run / "damaged").exists()
    assert pq.read_table(run / "scores.parquet").num_rows == 40
    capsys.readouterr()
    assert main(command("ifd", rows, "--output", run, "--limit", 20)) == 2, "the control: a setting is one"
    assert "limit (none there, 20 now)" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("method", ["wici", "miwv"])
def test_rows_that_are_shown_are_chosen_in_a_plan_as_in_a_run(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lengths vary much, and probes are the longest of their clusters: rows taken in turn give far fewer tokens."""
    rng = np.random.default_rng(3)
    words = [f"w{i}" for i in range(40)]
    rows = tmp_path / "rows.jsonl"
    with open(rows, "w") as file:
        for _ in range(150):
            length = int(rng.choice([4, 12, 80]))
            asked = " ".join(rng.choice(words, 5))
            file.write(json.dumps({"instruction": asked, "output": "a" * length}) + "\n")
    told = command(method, rows, *(["--num-probes", "3"] if method == "wici" else []))
    assert main([*told, "--dry-run", "--no-timing"]) == 0
    said = capsys.readouterr().out
    assert main([*told, "--output", str(tmp_path / "run")]) == 0
    stats = json.loads((tmp_path / "run/manifest.json").read_text())["stats"]
    assert planned(said)["tree"] == pytest.approx(stats["tokens_forwarded"], rel=0.1)
    assert "(between " in said
    if method == "wici":
        taken = tmp_path / "probes.npy"
        np.save(taken, (np.arange(150)[:, None] + [1, 2, 3]) % 150)
        assert main([*told, "--probes", str(taken), "--dry-run", "--no-timing"]) == 0
        assert planned(capsys.readouterr().out)["tree"] < 0.85 * stats["tokens_forwarded"], "the control"


def test_a_dry_run_on_a_folder_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, run = write_alpaca(tmp_path / "rows.jsonl", 60), tmp_path / "run"
    told = command("ifd", rows, "--output", run, "--shard-rows", 16)
    assert main([*told, "--dry-run", "--no-timing"]) == 0
    everything = planned(capsys.readouterr().out)["tree"]
    assert not run.exists()
    assert main(told) == 0
    (run / "scores.parquet").unlink()
    victim = sorted((run / "shards").glob("ifd-*"))[1]
    lost = int(json.loads(pq.read_schema(victim).metadata[b"instsel"])["stats"]["tokens_forwarded"])
    victim.unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main([*told, "--dry-run", "--no-timing"]) == 0
    said = capsys.readouterr().out
    assert "ifd: 16 of 60 rows" in said and planned(said)["tree"] == lost < everything
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main([*told, "--seed", "1", "--dry-run", "--no-timing"]) == 2
    assert "holds a run with other settings: seed (0 there, 1 now)" in capsys.readouterr().err
    assert main([*told, "--seed", "1", "--overwrite", "--dry-run", "--no-timing"]) == 0
    assert planned(capsys.readouterr().out)["tree"] == everything


def test_a_dry_run_forwards_only_where_it_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", 30)
    assert main(command("ifd", rows, "--dry-run")) == 0
    assert "seconds on this machine (a few packs timed)" in capsys.readouterr().out

    def forwards(*args: Any, **options: Any) -> None:
        raise AssertionError("forwarded")

    monkeypatch.setattr(scoring, "score_batch", forwards)
    assert main(command("ifd", rows, "--dry-run", "--no-timing")) == 0
    said = capsys.readouterr().out
    assert "timed" not in said and "estimated FLOPs" in said
    assert main(command("ifd", rows, "--dry-run")) != 0, "the control"


def test_timed_packs_say_how_long_the_work_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that needs 0.1 ms a token, and for the first pack of a call five times as long."""
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32", max_batch_tokens=100)

    def score(scorer: Any, requests: Any, *, max_length: Any, progress: Any) -> None:
        total, done = scoring.plan_batch(scorer, requests).tokens_forwarded, 0
        while done < total:
            step = min(100, total - done)
            clock[0] += step * (5e-4 if done == 0 else 1e-4)
            done += step
            progress(done, total)

    def requests(rows: range) -> list[Any]:
        return [([row % 250 + 3] * 30, [5] * 10) for row in rows]

    clock = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(scoring, "score_batch", score)
    monkeypatch.setattr(timing, "SECONDS", 0.3)
    plan = scoring.plan_batch(scorer, requests(range(240)))
    tokens, flops = 100.0 * plan.tokens_forwarded, 100.0 * plan.estimated_flops
    work = [PlannedStage([range(i, i + 40) for i in range(0, 240, 40)], requests, tokens, flops, 24_000)]
    found = time_stages(scorer, work, None, 0.0)
    assert found is not None
    low, high = found
    assert (low + high) / 2 == pytest.approx(tokens * 1e-4, rel=0.01)
    low, high = time_stages(scorer, work, None, 0.5) or (0, 0)
    assert low < 0.7 * tokens * 1e-4 and high > 1.3 * tokens * 1e-4, "tokens that are uncertain widen the range"


def test_a_plan_refuses_the_folders_that_the_run_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", 6)
    (tmp_path / "others").mkdir()
    (tmp_path / "others/notes.txt").write_text("mine")
    for output, says in ((rows, "cannot be written"), (tmp_path / "others", "it holds notes.txt"), (tmp_path, "holds")):
        for more in (["--dry-run", "--no-timing"], []):
            assert main(command("ifd", rows, "--output", output, *more)) == 2
            said = capsys.readouterr()
            assert says in said.err and said.err.count("\n") == 1 and said.out == ""
    assert main(command("ifd", rows, "--output", tmp_path / "new", "--dry-run", "--no-timing")) == 0
    assert not (tmp_path / "new").exists()
