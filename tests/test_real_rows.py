"""The study with real rows: damage, pools, rules, tuning, records that go on after a kill."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_model import tiny_model_folder

import instsel

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")
pytest.importorskip("scipy")
pytest.importorskip("peft")
pytest.importorskip("datasketch")

SUBJECTS = ("heron", "lantern", "harbour", "violin", "glacier", "orchard", "compass")


def made_rows(count):
    """Rows whose answers are sentences of unlike words and of unlike lengths."""
    rng = np.random.default_rng(5)
    rows = []
    for number in range(count):
        words = [f"{SUBJECTS[int(k)]}{number}" for k in rng.integers(0, len(SUBJECTS), 12 + number % 9)]
        rows.append({"instruction": f"Name thing {number}.", "input": "", "output": f"It is so. {' '.join(words)}."})
    return rows


@pytest.fixture(autouse=True)
def small(monkeypatch):
    from real_rows import plan

    sizes = {"POOL_SIZE": 40, "HELD_OUT": 6, "CLUSTERS": 4, "LONGEST": 240, "TEMPLATE": "plain", "BATCH": 4}
    for name, value in {**sizes, "LORA_RANK": 4, "EXPLORING": (0,), "CONFIRMING": (100,)}.items():
        monkeypatch.setattr(plan, name, value)


def test_each_kind_of_damage_is_what_it_says_and_other_rows_stay():
    from real_rows.damage import CLEAN, KINDS, LOOP_WORDS, damaged_rows

    from instsel.records.repetition import repeated_share
    from instsel.selection.row_filters import is_cut_off

    rows = made_rows(100)
    found, kinds = damaged_rows(rows, 0.25, 3)
    places = {kind: [row for row in range(100) if kinds[row] == kind] for kind in (CLEAN, *KINDS)}
    assert {kind: len(places[kind]) for kind in places} == {CLEAN: 75, **dict.fromkeys(KINDS, 5)}
    assert all(found[row] == rows[row] for row in places[CLEAN])
    swapped = places["swapped"]
    assert all(found[row]["output"] != rows[row]["output"] for row in swapped)
    assert {found[row]["output"] for row in swapped} == {rows[row]["output"] for row in swapped}
    for row in places["truncated"]:
        assert rows[row]["output"].startswith(found[row]["output"]) and found[row]["output"][-1].isalnum()
        assert is_cut_off(found[row]["output"]) or len(found[row]["output"].split()) < 8
    for row in places["looping"]:
        words = found[row]["output"].split()
        assert repeated_share(found[row]["output"]) > 0.5 >= repeated_share(rows[row]["output"])
        assert words[:LOOP_WORDS] == rows[row]["output"].split()[:LOOP_WORDS] == words[LOOP_WORDS : 2 * LOOP_WORDS]
    clean = [rows[row] for row in places[CLEAN]]
    copies = [found[row] for row in places["duplicate"]]
    assert len({copy["output"] for copy in copies}) == 2 and not any(copy in rows for copy in copies[1::2])
    for copy in copies:
        assert {**copy, "instruction": copy["instruction"].removeprefix("Please answer: ")} in clean
    for row in places["other language"]:
        assert found[row]["instruction"] == rows[row]["instruction"]
        assert not set(found[row]["output"].split()) & set(rows[row]["output"].split())
    for row in (row for kind in KINDS if kind != "duplicate" for row in places[kind]):
        assert found[row]["instruction"] == rows[row]["instruction"]
    assert damaged_rows(rows, 0.25, 3) == (found, kinds) and damaged_rows(rows, 0.25, 4)[1] != kinds
    assert damaged_rows(rows, 0.0, 3) == (rows, [CLEAN] * 100)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "made.jsonl"
    rows = made_rows(60)
    spoilt = [rows[0], {**rows[1], "output": "another"}, {**rows[2], "instruction": "other"}, {**rows[3], "output": ""}]
    long = {"instruction": "long", "input": "", "output": "word " * 400}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *spoilt, long]))
    return path


def test_held_out_rows_are_of_the_same_file_undamaged_and_in_no_pool(file):
    from real_rows.pools import draw_pool, usable_rows
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    rows = usable_rows([file], tokenizer)
    texts = [row for row, _ in rows]
    assert 50 < len(rows) <= 60 and all(row in made_rows(60) for row in texts)  # the copies and the long row are out
    pools = [draw_pool(rows, seed, share, tokenizer) for seed, share in ((0, 0.0), (0, 0.25), (1, 0.25))]
    for pool in pools:
        assert (len(pool.rows), len(pool.held_out)) == (40, 6) and set(pool.sources) == {"made"}
        assert all(row in texts and row not in pool.rows for row in pool.held_out)
        assert len(pool.anchors) == min(16, len(rows) - 46)
        assert all(row in texts and row not in [*pool.rows, *pool.held_out] for row in pool.anchors)
        asked = {row["instruction"] for row in pool.held_out}
        assert not asked & {row["instruction"].removeprefix("Please answer: ") for row in pool.rows}
        assert tokenizer.decode(pool.pairs[0][1]).strip() == pool.rows[0]["output"]
    assert pools[0].held_out == pools[1].held_out != pools[2].held_out
    assert (pools[0].kinds == "clean").all() and (pools[1].kinds != "clean").sum() == 10
    with pytest.raises(ValueError, match="at least 46 different ones of at most 240 tokens, got 20"):
        draw_pool(rows[:20], 0, 0.0, tokenizer)


def test_every_rule_gives_its_number_of_different_rows_and_what_its_name_says(file):
    from real_rows import plan
    from real_rows.detection import followed_by_influence, mean_scores, seen_damage
    from real_rows.pools import draw_pool, usable_rows
    from real_rows.rules import Scored, selected_rows
    from scipy import stats
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    pool = draw_pool(usable_rows([file], tokenizer), 0, 0.25, tokenizer)
    rng = np.random.default_rng(0)
    difficulties = -rng.uniform(0.5, 2, (40, 2))
    difficulties[:, 0] -= 1.0  # so that prompts help most rows
    vectors = rng.normal(size=(40, 8)).astype(np.float32)
    scored = Scored(pool, 5, lambda: difficulties, lambda: vectors, lambda: influences, lambda: anchored)
    one_shot_ifd = rng.uniform(0.2, 0.9, (40, 2))
    influences = {
        "ifd": scored.ifd, "one_shot_ifd": one_shot_ifd, "probes": rng.integers(0, 40, (40, 2)),
        "similarity": rng.uniform(0, 1, (40, 2)),
    }  # fmt: skip
    anchored = {"wins": rng.integers(0, 5, 40) / 4, "gain": rng.normal(size=40)}
    every = (*plan.SUBSETS, *plan.BY_ANCHORS, *plan.FIRST, *plan.THEN, *plan.BY_INFLUENCE, plan.KNOWN)
    rows = {rule: selected_rows(rule, scored, 0.25) for rule in every}
    for rule, chosen in rows.items():
        assert len(chosen) == len(set(chosen.tolist())) == 10, rule
        if rule.startswith(("filters", "recommended")):
            assert scored.passed[chosen].all(), rule
    assert len({tuple(rows[rule]) for rule in plan.SUBSETS}) == len(plan.SUBSETS)
    means = mean_scores(scored, rows[plan.SUBSETS[0]])
    assert means["length"] == pytest.approx(pool.lengths[rows[plan.SUBSETS[0]]].mean())
    assert means["share of clean rows"] == np.mean(pool.kinds[rows[plan.SUBSETS[0]]] == "clean")
    assert anchored["wins"][rows["nuggets"]].min() >= np.sort(anchored["wins"])[-10]
    for cluster in np.unique(scored.labels):
        members = np.flatnonzero((scored.labels == cluster) & scored.passed)
        taken = [row for row in rows["filters, nuggets, coverage"] if scored.labels[row] == cluster]
        assert set(taken) == set(members[np.argsort(-anchored["gain"][members])][: len(taken)].tolist())
    wanted = pool.lengths[rows["recommended"]].sum()
    as_long = selected_rows(plan.AS_LONG, scored, 0.25)
    fewer = instsel.select(scored.chance, len(as_long) - 1, coverage="proportional", clusters=scored.labels)
    assert pool.lengths[fewer].sum() < wanted <= pool.lengths[as_long].sum()
    caught = {kind: 1 - scored.passed[pool.kinds == kind].mean() for kind in set(pool.kinds.tolist())}
    assert caught["looping"] == 1 and caught["duplicate"] > 0 and caught["swapped"] == 0
    assert caught["clean"] < 0.1  # only what stands behind its own copy
    assert (pool.kinds[rows[plan.KNOWN]] == "clean").all()
    assert pool.lengths[rows["longest"]].min() >= np.sort(pool.lengths)[-10]
    assert sorted(rows["perplexity low"]) == sorted(np.argsort(-difficulties[:, 1])[:10])
    assert set(rows["ifd high"]) == set(np.argsort(np.where(scored.ifd <= 1, -scored.ifd, np.inf))[:10])
    assert (scored.ifd[rows["filters, ifd below 1, coverage"]] <= 1).all() and (scored.ifd > 1).any()
    assert rows["ifd high of like length"].tolist() != rows["ifd high"].tolist()
    share = np.bincount(scored.labels) / 4  # of the ten rows
    off = {rule: abs(np.bincount(scored.labels[rows[rule]], minlength=4) - share).max() for rule in rows}
    assert off[plan.COVERED] < 1 < off[plan.RANDOM]
    # The mean rise of log-probability, written out.
    gain = np.mean(np.log(scored.ifd[influences["probes"]] / one_shot_ifd), 1)
    followed = followed_by_influence(scored)
    assert followed["gain"]["ifd"] == pytest.approx(stats.spearmanr(gain, scored.ifd).statistic)
    assert followed["gain"]["seen_looping"] == pytest.approx(
        np.mean(gain[pool.kinds == "clean"][:, None] > gain[pool.kinds == "looping"])
    )
    best = [sorted(gain[scored.labels == one])[::-1] for one in range(4)]
    for one, drawn in enumerate(best):
        own = gain[rows["half with higher gain, coverage"]][
            scored.labels[rows["half with higher gain, coverage"]] == one
        ]
        assert set(own) <= set(drawn[: -(-len(drawn) // 2)])
    seen = seen_damage(scored)
    assert seen["looping"]["filters"] == 1 and seen["clean"] == pytest.approx({"filters": caught["clean"]})
    swapped, clean = scored.ifd[pool.kinds == "swapped"], scored.ifd[pool.kinds == "clean"]
    rank_sum = stats.mannwhitneyu(swapped, clean).statistic
    assert seen["swapped"]["ifd"] == pytest.approx(rank_sum / (len(swapped) * len(clean)))
    for cluster in np.unique(scored.labels):  # less the worst fifth: by IFD, of each cluster
        members = np.flatnonzero((scored.labels == cluster) & scored.passed)
        best = members[np.argsort(scored.ifd[members])][: max(1, int(np.ceil(0.8 * len(members))))]
        taken = [row for row in rows["filters, less worst fifth, coverage"] if scored.labels[row] == cluster]
        assert set(taken) <= set(best.tolist())


def test_scores_are_of_a_pool_whatever_was_scored_before(tmp_path):
    from real_rows.scores import difficulties, embeddings

    rows = made_rows(5)
    scorer = instsel.Scorer(tiny_model_folder(), dtype="bfloat16")
    for compute in (difficulties, embeddings):
        alone = compute(lambda: scorer, rows[:3], tmp_path / "one")
        compute(lambda: scorer, rows, tmp_path / "two")
        np.testing.assert_array_equal(compute(lambda: scorer, rows[:3], tmp_path / "two"), alone)
        np.testing.assert_array_equal(compute(lambda: pytest.fail("scored again"), rows[:3], tmp_path / "two"), alone)


def test_what_helps_anchors_is_what_nuggets_finds_by_each_measure(tmp_path):
    from real_rows.scores import anchored

    rows = [{"instruction": f"Say {word}.", "input": "", "output": word} for word in SUBJECTS]
    scorer = instsel.Scorer(tiny_model_folder())
    found = anchored(lambda: scorer, rows[:4], tmp_path, rows[4:])
    for measure in ("wins", "gain"):
        wanted = instsel.nuggets(scorer, rows[:4], anchors=rows[4:], template="plain", measure=measure)
        assert (wanted.status == "ok").all()
        np.testing.assert_allclose(found[measure], wanted.score, atol=1e-6)  # kept matrices are float32
    other = anchored(lambda: scorer, rows[:4], tmp_path, rows[5:])
    assert not np.allclose(found["gain"], other["gain"], atol=1e-4)  # kept by its anchors too


@pytest.mark.long
def test_tuning_lowers_the_loss_from_the_same_start_and_the_tokens_outside_take_no_part():
    from real_rows.tuning import Learner
    from transformers import AutoModelForCausalLM

    from instsel.demo.tuning import encode_rows

    learner = Learner(tiny_model_folder())
    rows = made_rows(12)
    pairs = encode_rows(learner.tokenizer, rows, "plain")
    sources = np.array(["a", "b"] * 6)
    before = learner.before(rows, sources)
    vocabulary = np.unique(np.concatenate([answer for _, answer in pairs]))
    losses = learner.tune(pairs, vocabulary, 1e-2, 0)
    after = learner.losses(rows, sources)
    assert set(after) == {"all", "a", "b"} and after["all"] < before["all"] - 0.05
    assert learner.before(rows, sources) == before  # what is tuned are the adapters
    assert learner.tune(pairs, vocabulary, 1e-2, 0) == losses
    import torch

    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder(), dtype=torch.bfloat16)
    first = sorted(pairs, key=lambda pair: sum(map(len, pair)))[:4]
    total = tokens = 0.0
    with torch.no_grad():
        for prompt, answer in first:
            logits = plain(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
            chosen = torch.from_numpy(np.searchsorted(vocabulary, answer))[:, None]
            total -= float(logits[:, vocabulary].log_softmax(-1).gather(1, chosen).sum())
            tokens += len(answer)
    assert learner.tune(first, vocabulary, 1e-2, 0)[0] == pytest.approx(total / tokens, rel=0.01)


@pytest.mark.long
def test_a_study_goes_on_after_a_kill_and_does_nothing_twice(file, tmp_path, monkeypatch):
    from real_rows import plan
    from real_rows.__main__ import main
    from real_rows.page import write

    monkeypatch.setattr(plan, "RATES", (1e-2,))
    monkeypatch.setattr(plan, "FIRST", (plan.RANDOM, "filters, less worst fifth, coverage"))
    monkeypatch.setattr(plan, "THEN", ())
    monkeypatch.setattr(plan, "CONFIRMED", ())
    for part in ("influence", "tokens", "budgets", "anchors", "subsets"):
        monkeypatch.delitem(plan.PARTS, part)
    records = tmp_path / "out" / "records.jsonl"
    command = [
        *("--work", str(tmp_path / "work"), "--model", tiny_model_folder(), "--rows", str(file)),
        *("--records", str(records)),
    ]
    with pytest.raises(ValueError, match="--only rate first"):
        main([*command, "--only", "exploring"])
    assert main(command) == 0
    lines = records.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 2 + (2 + 1 + 2)  # the rate, what is seen, both pools, one with one who knows
    records.write_text("".join(lines[:-1]) + lines[-1][:40])
    assert main(command) == 0
    again = [json.loads(line) for line in records.read_text().splitlines()]
    assert len(again) == len(lines)
    for line, text in zip(again, lines, strict=True):
        first = json.loads(text)
        if "seen" in first:
            assert line == first
            continue
        assert {**line, "seconds": 0} == {**first, "seconds": 0}
        assert line["rows"] == 4 == sum(line["kinds"].values()) and line["after"]["all"] != line["before"]["all"]
        assert line["after"]["all"] == pytest.approx(line["after"]["made"])
    assert [json.dumps(line) for line in again[:-1]] == [line.strip() for line in lines[:-1]]  # not done again
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- real rows:begin -->\nold\n<!-- real rows:end -->\nafter\n")
    write(records, page)
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "\nold\n" not in text
    assert "20% of the pool damaged, exploring seeds** (1 of 1 begun" in text and "the pool as it is" in text
    assert "| looping | 100% |" in text
