"""The study of what selection is worth: its statistics, its plan, and a whole small run on somebody's own pool."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_model_folder

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")
pytest.importorskip("scipy")


def test_differences_are_paired_by_seed_and_corrected_for_their_number():
    from claims.intervals import paired_differences
    from scipy import stats

    rng = np.random.default_rng(0)
    pools = {seed: rng.normal(scale=5.0) for seed in range(8)}  # far larger than what is looked for
    noise = {name: dict(zip(pools, rng.normal(scale=0.05, size=8), strict=True)) for name in "abcd"}
    shift = {"a": 0.0, "b": -0.2, "c": 0.0, "d": 0.0}
    losses = {name: {seed: pools[seed] + shift[name] + noise[name][seed] for seed in pools} for name in shift}
    found = paired_differences(losses, "a")
    assert set(found) == {"b", "c", "d"}
    assert found["b"]["high"] < 0 and found["b"]["p_holm"] < 0.01
    p = [stats.ttest_rel(list(losses[name].values()), list(losses["a"].values())).pvalue for name in "bcd"]
    assert [found[name]["p"] for name in "bcd"] == pytest.approx(p)
    assert found["b"]["p_holm"] == pytest.approx(min(1.0, 3 * p[0]))
    assert max(found[name]["p_holm"] for name in "cd") >= 2 * min(p[1:]) or max(p[1:]) == 1.0
    # Unpaired, the pools' own spread hides the same difference.
    assert stats.ttest_ind(list(losses["b"].values()), list(losses["a"].values())).pvalue > 0.5


def test_the_share_of_a_distance_is_that_of_the_means():
    from claims.intervals import share_of_distance

    losses = {"start": {0: 1.0, 1: 2.0}, "end": {0: 0.0, 1: 1.0}, "half": {0: 0.5, 1: 1.5}, "worse": {0: 1.5, 1: 2.5}}
    assert share_of_distance(losses, "half", "start", "end") == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert share_of_distance(losses, "worse", "start", "end")["mean"] == -0.5


def test_no_pool_both_chooses_and_confirms_and_nothing_is_planned_twice():
    from claims import plan

    groups = (plan.EXPLORING, plan.CONFIRMING, plan.TUNING_SEEDS)
    assert len(set().union(*groups)) == sum(map(len, groups)) and min(map(len, groups[:2])) >= 8
    for part in plan.units().values():
        for _, trials in part:
            assert len({trial.name for trial in trials}) == len(trials)
    assert {key.seed for key, _ in plan.units()["confirmation"]} == set(plan.CONFIRMING)


def test_a_line_that_a_kill_cut_is_measured_again(tmp_path):
    from claims.trials import read_lines

    path = tmp_path / "lines.jsonl"
    path.write_text('{"name": "a"}\n{"name": "b"')
    assert read_lines(path) == [{"name": "a"}]
    with path.open("a") as file:
        file.write('{"name": "b"}\n')
    assert [line["name"] for line in read_lines(path)] == ["a", "b"]


def test_drawing_is_from_the_better_half_of_each_cluster():
    from claims.plan import PoolKey, Trial
    from claims.subsets import selected_rows

    from instsel.neighbors.clusters import cluster_rows

    rng = np.random.default_rng(0)
    score, embedding = rng.normal(size=200), rng.normal(size=(200, 8))
    trial = Trial("test", PoolKey(3), "gain", "drawn", clusters=5)
    rows = selected_rows(trial, score, embedding)
    labels = cluster_rows(embedding, 5, seed=3).labels
    assert len(rows) == 20
    assert all(score[row] >= np.median(score[labels == labels[row]]) for row in rows)


@pytest.mark.parametrize("flags", [[], ["--lora-rank", "2"]], ids=["all weights", "lora"])
def test_a_study_of_ones_own_pool_runs_and_continues(tmp_path, monkeypatch, flags):
    if flags:
        pytest.importorskip("peft")
    from claims import own_pool, plan
    from claims.__main__ import main

    monkeypatch.setattr(plan, "HELD_OUT", 6)
    monkeypatch.setattr(own_pool, "RATES", (1e-3,))
    monkeypatch.setattr(own_pool, "COMPARED", (("random", "none"), ("gain", "drawn"), ("wici paper", "cosine")))
    rows = [{"instruction": f"name number {i}", "output": f"it is {i * i}"} for i in range(50)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        *("--work", str(tmp_path / "work"), "--output", str(tmp_path / "found.json"), "--model", tiny_model_folder()),
        *("--pool", str(tmp_path / "pool.jsonl"), "--pool-size", "40", "--seeds", "2", "--processes", "1", *flags),
    ]
    assert main(command) == 0
    lines = {path.name: path.read_text() for path in (tmp_path / "work" / "trials").iterdir()}
    assert sorted(lines) == ["own-100-0.0.jsonl", "own-101-0.0.jsonl"]
    first = tmp_path / "work" / "trials" / "own-100-0.0.jsonl"
    first.write_text("".join(lines[first.name].splitlines(keepends=True)[:1]))
    assert main(command) == 0
    assert first.read_text() == lines[first.name]  # the same numbers again
    found = json.loads((tmp_path / "found.json").read_text())["own pool"]
    assert set(found) == {"random, none", "gain, drawn", "wici paper, cosine"}
    assert found["gain, drawn"]["seeds"] == 2 and found["gain, drawn"]["from_reference"]["seeds"] == 2
    assert found["random, none"]["from_reference"] is None and found["random, none"]["rows"] == 4
    assert main([*command, "--corrupted", "0.5"]) == 0  # the same work folder holds both
    result = json.loads((tmp_path / "found.json").read_text())
    assert result["plan"]["corrupted"] == 0.5 and result["plan"]["file"] == "pool"
    assert set(result["own pool"]) == {*found, "truth, none"}
    assert result["own pool"]["truth, none"]["clean"] == 1.0 and result["own pool"]["random, none"]["clean"] < 1.0
    assert result["own pool"]["random, none"]["loss"] != found["random, none"]["loss"]


def test_exchanged_answers_are_other_rows_and_held_out_rows_stay():
    from claims.plan import PoolKey
    from claims.pools import Pool, exchange_answers

    rows = [{"instruction": f"{i}", "input": "", "output": f"answer {i}"} for i in range(50)]
    pool = Pool(rows, rows[:3], np.full(50, ""), np.full(50, ""))
    found = exchange_answers(pool, PoolKey(7, 0.4))
    moved = [new["output"] != old["output"] for new, old in zip(found.rows, rows, strict=True)]
    assert sum(moved) == 20 and sorted(row["output"] for row in found.rows) == sorted(row["output"] for row in rows)
    assert (found.truth == np.where(moved, "other instruction", "clean")).all()
    assert [row["instruction"] for row in found.rows] == [row["instruction"] for row in rows]
    assert found.held_out is pool.held_out and exchange_answers(pool, PoolKey(7, 0.0)) is pool


def test_pools_are_described_once_and_the_scores_are_not_needed_afterwards(tmp_path, monkeypatch):
    from claims import descriptions
    from claims.plan import PoolKey
    from claims.pools import demo_pool
    from scipy import stats

    keys = [PoolKey(900), PoolKey(901)]
    pool = demo_pool(keys[0], 60, 5)
    monkeypatch.setattr(descriptions, "demo_pool", lambda key: pool)
    rng = np.random.default_rng(0)
    names = (*descriptions.RULES, *descriptions.DIFFICULTIES, "length")
    scores = {name: rng.normal(size=60) for name in names}
    scores["wici release, all"][:10] = np.nan
    (tmp_path / "scores").mkdir()
    np.savez(tmp_path / "scores" / "900-0.08.npz", **scores)
    found = descriptions.described_pools(tmp_path, keys)
    assert [key for key, _ in found] == keys[:1]  # of the other there is nothing
    about = found[0][1]
    ranked = stats.spearmanr(scores["ifd"][10:], scores["wici release, all"][10:]).statistic
    assert about["correlations"]["ifd and wici release, all"] == pytest.approx(ranked)
    best = np.argsort(-scores["gain"])[:6]
    clean = np.mean(pool.truth[best] == "clean")
    assert about["composition"]["gain"]["highest"]["classes"]["clean"] == pytest.approx(clean)
    (tmp_path / "scores" / "900-0.08.npz").unlink()
    assert descriptions.described_pools(tmp_path, keys) == found


def test_a_pool_with_too_few_short_rows_is_refused(tmp_path):
    from claims.pools import file_pool
    from transformers import AutoTokenizer

    (tmp_path / "pool.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a", "output": " "}\n')
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    with pytest.raises(ValueError, match="wanted 5 candidates and 1 held out, got 0 and 1"):
        file_pool(tmp_path / "pool.jsonl", None, 0, 5, 1, tokenizer, longest=100)


def test_the_page_gets_every_part_between_its_marks_and_keeps_the_rest(tmp_path):
    result = FOLDER / "results" / "claims.json"
    if not result.is_file():
        pytest.skip("no result beside the tests")
    from claims.page import PARTS, write

    text = "before\n" + "".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\nkept {name}\n" for name in PARTS)
    page = tmp_path / "page.md"
    page.write_text(text)
    write(result, page)
    written = page.read_text()
    assert "old" not in written.split("\n") and all(f"kept {name}" in written for name in PARTS)
    write(result, page)
    assert page.read_text() == written
    names = ("docs/what_selection_is_worth.md", "docs/project/study.md", "README.md")
    shown = [(FOLDER.parent / name).read_text() for name in names]
    copies = [tmp_path / f"shown {place}.md" for place in range(len(shown))]
    for copy, before in zip(copies, shown, strict=True):
        copy.write_text(before)
    write(result, *copies)
    assert [copy.read_text() for copy in copies] == shown  # the pages are the result's
    for name in PARTS:  # none has been lost between them
        assert sum(f"<!-- {name}:begin -->" in text for text in shown[:2]) == 1, name


def test_trials_done_again_are_held_beside_those_on_record(tmp_path):
    from claims.again import PROPOSAL, REFERENCE, compare

    def write(folder, seed, losses, tokens):
        path = tmp_path / folder / "trials" / f"confirmation-{seed}-0.08.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"rows": 100, "tokens": tokens, "truth_classes": {"clean": 9}, "num_families": 3}
        lines = [
            {"name": name, "loss": loss, **about} for name, loss in zip((PROPOSAL, REFERENCE), losses, strict=True)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    for seed in (100, 101, 102):  # the third was not done again
        write("before", seed, (0.3, 0.5), 50)
    write("now", 100, (0.4, 0.5), 50)
    write("now", 101, (0.3, 0.4), 51)
    found = compare(tmp_path / "before", tmp_path / "now")
    assert (found["pools"], found["trials"], found["rows as before"]) == (2, 4, 2)
    assert found["median"] == pytest.approx(0.05) and found["largest"] == pytest.approx(0.1)
    assert found["same digits"] == 2
    assert found["difference"]["mean"] == pytest.approx(0.0) and found["difference"]["high"] > 0.1
    assert [gain["mean"] for gain in found["proposal minus random"]] == pytest.approx([-0.2, -0.1])
    again = compare(tmp_path / "now", tmp_path / "now")
    assert again["largest"] == 0.0 and again["rows as before"] == again["same digits"] == 4
    grid = tmp_path / "now" / "trials" / "grid-0-0.08.jsonl"  # of another pool, and only in one of the two
    grid.write_text(json.dumps({"name": "length", "loss": 1.0}) + "\n")
    assert compare(tmp_path / "before", tmp_path / "now") == found


def test_what_was_found_twice_is_said_with_what_differs():
    from claims.tables import again_sentence

    interval = {"mean": -0.1, "low": -0.2, "high": 0.0}
    found = {
        "processors": ["A", "B"], "pools": 2, "trials": 9, "rows as before": 4, "same digits": 1, "median": 0.02,
        "largest": 0.15, "difference": interval, "proposal minus random": [interval, interval],
    }  # fmt: skip
    said = again_sentence(found)
    assert "(A, then B)" in said and "0.020 at the median and 0.150 at most" in said and "4 of them" in said
    same = again_sentence({**found, "processors": ["A", "A"], "same digits": 9})
    assert "one processor (A)" in same and same.endswith("every held-out loss was the same to the last digit.")
    assert "same to the last digit" not in again_sentence({**found, "processors": ["A", "A"]})


@pytest.mark.slow
def test_styles_and_small_subsets_run_to_the_end_and_continue(tmp_path, monkeypatch):
    from claims import plan
    from claims.__main__ import DEMO_MODEL
    from claims.findings import _predictions, _styles
    from claims.questions import small_subsets, styles
    from claims.trials import Setting, read_lines

    small = {"POOL_SIZE": 60, "HELD_OUT": 10, "EPOCHS": 1, "STYLE_ROWS": 10, "SMALL_SUBSETS": 3, "SMALL_SIZE": 10}
    for name, value in small.items():
        monkeypatch.setattr(plan, name, value)
    setting = Setting(folder=tmp_path, model=str(DEMO_MODEL), learning_rate=1e-3, short_rows=True)
    for seed in (900, 901):
        styles(setting, seed)
        small_subsets(setting, plan.PoolKey(seed))
    lines = {line["style"]: line for line in read_lines(tmp_path / "styles" / "900.jsonl")}
    assert set(lines) == {"own", "strongest", "longest", "random", "mixed"}
    assert lines["own"]["own_share"] > lines["mixed"]["own_share"] > lines["strongest"]["own_share"]
    assert all(0 <= line["right"] <= 1 and line["other_loss"] > 0 for line in lines.values())
    found = _styles(setting)
    assert found["right"]["mixed"]["from_own"]["seeds"] == 2 and "from_own" in found["other_loss"]["longest"]
    assert _predictions(setting)["pools"] == 2
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    path = tmp_path / "styles" / "901.jsonl"
    path.write_bytes(path.read_bytes()[:-9])  # cut by a kill: the last style is measured again, and no other
    styles(setting, 901)
    small_subsets(setting, plan.PoolKey(900))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == before
