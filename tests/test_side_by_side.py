"""Packs that run at once: the bits of one after another, in whose threads, and what keeps to one at a time."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import instruction_sets
import numpy as np
import pytest
import torch
import transformers
from random_models import distinct_prefixes, means_one_by_one, new_llama, tree_requests

import instsel
from instsel.engine import side_by_side
from instsel.engine.execution import Execution
from instsel.engine.model_session import ModelSession
from instsel.engine.side_by_side import VARIABLE, packs_at_once
from instsel.kernels.decoder_layer import DecoderLayer

BUDGETS = (16, 48, 120)
needs_bfloat16 = pytest.mark.skipif(
    not any(map(instruction_sets.is_here, instruction_sets.WITH_BFLOAT16)), reason="no arithmetic in bfloat16 here"
)


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Of the threads that run layers."""
    seen: set[str] = set()
    run = DecoderLayer.forward

    def noted(self: DecoderLayer, *given: Any) -> None:
        seen.add(threading.current_thread().name)
        run(self, *given)

    monkeypatch.setattr(DecoderLayer, "forward", noted)
    return seen


def new_model() -> Any:
    return new_llama().to(torch.bfloat16)


def scorer_of(model: Any, budget: int = 48, **settings: Any) -> instsel.Scorer:
    scorer = instsel.Scorer(model, device="cpu", max_batch_tokens=budget, **settings)
    _ = scorer.model  # loaded and checked
    return scorer


@contextmanager
def at_most(count: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(count))
        yield


def pairs_of(seed: int) -> list[tuple[list[int], list[int]]]:
    return [pair for more in range(3) for pair in tree_requests(np.random.default_rng(10 * seed + more))]


@pytest.mark.long
@pytest.mark.parametrize("name", instruction_sets.WITH_BFLOAT16)
@pytest.mark.parametrize("budget", BUDGETS)
def test_the_bits_are_those_of_one_after_another(budget: int, name: str, names: set[str]) -> None:
    """In small packs many wait for keys and values of others, which are let go on the way."""
    with instruction_sets.forced(name):
        scorer, pairs = scorer_of(model := new_model(), budget), pairs_of(1)
        with at_most(1):
            alone = instsel.score_batch(scorer, pairs, token_logprobs=True)
        assert not any(name.startswith("instsel-pack") for name in names)
        together = instsel.score_batch(scorer, pairs, token_logprobs=True)
    assert sum(name.startswith("instsel-pack") for name in names) > 1
    assert np.array_equal(together.sum_logprob, alone.sum_logprob)
    assert np.array_equal(together.is_greedy, alone.is_greedy)
    assert all(np.array_equal(a, b) for a, b in zip(together.token_logprobs, alone.token_logprobs, strict=True))
    assert together.stats.packs == alone.stats.packs > 4
    assert together.stats.tokens_forwarded == distinct_prefixes(pairs)
    assert np.abs(together.mean_logprob - means_one_by_one(model, pairs)).max() < 0.1


@needs_bfloat16
def test_hidden_states_are_the_same_too() -> None:
    class Tokenizer:
        def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[3 + ord(c) % 90 for c in text] for text in texts]}

    scorer, texts = scorer_of(new_model(), 24, tokenizer=Tokenizer()), ["abcdefghij" * 2, "abcdkl", "mnop" * 4, "q" * 9]
    with at_most(1):
        alone = scorer.mean_hidden_states(texts)
    assert np.array_equal(scorer.mean_hidden_states(texts), alone)


def dynamic_rotary(model: Any) -> Any:
    config = model.config
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    return type(model)(config).to(torch.bfloat16).eval()


def hooked(model: Any) -> Any:
    model.model.embed_tokens.register_forward_hook(lambda *_: None)
    return model


def of_another_class(model: Any) -> Any:
    kind = type(model.model)
    model.model.__class__ = type("Own", (kind,), {"forward": lambda self, **given: kind.forward(self, **given)})
    return model


def of_experts(model: Any) -> Any:
    """Whose layers are not kernels alone."""
    settings = {name: getattr(model.config, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    more = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**settings, **more)).to(torch.bfloat16).eval()


@pytest.mark.long
@needs_bfloat16
@pytest.mark.filterwarnings("ignore::instsel.engine.model_checks.ScoringWarning")
@pytest.mark.parametrize("change", [hooked, dynamic_rotary, of_another_class, of_experts, torch.nn.Module.float])
def test_other_models_run_one_pack_at_a_time(change: Callable[[Any], Any]) -> None:
    session = ModelSession(scorer_of(new_model()).model)
    assert packs_at_once(session) == 4
    assert packs_at_once(ModelSession(scorer_of(change(new_model())).model)) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "backend", "reference")
        assert packs_at_once(session) == 1
    torch.set_num_threads(1)
    assert packs_at_once(session) == 1


@needs_bfloat16
def test_large_layers_run_one_pack_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 by 96 numbers for the gate and as many for what it multiplies, two bytes each."""
    session = ModelSession(scorer_of(new_model()).model)
    for largest, at_once in ((4 * 64 * 96, 4), (4 * 64 * 96 - 1, 1)):
        monkeypatch.setattr(side_by_side, "LARGEST_GATE", largest)
        assert packs_at_once(session) == at_once


@needs_bfloat16
def test_the_environment_may_ask_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    session = ModelSession(scorer_of(new_model()).model)
    for asked, given in (("1", 1), ("3", 3), ("100", 4), ("", 4)):
        monkeypatch.setenv(VARIABLE, asked)
        assert packs_at_once(session) == given
    for wrong in ("0", "-2", "two", "1.5"):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ValueError, match=f"INSTSEL_PACKS_AT_ONCE: expected a positive integer, got '{wrong}'"):
            packs_at_once(session)


@needs_bfloat16
def test_an_error_in_one_pack_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: DecoderLayer, *given: Any) -> None:
        raise ValueError("of a layer")

    scorer, pairs = scorer_of(new_model()), pairs_of(2)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="of a layer"):
        patch.setattr(DecoderLayer, "forward", refuse)
        instsel.score_batch(scorer, pairs)
    assert (instsel.score_batch(scorer, pairs).status == "ok").all()


def pack_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("instsel-pack")]


@needs_bfloat16
def test_an_interrupt_ends_all_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their next layer: no pack is run to its end, none is left running."""
    run, ran, main = DecoderLayer.forward, itertools.count(), threading.main_thread().ident
    assert main is not None

    def slow(self: DecoderLayer, *given: Any) -> None:
        if next(ran) == 3:
            signal.pthread_kill(main, signal.SIGINT)  # as Ctrl-C does
        time.sleep(0.2)
        run(self, *given)

    scorer, pairs = scorer_of(new_model()), pairs_of(3)
    wanted = instsel.score_batch(scorer, pairs)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(DecoderLayer, "forward", slow)
            instsel.score_batch(scorer, pairs)
    finally:
        signal.signal(signal.SIGINT, before)
    assert next(ran) <= 12, "a first pack of three layers, and then four packs which went on"
    assert pack_threads() == []
    assert np.array_equal(instsel.score_batch(scorer, pairs).sum_logprob, wanted.sum_logprob)


@needs_bfloat16
def test_callbacks_come_in_the_callers_thread_and_outside_a_turn(names: set[str]) -> None:
    scorer, pairs, other = scorer_of(new_model()), pairs_of(4), []

    def progress(done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        thread = threading.Thread(target=lambda: other.append(instsel.score_batch(scorer, pairs[:2]).status[0]))
        thread.start()
        thread.join(60)  # another thread's packs get their turn meanwhile
        counted.append(done)

    counted: list[int] = []
    batch = instsel.score_batch(scorer, pairs, progress=progress)
    assert counted == sorted(counted) and len(counted) == batch.stats.packs
    assert counted[-1] == batch.stats.tokens_forwarded
    assert other == ["ok"] * len(counted)
    assert any(name.startswith("instsel-pack") for name in names)


@needs_bfloat16
def test_a_consumers_exception_leaves_nothing_running() -> None:
    def refuse(self: Any, *given: Any) -> None:
        raise OSError("of progress")

    scorer = scorer_of(new_model())
    with pytest.raises(OSError, match="of progress"):
        instsel.score_batch(scorer, pairs_of(5), progress=refuse)
    assert pack_threads() == []


@pytest.mark.long
def test_steps_that_wait_for_one_another_are_never_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the bits above: steps are run together, and among the rest some could not have been."""
    taken: list[int] = []
    run_steps = Execution._run_steps

    def counted(self: Execution, planned: Any, steps: list[Any], caches: Any) -> Any:
        made = {node for step in steps for node in step.keep}
        assert not any(made.intersection(step.cached) for step in steps)
        assert all(node in caches for step in steps for node in step.cached)
        taken.append(len(steps))
        return run_steps(self, planned, steps, caches)

    monkeypatch.setattr(Execution, "_run_steps", counted)
    if any(map(instruction_sets.is_here, instruction_sets.WITH_BFLOAT16)):
        instsel.score_batch(scorer_of(new_model(), 16), pairs_of(6))
        assert max(taken) == 4 and 1 in taken
    taken.clear()
    instsel.score_batch(scorer_of(new_llama(), 16), pairs_of(6))
    assert set(taken) == {1}
