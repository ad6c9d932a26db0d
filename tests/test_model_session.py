"""The engine in a training program: whatever happens, the model is left as it was, and scored as it is."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from model_state import global_settings, random_states, state_of
from random_models import means_one_by_one, new_llama, tree_requests
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.llama import modeling_llama

import instsel

TOLERANCE = 2e-5
PAIRS = tree_requests(np.random.default_rng(0))[:12]


def new_gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=211,
        n_embd=64,
        n_layer=3,
        n_head=4,
        n_positions=256,
        initializer_range=0.15,
        resid_pdrop=0.3,
        embd_pdrop=0.3,
        attn_pdrop=0.3,
    )
    return transformers.GPT2LMHeadModel(config)


BUILDERS: dict[str, Callable[[], Any]] = {"llama": lambda: new_llama().train(), "gpt2": lambda: new_gpt2().train()}


def in_training(name: str) -> Any:
    """A model as it is in the middle of a training step: one part frozen and in evaluation mode, gradients there."""
    model = BUILDERS[name]()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    model(input_ids=torch.arange(3, 20)[None], labels=torch.arange(3, 20)[None]).loss.backward()
    first = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))[0]
    first.eval().requires_grad_(False)
    return model


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_in_training_is_scored_in_evaluation_mode_every_time_and_left_in_training(name: str) -> None:
    model = in_training(name)
    want = means_one_by_one(copy.deepcopy(model).eval(), PAIRS)
    before, modules = state_of(model), (dict(vars(modeling_llama)), dict(vars(modeling_gpt2)))
    random, settings = random_states(), global_settings()
    scorer = instsel.Scorer(model)
    got = [instsel.score_batch(scorer, PAIRS).mean_logprob for _ in range(2)]
    assert state_of(model) == before
    model.train()
    got.append(instsel.score_batch(scorer, PAIRS).mean_logprob)
    assert all(module.training for module in model.modules())
    assert (dict(vars(modeling_llama)), dict(vars(modeling_gpt2))) == modules
    assert (random_states(), global_settings()) == (random, settings)
    assert np.abs(got[0] - want).max() < TOLERANCE
    assert len({scores.tobytes() for scores in got}) == 1


class Stopped(BaseException):
    """Like KeyboardInterrupt: no handler of ordinary errors sees it."""


@pytest.mark.long
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), Stopped()], ids=repr)
@pytest.mark.parametrize("call", [0, 1, 5])
def test_whatever_is_thrown_inside_a_forward_the_model_is_as_before(error: BaseException, call: int) -> None:
    model = in_training("llama")
    calls: list[int] = []
    armed: list[bool] = []

    def stop(*_: Any) -> None:
        calls.append(0)
        if armed and len(calls) > call:
            raise error

    model.model.layers[1].mlp.register_forward_hook(stop)
    scorer = instsel.Scorer(model, max_batch_tokens=32)
    want = instsel.score_batch(scorer, PAIRS).mean_logprob
    calls.clear()
    armed.append(True)
    before, random, settings = state_of(model), random_states(), global_settings()
    with pytest.raises(type(error)):
        instsel.score_batch(scorer, PAIRS)
    assert (random_states(), global_settings()) == (random, settings)
    assert state_of(model) == before
    armed.clear()
    assert instsel.score_batch(scorer, PAIRS).mean_logprob.tobytes() == want.tobytes()


def test_an_exception_while_a_model_is_checked_at_load_leaves_it_as_it_was() -> None:
    model = in_training("llama")
    handle = model.model.norm.register_forward_hook(lambda *_: exec("raise KeyboardInterrupt"))
    before, random, settings = state_of(model), random_states(), global_settings()
    scorer = instsel.Scorer(model)
    with pytest.raises(KeyboardInterrupt):
        instsel.score_batch(scorer, PAIRS)
    assert (state_of(model), random_states(), global_settings()) == (before, random, settings)
    handle.remove()
    want = means_one_by_one(copy.deepcopy(model).eval(), PAIRS)
    assert np.abs(instsel.score_batch(scorer, PAIRS).mean_logprob - want).max() < TOLERANCE


@pytest.mark.long
def test_a_call_sees_the_model_as_it_is_when_it_begins() -> None:
    """Weights trained, replaced, cast and modules exchanged between calls: scored as they are, not as they were."""
    model = new_llama()
    scorer = instsel.Scorer(model)
    layer = model.model.layers[1]

    def step() -> None:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        model(input_ids=torch.arange(3, 40)[None], labels=torch.arange(3, 40)[None]).loss.backward()
        optimiser.step()

    def replaced() -> None:
        layer.mlp.up_proj.weight = torch.nn.Parameter(layer.mlp.up_proj.weight.detach() * 1.5)

    def another_class() -> None:
        torch.manual_seed(3)
        layer.mlp = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh())

    def other_epsilon() -> None:
        layer.input_layernorm.variance_epsilon = 0.5

    def steered() -> None:
        layer.register_forward_hook(lambda module, inputs, output: output + 0.3)

    changes = [lambda: None, step, replaced, other_epsilon, steered, another_class]
    scores = []
    for change in changes:
        change()
        scores.append(instsel.score_batch(scorer, PAIRS).mean_logprob)
        want = means_one_by_one(model, PAIRS)
        assert np.abs(scores[-1] - want).max() < 2 * TOLERANCE, getattr(change, "__name__", "")
    assert all(np.abs(one - other).max() > 1e-3 for one, other in itertools.pairwise(scores))
    model.bfloat16()
    got = instsel.score_batch(scorer, PAIRS).mean_logprob
    assert got.tobytes() == instsel.score_batch(instsel.Scorer(model), PAIRS).mean_logprob.tobytes()
    assert scorer.model.dtype == torch.bfloat16


def test_hooks_of_the_decoder_fire_and_those_on_fused_parts_do_too() -> None:
    model, seen = new_llama(), set()
    scorer = instsel.Scorer(model)
    instsel.score_batch(scorer, PAIRS)
    parts = [model.model, model.model.layers[0], model.model.layers[1].mlp.up_proj]
    parts += [model.model.layers[1].post_attention_layernorm, model.model.layers[2].input_layernorm, model.model.norm]
    for i, part in enumerate(parts):
        part.register_forward_pre_hook(lambda *_, i=i: seen.add(i))
    instsel.score_batch(scorer, PAIRS)
    assert seen == set(range(len(parts)))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64 by default": lambda: default_dtype(torch.float64),
    "bfloat16 by default": lambda: default_dtype(torch.bfloat16),
    "a default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
}


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fresh", [False, True], ids=["loaded before", "first call within"])
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_surrounds_a_call_moves_no_bit(name: str, fresh: bool, dtype: torch.dtype) -> None:
    model = new_llama().to(dtype)
    scorer = instsel.Scorer(model)
    want = instsel.score_batch(scorer, PAIRS).mean_logprob
    with SURROUNDINGS[name]():
        settings = global_settings()
        got = instsel.score_batch(instsel.Scorer(model) if fresh else scorer, PAIRS).mean_logprob
        assert global_settings() == settings
    assert got.tobytes() == want.tobytes()


def test_a_progress_callback_may_score_with_the_same_scorer() -> None:
    scorer = instsel.Scorer(new_llama(), max_batch_tokens=48)
    want = instsel.score_batch(scorer, PAIRS).mean_logprob
    inner: list[np.ndarray] = []
    begun: list[int] = []

    def progress(done: int, total: int) -> None:
        if len(begun) < 2:
            begun.append(done)
            inner.append(instsel.score_batch(scorer, PAIRS, progress=progress).mean_logprob)

    outer = instsel.score_batch(scorer, PAIRS, progress=progress).mean_logprob
    assert [scores.tobytes() for scores in (outer, *inner)] == [want.tobytes()] * 3


def test_a_loaded_model_is_moved_only_when_that_is_asked_for() -> None:
    model = new_llama().half()
    before = state_of(model)
    batch = instsel.score_batch(instsel.Scorer(model), PAIRS)
    assert state_of(model) == before
    assert np.abs(batch.mean_logprob - means_one_by_one(model, PAIRS, float64=False)).max() < 0.01
    instsel.score_batch(instsel.Scorer(model, dtype="float32"), PAIRS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
