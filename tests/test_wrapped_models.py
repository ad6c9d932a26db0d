"""Models as people hold them score as their own forward says: adapted, compiled, quantised, spread, wrapped."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from model_state import state_of
from random_models import new_llama, tree_requests

import instsel

PAIRS = tree_requests(np.random.default_rng(0))[:14]
TOLERANCE = 2e-5

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated.*", "ignore::instsel.engine.model_checks.ScoringWarning")


@torch.no_grad()
def own_means(model: Any) -> np.ndarray:
    """By the forward that the holder of the model would call, one sequence at a time, in evaluation mode."""
    means = []
    for context, continuation in PAIRS:
        ids = torch.tensor([context + continuation])
        logits = model(input_ids=ids).logits[0, -ids.shape[1] :][:-1].double()
        values = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0]
        means.append(values[len(context) - 1 :].mean().item())
    return np.array(means)


def scores(model: Any, **settings: Any) -> np.ndarray:
    batch = instsel.score_batch(instsel.Scorer(model, **settings), PAIRS)
    assert (batch.status == "ok").all()
    return batch.mean_logprob


def lora(base: Any = None, seed: int = 0, **settings: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    chosen = {"target_modules": ["q_proj", "v_proj", "up_proj"], "lora_dropout": 0.3, "r": 4} | settings
    config = peft.LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **chosen)
    return peft.get_peft_model(base or new_llama(), config).eval()


def adapted(kind: str, **settings: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    return peft.get_peft_model(new_llama(), getattr(peft, kind)(task_type="CAUSAL_LM", **settings)).eval()


def compiled_in_place() -> Any:
    model = new_llama()
    model.compile(backend="eager")
    return model


def compiled_parts() -> Any:
    model = new_llama()
    model.model.layers[1] = torch.compile(model.model.layers[1], backend="eager")
    model.model.norm.forward = torch.compile(model.model.norm.forward, backend="eager")
    return model


def spread(folder: Path, **places: str) -> Any:
    pytest.importorskip("accelerate")
    new_llama().save_pretrained(folder / "model")
    parts = ("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head")
    device_map = dict.fromkeys(parts, "cpu") | {f"model.layers.{i}": "cpu" for i in range(3)}
    device_map |= {name.replace("__", "."): place for name, place in places.items()}
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", device_map=device_map, offload_folder=folder / "offload"
    )


def offloaded() -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.cpu_offload(new_llama(), execution_device=torch.device("cpu"))


WRAPPED: dict[str, Callable[[Path], Any]] = {
    "LoRA": lambda _: lora(),
    "DoRA": lambda _: lora(use_dora=True),
    "LoRA with a head of its own": lambda _: lora(modules_to_save=["lm_head"]),
    "LoRA on the embeddings": lambda _: lora(target_modules=["embed_tokens", "k_proj"]),
    "mixed adapters": lambda _: pytest.importorskip("peft").get_peft_model(
        new_llama(), lora().peft_config["default"], mixed=True
    ),
    "IA3": lambda _: adapted(
        "IA3Config", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
    "learned prompt": lambda _: adapted("PromptTuningConfig", num_virtual_tokens=5),
    "learned prefix": lambda _: adapted("PrefixTuningConfig", num_virtual_tokens=5),
    "learned prompt of an encoder": lambda _: adapted("PromptEncoderConfig", num_virtual_tokens=5),
    "compiled": lambda _: torch.compile(new_llama(), backend="eager"),
    "compiled in place": lambda _: compiled_in_place(),
    "compiled parts": lambda _: compiled_parts(),
    "compiled adapters": lambda _: torch.compile(lora(), backend="eager"),
    "data parallel": lambda _: torch.nn.DataParallel(new_llama()),
    "layers on disk": lambda folder: spread(folder, model__layers__1="disk", model__layers__2="disk"),
    "embeddings and head on disk": lambda folder: spread(folder, model__embed_tokens="disk", lm_head="disk"),
    "offloaded to the CPU": lambda _: offloaded(),
}


@pytest.mark.long
@pytest.mark.parametrize("purpose", WRAPPED)
def test_a_wrapped_model_scores_as_its_own_forward_and_is_left_as_it_was(purpose: str, tmp_path: Path) -> None:
    model = WRAPPED[purpose](tmp_path)
    model.eval()
    want = own_means(model)
    model.train()
    before = state_of(model)
    scorer = instsel.Scorer(model)
    got = [instsel.score_batch(scorer, PAIRS).mean_logprob for _ in range(2)]
    assert state_of(model) == before
    assert np.abs(got[0] - want).max() < TOLERANCE
    assert got[0].tobytes() == got[1].tobytes()
    model.eval()
    assert np.abs(own_means(model) - want).max() < 1e-6


def test_a_model_in_a_distributed_wrapper(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(new_llama())
        assert np.abs(scores(model) - own_means(model)).max() < TOLERANCE
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.long
def test_adapters_switched_off_switched_and_added_between_calls() -> None:
    model = lora()
    base = own_means(new_llama())
    scorer = instsel.Scorer(model)

    def check() -> np.ndarray:
        got = instsel.score_batch(scorer, PAIRS).mean_logprob
        assert np.abs(got - own_means(model)).max() < TOLERANCE
        return got

    first = check()
    with model.disable_adapter():
        assert np.abs(check() - base).max() < TOLERANCE
    assert check().tobytes() == first.tobytes()
    torch.manual_seed(5)
    config = copy.deepcopy(model.peft_config["default"])
    config.target_modules = {"k_proj", "down_proj"}
    model.add_adapter("second", config)
    assert check().tobytes() == first.tobytes()
    model.set_adapter("second")
    model.eval()
    second = check()
    assert np.abs(second - first).max() > 0.01 and np.abs(second - base).max() > 0.01
    model.merge_adapter()
    assert np.abs(check() - second).max() < TOLERANCE
    model.unmerge_adapter()


def test_a_learned_prompt_switched_off_gives_the_base_model() -> None:
    model = adapted("PromptTuningConfig", num_virtual_tokens=5)
    scorer = instsel.Scorer(model)
    with model.disable_adapter():
        got = instsel.score_batch(scorer, PAIRS).mean_logprob
    assert np.abs(got - own_means(new_llama())).max() < TOLERANCE
    assert np.abs(instsel.score_batch(scorer, PAIRS).mean_logprob - own_means(model)).max() < TOLERANCE


# --- quantised ----------------------------------------------------------------------------------------------------


def quanto(*, activations: bool = False, frozen: bool = True) -> Any:
    library = pytest.importorskip("optimum.quanto")
    model = new_llama()
    library.quantize(model, weights=library.qint8, activations=library.qint8 if activations else None)
    if activations:
        with library.Calibration(), torch.no_grad():
            own_means(model)
    if frozen:
        library.freeze(model)
    return model.eval()


def torchao(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    library = pytest.importorskip("torchao.quantization")
    model = new_llama().to(dtype)
    library.quantize_(model, getattr(library, kind)())
    return model


def dynamic() -> Any:
    return torch.ao.quantization.quantize_dynamic(new_llama(), {torch.nn.Linear}, dtype=torch.qint8)


# What rounding to integers, where that is done to activations, makes of differences in their last digits.
QUANTISED: dict[str, tuple[Callable[[], Any], float]] = {
    "quanto int8": (quanto, TOLERANCE),
    "quanto int8, not frozen": (lambda: quanto(frozen=False), TOLERANCE),
    "quanto int8 activations": (lambda: quanto(activations=True), 0.02),
    "torchao int8": (lambda: torchao("Int8WeightOnlyConfig"), TOLERANCE),
    "torchao int8 in bfloat16": (lambda: torchao("Int8WeightOnlyConfig", torch.bfloat16), 0.1),
    "torchao int8 activations": (lambda: torchao("Int8DynamicActivationInt8WeightConfig"), 0.02),
    "quantize_dynamic": (dynamic, 1e-6),
}


@pytest.mark.long
@pytest.mark.parametrize("purpose", QUANTISED)
def test_a_quantised_model_scores_as_its_own_forward(purpose: str) -> None:
    build, noise = QUANTISED[purpose]
    model = build()
    want = own_means(model)
    modes = [(type(module), module.training) for module in model.modules()]
    assert np.abs(scores(model) - want).max() < noise
    assert [(type(module), module.training) for module in model.modules()] == modes
    assert np.array_equal(own_means(model), want)
    assert np.abs(want - own_means(new_llama())).max() > 2e-3, "nothing was quantised"


def test_a_quantised_encoder_is_still_not_a_causal_language_model() -> None:
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(vocab_size=211, initializer_range=0.3, **small)
    model = transformers.BertLMHeadModel(config).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="expected a causal"):
        scores(quantised)


@pytest.mark.parametrize(("build", "reason"), [(quanto, "quantised"), (offloaded, "device_map")])
def test_what_is_quantised_or_spread_is_neither_cast_nor_moved(build: Callable[[], Any], reason: str) -> None:
    model = build()
    before = [(type(p), p.dtype, p.device) for p in model.parameters()]
    with pytest.raises(ValueError, match=rf"dtype: the model is .*{reason}.*bfloat16"):
        scores(model, dtype="bfloat16")
    assert [(type(p), p.dtype, p.device) for p in model.parameters()] == before


@pytest.mark.parametrize("build", [torch.nn.Linear, lambda *_: torch.nn.Sequential(new_llama())])
def test_what_holds_no_model_is_refused_at_once(build: Any) -> None:
    with pytest.raises(TypeError, match="model: expected a name"):
        instsel.Scorer(build(3, 3))


def test_a_scorer_of_an_adapted_model_can_be_copied() -> None:
    model = lora()
    scorer = instsel.Scorer(model)
    want = instsel.score_batch(scorer, PAIRS).mean_logprob
    for other in (copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert instsel.score_batch(other, PAIRS).mean_logprob.tobytes() == want.tobytes()
