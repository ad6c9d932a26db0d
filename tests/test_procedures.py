"""`select --procedure`: one word gives what the Python functions give step by step, whatever rule a run had."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.neighbors.clusters import cluster_rows
from instsel.records.files import read_rows

ROWS, CLUSTERS = 60, 7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("procedures")
    pool = write_alpaca(folder / "pool.jsonl", ROWS)
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--quiet"]
    few = ["--num-neighbors", "8", "--num-probes", "3"]
    assert main(["wici", str(pool), "--output", str(folder / "run"), *few, *model]) == 0
    assert main(["ifd", str(pool), "--output", str(folder / "difficulty"), *model]) == 0
    return folder


@pytest.fixture(scope="module")
def by_rule(run):
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu")
    rows = [{name: row[name] for name in ("instruction", "input", "output")} for row in read_rows(run / "pool.jsonl")]
    return {
        rule: instsel.wici(scorer, rows, rule=rule, num_neighbors=8, num_probes=3)
        for rule in ("gain", "paper", "release")
    }


def chosen(run, output, *flags):
    arguments = ["select", str(run / "run"), "--output", str(output), "--budget", "12", "--quiet", *flags]
    assert main(arguments) == 0
    return pq.read_table(output / "selected.parquet")["row"].to_pylist(), json.loads(
        (output / "manifest.json").read_text()
    )


@pytest.mark.long
def test_gain_is_the_rise_of_the_probes_with_quotas_over_clusters(run, by_rule, tmp_path):
    rows, manifest = chosen(run, tmp_path / "out", "--procedure", "gain", "--num-clusters", str(CLUSTERS))
    found = by_rule["gain"]
    wanted = instsel.select(
        found.score, 12, embeddings=found.embeddings, coverage="proportional", num_clusters=CLUSTERS
    )  # fmt: skip
    assert rows == wanted.tolist()
    assert manifest["parameters"]["procedure"] == "gain"
    assert rows != chosen(run, tmp_path / "other", "--procedure", "paper")[0]


@pytest.mark.long
def test_filter_draws_from_the_better_half_of_each_cluster(run, by_rule, tmp_path):
    rows, _ = chosen(run, tmp_path / "out", "--procedure", "filter", "--num-clusters", str(CLUSTERS))
    found = by_rule["gain"]
    quotas = {"embeddings": found.embeddings, "coverage": "proportional", "num_clusters": CLUSTERS}
    assert rows == instsel.select(found.score, 12, **quotas, draw_share=0.5).tolist()
    assert set(rows) != set(instsel.select(found.score, 12, **quotas).tolist())
    labels = cluster_rows(found.embeddings, CLUSTERS, seed=0).labels
    for label in set(labels.tolist()):
        scores = found.score[(labels == label) & np.isfinite(found.score)]
        taken = [row for row in rows if labels[row] == label]
        assert all(found.score[row] >= np.median(scores) for row in taken)
    other = chosen(run, tmp_path / "seed", "--procedure", "filter", "--num-clusters", str(CLUSTERS), "--seed", "5")[0]
    assert set(other) != set(rows)


@pytest.mark.parametrize("rule", ["paper", "release"])
def test_the_published_procedures_are_a_rule_and_the_cosine_limit(run, by_rule, tmp_path, rule):
    found = by_rule[rule]
    wanted = instsel.select(found.score, 12, embeddings=found.embeddings, selectable=found.selectable)
    assert chosen(run, tmp_path / "out", "--procedure", rule)[0] == wanted.tolist()


def test_scores_of_any_rule_follow_from_a_run_by_another(by_rule):
    from instsel.methods.influence import score_by_rule

    for made in by_rule.values():
        for rule, wanted in by_rule.items():
            found = score_by_rule(made.ifd, made.one_shot_ifd, made.probes, made.similarity, rule)
            np.testing.assert_allclose(found, wanted.score, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--by", "ifd"], "--procedure gain decides --by: leave one of them out"),
        (["--coverage", "equal", "--max-similarity", "0.5"], "decides --coverage, --max-similarity"),
    ],
)
def test_flags_that_a_procedure_decides_are_refused(run, tmp_path, capsys, flags, told):
    arguments = ["select", str(run / "run"), "--output", str(tmp_path / "out"), "--budget", "3"]
    assert main([*arguments, "--procedure", "gain", *flags]) == 2
    assert told in capsys.readouterr().err


def test_another_method_or_a_bare_file_has_no_procedure(run, tmp_path, capsys):
    for source, told in (("difficulty", "is one of ifd"), ("run/scores.parquet", "is not one")):
        arguments = ["select", str(run / source), "--output", str(tmp_path / "out"), "--budget", "3"]
        assert main([*arguments, "--procedure", "gain"]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "flags", "told"),
    [
        ("run", ["--length-strata", "3"], "--length-strata decides otherwise"),
        ("run", ["--coverage", "proportional", "--num-clusters", "3"], "--coverage decides otherwise"),
        ("difficulty", ["--keep-all"], "--keep-all decides otherwise"),
        ("difficulty/scores.parquet", [], "is a file, and no run folder"),
        ("difficulty", ["--by", "ifd"], None),  # who names a score knows what is asked for
        ("difficulty", [], None),
    ],
)
def test_what_keeps_a_selection_from_the_recommended_one_is_said(run, tmp_path, capsys, source, flags, told):
    assert main(["select", str(run / source), "--output", str(tmp_path / "out"), "--budget", "12", *flags]) == 0
    said = capsys.readouterr().out
    assert ("not by --procedure recommended" in said) == (told is not None) and (told or "") in said


def test_fewer_rows_than_asked_for_name_every_reason_there_may_be(run, tmp_path, capsys):
    assert main(["select", str(run / "difficulty"), "--output", str(tmp_path / "out"), "--budget", "100%"]) == 0
    said = capsys.readouterr()
    assert "fewer rows than the budget: the others are left out" in said.err
    assert "left out: the highest IFD among answers of like length" in said.out


def test_a_run_over_groups_is_exported_and_not_selected_from(run, tmp_path, capsys):
    groups = tmp_path / "groups.jsonl"
    answers = [f"answer {number} of many" for number in range(3)]
    groups.write_text("".join(json.dumps({"instruction": f"say {i}", "responses": answers}) + "\n" for i in range(3)))
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--quiet"]
    assert main(["grape", str(groups), "--output", str(tmp_path / "run"), *model]) == 0
    assert main(["select", str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--budget", "2"]) == 2
    assert "instsel export writes each one's best" in capsys.readouterr().err
