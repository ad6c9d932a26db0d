"""Memory that runs out, and numbers that are not finite: what fails is what cannot be scored, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from random_models import distinct_prefixes, means_one_by_one, new_llama, random_ids, shared_llama, tree_requests

import instsel
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.model_session import ModelSession
from instsel.planning.layout import Layout

TOLERANCE = 2e-5


class Forwards:
    """Replaces a loaded model's forwards by ones that run out of memory when `full(tokens, call)` says so."""

    def __init__(
        self, scorer: instsel.Scorer, full: Callable[[int, int], bool], error: Callable[[], Exception]
    ) -> None:
        self.calls: list[tuple[int, bool]] = []  # tokens, whether memory sufficed
        self.full, self.error = full, error
        self._lock = threading.Lock()  # packs may run side by side
        open_session = scorer.session

        @contextmanager
        def session_with_less() -> Iterator[ModelSession]:
            with open_session() as session:
                self.pack, self.alone = session.forward_pack, session.forward_alone
                session.forward_pack = self.forward_pack  # type: ignore[method-assign]
                session.forward_alone = self.forward_alone  # type: ignore[method-assign]
                yield session

        scorer.session = session_with_less  # type: ignore[method-assign]

    def _enter(self, tokens: int) -> None:
        with self._lock:
            failing = self.full(tokens, len(self.calls))
            self.calls.append((tokens, not failing))
        if failing:
            raise self.error()

    def forward_pack(self, layout: Layout, *rest: Any, **more: Any) -> Any:
        self._enter(len(layout.ids) + sum(len(node[0][0]) for node in (rest[0] if rest else ())))
        return self.pack(layout, *rest, **more)

    def forward_alone(self, ids: np.ndarray, *rest: Any, **more: Any) -> Any:
        self._enter(len(ids))
        return self.alone(ids, *rest, **more)


def scorer_of(model: Any, budget: int = 4096, **settings: Any) -> instsel.Scorer:
    return instsel.Scorer(model, device="cpu", dtype="float32", max_batch_tokens=budget, **settings)


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


ERRORS = [
    out_of_memory,
    MemoryError,
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 5 bytes"),
]


@pytest.mark.long
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("room", [1, 2, 5, 9, 17, 33, 64, 90, 150, 400])
def test_whatever_room_there_is_what_fits_is_scored_the_same(room: int, error: Callable[[], Exception]) -> None:
    """`room` tokens at a time, the cached ones included: a sequence with more than that in its path never fits."""
    pairs = tree_requests(np.random.default_rng(0))
    want = means_one_by_one(shared_llama(), pairs)
    scorer = scorer_of(shared_llama())
    forwards = Forwards(scorer, lambda tokens, call: tokens > room, error)
    batch = instsel.score_batch(scorer, pairs)
    fits = np.array([len(a) + len(b) - 1 <= room for a, b in pairs])
    assert batch.status.tolist() == ["ok" if x else "out_of_memory" for x in fits]
    assert np.isnan(batch.mean_logprob[~fits]).all()
    assert not fits.any() or np.abs(batch.mean_logprob - want)[fits].max() < TOLERANCE
    assert all(tokens <= room for tokens, fitted in forwards.calls if fitted)
    if room < 400:
        assert scorer.budget < 4096, "what memory allowed is not remembered"


@pytest.mark.long
@pytest.mark.parametrize("budget", [16, 48, 4096])
def test_any_one_pack_may_fail_and_only_that_one_is_split(budget: int) -> None:
    pairs = tree_requests(np.random.default_rng(1))
    want = means_one_by_one(shared_llama(), pairs)
    calm = Forwards(calm_scorer := scorer_of(shared_llama(), budget), lambda tokens, call: False, out_of_memory)
    instsel.score_batch(calm_scorer, pairs)
    for position in range(len(calm.calls)):
        scorer = scorer_of(shared_llama(), budget)
        forwards = Forwards(scorer, lambda tokens, call, at=position: call == at, out_of_memory)
        batch = instsel.score_batch(scorer, pairs)
        assert batch.status.tolist() == ["ok"] * len(pairs)
        assert np.abs(batch.mean_logprob - want).max() < TOLERANCE
        assert forwards.calls[:position] == calm.calls[:position], "a pack before the failing one was run otherwise"
        assert batch.stats.tokens_forwarded == distinct_prefixes(pairs), "something went through the model twice"
        assert sum(not fitted for _, fitted in forwards.calls) == 1


def test_a_sequence_that_never_fits_leaves_the_others() -> None:
    rng = np.random.default_rng(2)
    prompt = random_ids(rng, 20, 21)
    pairs = [(prompt, random_ids(rng, 3, 9)) for _ in range(12)]
    pairs.insert(5, (prompt, random_ids(rng, 200, 201)))
    pairs.insert(9, (random_ids(rng, 5, 6), random_ids(rng, 100, 101)))
    scorer = scorer_of(shared_llama(), 64)
    Forwards(scorer, lambda tokens, call: tokens > 70, out_of_memory)
    batch = instsel.score_batch(scorer, pairs)
    assert np.flatnonzero(batch.status == "out_of_memory").tolist() == [5, 9]
    good = batch.status == "ok"
    assert good.sum() == 12
    assert scorer.budget <= 64, "the budget grew to half of the sequence that did not fit"
    assert np.abs(batch.mean_logprob - means_one_by_one(shared_llama(), pairs))[good].max() < TOLERANCE


def test_models_that_cannot_share_lose_only_the_sequence_that_does_not_fit() -> None:
    scorer = scorer_of(shared_llama())
    scorer.model.shareable_length = 0
    Forwards(scorer, lambda tokens, call: tokens > 30, out_of_memory)
    pairs = tree_requests(np.random.default_rng(3))
    batch = instsel.score_batch(scorer, pairs)
    fits = np.array([len(a) + len(b) - 1 <= 30 for a, b in pairs])
    assert batch.status.tolist() == ["ok" if x else "out_of_memory" for x in fits]
    assert np.abs(batch.mean_logprob - means_one_by_one(shared_llama(), pairs))[fits].max() < TOLERANCE


def test_memory_that_runs_out_in_the_head_splits_the_pack_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import instsel.engine.scoring as module

    pairs = tree_requests(np.random.default_rng(4))
    real, rows_seen = module.pair_logprobs, []

    def narrow(hidden: Any, *rest: Any, **more: Any) -> Any:
        if len(hidden) > 40:
            raise out_of_memory()
        rows_seen.append(len(hidden))
        return real(hidden, *rest, **more)

    monkeypatch.setattr(module, "pair_logprobs", narrow)
    batch = instsel.score_batch(scorer_of(shared_llama()), pairs)
    good = batch.status == "ok"
    assert good.sum() >= len(pairs) - 2  # a node with more than 40 rows of its own cannot be split
    assert np.abs(batch.mean_logprob - means_one_by_one(shared_llama(), pairs))[good].max() < TOLERANCE
    assert len(rows_seen) > 1


def test_another_error_is_not_taken_for_memory() -> None:
    scorer = scorer_of(shared_llama())
    Forwards(scorer, lambda tokens, call: True, lambda: RuntimeError("expected scalar type Float but found Half"))
    with pytest.raises(RuntimeError, match="scalar type"):
        instsel.score_batch(scorer, [([5], [6])])


# --- not a number -------------------------------------------------------------------------------------------------

POISON = 77


def poisoned(dtype: torch.dtype, *, tied: bool) -> Any:
    model = new_llama(tie_word_embeddings=tied).to(dtype)
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = float("nan")
    return model


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("budget", [24, 4096])
@pytest.mark.parametrize("shareable", [None, 0])
def test_one_bad_embedding_spoils_only_the_rows_that_read_it(
    dtype: torch.dtype, value: float, budget: int, shareable: int | None
) -> None:
    """It stands in the middle of packs, beside siblings that share its tiles of attention."""
    model = new_llama(tie_word_embeddings=False).to(dtype)
    rng = np.random.default_rng(8)
    pairs = [(a, b) for a, b in tree_requests(rng) if POISON not in a + b]
    want = means_one_by_one(model, pairs, float64=False)
    for i in range(0, len(pairs), 3):
        a, b = pairs[i]
        pairs[i] = (a, [POISON, *b]) if i % 2 else ([*a[:-1], POISON], b)
    reads = np.array([POISON in (a + b)[:-1] for a, b in pairs])
    pairs.append((pairs[1][0], [POISON]))  # only predicted, never read
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = value
    scorer = instsel.Scorer(model, device="cpu", dtype=dtype, max_batch_tokens=budget)
    scorer.model.shareable_length = shareable
    batch = instsel.score_batch(scorer, pairs)
    assert batch.status[-1] == "ok"
    assert batch.status[:-1].tolist() == ["nonfinite" if x else "ok" for x in reads]
    assert np.isnan(batch.mean_logprob[:-1][reads]).all()
    unchanged = 2e-5 if dtype == torch.float32 else 0.1
    assert np.abs(batch.mean_logprob[:-1] - want)[~reads].max() < unchanged


def test_a_bad_row_of_a_tied_head_spoils_every_score() -> None:
    """Every log-sum-exp runs over it; forward by forward gives NaN for all as well."""
    model = poisoned(torch.float32, tied=True)
    pairs = [([5, 6], [7]), ([8], [9, 10])]
    assert np.isnan(means_one_by_one(model, pairs)).all()
    assert instsel.score_batch(scorer_of(model), pairs).status.tolist() == ["nonfinite"] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_of_weights_that_are_not_numbers(value: float) -> None:
    model = new_llama()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    with pytest.warns(ScoringWarning, match="not finite"):
        batch = instsel.score_batch(scorer_of(model), [([5, 6], [7]), ([8], []), ([8], [9, 10])], token_logprobs=True)
    assert batch.status.tolist() == ["nonfinite", "empty_target", "nonfinite"]
    assert np.isnan(batch.mean_logprob).all() and np.isnan(batch.sum_logprob).all()
    assert not batch.is_greedy.any()


def test_a_token_of_probability_zero_is_not_a_score() -> None:
    """A logit of minus infinity: its log-probability is not finite, the others are."""
    model = new_llama(tie_word_embeddings=False)
    model.lm_head = torch.nn.Linear(64, model.config.vocab_size, bias=True)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.1)
        model.lm_head.bias.zero_()
        model.lm_head.bias[50] = float("-inf")
    pairs = [([5, 6], [50]), ([5, 6], [51])]
    batch = instsel.score_batch(scorer_of(model), pairs)
    assert batch.status.tolist() == ["nonfinite", "ok"]
    assert abs(batch.mean_logprob[1] - means_one_by_one(model, pairs)[1]) < TOLERANCE
