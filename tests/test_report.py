"""The page of `instsel report`: it says what the files hold, whole and escaped, and a sample of a large pool."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_pages import Tags, data_of, loading
from run_folders import texts, write_influence, write_run, write_selection
from scipy.stats import spearmanr

from instsel.report import Section, build_page, read_report
from instsel.report.reading import listed_rows
from instsel.runs.durable_files import digest_file

HOSTILE = (
    "</script><script>document.title='taken'</script>", "<img src=http://evil.example/a.png onerror=alert(1)>",
    "'\"></textarea></style>&amp;", "a\x00b\x1b[31m\x85\u2028", "\u202eright to left\u2066", "\ufeff\ufffe\uffff",
    "x" * 200_000, "<!--<script>", "]]>", "שלום עולם", "\r\n\n\n", "",
)  # fmt: skip


def test_it_says_what_the_files_hold(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "pool", 40)
    report = read_report([run])
    page = build_page(report)
    table = pq.read_table(run / "scores.parquet")
    score, ifd = (table.column(name).to_numpy() for name in ("score", "ifd"))
    order = [row for row in np.argsort(-score, kind="stable").tolist() if np.isfinite(score[row])]
    assert report.highest == order[:10] and report.lowest == order[::-1][:10]
    text = Tags(page).text
    rho = spearmanr(score, ifd, nan_policy="omit").statistic
    assert f"Rank correlation {rho:+.2f}" in text and "over 38 rows" in text
    assert "40rows" in text and "38rows with a score, 95.0 %" in text and "1.70" in text
    assert "the sequence is longer than the model" in text and "ask 3" in text
    data = data_of(page)
    labels = [column["label"] for column in data["columns"]]
    assert labels == ["row", "wICI", "IFD", "status", "prompt", "answer"]
    for number, shown, hard, status, prompt, answer in data["rows"]:
        assert shown == pytest.approx(score[number], rel=1e-5) or (shown is None and np.isnan(score[number]))
        assert hard == pytest.approx(ifd[number], rel=1e-5) or hard is None
        assert status == table.column("status")[number].as_py()
        assert prompt.startswith(f"ask {number}") and answer.startswith(f"answer {number} ")
    assert len(data["rows"]) == 40


def test_probes_stand_with_the_rows_that_helped_them(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "pool", 40)
    report = read_report([run])
    best = report.highest[0]
    influence = pq.read_table(run / "scores.parquet").column("influence")[best].as_py()
    assert [one.row for one in report.companions[best]] == [(best + k) % 40 for k in (1, 2, 3)]
    assert [dict(one.figures)["influence"] for one in report.companions[best]] == influence
    assert f"ask {(best + 2) % 40}" in build_page(report)


def test_whatever_texts_hold_is_text(tmp_path: Path) -> None:
    pool = {name: list(HOSTILE) for name in ("instruction", "output")}
    pool["<b>&\"'"] = pool.pop("output")  # a column's name is data too
    run = write_influence(
        tmp_path / "pool", len(HOSTILE), pool=pool, column_mapping={"response": "<b>&\"'"},
        input=HOSTILE[0], model=HOSTILE[1], parameters={HOSTILE[2]: HOSTILE[3]},
        findings={HOSTILE[0]: {"text": HOSTILE[1]}},
    )  # fmt: skip
    page = build_page(read_report([run], colour_by="<b>&\"'"), title=HOSTILE[0])
    tags = Tags(page)
    assert loading(tags) == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069\ufffe\uffff]", page)
    assert "evil.example" in tags.text and "שלום עולם" in tags.text and "more characters" in tags.text
    assert "x" * 3000 not in page
    prompts = {row[-2] for row in data_of(page)["rows"]}
    assert HOSTILE[0] in prompts and "⟨U+202E⟩right to left⟨U+2066⟩" in prompts
    page.encode("utf-8")
    # Negative control: the same text put in as HTML is seen.
    broken = page.replace("</main>", "<img src=http://evil.example/a.png></main>")
    Tags.VOID = (*Tags.VOID, "img")
    assert loading(Tags(broken)) == ["img", "src"]


def test_difficulty_of_one_run_against_influence_of_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pool = texts(60)
    ifd = rng.random(60)
    columns = {"ifd": ifd, "direct": -rng.random(60), "conditional": -rng.random(60), "num_tokens": np.arange(1, 61)}
    hard = write_run(tmp_path / "hard", "ifd", pool, columns)
    score = rng.normal(size=60)
    helps = write_run(tmp_path / "helps", "rico", pool, {"score": score, "consistency": rng.random(60)})
    report = read_report([hard, helps])
    assert report.pair is not None and (report.pair[0].values == ifd).all() and (report.pair[1].values == score).all()
    assert report.length is not None and report.length.axis == "length of the answer, tokens"
    page = build_page(report)
    assert f"Rank correlation {spearmanr(ifd, score).statistic:+.2f}" in page and "Difficulty against influence" in page


def test_scores_of_two_models_are_told_apart(tmp_path: Path) -> None:
    one = write_influence(tmp_path / "small", 30)
    same = write_influence(tmp_path / "again", 30)
    other = write_influence(tmp_path / "large", 30, model_digest="another")
    assert [m.label for m in read_report([one, other]).measures] == [
        "wICI (small)", "IFD (small)", "wICI (large)", "IFD (large)",
    ]  # fmt: skip
    assert [m.label for m in read_report([one, same]).measures] == ["wICI", "IFD"], "what is the same is shown once"


def test_a_selection_is_shown_beside_its_pool(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "pool", 40)
    rows = [1, 7, 9, 30]
    findings = {"clusters": {"maths": [25, 3], "<b>prose": [15, 1]}, "num_clusters_found": 2}
    chosen = write_selection(tmp_path / "chosen", run, rows, findings=findings)
    for folders in ([run, chosen], [chosen, run], [chosen]):  # the last finds the pool by itself
        report = read_report(folders)
        assert report.whole and report.selection is not None and report.selection.rows.tolist() == rows
        assert report.classes["selected"].tolist() == rows and len(report.classes["not selected"]) == 36
        text = Tags(build_page(report)).text
        assert "4 of 40 rows: the highest by wICI within 25 % of the rows" in text
        assert "maths25312.0 %" in text.replace("\n", "") and "<b>prose1516.7 %" in text.replace("\n", "")
    (run / "manifest.json").unlink()
    alone = read_report([chosen])
    assert not alone.whole and alone.count == 4 and "The pool is not at hand" in build_page(alone)
    assert {row[-2].split("\n")[0] for row in data_of(build_page(alone))["rows"]} == {f"ask {row}" for row in rows}


def test_colours_follow_a_column(tmp_path: Path) -> None:
    pool = {**texts(60), "task": [f"task {row % 24}" if row % 2 else "often" for row in range(60)]}
    report = read_report([write_influence(tmp_path / "pool", 60, pool=pool)], colour_by="task", order=["task 3"])
    assert list(report.classes)[:2] == ["task 3", "often"] and list(report.classes)[-1] == "other"
    assert sum(map(len, report.classes.values())) == 60 and len(report.classes["often"]) == 30
    by_number = read_report([tmp_path / "pool"], colour_by="ifd")  # any column will do
    assert len(by_number.classes) == 8


def test_groups_show_every_answer_with_its_score(tmp_path: Path) -> None:
    groups = [[f"first of {row}", f"second of {row}"] for row in range(6)]
    scores = [np.array([-1.0 - row, -0.5]) for row in range(5)] + [np.array([np.nan, np.nan])]
    columns = {"best": np.array([1, 1, 1, 1, 1, -1]), "scores": scores, "status": np.array(["ok"] * 5 + ["too_long"])}
    pool = {"instruction": [f"ask {row}" for row in range(6)], "candidates": groups}
    report = read_report([write_run(tmp_path / "groups", "grape", pool, columns)])
    np.testing.assert_allclose(report.score.values, [-0.5] * 5 + [np.nan])
    np.testing.assert_allclose(report.measures[1].values, [0.5 + row for row in range(5)] + [np.nan])
    assert [dict(one.figures) for one in report.companions[4]] == [{"log-probability": -0.5}, {"log-probability": -5.0}]
    page = build_page(report)
    assert "answer 2 (best)" in page and "answers, the best first" in page
    assert page.index("2. second of 4") < page.index("1. first of 4"), "the best first in its card"
    assert report.sources is None, "candidates that say nothing of their source"


def test_sections_of_ones_own_come_first(tmp_path: Path) -> None:
    report = read_report([write_influence(tmp_path / "pool", 12)])
    page = build_page(report, title="a & b", leading=[Section("Mine <first>", "<p>ready</p>", "mine")])
    assert page.index("Mine &lt;first&gt;") < page.index("Distribution of scores") and "<p>ready</p>" in page
    assert "<title>a &amp; b</title>" in page and '<a href="#s1">mine</a>' in page


def test_a_large_pool_is_sampled_the_same_way_every_time() -> None:
    score = np.random.default_rng(0).normal(size=50_000)
    score[::7] = np.nan
    rows = listed_rows(score, 10_000)
    assert len(rows) == 10_000 == len(np.unique(rows)) and (np.diff(rows) > 0).all()
    finite = np.flatnonzero(np.isfinite(score))
    ends = finite[np.argsort(score[finite])]
    assert set(ends[:100]) | set(ends[-100:]) <= set(rows)
    assert (listed_rows(score, 10_000) == rows).all()
    assert 0.1 < np.isnan(score[rows]).mean() < 0.19, "rows without a score are drawn as often as others"
    assert len(listed_rows(np.full(30, np.nan), 10)) == 10


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_small_and_scoreless_runs_have_a_page(tmp_path: Path, count: int) -> None:
    run = write_influence(tmp_path / "pool", count)
    Tags(build_page(read_report([run])))
    none = {"score": np.full(count, np.nan), "status": np.full(count, "nonfinite")}
    page = build_page(read_report([write_run(tmp_path / "none", "miwv", texts(count), none)]))
    Tags(page)
    assert count == 0 or "the model gave NaN or infinity" in page


def test_a_result_in_json_lines_gives_the_same_numbers(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "pool", 40)
    parquet = data_of(build_page(read_report([run])))
    rows = pq.read_table(run / "scores.parquet").to_pylist()
    (run / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = json.loads((run / "manifest.json").read_text())
    output = {"name": "scores.jsonl", "digest": digest_file(run / "scores.jsonl")}
    (run / "manifest.json").write_text(json.dumps({**said, "output": output}))
    assert data_of(build_page(read_report([run]))) == parquet


def test_rows_of_no_known_format_are_shown_by_their_columns(tmp_path: Path) -> None:
    pool = {"question": ["why"], "tags": [["a", "b"]]}
    page = build_page(read_report([write_run(tmp_path / "odd", "mine", pool, {"score": np.array([1.0])})]))
    assert "question: why" in page and "tags: [&quot;a&quot;, &quot;b&quot;]" in page


def test_a_selection_by_another_column_says_so(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "pool", 40, pool={**texts(40), "quality": np.arange(40.0)})
    chosen = write_selection(tmp_path / "chosen", run, [39, 38])
    said = json.loads((chosen / "manifest.json").read_text())
    said["parameters"]["by"] = "quality"
    (chosen / "manifest.json").write_text(json.dumps(said))
    report = read_report([chosen])
    assert report.score.label == "wICI" and "the highest by quality within" in build_page(report)
