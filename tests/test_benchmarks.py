"""The benchmarks run, and every way of scoring that they time gives score_batch's numbers."""

import importlib
import importlib.util
import json
import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import instsel

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")


def small(name, **sizes):
    import workloads

    return workloads.make_workload(name, vocabulary=512, **{"size": 3, "branching": 3, "shorten": 8, **sizes})


@pytest.mark.parametrize(
    "name", ["wici-k5", "wici-k32", "grape-5", "grape-10", "anchors-100", "nuggets-200", "few-shot-4"]
)
def test_work_is_the_same_for_a_seed_and_never_zeros(name):
    work = small(name)
    assert work.requests == small(name).requests
    assert work.requests != small(name, seed=1).requests
    for context, continuation in work.requests:
        assert continuation and min(continuation) >= 2
        assert context == [0] or min(context) >= 2
    assert len(set(map(str, work.requests))) == len(work)


def test_lengths_are_those_of_the_alpaca_file():
    from lengths import load_lengths

    pairs = load_lengths().pairs
    assert len(pairs) == 999
    assert abs(np.mean([p for p, _ in pairs]) - 21) < 0.5 and abs(np.mean([a for _, a in pairs]) - 175) < 0.5


def test_the_tree_of_wici_is_demonstrations_and_probes():
    import models

    work = small("wici-k5", size=4)
    # Each demonstration once, each probe less its last token; an answer alone less its last, and one BOS for all.
    expected = 1 + sum(len(answer) - 1 for _, answer in work.requests[:4])
    for a, pairs in enumerate(work.influences):
        prompt, answer = work.requests[4 + 4 * a]
        assert work.shared[pairs[0][1]] == len(prompt) + len(answer)
        expected += len(prompt) + len(answer)
        expected += sum(sum(map(len, work.requests[i])) - work.shared[i] - 1 for _, i in pairs)
    plan = instsel.plan_batch(instsel.Scorer(models.make_model("tiny", "float32")), work.requests)
    assert plan.tokens_forwarded == expected


@pytest.mark.long
@pytest.mark.parametrize("name", ["one_by_one", "one_by_one_lean", "padded", "lm_eval", "dynamic_cache"])
def test_every_way_gives_the_same_scores(name):
    import models
    from agreement import Reference

    if name == "lm_eval" and importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed")
    module = importlib.import_module(f"competitors.{name}")
    for work in (small("wici-k5"), small("grape-5"), small("few-shot-4")):
        reference = Reference("tiny", "float32", "cpu", work, requests=len(work))
        for size in module.BATCH_SIZES[:2]:
            scores = module.prepare(models.make_model("tiny", "float32"), work, size)()
            reference.check(name, scores)
            ours = instsel.score_batch(instsel.Scorer(models.make_model("tiny", "float32")), work.requests)
            reference.check("instsel", ours.mean_logprob)
    wrong = scores.copy()
    wrong[0] += 1e-3
    with pytest.raises(ValueError, match=f"{name}: error of"):
        reference.check(name, wrong)


@pytest.mark.long
def test_a_comparison_from_the_command_line_ends_in_a_table(tmp_path, monkeypatch, capsys):
    import compare
    import competitors
    import speed_tables
    import tables

    arguments = "compare --model tiny --size 2 --against one_by_one_lean --pairs 2 --dtype float32 --threads 1 --output"
    monkeypatch.setattr(sys, "argv", [*arguments.split(), str(tmp_path)])
    compare.main()
    assert "over 2 pairs" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    ratios = [pair["against"] / pair["instsel"] for pair in result["pairs"]]
    assert result["ratio"] == pytest.approx(np.median(ratios))
    assert result["agreement"]["largest_difference"] < 2e-5
    assert result["environment"]["torch"] and result["environment"]["processor"]
    content = tables.text(tables.load(tmp_path))
    assert f"| **{result['ratio']:.1f}** (2) |" in content
    document = tables.insert("before\n<!-- speed:begin -->\nold\n<!-- speed:end -->\nafter\n", content)
    assert document.startswith("before\n") and document.endswith("\nafter\n") and "old" not in document
    assert set(speed_tables.WAYS) == set(competitors.NAMES)
    assert tables.insert(document, content) == document
    with pytest.raises(ValueError, match="speed:begin"):
        tables.insert("no marks", content)


def test_a_processor_held_to_a_lesser_instruction_set_is_another_machine(monkeypatch):
    from environment import environment, machine_name

    monkeypatch.delenv("INSTSEL_INSTRUCTION_SET", raising=False)
    usual = machine_name(environment())
    monkeypatch.setenv("INSTSEL_INSTRUCTION_SET", "plain")
    assert machine_name(environment()) == f"{usual}-held-to-plain"


def test_the_harness_with_both_models(tmp_path, monkeypatch, capsys):
    pytest.importorskip("lm_eval")
    import harness
    import tables

    monkeypatch.setattr(logging.root.manager, "disable", logging.root.manager.disable)  # the program silences warnings
    path = tmp_path / "harness.json"
    arguments = ["harness", "--model", "tiny", "--questions", "2", "--batch-size", "4", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--output", str(path)])
    harness.main()
    (result,) = json.loads(path.read_text())["results"]
    assert result["requests"] == 8 and result["header_tokens"] > 400
    assert result["processor_seconds"]["hf, batch 4"][0] > 0
    hf, ours = result["seconds"]["hf, batch 4"], result["seconds"]["instsel"]
    assert result["ratio_to_the_fastest"] == pytest.approx(hf[0] / ours[0])
    assert f"**{hf[0] / ours[0]:.1f}**" in tables.harness_table(tables.load(tmp_path)["harness"])
    requests = harness.make_requests(512, 2)
    answers = [(-1.0, True)] * len(requests)
    for wrong in ((-1.1, True), (-1.0, False)):
        with pytest.raises(ValueError, match="differ"):
            harness.check(answers, [*answers[:-1], wrong], requests, "float32")


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_an_engine_that_is_not_here_gives_the_same_scores_by_its_documented_interface(name, monkeypatch):
    """`tests/fake_engines` has the packages' classes and functions; what else they are given is an error there."""
    import models
    from agreement import Reference

    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake_engines"))
    module = importlib.import_module(f"competitors.{name}")
    work = small("wici-k5", size=2)
    reference = Reference("tiny", "float32", "cpu", work, requests=len(work))
    model = models.make_model("tiny", "float32")
    reference.check(name, module.prepare(model, work, 1)())
    with pytest.raises(ValueError, match=f"{name}: error of"):  # of one token more
        reference.check(name, module.prepare(model, shifted(work), 1)())
    sys.modules.pop(name, None)


def shifted(work):
    """The same sequences, of which one token more is the continuation's."""
    import workloads

    pairs = [(c[:-1], c[-1:] + a) if len(c) > 1 else (c + a[:1], a[1:] or a) for c, a in work.requests]
    return workloads.Workload(work.name, work.size, pairs, work.shared, work.recomputed)


def test_a_way_that_fails_is_an_error_and_not_a_result():
    import multiprocessing

    import contestants

    here, there = multiprocessing.Pipe()
    contestants._serve(there, "no_such_way", "tiny", "float32", "cpu", small("grape-5"), None)
    error = here.recv()
    assert isinstance(error, RuntimeError) and "no_such_way" in str(error)


@pytest.mark.long
def test_the_floor_is_the_formula_of_the_plan(monkeypatch):
    import engine
    import floor

    monkeypatch.setattr(floor, "SHAPES", ((64, 64, 64),))
    work = small("anchors-100")
    result = engine.measure("tiny", work, "float32", runs=1, rate_seconds=0.05)
    hidden, inner, layers, vocabulary = 64, 128, 2, 512
    body = layers * (hidden * (64 + 2 * 32) + 64 * hidden + 3 * hidden * inner + 2 * hidden) + hidden
    matrices = 2 * body * result["tokens_forwarded"] + 2 * hidden * (vocabulary * result["head_rows"] + result["pairs"])
    attention = 4 * layers * hidden * sum(map(len, _tree(work.requests)))
    assert result["floor_flops"] == pytest.approx(matrices + attention)
    (seconds,), rates = result["seconds"], result["matrix_rates"]
    assert result["fraction_of_floor"] == pytest.approx(result["floor_flops"] / max(rates) / seconds)
    shape = (64, 32, 16)
    assert list(floor.matrix_rate("float32", seconds=0.01, shapes=(shape,))) == ["64x32x16"]


def test_the_layers_rate_counts_every_product_of_the_layers_and_no_other(monkeypatch):
    import itertools

    import floor
    import models

    clock = itertools.count()
    monkeypatch.setattr(floor.time, "perf_counter", lambda: next(clock))  # each pass takes a second
    hidden, inner, layers = 64, 128, 2
    products = layers * (hidden * (64 + 2 * 32) + 64 * hidden + 3 * hidden * inner)
    assert floor.layers_rate(models.make_model("tiny", "float32"), 10) == 2 * 10 * products


def _tree(requests):
    """The distinct prefixes that predict something, one a tree token; each token attends to its prefix's length."""
    return {tuple((c + a)[:n]) for c, a in requests for n in range(1, len(c) + len(a))}


@pytest.mark.long
def test_peak_memory_sees_what_was_allocated_and_freed():
    from memory import peak_memory

    with peak_memory("cpu") as peak:
        if peak() is None:
            pytest.skip("no peak of resident memory on this system")
        held = np.ones(16 << 20)
        del held
        assert 120 << 20 < peak() < 400 << 20


@pytest.mark.long
def test_a_run_beside_busy_processes_ends_in_a_table(tmp_path, monkeypatch, capsys):
    import beside_others
    import tables

    arguments = "beside_others --model tiny --size 2 --dtype float32 --busy 0 1 --runs 1 --output"
    monkeypatch.setattr(sys, "argv", [*arguments.split(), str(tmp_path)])
    beside_others.main()
    assert "beside 1:" in capsys.readouterr().out
    (result,) = tables.load(tmp_path)["beside_others"]
    alone, beside = (row["seconds"][0] for row in result["rows"])
    processors = len(os.sched_getaffinity(0))
    share = beside / alone * processors / (1 + processors)
    assert result["rows"][1]["times_fair_share"] == pytest.approx(share)
    assert f"| 1 | {beside / alone:.1f} ({share:.2f}) |" in tables.beside_table([result])


def test_all_turns_beside_the_last_are_the_same_numbers(tmp_path, monkeypatch, capsys):
    import conversations

    arguments = "conversations --rows 3 --turns 4 --runs 1 --output"
    monkeypatch.setattr(sys, "argv", [*arguments.split(), str(tmp_path)])
    conversations.main()
    assert "3 conversations of 4 turns" in capsys.readouterr().out
    result = json.loads((tmp_path / "conversations_tiny_float32_3.json").read_text())
    assert result["largest_difference"] < 1e-5
    assert result["tokens_forwarded"]["all"] == result["tokens_forwarded"]["last"], "they are one path of the tree"
    scorer, rows = conversations.make_scorer("tiny", "float32"), conversations.make_rows(3, 4)
    score = conversations.score
    monkeypatch.setattr(conversations, "score", lambda scorer, rows, which: score(scorer, rows, "last"))
    with pytest.raises(AssertionError):  # the control: of other numbers it says so
        conversations.largest_difference(scorer, rows)


def test_every_table_has_one_place_in_the_documents():
    import tables

    documents = [(tables.ROOT / name).read_text() for name in tables.DOCUMENTS]
    for name, content in tables.sections(tables.load()).items():
        assert sum(f"<!-- {name}:begin -->\n\n{content}\n\n<!-- {name}:end -->" in text for text in documents) == 1, (
            name
        )


def test_the_chosen_rows_are_those_of_a_processor_as_it_is():
    import speed_tables
    import tables

    table = speed_tables.chosen_table(tables.load()["compare"]).splitlines()
    assert len(table) == 2 + len(speed_tables.CHOSEN) and "held-to" not in table[0]
    assert speed_tables.chosen_table([]) == "No results yet."
