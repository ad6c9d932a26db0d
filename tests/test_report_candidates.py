"""What a report says of candidates' sources, of answers' lengths, of gains, and how charts bear long names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from report_pages import Tags
from run_folders import write_run

import instsel
from instsel.methods.influence import score_by_rule
from instsel.report import build_page, read_report
from instsel.report.charts import scatter

SOURCES = ["looping", "plain", "human"]


def write_groups(folder: Path, count: int = 12) -> Path:
    """Groups of three answers, of which that of `looping` wins two in three and the first one of `plain` the others."""
    best = np.array([1 if row % 3 == 0 else 0 for row in range(count)])
    groups = [
        [{"source": name, "response": f"{name} {row}"} for name in (SOURCES if row else ["looping", "plain", "plain"])]
        for row in range(count)
    ]
    scores = [np.where(np.arange(3) == place, -0.5, -2.0) for place in best]
    columns = {"best": best, "scores": scores, "status": np.full(count, "ok")}
    return write_run(
        folder, "grape", {"instruction": [f"ask {row}" for row in range(count)], "candidates": groups}, columns
    )


def test_wins_of_each_source_beside_those_of_chance(tmp_path: Path) -> None:
    report = read_report([write_groups(tmp_path / "groups")])
    assert report.sources is not None and report.sources.key == "source"
    found = {name: (one.groups, one.wins, one.by_chance) for name, one in report.sources.counts.items()}
    assert found["looping"] == (12, 8, pytest.approx(4)) and found["human"] == (11, 0, pytest.approx(11 / 3))
    assert found["plain"] == (12, 4, pytest.approx(2 / 3 + 11 / 3)), "two of the first group's answers"
    text = Tags(build_page(report)).text.replace("\n", "")
    assert "Best answers by source" in text and "looping12866.7 %33.3 %" in text


def test_a_group_has_the_colour_of_its_best_answer(tmp_path: Path) -> None:
    report = read_report([write_groups(tmp_path / "groups")], colour_by="source")
    assert {name: rows.tolist() for name, rows in report.classes.items()} == {
        "looping": [row for row in range(12) if row % 3], "plain": [0, 3, 6, 9],
    }  # fmt: skip
    with pytest.raises(ValueError, match="no column 'task'"):
        read_report([tmp_path / "groups"], colour_by="task")


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_a_score_that_follows_the_length_is_said_first(sign: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    length = rng.integers(5, 500, 60)
    score = sign * np.log(length) + 0.1 * rng.standard_normal(60)
    pool = {"instruction": ["ask"] * 60, "output": ["answer"] * 60}
    columns = {"ifd": score, "num_tokens": length, "status": np.full(60, "ok")}
    page = build_page(read_report([write_run(tmp_path / "run", "ifd", pool, columns)]))
    said = "follows the answer" in page[: page.index("<main>")]
    assert said == (sign != 0)
    assert ("longer answers rank higher" in page) == (sign > 0) and ("shorter answers rank higher" in page) == (
        sign < 0
    )


def test_a_selection_drawn_at_random_is_said_to_be(tmp_path: Path) -> None:
    rows = [{"instruction": f"ask {row}", "output": "yes", "score": row / 40, "kind": row % 2} for row in range(40)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    from instsel.cli import main

    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool.parquet")
    told = [str(tmp_path / "pool.parquet"), "--budget", "10", "--coverage", "proportional", "--clusters", "kind"]
    for name, more in (("drawn", ["--draw-share", "0.5"]), ("highest", [])):
        assert main(["select", *told, *more, "--output", str(tmp_path / name), "--quiet"]) == 0
        page = build_page(read_report([tmp_path / name]))
        assert ("from the 50 % of each cluster with the highest" in page) == (name == "drawn")
        assert ("the highest by" in page) == (name == "highest")


def test_the_gain_is_the_same_whatever_the_rule() -> None:
    rng = np.random.default_rng(1)
    probes, similarity = np.array([[1, 2], [2, 0], [0, -1]]), rng.random((3, 2))
    direct, conditional = -3 - rng.random(3), -2 - rng.random(3)
    one_shot = -1.5 - rng.random((3, 2))
    status = np.full((3, 2), "ok", dtype="<U13")
    found = {
        rule: instsel.methods.influence.combine_influence(
            direct=direct, direct_status=np.full(3, "ok", "<U13"), conditional=conditional,
            conditional_status=np.full(3, "ok", "<U13"), one_shot=one_shot, one_shot_status=status, probes=probes,
            similarity=similarity, rule=rule,
        )
        for rule in ("paper", "release", "gain")
    }  # fmt: skip
    want = [np.mean([one_shot[a, k] - conditional[b] for k, b in enumerate(probes[a]) if b >= 0]) for a in range(3)]
    for rule, columns in found.items():
        np.testing.assert_allclose(columns["gain"], want, rtol=1e-12, err_msg=rule)
    np.testing.assert_array_equal(found["gain"]["gain"], found["gain"]["score"])
    assert not np.allclose(found["paper"]["score"], want), "the control"
    paper = found["paper"]
    np.testing.assert_allclose(score_by_rule(paper["ifd"], paper["one_shot_ifd"], probes, similarity, "gain"), want)


def test_long_names_fit_into_their_charts() -> None:
    long = "a score with a name that is longer than its chart is wide " * 3
    points = np.arange(5.0)
    for title in ("short", long):
        drawn = scatter(points, points, {"": np.arange(5)}, title=title, x_axis=title, y_axis=title)
        lines = re.findall(r'<text [^>]*font-size="(\d+)"[^>]*>([^<]*)</text>', drawn)
        assert all(int(size) * 0.58 * len(content) <= 480 for size, content in lines), "within the chart's width"
        assert f"<title>{title.strip()}" in drawn, "whole for those who hear it"
        assert ("…" in drawn) == (title == long)
