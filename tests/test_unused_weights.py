"""Weights in a checkpoint that the model of its configuration does not read: refused by name, or said on demand."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import new_llama
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.engine.model_checks import ScoringWarning
from instsel.parallel.moved_scorer import moved

PAIRS = [([5, 6, 7], [8, 9]), ([5, 6], [10])]


def with_biases(folder: Path) -> None:
    new_llama(attention_bias=True).save_pretrained(folder)
    _configured(folder, attention_bias=False)


def with_more_layers(folder: Path) -> None:
    new_llama().save_pretrained(folder)
    _configured(folder, num_hidden_layers=2)


def with_adapters(folder: Path) -> None:
    new_llama().save_pretrained(folder)
    _with_tensors(folder, {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)})


def _configured(folder: Path, **settings: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def _with_tensors(folder: Path, more: dict[str, torch.Tensor]) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | more, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (with_biases, r"12 of its weights are not read .*layers\.0\.self_attn\.k_proj\.bias, .*\.\.\."),
        (with_more_layers, r"9 of its weights are not read .*layers\.2\."),
        (with_adapters, r"1 of its weights are not read .*lora_A"),
    ],
)
def test_they_are_refused_by_name_unless_allowed(build: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    build(tmp_path)
    with pytest.raises(ValueError, match=says) as caught:
        _ = instsel.Scorer(str(tmp_path), device="cpu").model
    assert "--allow-unused-weights" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    with pytest.warns(ScoringWarning, match=says):
        scorer = instsel.Scorer(str(tmp_path), tokenizer=tiny_model_folder(), device="cpu", allow_unused_weights=True)
        assert np.isfinite(instsel.score_batch(scorer, PAIRS).mean_logprob).all()
    assert moved(scorer)["allow_unused_weights"], "workers load their own"


def test_what_transformers_declares_to_be_of_no_concern_is_passed_over(tmp_path: Path) -> None:
    new_llama().save_pretrained(tmp_path)
    _with_tensors(tmp_path, {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(3)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScoringWarning)
        _ = instsel.Scorer(str(tmp_path), device="cpu").model


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder(), model)
    _with_tensors(model, {"model.extra.weight": torch.zeros(3)})
    rows = write_alpaca(tmp_path / "rows.jsonl", 3)
    command = ["perplexity", str(rows), "--model", str(model), "--device", "cpu", "--dtype", "float32", "--quiet"]
    command += ["--output", str(tmp_path / "run")]
    assert main(command) == 2
    said = capsys.readouterr().err.strip()
    assert "model.extra.weight" in said.splitlines()[-1] and "Traceback" not in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ScoringWarning)
        assert main([*command, "--allow-unused-weights"]) == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["arguments"]["allow_unused_weights"] is True
