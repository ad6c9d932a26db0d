"""One contract for what scores: a scorer, workers, their stand-in, and one that somebody writes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from example_rows import example_rows

import instsel
from instsel.engine.scorer_protocol import ScorerProtocol
from instsel.methods.stage_loop import SliceWorkers
from instsel.parallel.failing_scorer import FailingScorer
from instsel.parallel.pool import Pool

MEMBERS = [name for name in vars(ScorerProtocol) if not name.startswith("_")]


class Counting:
    """A scorer of somebody's own, which is no `Scorer`: another's answers, counted."""

    def __init__(self, scorer: instsel.Scorer) -> None:
        self._scorer, self.requests = scorer, 0
        self.tokenizer, self.outline, self.max_length = scorer.tokenizer, scorer.outline, scorer.max_length

    def score(self, requests: Any, **options: Any) -> instsel.ScoreBatch:
        self.requests += len(requests)
        return self._scorer.score(requests, **options)

    def mean_hidden_states(self, texts: Sequence[str], *, progress: Any = None) -> np.ndarray:
        return self._scorer.mean_hidden_states(texts, progress=progress)

    def plan(self, model: Any, prepared: Any) -> Any:
        return self._scorer.plan(model, prepared)


@pytest.mark.parametrize("kind", [instsel.Scorer, Pool, FailingScorer])
def test_all_that_scores_has_what_the_contract_names_called_alike(kind: type) -> None:
    assert {"score", "plan", "mean_hidden_states", "tokenizer", "outline", "max_length"} == set(MEMBERS)
    for name in MEMBERS:
        ours, theirs = inspect.getattr_static(ScorerProtocol, name), inspect.getattr_static(kind, name)
        assert callable(ours) == callable(theirs), name
        if callable(ours):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name
    assert issubclass(kind, SliceWorkers) == (kind is Pool)


def test_a_scorer_of_ones_own_is_taken_by_calls_and_methods(scorer: instsel.Scorer) -> None:
    own = Counting(scorer)
    pairs = [("Once upon a", " time"), ("Once upon a", " table")]
    assert (instsel.score_batch(own, pairs).sum_logprob == instsel.score_batch(scorer, pairs).sum_logprob).all()
    assert instsel.plan_batch(own, pairs) == instsel.plan_batch(scorer, pairs)
    rows = example_rows(6)
    np.testing.assert_array_equal(instsel.ifd(own, rows).ifd, instsel.ifd(scorer, rows).ifd)
    assert own.requests == 2 + 2 * len(rows), "the prompt's answer, and the answer alone"


@pytest.mark.parametrize("given", ["stories260k", None, object()], ids=["name", "none", "object"])
def test_what_cannot_score_is_refused_by_name(given: Any, scorer: instsel.Scorer) -> None:
    rows, pairs = example_rows(2), [("Once upon a", " time")]
    for call in (instsel.score_batch, instsel.plan_batch):
        with pytest.raises(TypeError, match="scorer: expected a Scorer, as .* got " + type(given).__name__):
            call(given, pairs)
    for method in (instsel.ifd, instsel.wici, instsel.grape):
        with pytest.raises(TypeError, match="scorer: expected a Scorer"):
            method(given, rows)
    if given is not None:
        with pytest.raises(TypeError, match="quality_scorer: expected a Scorer"):
            instsel.deita(scorer, rows, quality_scorer=given)
        with pytest.raises(TypeError, match="expected a Scorer"):
            instsel.selectit(scorer, rows, scorers=[given])


def test_the_stand_in_says_which_could_have_been_scored(scorer: instsel.Scorer) -> None:
    stand_in = FailingScorer(scorer)
    batch = instsel.score_batch(stand_in, [("Once", " upon"), ("Once", "")])
    assert batch.status.tolist() == ["worker_died", "empty_target"] and np.isnan(batch.sum_logprob).all()
    pairs = [("Once upon a", " time")]
    assert instsel.plan_batch(stand_in, pairs) == instsel.plan_batch(scorer, pairs)
    assert stand_in.max_length == scorer.max_length
