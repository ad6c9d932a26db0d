from __future__ import annotations

import multiprocessing
import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from random_models import means_one_by_one, new_llama, shared_llama
from tiny_model import tiny_model_folder

import instsel
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.scoring import plan_batch
from instsel.kernels.native_arrays import has_bfloat16_products
from instsel.runs.fingerprints import model_fingerprint

PAIRS = [([5, 6, 7], [8, 9]), ([5, 6], [10]), ([5, 6, 7], [9])]


def score_in_worker(scorer: instsel.Scorer) -> list[float]:
    torch.set_num_threads(1)
    return instsel.score_batch(scorer, [("say the thing", " again"), ("say", " more")]).mean_logprob.tolist()


@pytest.mark.long
def test_a_scorer_pickled_after_use_scores_the_same_in_a_spawned_worker() -> None:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32", max_batch_tokens=64)
    here = score_in_worker(scorer)
    assert len(pickle.dumps(scorer)) < 2000, "weights travel with the pickle"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(score_in_worker, (scorer,))
    assert there == here
    again = pickle.loads(pickle.dumps(scorer))
    assert (again.max_batch_tokens, repr(again)) == (64, repr(scorer))


def test_nothing_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    scorer = instsel.Scorer(str(tmp_path / "not-there"))
    with pytest.raises(ValueError, match="not-there"):
        _ = scorer.model


def test_what_cannot_be_a_hub_id_is_said_to_be_no_folder_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text("{}")
    expected = "expected a folder, a GGUF file or a hub id, got "
    for name, what in [
        (str(tmp_path / "gone"), "which does not exist"),
        ("~/gone", "which does not exist"),
        (str(tmp_path / "pool.jsonl"), "which is a file of another kind"),
    ]:
        said = re.escape(f"model: {expected}{name!r}, {what}")
        for ask in (lambda scorer: scorer.model, lambda scorer: scorer.outline, lambda scorer: scorer.tokenizer):
            with pytest.raises(ValueError, match=f"^{said}$"):
                ask(instsel.Scorer(name, device="cpu"))
        with pytest.raises(ValueError, match=f"^{said}$"):
            model_fingerprint(name, None)
        with pytest.raises(ValueError, match="^" + re.escape(f"tokenizer: {expected}{name!r}, {what}") + "$"):
            _ = instsel.Scorer(tiny_model_folder(), tokenizer=name, device="cpu").tokenizer


def test_planning_reads_no_weights(tmp_path: Path) -> None:
    shutil.copytree(tiny_model_folder(), tmp_path, dirs_exist_ok=True)
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()
    scorer = instsel.Scorer(str(tmp_path), device="cpu")
    plan = plan_batch(scorer, [("say the thing", " again"), ("say the thing", " more")])
    full = instsel.Scorer(tiny_model_folder(), device="cpu")
    assert plan == plan_batch(full, [("say the thing", " again"), ("say the thing", " more")])
    with pytest.raises(ValueError, match="cannot load"):
        _ = scorer.model


def test_weights_that_lack_a_tensor_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model_folder(), tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    removed = tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensor.*layers\.1\.mlp\.up_proj"):
        _ = instsel.Scorer(str(tmp_path), device="cpu").model
    save_file(tensors | {"model.layers.1.mlp.up_proj.weight": removed[:, :-1].contiguous()}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj|size"):
        _ = instsel.Scorer(str(tmp_path), device="cpu").model


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    shutil.copytree(tiny_model_folder(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    torch.save(shared_llama().state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        _ = instsel.Scorer(str(tmp_path), device="cpu").model


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"model": 7}, TypeError, "model"),
        ({"model": ""}, ValueError, "model"),
        ({"backend": "fast"}, ValueError, "backend.*auto.*reference"),
        ({"dtype": "int8"}, ValueError, "dtype.*float32"),
        ({"dtype": torch.int64}, ValueError, "dtype"),
        ({"device": "quantum"}, ValueError, "device.*quantum"),
        ({"max_batch_tokens": 0}, ValueError, "max_batch_tokens"),
        ({"max_batch_tokens": 2.5}, ValueError, "max_batch_tokens"),
        ({"max_batch_tokens": True}, ValueError, "max_batch_tokens"),
        ({"max_batch_tokens": "many"}, ValueError, "max_batch_tokens"),
    ],
)
def test_wrong_settings_are_named_at_once(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        instsel.Scorer(**({"model": "some/name"} | settings))


def test_a_model_without_tokenizer_scores_ids_and_says_what_text_needs() -> None:
    scorer = instsel.Scorer(new_llama(), device="cpu")
    assert scorer.tokenizer is None
    assert instsel.score_batch(scorer, PAIRS).status.tolist() == ["ok"] * 3
    with pytest.raises(ValueError, match=r"requests\[0\].*tokenizer"):
        instsel.score_batch(scorer, [("some", " text")])
    with pytest.raises(ValueError, match="tokenizer"):
        scorer.mean_hidden_states(["some text"])


def test_half_precision_checkpoints_run_as_stored_but_float16_on_a_cpu(tmp_path: Path) -> None:
    stored = torch.bfloat16 if has_bfloat16_products() else torch.float32
    for dtype, run in ((torch.float16, torch.float32), (torch.bfloat16, stored)):
        new_llama().to(dtype).save_pretrained(tmp_path / str(dtype))
        assert instsel.Scorer(tmp_path / str(dtype), device="cpu").model.dtype == run
    assert instsel.Scorer(tmp_path / "torch.float16", device="cpu", dtype="float16").model.dtype == torch.float16


@pytest.mark.long
def test_bfloat16_is_held_as_float32_where_a_processor_has_no_arithmetic_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_llama().bfloat16().save_pretrained(tmp_path)
    as_float32 = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    exact = means_one_by_one(as_float32.eval(), PAIRS)
    monkeypatch.setenv("INSTSEL_INSTRUCTION_SET", "plain")
    monkeypatch.setattr("instsel.engine.loading.platform.machine", lambda: "x86_64")
    with pytest.warns(ScoringWarning, match="no arithmetic: it is held as float32"):
        scorer = instsel.Scorer(tmp_path, tokenizer=tiny_model_folder(), device="cpu")
        scores = instsel.score_batch(scorer, PAIRS).mean_logprob
    assert scorer.model.dtype == torch.float32
    np.testing.assert_allclose(scores, exact, atol=1e-5)
    with monkeypatch.context() as patch, pytest.warns(ScoringWarning, match="would take"):
        patch.setattr("instsel.engine.loading.available_bytes", lambda: 1 << 20)
        assert instsel.Scorer(tmp_path, device="cpu").model.dtype == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScoringWarning)
        assert instsel.Scorer(tmp_path, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_loaded_model_is_cast_only_when_a_dtype_is_asked_for(dtype: torch.dtype) -> None:
    model = new_llama().to(dtype)
    assert instsel.Scorer(model, device="cpu").model.dtype == model.dtype == dtype
    assert instsel.Scorer(model, dtype="float32").model.dtype == model.dtype == torch.float32


def test_scoring_in_float64_is_refused_by_name_of_a_loaded_model_and_after_an_edit() -> None:
    model = new_llama()
    scorer = instsel.Scorer(model, device="cpu")
    want = instsel.score_batch(scorer, PAIRS).mean_logprob
    model.double()
    for refused in (scorer, instsel.Scorer(model, device="cpu")):
        with pytest.raises(ValueError, match=r"model: expected weights of float32, .* got float64; dtype float32"):
            instsel.score_batch(refused, PAIRS)
    got = instsel.score_batch(instsel.Scorer(model, device="cpu", dtype="float32"), PAIRS).mean_logprob
    assert got.tolist() == want.tolist()


# --- models that are not, or not quite, causal language models ----------------------------------------------------

SMALL = {
    "vocab_size": 211,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def new_bert(*, is_decoder: bool) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, is_decoder=is_decoder, initializer_range=0.3)
    return transformers.BertLMHeadModel(config).eval()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: new_bert(is_decoder=False), "causal.*BertLMHeadModel.*tokens that follow.*is_decoder"),
        (lambda: new_llama().model, "LlamaModel.*no language modelling head"),
        (
            lambda: transformers.T5ForConditionalGeneration(
                transformers.T5Config(vocab_size=211, d_model=32, d_ff=48, num_layers=1, num_heads=2, d_kv=16)
            ),
            "T5ForConditionalGeneration, an encoder-decoder",
        ),
    ],
)
def test_what_is_not_a_causal_language_model_is_refused(build: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        instsel.score_batch(instsel.Scorer(build(), device="cpu"), PAIRS)


def test_an_encoder_made_a_decoder_is_scored() -> None:
    model = new_bert(is_decoder=True)
    with pytest.warns(ScoringWarning, match="own logits"):
        got = instsel.score_batch(instsel.Scorer(model, device="cpu"), PAIRS)
    assert np.abs(got.mean_logprob - means_one_by_one(model, PAIRS)).max() < 2e-5


class MaskedColumns(transformers.LlamaForCausalLM):
    """A head with columns that the model's own code masks, as padded vocabularies have."""

    def forward(self, *arguments: Any, **more: Any) -> Any:
        out = super().forward(*arguments, **more)
        out.logits[..., 200:] = float("-inf")
        return out


class TakesNoRows(transformers.LlamaForCausalLM):
    """Takes any argument and heeds none of the rows to keep; its head is not the whole story either."""

    def forward(self, input_ids: Any = None, position_ids: Any = None, use_cache: Any = None, **ignored: Any) -> Any:
        out = super().forward(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)
        out.logits = out.logits * 1.5
        return out


class OneMoreBias(transformers.LlamaForCausalLM):
    """One logit of 211 differs from what the head says."""

    def forward(self, *arguments: Any, **more: Any) -> Any:
        out = super().forward(*arguments, **more)
        out.logits[..., 17] += 0.5
        return out


@pytest.mark.parametrize("kind", [MaskedColumns, TakesNoRows, OneMoreBias])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("budget", [3, 4096])
def test_logits_that_the_head_does_not_explain_are_the_models_own(kind: Any, dtype: torch.dtype, budget: int) -> None:
    model = kind(new_llama().config).eval().to(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scorer = instsel.Scorer(model, device="cpu", max_batch_tokens=budget)
        got = instsel.score_batch(scorer, PAIRS)
    assert scorer.model.head is None
    (warning,) = [w for w in caught if issubclass(w.category, ScoringWarning)]
    assert kind.__name__ in str(warning.message) and "own logits" in str(warning.message)
    want = means_one_by_one(model, PAIRS, float64=False)
    assert np.abs(got.mean_logprob - want).max() < (2e-5 if dtype == torch.float32 else 0.05)


def test_a_head_with_more_rows_than_the_embedding() -> None:
    model = new_llama(tie_word_embeddings=False)
    model.lm_head = torch.nn.Linear(64, 230, bias=False)
    pairs = [([5, 6], [7, 8]), ([9], [210])]
    got = instsel.score_batch(instsel.Scorer(model, device="cpu"), pairs)
    assert np.abs(got.mean_logprob - means_one_by_one(model, pairs)).max() < 2e-5
    with pytest.raises(ValueError, match="0 to 210"):
        instsel.score_batch(instsel.Scorer(model, device="cpu"), [([5], [220])])


def test_a_head_with_fewer_rows_than_the_embedding() -> None:
    model = new_llama(tie_word_embeddings=False)
    model.lm_head = torch.nn.Linear(64, 150, bias=True)
    got = instsel.score_batch(instsel.Scorer(model, device="cpu"), PAIRS)
    assert np.abs(got.mean_logprob - means_one_by_one(model, PAIRS)).max() < 2e-5
    with pytest.raises(ValueError, match="0 to 149"):
        instsel.score_batch(instsel.Scorer(model, device="cpu"), [([5], [150])])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_ordinary_model_gives_no_warning(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScoringWarning)
        scorer = instsel.Scorer(new_llama().to(dtype), device="cpu")
        instsel.score_batch(scorer, PAIRS)
    assert scorer.model.shareable_length is None
    assert scorer.model.head is not None
