"""Memory that does not suffice for several packs at once: one by one they may fit, and what never fits is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_models import means_one_by_one, tree_requests
from test_memory_backoff import Forwards
from test_side_by_side import BUDGETS, four_threads, needs_bfloat16, new_model, pairs_of, scorer_of

import instsel
from instsel.engine.model_session import ModelSession

__all__ = ["four_threads"]  # a fixture for every test here


@pytest.mark.long
@needs_bfloat16
@pytest.mark.parametrize("budget", BUDGETS)
def test_memory_that_runs_out_for_several_may_do_for_each(budget: int) -> None:
    """Any one of the packs may fail: then the rest run one by one, in the same packs with the same bits."""
    scorer, pairs = scorer_of(new_model(), budget), tree_requests(np.random.default_rng(5))
    wanted = instsel.score_batch(scorer, pairs)
    for failing in range(wanted.stats.packs - 1):
        forwards = Forwards(scorer, lambda _, call, failing=failing: call == failing, MemoryError)
        batch = instsel.score_batch(scorer, pairs)
        alone = scorer.budget != budget  # it was the only one that could run
        assert batch.status.tolist() == ["ok"] * len(pairs)
        assert len(forwards.calls) > wanted.stats.packs
        assert batch.stats.tokens_forwarded == wanted.stats.tokens_forwarded
        assert alone or np.array_equal(batch.sum_logprob, wanted.sum_logprob)
        scorer = scorer_of(scorer.model.model, budget)


@needs_bfloat16
def test_memory_that_cannot_even_be_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """For several packs; and an error of another kind is the caller's."""
    scorer, pairs = scorer_of(new_model()), pairs_of(7)
    wanted = instsel.score_batch(scorer, pairs)

    def reserve(self: ModelSession, *given: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes")

    monkeypatch.setattr(ModelSession, "reserve", reserve)
    assert np.array_equal(instsel.score_batch(scorer, pairs).sum_logprob, wanted.sum_logprob)
    assert scorer.budget == 48, "the packs were made smaller"
    monkeypatch.setattr(ModelSession, "reserve", lambda *given: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        instsel.score_batch(scorer, pairs)


@pytest.mark.long
@needs_bfloat16
@pytest.mark.parametrize("room", [5, 17, 40])
def test_what_never_fits_is_said_and_the_rest_is_scored(room: int) -> None:
    pairs = tree_requests(np.random.default_rng(6))
    scorer = scorer_of(model := new_model())
    Forwards(scorer, lambda tokens, _: tokens > room, MemoryError)
    batch = instsel.score_batch(scorer, pairs)
    good = batch.status == "ok"
    assert 0 < good.sum() < len(pairs)
    assert set(batch.status[~good]) == {"out_of_memory"}
    assert np.abs(batch.mean_logprob - means_one_by_one(model, pairs))[good].max() < 0.1
