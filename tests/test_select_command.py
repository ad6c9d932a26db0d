"""`instsel select` with its coverage rules: the file holds the rows that `select` gives, the manifest how."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from instsel.cli import main
from instsel.neighbors.clusters import cluster_rows
from instsel.selection import select

ROWS = 200


@pytest.fixture(scope="module")
def pool() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "ifd": np.round(rng.uniform(0.3, 1.3, ROWS), 6),
        "quality": rng.permutation(ROWS).astype(float),
        "num_tokens": rng.integers(5, 90, ROWS),
        "task": [["maths", "code", "poetry"][i] for i in rng.choice(3, ROWS, p=[0.6, 0.3, 0.1])],
        "holes": [None if i % 50 == 7 else "a" for i in range(ROWS)],
        "lists": [[1, 2]] * ROWS,
        "status": ["ok" if i % 20 else "too_long" for i in range(ROWS)],
    }


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    embeddings = np.random.default_rng(1).normal(size=(ROWS, 6))
    embeddings[11] = 0
    return embeddings


@pytest.fixture
def files(pool: dict[str, Any], embeddings: np.ndarray, tmp_path: Path) -> dict[str, Path]:
    pq.write_table(pa.table(pool), tmp_path / "pool.parquet")
    np.save(tmp_path / "e.npy", embeddings)
    return {"pool": tmp_path / "pool.parquet", "embeddings": tmp_path / "e.npy", "out": tmp_path / "out"}


def selected(files: dict[str, Path], *flags: object) -> tuple[Any, dict[str, Any]]:
    assert main(["select", str(files["pool"]), "--output", str(files["out"]), *map(str, flags)]) == 0
    table = pq.read_table(files["out"] / "selected.parquet")
    return table, json.loads((files["out"] / "manifest.json").read_text())


def ok(pool: dict[str, Any]) -> np.ndarray:
    return np.array(pool["status"]) == "ok"


def test_quotas_over_clusters_of_the_embeddings(
    files: dict[str, Path], pool: dict[str, Any], embeddings: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--by", "quality", "--budget", 40, "--coverage", "proportional", "--num-clusters", 7, "--seed", 5)
    table, manifest = selected(files, *flags, "--embeddings", files["embeddings"])
    labels = cluster_rows(embeddings, 7, seed=5).labels
    want = select(pool["quality"], 40, coverage="proportional", clusters=labels, selectable=ok(pool))
    rows = table.column("row").to_pylist()
    assert rows == want.tolist() != select(pool["quality"], 40, selectable=ok(pool)).tolist()
    assert table.column("cluster").to_pylist() == labels[rows].tolist()
    parameters = manifest["parameters"]
    assert (parameters["coverage"], parameters["num_clusters"], parameters["seed"]) == ("proportional", 7, 5)
    assert parameters["max_similarity"] is None and parameters["max_score"] is None
    assert manifest["counts"] == {"selected": 40, "not_selectable": 10}
    counted = manifest["findings"]["clusters"]
    assert counted == {
        str(c): [int((labels == c).sum()), int((labels[rows] == c).sum())] for c in sorted(set(labels.tolist()))
    }
    said = capsys.readouterr().out
    assert "clusters (8; selected/rows): 0 " in said and f"-1 {counted['-1'][1]}/1" in said


def test_quotas_over_a_column(files: dict[str, Path], pool: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    table, manifest = selected(files, "--by", "quality", "--budget", "10%", "--coverage", "equal", "--clusters", "task")
    want = select(pool["quality"], 20, coverage="equal", clusters=pool["task"], selectable=ok(pool))
    assert table.column("row").to_pylist() == want.tolist() and "cluster" not in table.column_names
    assert sorted(taken for _, taken in manifest["findings"]["clusters"].values()) == [6, 7, 7]
    assert "clusters (3; selected/rows): maths " in capsys.readouterr().out


def test_facility_location(files: dict[str, Path], pool: dict[str, Any], embeddings: np.ndarray) -> None:
    flags = ("--by", "quality", "--budget", 30, "--coverage", "facility-location", "--num-neighbors", 9)
    table, manifest = selected(files, *flags, "--embeddings", files["embeddings"])
    options: dict[str, Any] = {"coverage": "facility-location", "embeddings": embeddings, "num_neighbors": 9}
    want = select(pool["quality"], 30, selectable=ok(pool), **options)
    assert table.column("row").to_pylist() == want.tolist()
    assert manifest["parameters"]["num_neighbors"] == 9 and manifest["parameters"]["seed"] is None


def test_a_number_of_tokens(files: dict[str, Path], pool: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    table, manifest = selected(files, "--by", "quality", "--budget-tokens", 700)
    want = select(pool["quality"], budget_tokens=700, num_tokens=pool["num_tokens"], selectable=ok(pool))
    assert table.column("row").to_pylist() == want.tolist()
    tokens = int(pool["num_tokens"][want].sum())
    assert manifest["counts"]["tokens"] == tokens <= 700 and f"{tokens} of 700 tokens" in capsys.readouterr().out
    assert manifest["parameters"]["num_tokens"] == "num_tokens" and manifest["parameters"]["budget"] is None


def test_ifd_above_one_is_left_out_unless_asked_for(
    files: dict[str, Path], pool: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    table, manifest = selected(files, "--budget", 25)
    above = int((ok(pool) & (pool["ifd"] > 1)).sum())
    assert above > 25 and max(table.column("ifd").to_pylist()) <= 1
    assert table.column("row").to_pylist() == select(pool["ifd"], 25, max_score=1.0, selectable=ok(pool)).tolist()
    assert manifest["counts"]["above_max_score"] == above and manifest["parameters"]["max_score"] == 1.0
    assert f"{above} with an IFD above 1 left out" in capsys.readouterr().out
    table, manifest = selected(files, "--budget", 25, "--keep-all", "--overwrite")
    assert min(table.column("ifd").to_pylist()) > 1 and "above_max_score" not in manifest["counts"]
    table, _ = selected(files, "--budget", 25, "--by", "quality", "--overwrite")
    assert max(table.column("ifd").to_pylist()) > 1, "other scores have no such limit"


def test_the_same_again_is_the_same_and_another_seed_is_another_run(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--by", "quality", "--budget", 40, "--coverage", "equal", "--embeddings", files["embeddings"]]
    selected(files, *flags)
    first = (files["out"] / "selected.parquet").read_bytes()
    selected(files, *flags)
    assert (files["out"] / "selected.parquet").read_bytes() == first
    again = ["select", str(files["pool"]), "--output", str(files["out"]), *map(str, flags), "--seed", "1"]
    assert main(again) == 2 and "parameters.seed" in capsys.readouterr().err


def test_more_clusters_than_rows_to_select_is_said(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    selected(files, "--by", "quality", "--budget", 3, "--coverage", "equal", "--clusters", "num_tokens")
    said = capsys.readouterr()
    assert "more clusters than rows to select" in said.err and "more" in said.out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--by", "quality"], "one of the arguments --budget --budget-tokens is required"),
        (["--budget", "3", "--budget-tokens", "9"], "not allowed with"),
        (["--budget-tokens", "4"], "budget_tokens must be at least 5, the shortest row's tokens, got 4"),
        (["--budget-tokens", "90", "--num-tokens", "length"], "no column 'length' with the rows' lengths"),
        (["--budget-tokens", "90", "--num-tokens", "task"], "not numbers"),
        (["--budget", "3", "--coverage", "wide"], "invalid choice: 'wide'"),
        (["--budget", "3", "--coverage", "equal"], "--coverage equal needs embeddings"),
        (["--budget", "3", "--coverage", "facility-location"], "--coverage facility-location needs embeddings"),
        (["--budget", "3", "--clusters", "task"], "--clusters needs --coverage proportional or equal"),
        (["--budget", "3", "--coverage", "equal", "--clusters", "nope"], "no column 'nope'"),
        (["--budget", "3", "--coverage", "equal", "--clusters", "holes"], "but 4 have none, row 7 first"),
        (["--budget", "3", "--coverage", "equal", "--clusters", "ifd"], "all whole numbers or all texts, got float"),
        (["--budget", "3", "--coverage", "equal", "--clusters", "lists"], "got list"),
        (["--budget", "3", "--by", "quality", "--embeddings", "no.npy"], "--embeddings no.npy: No such file"),
        (["--budget", "3", "--coverage", "equal", "--embeddings", "E", "--num-clusters", "0"], "at least 1, got 0"),
        (
            ["--budget", "3", "--coverage", "equal", "--embeddings", "E", "--num-clusters", "201"],
            "at most the 200 rows",
        ),
    ],
)
def test_wrong_use_is_one_line(
    files: dict[str, Path], capfd: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    filled = [str(files["embeddings"]) if flag == "E" else flag for flag in flags]
    assert main(["select", str(files["pool"]), "--output", str(files["out"]), *filled]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err, said.err
    assert not files["out"].exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(
    files: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    array = tmp_path / "vectors.npy"
    if kind == "pipe":
        os.mkfifo(array)
    else:
        array.symlink_to("/dev/zero")
    words = ["select", str(files["pool"]), "--output", str(files["out"]), "--budget", "3", "--by", "quality"]
    assert main([*words, "--embeddings", str(array)]) == 2
    assert capfd.readouterr().err.strip().endswith(f"--embeddings {array} is not a regular file")
