"""wICI's rule "gain" against float64 forwards, and its ablations against plain loops over their definitions."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import drawn_probes, example_rows
from one_by_one import OneByOne, plain
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.methods.influence import combine_influence
from instsel.methods.wici import wici
from instsel.neighbors.nearest import nearest_neighbors

TOLERANCE = 1e-4


def test_gain_is_the_rise_of_the_probes_log_probability(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(9)
    probes, similarity = drawn_probes(9, 3)
    probes[4, 1] = -1
    prompted = np.array([truth.token_logprobs(plain(row), row["output"]).mean() for row in examples])
    shown = np.array(
        [
            [truth.token_logprobs(plain(examples[b], examples[a]), examples[b]["output"]).mean() for b in probes[a]]
            for a in range(9)
        ]
    )
    gain = np.where(probes >= 0, shown - prompted[probes], np.nan)
    found = wici(scorer, examples, probes=probes, similarity=similarity, rule="gain")
    assert found.status.tolist() == ["ok"] * 9 and found.rule == "gain"
    np.testing.assert_allclose(found.influence, gain, atol=TOLERANCE)
    np.testing.assert_allclose(found.score, np.nanmean(gain, 1), atol=TOLERANCE)
    assert found.selectable.all()
    np.testing.assert_allclose(found.influence, np.log(found.ifd[probes] / found.one_shot_ifd), atol=1e-6)
    # The controls: with the weight, or with the paper's difference of ratios, scores are others.
    for other in ({"rule": "gain", "weight": "distance"}, {"rule": "paper", "weight": "none"}):
        score = wici(scorer, examples, probes=probes, similarity=similarity, **other).score
        assert np.abs(score - found.score).max() > 100 * TOLERANCE


def columns(rows: int, width: int) -> dict[str, Any]:
    """Log-probabilities and statuses as the stages give them, some pairs missing."""
    rng = np.random.default_rng(7)
    probes = rng.integers(-1, rows, (rows, width))
    failed = rng.random((rows, width)) < 0.2
    return {
        "direct": rng.normal(-3, 0.5, rows), "direct_status": np.full(rows, "ok"),
        "conditional": rng.normal(-3, 0.5, rows), "conditional_status": np.full(rows, "ok"),
        "one_shot": np.where(failed, np.nan, rng.normal(-3, 0.5, (rows, width))),
        "one_shot_status": np.where(failed, "too_long", "ok"),
        "probes": probes, "similarity": np.where(probes >= 0, rng.uniform(-1, 1, probes.shape), np.nan),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "weight", "negatives", "relative"),
    [
        one
        for one in itertools.product(
            ("paper", "release", "gain"), ("rule", "distance", "none"), ("rule", "keep", "drop"), (False, True)
        )
        if one[0] != "gain" or not one[3]
    ],
)
def test_ablations_as_loops(rule: str, weight: str, negatives: str, relative: bool) -> None:
    """The four variants of the released comparison of scores, and its relative influence, among others."""
    given = columns(60, 4)
    found = combine_influence(**given, rule=rule, weight=weight, negatives=negatives, relative=relative)
    ifd = np.exp(given["direct"] - given["conditional"])
    for a in range(60):
        terms = []
        for b, shown, cosine in zip(given["probes"][a], given["one_shot"][a], given["similarity"][a], strict=True):
            if b < 0 or np.isnan(shown):
                continue
            delta = ifd[b] - np.exp(-shown) / np.exp(-given["direct"][b])
            if relative:
                delta /= ifd[b]
            if rule == "gain":
                delta = shown - given["conditional"][b]
            factor = 1 - cosine if rule == "release" else (1 - cosine) / 2
            weighted = {"rule": rule != "gain", "distance": True, "none": False}[weight]
            dropped = {"rule": rule == "release", "keep": False, "drop": True}[negatives] and delta <= 0
            terms.append((delta * factor if weighted else delta, dropped))
        kept = [term for term, dropped in terms if not dropped]
        want = np.mean(kept) if kept else 0.0 if terms else np.nan
        assert found["score"][a] == pytest.approx(want, abs=1e-12, nan_ok=True)
    assert np.isnan(found["score"]).sum() < 10


def test_spelled_out_the_defaults_are_the_rules() -> None:
    given = columns(60, 4)
    for rule, weight, negatives in (("paper", "distance", "keep"), ("release", "distance", "drop"), ("gain",) * 3):
        options = {} if rule == "gain" else {"weight": weight, "negatives": negatives}
        spelled = {"weight": "none", "negatives": "keep"} if rule == "gain" else options
        default = combine_influence(**given, rule=rule)
        same = combine_influence(**given, rule=rule, **spelled)
        assert default["score"].tobytes() == same["score"].tobytes()


def test_neighbors_as_probes(scorer: instsel.Scorer) -> None:
    examples = example_rows(20)
    vectors = np.random.default_rng(1).normal(size=(20, 5))
    found = wici(scorer, examples, neighbors_as_probes=True, num_probes=4, embedder=vectors)
    near = nearest_neighbors(vectors, 4)
    assert found.probes.tolist() == near.index.tolist()
    assert found.similarity.tolist() == near.similarity.tolist()
    given = wici(scorer, examples, probes=near.index, similarity=near.similarity)
    np.testing.assert_allclose(found.score, given.score, atol=1e-5)
    clustered = wici(scorer, examples, num_probes=4, num_neighbors=12, embedder=vectors)
    assert clustered.probes.tolist() != found.probes.tolist()
    few = wici(scorer, examples[:3], neighbors_as_probes=True, num_probes=4)
    assert few.probes.shape == (3, 4) and (few.probes[:, 2:] == -1).all() and (few.probes[:, :2] >= 0).all()
    many = wici(scorer, examples, neighbors_as_probes=True, num_probes=15, num_neighbors=5, embedder=vectors)
    assert (many.probes >= 0).all(), "the number of neighbours to cluster is of no account"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"neighbors_as_probes": True, "probes": [[1], [0], [0]]},
            "neighbors_as_probes was given together with probes",
        ),
        ({"rule": "gain", "relative": True}, "relative is for the rules paper and release"),
        ({"weight": "near"}, "weight must be one of rule, distance, none, got 'near'"),
        ({"negatives": True}, "negatives must be one of rule, keep, drop, got True"),
    ],
)
def test_what_is_refused(scorer: instsel.Scorer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wici(scorer, example_rows(3), **options)


@pytest.mark.long
def test_the_command_has_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 40)
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--quiet"]
    held = [json.loads(line) for line in rows.read_text().splitlines()]
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu")
    for number, (flags, options) in enumerate(
        (
            (["--rule", "gain", "--neighbors-as-probes"], {"rule": "gain", "neighbors_as_probes": True}),
            (["--weight", "none", "--negatives", "drop"], {"weight": "none", "negatives": "drop"}),
            (["--rule", "release", "--relative"], {"rule": "release", "relative": True}),
        )
    ):
        output = tmp_path / str(number)
        assert main(["wici", str(rows), *model, "--num-probes", "3", "--output", str(output), *flags]) == 0
        score = pq.read_table(output / "scores.parquet").column("score").to_pylist()
        want = wici(scorer, held, num_probes=3, **options)
        np.testing.assert_allclose([np.nan if x is None else x for x in score], want.score, atol=2e-5)
        assert np.isfinite(want.score).sum() > 30
