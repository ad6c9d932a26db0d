"""`select --procedure recommended`: what it leaves out and how it draws, against the rule written out in NumPy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_folders import texts, write_influence, write_run

import instsel
from instsel.cli import main
from instsel.neighbors.clusters import cluster_rows
from instsel.report import build_page, read_report
from instsel.selection.quotas import drawn_without_worst

ROWS, CLUSTERS = 200, 5
STORY = "It was late. She closed the door behind her and went down to the {} alone, as on day {} before."


def largest_remainder(limit: int, sizes: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """A limit shared in proportion, the larger remainders first, then the larger `tie` of the next row."""
    exact = [limit * int(size) / int(sizes.sum()) for size in sizes]
    quota = np.array([int(np.floor(one + 1e-9)) for one in exact])
    order = sorted(range(len(sizes)), key=lambda k: (-round(exact[k] - quota[k], 9), -tie[k](quota[k])))
    for k in order[: limit - int(quota.sum())]:
        quota[k] += 1
    return quota


def lengths_of(count: int) -> np.ndarray:
    return np.arange(count) % 7 + 3


def rank_of_like_length(ifd: np.ndarray, lengths: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Minus the place of each row, from the highest IFD on, within its fifth by length, as a share of that fifth."""
    found = np.full(len(ifd), np.nan)
    first = [int((lengths[rows] < lengths[row]).sum()) * 5 // len(rows) for row in rows]
    for part in set(first):
        members = [row for row, one in zip(rows.tolist(), first, strict=True) if one == part]
        for place, row in enumerate(sorted(members, key=lambda one: -ifd[one]), 1):
            found[row] = -place / len(members)
    return found


def reference(
    ifd: np.ndarray, usable: np.ndarray, labels: np.ndarray, seed: int, budget: int, lengths: np.ndarray | None = None
) -> tuple[set, set]:
    """Rows left out and rows selected: a fifth by highest IFD of like length, then a draw, both by quotas."""

    def by_quota(value: np.ndarray, rows: np.ndarray, limit: int) -> set[int]:
        found: set[int] = set()
        members = [sorted(rows[labels[rows] == k], key=lambda row: -value[row]) for k in range(labels.max() + 1)]
        sizes = np.array([len(one) for one in members])
        tie = [lambda q, one=one: value[one[q]] if q < len(one) else -np.inf for one in members]
        for one, count in zip(members, largest_remainder(limit, sizes, tie), strict=True):
            found |= {int(row) for row in one[:count]}
        return found

    rows = np.flatnonzero(usable & np.isfinite(ifd))
    ranks = rank_of_like_length(ifd, lengths_of(len(ifd)) if lengths is None else lengths, rows)
    worst = by_quota(ranks, rows, len(rows) // 5)
    left = np.array([row for row in rows if row not in worst])
    chance = np.random.default_rng(seed + 1).random(len(ifd))
    return worst, by_quota(chance, left, budget)


def pool(count: int = ROWS) -> dict[str, list[str]]:
    """Rows of which none repeats another or itself."""
    columns = texts(count)
    columns["output"] = [STORY.format(f"river {i * i}", i) for i in range(count)]
    return columns


def write_ifd(folder: Path, columns: dict[str, list[str]], ifd: np.ndarray, **scores: Any) -> Path:
    given = {"ifd": ifd, "num_tokens": lengths_of(len(ifd)), "status": np.full(len(ifd), "ok"), **scores}
    return write_run(folder, "ifd", columns, given)


def select(run: Path, output: Path, *flags: object) -> tuple[list[int], dict[str, Any]]:
    assert main(["select", str(run), "--output", str(output), *map(str, flags)]) == 0
    manifest = json.loads((output / "manifest.json").read_text())
    return pq.read_table(output / "selected.parquet")["row"].to_pylist(), manifest


@pytest.mark.parametrize("seed", [0, 3])
def test_with_clusters_it_is_the_rule(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ifd, embeddings = rng.random(ROWS) + 0.2, rng.normal(size=(ROWS, 4))
    status = np.full(ROWS, "ok", "<U12")
    status[::9] = "too_long"
    ifd[status != "ok"] = np.nan
    run = write_ifd(tmp_path / "run", pool(), ifd, status=status)
    np.save(tmp_path / "e.npy", embeddings)
    flags = ("--budget", 40, "--embeddings", tmp_path / "e.npy", "--num-clusters", CLUSTERS, "--seed", seed)
    rows, manifest = select(run, tmp_path / "out", *flags)
    labels = cluster_rows(embeddings, CLUSTERS, seed=seed).labels
    worst, chosen = reference(ifd, status == "ok", labels, seed, 40)
    assert set(rows) == chosen and len(rows) == 40
    assert manifest["counts"]["left_out_worst"] == len(worst) == (status == "ok").sum() // 5
    assert manifest["parameters"]["procedure"] == "recommended" and manifest["parameters"]["worst_share"] == 0.2
    again, _ = select(run, tmp_path / "again", *flags)
    assert again == rows
    assert set(select(run, tmp_path / "other", *flags[:-1], seed + 1)[0]) != set(rows)


def test_without_embeddings_it_draws_from_the_whole_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ifd = np.random.default_rng(1).random(ROWS) + 0.2
    run = write_ifd(tmp_path / "run", pool(), ifd)
    rows, manifest = select(run, tmp_path / "out", "--budget", 40)
    said = capsys.readouterr().out
    worst, chosen = reference(ifd, np.ones(ROWS, bool), np.zeros(ROWS, int), 0, 40)
    assert set(rows) == chosen and not worst & chosen
    assert worst != set(np.argsort(-ifd)[:40].tolist()), "of like length"
    assert 25 < len(worst & set(np.argsort(-ifd)[:40].tolist())) < 40 == len(worst)
    assert "recommended, since nothing else is asked for" in said and "--by ifd" in said
    assert "drawn from the whole pool" in said
    assert manifest["parameters"]["coverage"] is None and manifest["arguments"]["procedure"] == "recommended"
    for folders in ([run, tmp_path / "out"], [tmp_path / "out"]):  # also where the pool is not at hand
        page = build_page(read_report(folders))
        assert "recommended: drawn at random within 40 rows, without the 20 % of the pool with the highest IFD" in page
        assert "among answers of like length" in page


def test_the_call_from_python_is_the_command(tmp_path: Path) -> None:
    run = write_ifd(tmp_path / "run", pool(60), np.random.default_rng(4).random(60))
    rows, manifest = select(run, tmp_path / "out", "--budget", "10%", "--seed", 2)
    found = instsel.select_run(run, tmp_path / "called", 0.1, seed=2)
    told = json.loads((tmp_path / "called/manifest.json").read_text())
    assert pq.read_table(found.file)["row"].to_pylist() == rows and not found.again
    assert told["parameters"] == manifest["parameters"] and told["counts"] == found.counts
    assert instsel.select_run(run, tmp_path / "out", 0.1, seed=2).again, "what the command has finished"
    for options in ({}, {"budget": 3, "budget_tokens": 9}, {"budget": 3, "procedure": "best"}, {"budget": 99}):
        with pytest.raises(ValueError, match=r"budget|procedure"):
            instsel.select_run(run, tmp_path / "wrong", **options)
    assert not (tmp_path / "wrong").exists()


def test_every_row_that_stays_is_as_likely() -> None:
    score, labels = -np.arange(60.0), np.repeat([0, 1], [40, 20])
    times = np.zeros(60)
    for seed in range(400):
        drawn, worst = drawn_without_worst(score, np.ones(60, bool), labels, 0.1, seed)
        assert np.flatnonzero(worst).tolist() == [36, 37, 38, 39, 58, 59]
        times[np.argsort(-np.nan_to_num(drawn, nan=-1))[:20]] += 1
    assert times[[36, 37, 38, 39, 58, 59]].sum() == 0
    stays = np.delete(times, [36, 37, 38, 39, 58, 59])
    assert abs(stays - 400 * 20 / 54).max() < 60  # six standard deviations of a binomial


def planted() -> tuple[dict[str, list[str]], np.ndarray, dict[str, list[int]]]:
    """A pool in which rows are bad in four ways, each with a score that `--by` would take first but the last."""
    columns, rng = pool(100), np.random.default_rng(2)
    ifd = rng.uniform(0.3, 0.6, 100)
    bad = {"repetition": [3, 50], "cut-off": [7, 61], "duplicates": [20, 80], "worst": list(range(81, 99))}
    for row in bad["repetition"]:
        columns["output"][row] = "The same again and again. " * 9
    for row in bad["cut-off"]:
        columns["output"][row] = columns["output"][row].partition(" alone")[0]
    for row in bad["duplicates"]:
        for name in columns:
            columns[name][row] = columns[name][10]
    ifd[[row for rows in bad.values() for row in rows]] = 0.9
    return columns, ifd, bad


def test_a_planted_pool_loses_what_is_planted(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    columns, ifd, bad = planted()
    run = write_ifd(tmp_path / "run", columns, ifd, num_tokens=np.full(100, 20))
    rows, manifest = select(run, tmp_path / "out", "--budget", "76")
    planted_rows = {row for found in bad.values() for row in found}
    assert len(rows) == 76 and set(rows) == set(range(100)) - planted_rows
    assert {name: manifest["counts"][f"left_out_{name}"] for name in bad} == {k: len(v) for k, v in bad.items()}
    assert set(manifest["parameters"]["leave_out"]) == {"repetition", "cut-off", "duplicates", "near-duplicates"}
    by_score, _ = select(run, tmp_path / "control", "--budget", "24", "--by", "ifd")
    assert set(by_score) == planted_rows, "the control: the highest scores are what is planted"
    only, _ = select(run, tmp_path / "only", "--budget", "76", "--procedure", "recommended", "--leave-out", "cut-off")
    assert not set(bad["cut-off"]) & set(only), "the filters that are asked for, in place of its own"


def test_near_duplicates_need_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = pool(30)
    columns["output"][4] = f"{columns['output'][3]} Truly."
    columns["instruction"][4], columns["input"][4] = columns["instruction"][3], columns["input"][3]
    run = write_ifd(tmp_path / "run", columns, np.linspace(0.3, 0.9, 30))
    monkeypatch.setitem(sys.modules, "datasketch", None)
    rows, manifest = select(run, tmp_path / "without", "--budget", "24")
    said = capsys.readouterr().out
    assert "near-duplicates were not looked for: datasketch is not installed: pip install 'instsel[duplicates]'" in said
    assert 4 in rows and "near-duplicates" not in manifest["parameters"]["leave_out"]
    monkeypatch.undo()
    pytest.importorskip("datasketch")
    assert main(["select", str(run), "--budget", "24", "--output", str(tmp_path / "without")]) == 2
    assert "parameters.leave_out" in capsys.readouterr().err, "another rule is another run"
    rows, _ = select(run, tmp_path / "with", "--budget", "23")
    assert 4 not in rows


def test_a_budget_of_tokens_takes_none_of_what_is_left_out(tmp_path: Path) -> None:
    ifd = np.random.default_rng(5).random(60)
    lengths = np.where(np.arange(60) % 5 == 0, 1, 10)
    worst, _ = reference(ifd, np.ones(60, bool), np.zeros(60, int), 0, 10, lengths)
    short = [row for row in worst if lengths[row] == 1]
    assert short and len(worst) == 12, "some would fit into what is left"
    run = write_ifd(tmp_path / "run", pool(60), ifd, num_tokens=lengths)
    rows, manifest = select(run, tmp_path / "out", "--budget-tokens", "490")
    assert not set(rows) & worst and manifest["counts"]["tokens"] == lengths[rows].sum()
    assert len(rows) == 48, "all others fit"


@pytest.mark.parametrize("count", [1, 2, 9, 10, 25])
def test_few_rows_and_many_clusters(tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int) -> None:
    rng = np.random.default_rng(count)
    ifd = rng.random(count)
    run = write_ifd(tmp_path / "run", pool(count), ifd, num_tokens=np.full(count, 5))
    np.save(tmp_path / "e.npy", rng.normal(size=(count, 3)))
    rows, manifest = select(run, tmp_path / "out", "--budget", count, "--embeddings", tmp_path / "e.npy")
    assert len(rows) == count - count // 5 and manifest["parameters"]["num_clusters"] == max(1, count // 5)
    fewer = "fewer rows than the budget" in capsys.readouterr().err
    assert fewer == (count >= 5)
    if count == 10:
        assert int(np.argmax(ifd)) not in rows


def test_what_else_is_asked_for_selects_by_the_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ifd = np.random.default_rng(6).uniform(0.2, 0.9, 60)
    run = write_ifd(tmp_path / "run", pool(60), ifd)
    highest = np.argsort(-ifd)[:5].tolist()
    for number, flags in enumerate((("--by", "ifd"), ("--max-similarity", "1"), ("--keep-all",))):
        assert select(run, tmp_path / str(number), "--budget", "5", *flags)[0] == highest
    wici = write_influence(tmp_path / "wici", 60, pool=pool(60))
    capsys.readouterr()
    select(wici, tmp_path / "w", "--budget", "5")
    assert "--procedure paper" in capsys.readouterr().out
    other = write_run(tmp_path / "other", "perplexity", pool(60), {"mean_logprob": -ifd, "ifd": ifd})
    assert select(other, tmp_path / "o", "--budget", "5", "--by", "ifd")[0] == highest
    assert "recommended" not in select(other, tmp_path / "p", "--budget", "5")[1]["parameters"].values()
    assert main(["select", str(run), "--budget", "5", "--output", str(tmp_path / "x"), "--procedure", "paper"]) == 2
    assert "of instsel wici, and" in capsys.readouterr().err
    words = ["select", str(run), "--budget", "5", "--output", str(tmp_path / "x"), "--procedure", "recommended"]
    assert main([*words, "--length-strata", "3"]) == 2 and "decides --length-strata" in capsys.readouterr().err


def test_a_folder_with_an_earlier_default_is_refused_and_a_finished_one_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_ifd(tmp_path / "run", pool(60), np.random.default_rng(7).uniform(0.2, 0.9, 60))
    select(run, tmp_path / "out", "--budget", "5", "--by", "ifd")  # what an earlier version did by itself
    capsys.readouterr()
    words = ["select", str(run), "--budget", "5", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "holds a run with other settings" in said and "procedure" in said and "Traceback" not in said
    assert main([*words, "--overwrite"]) == 0
    written = (tmp_path / "out/selected.parquet").stat().st_mtime_ns
    capsys.readouterr()
    assert main(words) == 0
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "out/selected.parquet").stat().st_mtime_ns == written
    (tmp_path / "out/selected.parquet").write_bytes(b"damaged")
    assert main(words) == 0 and pq.read_table(tmp_path / "out/selected.parquet").num_rows == 5
