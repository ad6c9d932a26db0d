"""The model's context as its configuration states it, and in its place what somebody says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architectures import build_model
from random_models import means_one_by_one, new_llama, random_ids
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.parallel.moved_scorer import moved

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}


@pytest.mark.long
@pytest.mark.parametrize("rope", [YARN, LINEAR], ids=["yarn", "linear"])
def test_it_lifts_the_limit_of_a_configuration_left_unstretched(rope: dict[str, Any]) -> None:
    model = new_llama(max_position_embeddings=64, rope_parameters=rope)
    rng = np.random.default_rng(0)
    pairs = [(random_ids(rng, 100, 120), random_ids(rng, 20, 30)), (random_ids(rng, 5, 9), [7])]
    assert instsel.score_batch(instsel.Scorer(model), pairs).status.tolist() == ["too_long", "ok"]
    scorer = instsel.Scorer(model, context_length=256)
    got = instsel.score_batch(scorer, pairs)
    assert (scorer.max_length, scorer.outline.max_length) == (256, 256)
    assert got.status.tolist() == ["ok", "ok"]
    assert np.abs(got.mean_logprob - means_one_by_one(model, pairs, float64=False)).max() < 3e-5
    assert moved(scorer)["context_length"] == 256, "workers load their own"
    model.config.use_cache = not model.config.use_cache  # an edit by which it is checked again
    assert instsel.score_batch(scorer, pairs).status.tolist() == ["ok", "ok"]


def test_dynamic_scaling_of_one_type_of_layers_stretches_it() -> None:
    """As it does where all layers have it: the configuration states the length before the scaling."""
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    rope = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": dynamic}
    model = build_model("gemma3_text", {"max_position_embeddings": 40, "rope_parameters": rope})
    rng = np.random.default_rng(0)
    pairs = [(random_ids(rng, 100, 120), random_ids(rng, 20, 30)), (random_ids(rng, 5, 9), [7])]
    scorer = instsel.Scorer(model)
    got = instsel.score_batch(scorer, pairs)
    assert (scorer.max_length, got.status.tolist()) == (160, ["ok", "ok"])
    for pair, mean in zip(pairs, got.mean_logprob, strict=True):  # a model keeps the longest length that it has seen
        assert abs(mean - means_one_by_one(copy.deepcopy(model), [pair], float64=False)[0]) < 3e-5


def test_it_may_be_less_than_the_configuration_says() -> None:
    scorer = instsel.Scorer(new_llama(), context_length=10)
    assert instsel.score_batch(scorer, [([5] * 9, [6, 7]), ([5], [6])]).status.tolist() == ["too_long", "ok"]


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gptj"])
def test_a_table_of_positions_ends_where_it_ends(kind: str) -> None:
    model = build_model(kind)
    with pytest.raises(ValueError, match=r"context_length: .* has a table of 256 positions.* got 257"):
        _ = instsel.Scorer(model, device="cpu", context_length=257).model
    assert instsel.Scorer(model, device="cpu", context_length=256).model.max_length == 256


@pytest.mark.parametrize("wrong", [0, -5, 2.5, True, "long"])
def test_what_is_no_length_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="context_length: expected a positive integer"):
        instsel.Scorer("some/name", context_length=wrong)


def test_a_run_keeps_to_the_context_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 6)
    run = tmp_path / "run"
    command = ["perplexity", str(rows), "--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32"]
    command += ["--output", str(run), "--quiet"]
    assert main(command) == 0
    assert "context_length" not in json.loads((run / "manifest.json").read_text())["compared"], "older folders go on"
    assert main([*command, "--context-length", "300"]) == 2
    assert "context_length (none there, 300 now)" in capsys.readouterr().err
    assert main([*command, "--context-length", "300", "--overwrite"]) == 0
    assert json.loads((run / "manifest.json").read_text())["context_length"] == 300
    assert main(command) == 2
    assert "context_length (300 there, none now)" in capsys.readouterr().err
