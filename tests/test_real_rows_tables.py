"""What the study with real rows says: influence, tables, the headline, whose ranking, candidates, and its seeds."""

import json
from pathlib import Path

import numpy as np
import pytest

import instsel

pytestmark = pytest.mark.skipif(
    not (Path(__file__).parents[1] / "benchmarks").is_dir(), reason="no benchmarks beside the tests"
)
pytest.importorskip("scipy")
pytest.importorskip("peft")


def test_influence_is_computed_once_for_a_pool_and_told_by_seed(scorer, tmp_path):
    from real_rows import plan
    from real_rows.scores import INFLUENCES, influences
    from real_rows.tables import tables

    rows = [
        {"instruction": f"say {word}", "input": "", "output": f"the {word}."} for word in ("cat", "dog", "sun", "sea")
    ]
    found = influences(lambda: scorer, rows, tmp_path)
    expected = instsel.wici(scorer, rows, template=plan.TEMPLATE)
    for name in INFLUENCES:
        np.testing.assert_array_equal(found[name], getattr(expected, name))
    again = influences(lambda: pytest.fail("scored again"), rows, tmp_path)
    for name in INFLUENCES:
        np.testing.assert_array_equal(again[name], found[name])

    def record(seed, correlation):
        cell = {"seed": seed, "damaged": 0.0, "rule": plan.FOLLOWED, "budget": 0.1, "rate": 0.0}
        return {
            "part": "influence", "model": "m", "source": "rows", "cell": cell,
            "followed": {"paper": {"ifd": correlation}, "gain": {"ifd": -correlation}},
        }  # fmt: skip

    text = tables([record(0, 0.5), record(1, 0.7)])
    assert "the pool as it is: what influence follows** (2 seeds; m)" in text
    assert "| correlation with ifd | 0.60 (0.50 to 0.70) | -0.60 (-0.70 to -0.50) |" in text


def test_a_score_predicts_what_tuning_gains_within_each_pool():
    from real_rows import plan
    from real_rows.tables import tables

    def record(seed, number, loss, longer):
        cell = {"seed": seed, "damaged": plan.DAMAGED, "rule": plan.SUBSETS[number], "budget": 0.1, "rate": 0.0}
        means = {"length": longer, "IFD": -longer, "loss": float(number % 2)}
        return {"part": "subsets", "model": "m", "source": "rows", "cell": cell, "after": {"all": loss}, "means": means}

    # Across pools longer rows go with a higher loss, within each with a lower one.
    records = [
        record(seed, number, 10.0 * seed - number, 5.0 * seed + number) for seed in (0, 1) for number in range(4)
    ]
    text = tables(records)
    assert "(8 tunings on 2 pools; m)" in text
    assert "| length | -1.00 (-1.00 to -1.00) |" in text and "| IFD | +1.00 (+1.00 to +1.00) |" in text
    assert "| loss | -0.45 (-0.45 to -0.45) |" in text  # of 0, 1, 0, 1 against 4, 3, 2, 1


def test_the_headline_says_better_worse_or_nothing_by_the_interval_of_paired_differences(tmp_path):
    from real_rows import plan
    from real_rows.headline import headline
    from real_rows.page import CHART, write

    def record(part, seed, damaged, rule, loss):
        cell = {"seed": seed, "damaged": damaged, "rule": rule, "budget": plan.BUDGET, "rate": 0.0}
        return {"part": part, "source": "rows", "cell": cell, "after": {"all": loss}}

    # Pools differ by far more than rules do: only pairs show it.
    pools = {seed: 1.0 + seed for seed in range(4)}
    wobble = (0.001, -0.001, 0.002, -0.002)

    def records(shift, damaged):
        for seed, base in pools.items():
            yield record("further", seed, damaged, plan.COVERED, base)
            yield record("further", seed, damaged, plan.RECOMMENDED[0], base + shift + wobble[seed])
            yield record("exploring", seed, damaged, plan.RECOMMENDED[0], 9.0)  # takes no part

    half = 3.182446 * np.std(wobble, ddof=1) / 2  # Student's t with 3 degrees of freedom, four seeds
    for shift, word in ((-0.1, "better"), (0.1, "worse"), (0.0, "no difference shown")):
        lines = [*records(shift, plan.DAMAGED), *records(0.0, 0.0)]
        first, second = headline(lines).splitlines()
        assert (
            f"20% of the pool damaged: **{word}**, {shift:+.3f} ({shift - half:+.3f} to {shift + half:+.3f})" in first
        )
        assert "the pool as it is: **no difference shown**" in second
    records_file, page = tmp_path / "records.jsonl", tmp_path / "page.md"
    records_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page.write_text("<!-- real rows headline:begin -->\nold\n<!-- real rows headline:end -->\n")
    write(records_file, page)
    assert headline(lines) in page.read_text() and "old" not in page.read_text()
    assert "recommended; rows, 20% of the pool damaged" in (tmp_path / CHART).read_text()
    page.write_text("no marks")
    with pytest.raises(ValueError, match="expected marks"):
        write(records_file, page)


def test_models_agree_on_the_worst_rows_of_like_length_by_no_more_than_chance_where_they_know_nothing_of_each_other():
    from real_rows.agreement import agreement, agreement_lines

    rng = np.random.default_rng(0)
    words = rng.permutation(np.arange(1000.0))
    own = rng.uniform(0.2, 1.2, 1000) + words / 1000  # follows the length, as IFD does the other way round
    same = agreement(own, np.exp(own), words)  # any rising function ranks alike
    assert same["correlation"] == pytest.approx(1) and same["worst_in_common"] == 1 and same["by_chance"] == 0.2
    apart = agreement(own, rng.uniform(size=1000) + 9 * words, words)  # both long rows first, and nothing else
    assert apart["correlation"] > 0.5 and abs(apart["correlation_of_like_length"]) < apart["correlation"] / 2
    assert 0.1 < apart["worst_in_common"] < 0.35
    unknown = np.where(np.arange(1000) < 500, own, np.nan)
    assert agreement(own, unknown, words)["rows"] == 500
    text = agreement_lines({"models": ["a", "b"], "agreement": [{"source": "rows", **same}]})
    assert "rows, 1000 rows: of the rows that a would leave out, b would too: 100% (chance: 20%)" in text


def test_right_answers_are_ranked_against_wrong_ones_and_the_reference_takes_no_part(tmp_path):
    from types import SimpleNamespace

    from real_rows import candidates

    def group(number, *answers):
        return {
            "instruction": f"q{number}",
            "candidates": [
                {"source": source, "response": response, "correct": correct} for source, response, correct in answers
            ],
        }

    path = tmp_path / "candidates.jsonl"
    groups = [
        group(0, ("ground_truth", "9", True), ("a", "3", True), ("b", "2", False), ("c", "1", False)),
        group(1, ("ground_truth", "9", True), ("a", "1", True), ("b", "2", False), ("c", "0", True)),
        group(2, ("ground_truth", "9", True), ("a", "1", False), ("b", "2", False)),  # none is right
    ]
    path.write_text("".join(json.dumps(one) + "\n" for one in groups))
    found = candidates.read_groups(path, 2)
    assert {one["instruction"] for one in found} == {"q0", "q1"}

    def scored(scorer, rows, template):
        return SimpleNamespace(mean_logprob=np.array([float(row["output"]) for row in rows]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates.instsel, "perplexity", scored)
        ranks = candidates.ranking(None, found)
    assert ranks == pytest.approx({"pairs": 0.5, "first": 0.5, "chance": 0.5})
    with pytest.raises(ValueError, match="expected 3 questions with right and wrong answers, got 2"):
        candidates.read_groups(path, 3)


def test_differences_are_of_the_seeds_that_both_have_and_intervals_are_students():
    from real_rows import plan
    from real_rows.tables import differences, losses_by_rule, rules_table
    from scipy import stats

    rng = np.random.default_rng(0)
    losses = {plan.RANDOM: rng.normal(2, 0.1, 5), plan.COVERED: rng.normal(2, 0.1, 4), "longest": rng.normal(2.5, 1, 5)}
    records = [
        {
            "cell": {"rule": rule, "seed": seed}, "after": {"all": float(loss)}, "damaged_share": 0.1, "tokens": 100,
        }
        for rule, values in losses.items() for seed, loss in enumerate(values)
    ]  # fmt: skip
    found = differences(losses_by_rule(records), plan.RANDOM)
    moved = losses[plan.COVERED] - losses[plan.RANDOM][:4]
    low, high = stats.t.interval(0.95, 3, moved.mean(), stats.sem(moved))
    assert (found[plan.COVERED]["low"], found[plan.COVERED]["high"]) == pytest.approx((low, high))
    p = [stats.ttest_rel(losses[rule], losses[plan.RANDOM][: len(losses[rule])]).pvalue for rule in found]
    assert [found[rule]["p"] for rule in found] == pytest.approx(p)
    assert min(found[rule]["p_holm"] for rule in found) == pytest.approx(min(1.0, 2 * min(p)))
    assert f"{moved.mean():+.3f} ({low:+.3f} to {high:+.3f})" in rules_table(records)
    assert differences({"longest": {0: 1.0}}, plan.RANDOM) == {}


def test_no_seed_both_chooses_and_confirms_and_no_cell_is_planned_twice():
    from real_rows import plan

    cells = [cell for part in plan.PARTS.values() for cell in part()]
    assert len(set(cells)) == len(cells)
    seeds = {name: {cell.seed for cell in part()} for name, part in plan.PARTS.items()}
    chose = seeds["rate"] | seeds["exploring"]
    assert not seeds["rate"] & seeds["exploring"] and not seeds["confirming"] & chose
    assert not seeds["further"] & (chose | seeds["confirming"])


def test_differences_are_paired_by_seed_and_corrected_for_their_number():
    from intervals import paired_differences
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


def test_a_line_that_a_kill_cut_is_measured_again(tmp_path):
    from real_rows.records import read_lines

    path = tmp_path / "lines.jsonl"
    path.write_text('{"name": "a"}\n{"name": "b"')
    assert read_lines(path) == [{"name": "a"}]
    with path.open("a") as file:
        file.write('{"name": "b"}\n')
    assert [line["name"] for line in read_lines(path)] == ["a", "b"]
