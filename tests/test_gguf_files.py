"""Models in GGUF: scores are those of the unpacked weights, by PATH/FILE.gguf and FOLDER:FILE.gguf."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from random_models import means_one_by_one
from small_tokenizers import byte_level
from tiny_model import write_alpaca

import instsel
from instsel.checkpoints import gguf_parts
from instsel.cli import main
from instsel.engine.model_checks import ScoringWarning
from instsel.runs.fingerprints import model_fingerprint

gguf = pytest.importorskip("gguf")
PAIRS = [([5, 6, 7], [8, 9]), ([5, 6], [10]), ([5, 6, 7], [9])]
NAMES = {  # of llama.cpp, as far as they are not those of transformers
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(path: Path, without: str = "no tensor") -> Any:
    """A Qwen2 of two layers with products in Q8_0 and byte-level BPE; the model of the unpacked weights."""
    tokenizer = byte_level()
    vocabulary = tokenizer.get_vocab()
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    model = transformers.Qwen2ForCausalLM(config).eval()
    writer = gguf.GGUFWriter(str(path), "qwen2")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3 if i < 2 else 1 for i in range(len(vocabulary))])
    writer.add_token_merges(
        [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    )
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, tensor in model.state_dict().items():
        stored = name
        for ours, theirs in NAMES.items():
            stored = stored.replace(ours, theirs)
        if without in name:
            continue
        if tensor.ndim == 1:
            writer.add_tensor(stored, tensor.numpy())
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        packed = gguf.quants.quantize(tensor.numpy(), kind)
        writer.add_tensor(stored, packed, raw_dtype=kind)
        tensor.copy_(torch.from_numpy(gguf.quants.dequantize(packed, kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.long
@pytest.mark.parametrize("name_of", [lambda path: path, lambda path: f"{path.parent}:{path.name}"])
def test_scores_are_those_of_the_unpacked_weights(name_of: Callable[[Path], Any], tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScoringWarning)
        scorer = instsel.Scorer(name_of(tmp_path / "model.gguf"), device="cpu", dtype="float32")
        got = instsel.score_batch(scorer, PAIRS)
    np.testing.assert_allclose(got.mean_logprob, means_one_by_one(model, PAIRS), atol=2e-5)
    assert scorer.model.shareable_length is None and scorer.model.head is not None
    assert scorer.model.fused_layers is not None, "unpacked weights are plain tensors"
    text = "Describe the process of making bread."
    assert scorer.tokenizer(text)["input_ids"] == byte_level()(text)["input_ids"]
    assert scorer.outline.input_vocabulary == scorer.model.vocabulary


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_weights_are_unpacked_to_the_dtype_asked_for(dtype: str, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf")
    scorer = instsel.Scorer(tmp_path / "model.gguf", device="cpu", dtype=dtype)
    own = scorer.model.model.state_dict()
    assert {str(tensor.dtype) for tensor in own.values()} == {f"torch.{dtype}"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(own[name], tensor.to(own[name].dtype)), name


def test_a_file_that_lacks_a_tensor_or_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", without="layers.1.mlp.up_proj")
    with pytest.raises(ValueError, match=r"lack 1 tensor.*layers\.1\.mlp\.up_proj"):
        _ = instsel.Scorer(tmp_path / "model.gguf", device="cpu").model
    for name in (tmp_path / "none.gguf", f"{tmp_path}:none.gguf", "none.gguf"):
        with pytest.raises(ValueError, match=r"expected a folder, a GGUF file or a hub id.*none\.gguf.*not exist"):
            _ = instsel.Scorer(name, device="cpu").model
    (tmp_path / "text.gguf").write_text("no GGUF")
    with pytest.raises(ValueError, match=r"cannot load .*text\.gguf") as caught:
        _ = instsel.Scorer(tmp_path / "text.gguf", device="cpu").model
    assert len(str(caught.value).splitlines()) == 1


def test_names_are_split_where_they_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "odd:name.gguf").touch()
    (tmp_path / "folder.gguf").mkdir()
    assert gguf_parts(f"{tmp_path}/odd:name.gguf") == (str(tmp_path), "odd:name.gguf")
    assert gguf_parts(f"{tmp_path}/folder.gguf") == (f"{tmp_path}/folder.gguf", None)
    assert gguf_parts("owner/name:part/file.GGUF") == ("owner/name", "part/file.GGUF")
    assert gguf_parts("owner/name") == ("owner/name", None)


def test_a_run_names_the_file_by_its_digest(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model.gguf"
    write_gguf(model)
    rows = write_alpaca(tmp_path / "rows.jsonl", 4)
    command = ["perplexity", str(rows), "--model", str(model), "--device", "cpu", "--quiet"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    before = model_fingerprint(str(model), None)
    assert before["model_files"].keys() == {"model.gguf"}
    assert json.dumps(before["model_digest"]) in json.dumps(manifest)
    assert model_fingerprint(f"{tmp_path}:model.gguf", None) == before
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    assert model_fingerprint(str(model), None)["model_digest"] != before["model_digest"]
    capfd.readouterr()
    assert main([*command, "--output", str(tmp_path / "run")]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_without_the_package_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").touch()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"GGUF file needs a package: gguf is not .*instsel\[gguf\]"):
        _ = instsel.Scorer(tmp_path / "model.gguf", device="cpu").model
