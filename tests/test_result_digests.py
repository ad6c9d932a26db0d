"""Results are read only as they were written: a file that is another, or lies elsewhere, is refused in a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from run_folders import texts, write_influence
from tiny_model import load_models_once, tiny_model_folder

from instsel.cli import main
from instsel.runs.durable_files import digest_file


def readers(run: Path, output: Path) -> dict[str, list[str]]:
    return {
        "select": ["select", str(run), "--budget", "3", "--quiet", "--output", str(output / "select")],
        "report": ["report", str(run), "--quiet", "--output", str(output / "report.html")],
        "export": ["export", str(run), "--to", "messages", "--quiet", "--output", str(output / "export")],
    }


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def told(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(fields)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_models_once(monkeypatch)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in example_rows(12)))
    assert main(scoring(tmp_path)) == 0
    return tmp_path / "run"


def scoring(folder: Path) -> list[str]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32", "--quiet"]
    flags = ["--num-neighbors", "4", "--num-probes", "2", "--shard-rows", "5"]
    return ["wici", str(folder / "rows.jsonl"), *model, *flags, "--output", str(folder / "run")]


@pytest.mark.long
@pytest.mark.parametrize("reader", ["select", "report", "export"])
def test_a_flipped_bit_or_other_numbers_are_refused_until_the_run_is_given_again(
    reader: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, path = readers(run, tmp_path)[reader], run / "scores.parquet"
    whole = path.read_bytes()
    flip(path, 40)
    line = refused(words, capsys)
    assert str(path) in line and "run the same command again" in line
    path.write_bytes(whole)
    table = pq.read_table(path)
    place = table.column_names.index("score")
    pq.write_table(table.set_column(place, "score", pc.negate(table["score"])), path)
    assert str(path) in refused(words, capsys)
    assert main(scoring(tmp_path)) == 0
    assert path.read_bytes() == whole
    assert main(words) == 0


@pytest.mark.long
@pytest.mark.parametrize("reader", ["select", "report", "export"])
@pytest.mark.parametrize("way", ["beside", "absolute", "link", "shard"])
def test_only_a_result_of_the_folder_is_read(
    reader: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where the manifest has the other file's digest."""
    mine, other = (write_influence(tmp_path / name, 12) for name in ("mine", "other"))
    (mine / "more").mkdir()
    names = {"beside": "../other/scores.parquet", "absolute": str(other / "scores.parquet"), "link": "scores.parquet"}
    name = names.get(way, "more/scores.parquet")
    if way == "link":
        (mine / name).unlink()
        os.symlink(other / "scores.parquet", mine / name)
    if way == "shard":
        (mine / name).write_bytes((other / "scores.parquet").read_bytes())
    words = readers(mine, tmp_path / "out")[reader]
    (tmp_path / "out").mkdir()
    told(mine, output={"name": name, "digest": digest_file(other / "scores.parquet")})
    expected = "outside the folder" if way == "link" else f"the manifest of {mine} is damaged"  # names hold no path
    assert expected in refused(words, capsys)
    assert main(readers(other, tmp_path / "out")[reader]) == 0, "the control"


def test_a_selection_has_a_digest_and_is_held_against_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_influence(tmp_path / "run", 12)
    first = ["select", str(run), "--budget", "6", "--quiet", "--output", str(tmp_path / "chosen")]
    assert main(first) == 0
    path = tmp_path / "chosen/selected.parquet"
    output = json.loads((tmp_path / "chosen/manifest.json").read_text())["output"]
    assert output["digest"] == digest_file(path) and output["bytes"] == path.stat().st_size
    flip(path, 40)
    for words in readers(tmp_path / "chosen", tmp_path).values():
        assert str(path) in refused(words, capsys)
    assert main(first) == 0
    for words in readers(tmp_path / "chosen", tmp_path).values():
        assert main(words) == 0


def test_selections_of_earlier_versions_are_read(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "run", 12, pool={**texts(12), "status": ["x"] * 12})
    assert main(["select", str(run), "--budget", "6", "--quiet", "--output", str(tmp_path / "chosen")]) == 0
    path = tmp_path / "chosen/selected.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    told(tmp_path / "chosen", output={"name": "selected.parquet"})
    for words in readers(tmp_path / "chosen", tmp_path).values():
        assert main(words) == 0


def test_a_run_without_a_digest_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_influence(tmp_path / "run", 12)
    told(run, output={"name": "scores.parquet"})
    assert "run the same command again" in refused(readers(run, tmp_path)["select"], capsys)


@pytest.mark.long
def test_merging_into_the_folder_keeps_its_manifest_true(run: Path, tmp_path: Path) -> None:
    """A file as an earlier version wrote it, without its columns' names, becomes another of the same numbers."""
    path = run / "scores.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    told(run, output={"name": path.name, "bytes": path.stat().st_size, "digest": digest_file(path)})
    before = digest_file(path)
    assert main(["merge", str(run), "--quiet"]) == 0
    assert digest_file(path) != before
    for words in readers(run, tmp_path).values():
        assert main(words) == 0
    assert main(["merge", str(run), "--quiet", "--format", "jsonl"]) == 0
    assert main(readers(run, tmp_path)["report"]) == 0


def test_a_damaged_shard_is_not_read(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished run is not computed again as long as its result is whole: what helps is said, and helps."""
    scores = (run / "scores.parquet").read_bytes()
    flip(sorted((run / "shards").glob("embeddings-*"))[0], 100)
    line = refused(readers(run, tmp_path)["select"], capsys)
    assert (
        "rows of embeddings are damaged or gone" in line
        and f"remove the result in {run} and run the same command again" in line
    )
    (run / "scores.parquet").unlink()
    assert main(scoring(tmp_path)) == 0
    assert main(readers(run, tmp_path)["select"]) == 0
    assert (run / "scores.parquet").read_bytes() == scores


def test_what_merge_says_of_a_damaged_shard_helps(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, target = (run / "scores.parquet").read_bytes(), tmp_path / "again.parquet"
    merge = ["merge", str(run), "--output", str(target), "--quiet"]
    last = json.loads((run / "manifest.json").read_text())["stages"][-1][0]
    flip(sorted((run / "shards").glob(f"{last}-*"))[0], 100)
    line = refused(merge, capsys)
    assert f"5 rows of {last} are damaged or gone: remove the result in {run} and run the same command" in line
    (run / "scores.parquet").unlink()
    assert "damaged or gone: run the same command again" in refused(merge, capsys)
    assert main(scoring(tmp_path)) == 0 and main(merge) == 0
    assert (run / "scores.parquet").read_bytes() == scores == target.read_bytes()


def test_the_report_reads_only_whole_shards_of_its_run(run: Path, tmp_path: Path) -> None:
    from instsel.report.scored_runs import open_run

    opened = open_run(run)
    whole = opened.stage("embeddings", "embedding")
    assert whole is not None and len(whole) == 12
    path = sorted((run / "shards").glob("embeddings-*"))[1]
    flip(path, 100)
    assert opened.stage("embeddings", "embedding", [0, 3]) is not None, "the other shards are whole"
    with pytest.raises(
        ValueError, match=r"is not as it was written: remove the result in .* and run the same command again"
    ):
        opened.stage("embeddings", "embedding", [7])
