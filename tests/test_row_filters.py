"""Rows left out for what their texts are, and ranks among rows of like length."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from tiny_model import tiny_model_folder

import instsel
from instsel.cli import main
from instsel.records import Example, Group
from instsel.records.repetition import repeated_share
from instsel.runs import progress
from instsel.selection.length_strata import rank_within_strata
from instsel.selection.row_filters import is_cut_off, left_out

LOOP = "The same again and again. " * 8
WHOLE = "It was late. She closed the door behind her and went down to the river alone."
CUT = "It was late. She closed the door behind her and went down to the"


def test_the_share_of_repeated_grams_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    for size in (0, 3, 4, 5, 40):
        words = [str(word) for word in rng.integers(0, 3, size)]
        grams = [tuple(words[i : i + 4]) for i in range(size - 3)]
        expected = sum(gram in grams[:i] for i, gram in enumerate(grams)) / len(grams) if len(grams) > 1 else 0.0
        assert repeated_share(" ".join(words)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (CUT, True), (WHOLE, False), (f'"{WHOLE}"', False), ("Yes", False), ("42", False), ("", False), ("   ", False),
        ("Here it is.\n```python\nprint(1)\n", True), ("Here it is.\n```python\nprint(1)\n```", False),
        ("1. one\n2. two\n3. three", False), ("a list of eight words that has no marks at all", False),
    ],
)  # fmt: skip
def test_an_answer_that_stops(text: str, cut: bool) -> None:
    assert is_cut_off(text) is cut


def test_each_filter_leaves_out_its_own() -> None:
    pytest.importorskip("datasketch")
    rows = [
        Example("Tell a story.", "", WHOLE), Example("Tell a story.", "", LOOP), Example("Tell a story.", "", CUT),
        Example("Tell a  STORY.", "", WHOLE), Example("Tell a story now.", "", WHOLE),
        Example("Name a tree.", "", "An oak."),
    ]  # fmt: skip
    every = {"repetition": None, "cut-off": None, "duplicates": None, "near-duplicates": 0.5}
    assert left_out(rows, every) == [None, "repetition", "cut-off", "duplicates", "near-duplicates", None]
    assert left_out(rows, {}) == [None] * 6, "the control: nothing is asked for"
    assert left_out(rows, {"repetition": 0.99})[1] is None


def test_a_group_goes_where_all_of_its_answers_do() -> None:
    groups = [Group("Tell.", responses=(LOOP, WHOLE)), Group("Tell.", responses=(LOOP, LOOP))]
    assert left_out(groups, {"repetition": None}) == [None, "repetition"]


@pytest.mark.parametrize("filters", [{"length": None}, {"cut-off": 0.5}, {"repetition": 0.0}, {"repetition": 1.5}])
def test_filters_that_are_none(filters: dict[str, float | None]) -> None:
    with pytest.raises(ValueError, match="filters: "):
        left_out([], filters)


def test_a_rank_is_counted_within_the_part() -> None:
    rng = np.random.default_rng(1)
    length = np.sort(rng.integers(1, 30, 60))  # with many of one length, which stay together
    score = rng.integers(0, 9, 60).astype(float)
    usable = rng.random(60) < 0.8
    rank = rank_within_strata(score, length, usable, 4)
    rows = np.flatnonzero(usable)
    part = np.searchsorted(np.sort(length[rows]), length[rows]) * 4 // len(rows)
    for i, row in enumerate(rows):
        beside = score[rows[part == part[i]]]
        expected = ((beside < score[row]).sum() + ((beside == score[row]).sum() + 1) / 2) / len(beside)
        assert rank[row] == pytest.approx(expected)
    assert np.isnan(rank[~usable]).all()


def test_a_score_that_is_the_length_selects_every_length() -> None:
    length = np.arange(1, 101)
    plain = instsel.select(length.astype(float), 10)
    ranked = instsel.select(length.astype(float), 10, num_tokens=length, length_strata=10)
    assert length[plain].min() == 91, "the control: without strata the longest"
    assert sorted(length[ranked].tolist()) == list(range(10, 101, 10))


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"length_strata": 1, "num_tokens": [1, 2]}, "at least 2"), ({"length_strata": 2}, "needs num_tokens"),
        ({"length_strata": 2.0, "num_tokens": [1, 2]}, "whole number"),
        ({"length_strata": 2, "num_tokens": [1]}, "one for"),
        ({"length_strata": 2, "num_tokens": [1.0, float("nan")]}, "finite"),
    ],
)  # fmt: skip
def test_strata_that_are_none(keywords: dict[str, object], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        instsel.select([1.0, 2.0], 1, **keywords)  # type: ignore[arg-type]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [WHOLE, LOOP, CUT, WHOLE, "An oak.", "No."]
    rows = [{"instruction": "Tell.", "input": "", "output": one, "score": float(len(one))} for one in answers]
    rows = [row | {"num_tokens": len(row["output"].split())} for row in rows]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["select", str(file), "--budget", "2", "--output"]
    assert main([*told, str(tmp_path / "a"), "--leave-out", "repetition", "cut-off", "duplicates"]) == 0
    said = capsys.readouterr().out
    assert "1 left out: repetition" in said and "1 left out: cut-off" in said and "1 left out: duplicates" in said
    assert "follows the answer's length" in said and "--length-strata 10" in said
    assert pq.read_table(tmp_path / "a/selected.parquet")["row"].to_pylist() == [0, 4]
    assert main([*told, str(tmp_path / "b"), "--length-strata", "2", "--leave-out", "repetition=0.9"]) == 0
    assert set(pq.read_table(tmp_path / "b/selected.parquet")["row"].to_pylist()) == {1, 2}, "the longest of each half"
    repeated = ["--config", str(tmp_path / "b/manifest.json"), "--output", str(tmp_path / "again")]
    assert main(repeated) == 0
    assert pq.read_table(tmp_path / "again/selected.parquet").equals(pq.read_table(tmp_path / "b/selected.parquet"))
    assert json.loads((tmp_path / "again/manifest.json").read_text())["parameters"]["leave_out"] == {"repetition": 0.9}
    assert main([*told, str(tmp_path / "c"), "--leave-out", "repetition=2"]) == 2
    assert "repetition must be a share" in capsys.readouterr().err


@pytest.mark.long
def test_lengths_of_a_run_whose_result_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run = tmp_path / "rows.jsonl", tmp_path / "run"
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(1, n)))} for n in range(3, 23)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for method, score, folder in (("ifd", "ifd", tmp_path / "ifd"), ("wici", "score", run)):
        assert main([method, str(file), "--model", tiny_model_folder(), "--output", str(folder)]) == 0
        said = re.findall(
            r"(\w+) follows the answer's length \(rank correlation ([+-][\d.]+)\)", capsys.readouterr().out
        )
        scores = pq.read_table(folder / "scores.parquet")[score].to_numpy()
        rho = spearmanr(scores, range(len(rows))).statistic  # the later the row, the longer its answer
        assert said == ([(score, f"{rho:+.2f}")] if abs(rho) > 0.5 else []), method
    assert main(["select", str(run), "--budget-tokens", "60", "--output", str(tmp_path / "chosen")]) == 0
    assert "of 60 tokens" in capsys.readouterr().out
    assert main(["select", str(run), "--budget", "4", "--length-strata", "4", "--output", str(tmp_path / "four")]) == 0
    chosen = pq.read_table(tmp_path / "four/selected.parquet")["row"].to_pylist()
    assert sorted(row // 5 for row in chosen) == [0, 1, 2, 3], "one of each quarter by length"


def test_near_duplicates_say_how_far_they_are() -> None:
    pytest.importorskip("datasketch")
    rows = [Example("Add.", "", f"{i} and {i} are {2 * i} and that is all there is to say of {i}.") for i in range(9)]
    told: list[tuple[int, int]] = []
    found = left_out([*rows, rows[3], rows[3]], {"near-duplicates": None}, lambda *one: told.append(one))
    assert found == [None] * 9 + ["near-duplicates"] * 2
    assert told == [(i + 1, 11) for i in range(11)]


def test_near_duplicates_are_those_of_the_sets_of_grams() -> None:
    """MinHash with 128 permutations estimates a similarity of J with a deviation of sqrt(J (1 - J) / 128)."""
    pytest.importorskip("datasketch")
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(400)]
    rows = []
    for i in range(60):
        first = [words[j] for j in rng.integers(0, 400, 80)]
        changed = [words[rng.integers(0, 400)] if place < i // 2 else word for place, word in enumerate(first)]
        rows += [Example("", "", " ".join(first)), Example("", "", " ".join(changed))]
    found = left_out(rows, {"near-duplicates": 0.8})
    for one, other, reason in zip(rows[::2], rows[1::2], found[1::2], strict=True):
        grams = [{tuple(r.response.split()[i : i + 4]) for i in range(77)} for r in (one, other)]
        similarity = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        if abs(similarity - 0.8) > 0.15:
            assert (reason == "near-duplicates") == (similarity > 0.8), similarity


def test_the_command_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasketch")
    monkeypatch.setattr(progress, "_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 0.0)
    rows = [{"instruction": f"Name {i}.", "output": f"It is {i} and {i * i}.", "ifd": i / 9} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["select", str(tmp_path / "rows.jsonl"), "--by", "ifd", "--budget", "2", "--leave-out", "near-duplicates"]
    assert main([*words, "--output", str(tmp_path / "a")]) == 0
    assert "near-duplicates: " in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "b"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
