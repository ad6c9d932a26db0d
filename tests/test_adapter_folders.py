"""Adapters of PEFT by their folder: base model by configuration, scores those of peft, digests over both."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from random_models import means_one_by_one, new_llama
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model_folder, write_alpaca

import instsel
from instsel.checkpoints import find_checkpoint
from instsel.cli import main
from instsel.runs.fingerprints import model_fingerprint

peft = pytest.importorskip("peft")
PAIRS = [([5, 6, 7], [8, 9]), ([5, 6], [10]), ([5, 6, 7, 20, 30], [9, 40])]


def write_adapter(base: Path, folder: Path, config: Any = None, **settings: Any) -> Any:
    """An adapter that moves scores, in a folder, and the model with it as peft runs it."""
    model = new_llama(**settings)
    model.save_pretrained(base)
    model.name_or_path = str(base)
    torch.manual_seed(1)
    config = config or peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "prompt" in name:
                parameter.normal_(0, 0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_are_those_of_the_adapted_model(dtype: str, tmp_path: Path) -> None:
    adapted = write_adapter(tmp_path / "base", tmp_path / "adapter")
    want = means_one_by_one(adapted, PAIRS)
    base = instsel.Scorer(tmp_path / "base", device="cpu", dtype=dtype)
    scorer = instsel.Scorer(tmp_path / "adapter", device="cpu", dtype=dtype)
    got = instsel.score_batch(scorer, PAIRS).mean_logprob
    assert np.abs(instsel.score_batch(base, PAIRS).mean_logprob - want).max() > 0.1, "an adapter that changes nothing"
    np.testing.assert_allclose(got, want, atol=2e-5 if dtype == "float32" else 0.06)
    assert scorer.model.shareable_length is None
    # Merged where that rounds nothing away: layers of plain products run whole.
    kinds = {type(module).__module__.partition(".")[0] for module in scorer.model.model.modules()}
    assert ("peft" in kinds) == (dtype == "bfloat16")
    assert scorer.outline.vocabulary == scorer.model.vocabulary


def test_a_learned_prompt_is_run_by_peft(tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    adapted = write_adapter(tmp_path / "base", tmp_path / "adapter", config)
    got = instsel.score_batch(instsel.Scorer(tmp_path / "adapter", device="cpu", dtype="float32"), PAIRS)
    loaded = instsel.score_batch(instsel.Scorer(adapted, device="cpu"), PAIRS)
    np.testing.assert_allclose(got.mean_logprob, loaded.mean_logprob, atol=2e-5)


def test_an_adapter_beside_its_model(tmp_path: Path) -> None:
    adapted = write_adapter(tmp_path / "base", tmp_path / "both")
    for file in (tmp_path / "base").iterdir():
        shutil.copy(file, tmp_path / "both")
    got = instsel.score_batch(instsel.Scorer(tmp_path / "both", device="cpu", dtype="float32"), PAIRS)
    np.testing.assert_allclose(got.mean_logprob, means_one_by_one(adapted, PAIRS), atol=2e-5)


def test_an_adapter_and_its_base_model_by_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = write_adapter(tmp_path / "base", tmp_path / "adapter", vocab_size=264)
    for file in Path(tiny_model_folder()).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    _set(tmp_path / "adapter", base_model_name_or_path="some/base")
    for name, commit in (("base", "0" * 40), ("adapter", "1" * 40)):
        folder = tmp_path / f"cache/models--some--{name}"
        shutil.copytree(tmp_path / name, folder / "snapshots" / commit)
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    scorer = instsel.Scorer("some/adapter", device="cpu", dtype="float32")
    np.testing.assert_allclose(
        instsel.score_batch(scorer, PAIRS).mean_logprob, means_one_by_one(adapted, PAIRS), atol=2e-5
    )
    assert scorer.tokenizer.name_or_path == "some/base"
    found = model_fingerprint("some/adapter", None)
    assert found["tokenizer_digest"] == "commit " + "0" * 40
    assert found["model_digest"] not in ("commit " + "0" * 40, "commit " + "1" * 40)
    shutil.rmtree(tmp_path / "cache/models--some--base")
    with pytest.raises(ValueError, match=r"some/adapter.*its base model 'some/base': HF_HUB_OFFLINE is set"):
        _ = instsel.Scorer("some/adapter", device="cpu").model


def test_the_tokenizer_is_the_adapters_own_or_its_base_models(tmp_path: Path) -> None:
    write_adapter(tmp_path / "base", tmp_path / "adapter", vocab_size=264)
    for file in Path(tiny_model_folder()).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    assert instsel.Scorer(tmp_path / "adapter", device="cpu").tokenizer.name_or_path == str(tmp_path / "base")
    for file in Path(tiny_model_folder()).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "adapter")
    assert instsel.Scorer(tmp_path / "adapter", device="cpu").tokenizer.name_or_path == str(tmp_path / "adapter")


def test_digests_cover_the_adapter_and_its_base_model(tmp_path: Path) -> None:
    write_adapter(tmp_path / "base", tmp_path / "adapter", vocab_size=264)
    for file in Path(tiny_model_folder()).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    adapter, base = str(tmp_path / "adapter"), str(tmp_path / "base")
    before = model_fingerprint(adapter, None)
    assert before["model_digest"] != model_fingerprint(base, None)["model_digest"]
    assert before["tokenizer_digest"] == model_fingerprint(base, None)["tokenizer_digest"]
    assert model_fingerprint(adapter, None, before) == before, "files known are not read again"
    seen = {before["model_digest"]}
    for file in (tmp_path / "adapter/adapter_model.safetensors", tmp_path / "base/model.safetensors"):
        tensors = load_file(file)
        name = next(iter(tensors))
        save_file(tensors | {name: tensors[name] + 1}, file, metadata={"format": "pt"})
        seen.add(model_fingerprint(adapter, None, before)["model_digest"])
    settings = tmp_path / "adapter/adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_alpha": 3}))
    seen.add(model_fingerprint(adapter, None, before)["model_digest"])
    assert len(seen) == 4
    known, stat = model_fingerprint(adapter, None), settings.stat()
    settings.write_text(settings.read_text() + "\n")  # longer, of the same time, as some copies are
    os.utime(settings, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert model_fingerprint(adapter, None, known)["model_digest"] != known["model_digest"]
    weights = tmp_path / "base/model.safetensors"
    known, stat, other = model_fingerprint(adapter, None), weights.stat(), weights.read_bytes()
    weights.write_bytes(other[:-1] + bytes([other[-1] ^ 1]))  # of the same size and time
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert model_fingerprint(adapter, None, known)["model_digest"] != known["model_digest"]
    shutil.copy(tmp_path / "base/tokenizer.json", adapter)
    assert model_fingerprint(adapter, None)["tokenizer_digest"] != before["tokenizer_digest"]


def test_the_command_line_runs_one_and_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(tmp_path / "base", tmp_path / "adapter", vocab_size=264)
    for file in Path(tiny_model_folder()).glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    rows = write_alpaca(tmp_path / "rows.jsonl", 4)
    command = ["perplexity", str(rows), "--model", str(tmp_path / "adapter"), "--device", "cpu", "--quiet"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    shutil.rmtree(tmp_path / "base")
    capsys.readouterr()
    assert main([*command, "--output", str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(tmp_path / "base") in said, said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            r"no adapter_model\.safetensors; inst",
        ),
        (lambda folder: _without_a_tensor(folder), r"adapter's weights lack 1 tensors.*lora_A"),
        (lambda folder: _set(folder, base_model_name_or_path=None), "names no base model"),
        (
            lambda folder: _set(folder, base_model_name_or_path="/no/base/here"),
            r"base model .*'/no/base/here', which does",
        ),
        (lambda folder: _set(folder, target_modules=["q_proj"]), r"6 of its weights are not read.*down_proj"),
    ],
)
def test_what_is_not_whole_is_refused_in_one_line(change: Any, says: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "base", tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(ValueError, match=says) as caught:
        _ = instsel.Scorer(tmp_path / "adapter", device="cpu").model
    assert len(str(caught.value).splitlines()) == 1


def _without_a_tensor(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, file, metadata={"format": "pt"})


def _set(folder: Path, **settings: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(tmp_path / "base", tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"adapter needs a package: peft is not .*instsel\[peft\]"):
        _ = instsel.Scorer(tmp_path / "adapter", device="cpu").model
    assert find_checkpoint(str(tmp_path / "base")).adapter is None
