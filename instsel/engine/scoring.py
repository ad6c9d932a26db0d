"""`score_batch` gives the log-probabilities of continuations under a model; `plan_batch` what that would cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from instsel.engine.execution import Execution
from instsel.engine.logprob import PairValues, pair_logprobs, pair_logprobs_of_logits
from instsel.engine.model_session import ModelSession
from instsel.engine.requests import Requests, prepare
from instsel.engine.results import Plan, ScoreBatch, ScoreStats
from instsel.engine.scorer_protocol import ScorerProtocol, check_scorer
from instsel.engine.token_progress import ProgressLike
from instsel.planning.layout import Layout
from instsel.planning.planned_tree import PlannedTree

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def score_batch(
    scorer: ScorerProtocol,
    requests: Requests,
    *,
    token_logprobs: bool = False,
    max_length: int | None = None,
    progress: ProgressLike = None,
) -> ScoreBatch:
    """Log-probabilities of continuations given their contexts: `sum_t log p(y_t | x, y_<t)` and its mean.

    requests        pairs (context, continuation), each a text or a list of token ids. Texts are tokenised together
                    and a token across the boundary counts as the continuation's; ids are taken as given. An empty
                    context is the tokenizer's BOS, or EOS where it has none. Dicts of prompt (or context) and
                    completion (or continuation, response) and nothing else are pairs too, and so are the rows of a
                    table of two such columns
    token_logprobs  whether to give each token's log-probability too
    max_length      longest sequence in tokens, context and continuation together; by default and at most the model's
    progress        None, True for a bar on stderr, or a function of (tokens done, tokens in all)

    Gives a `ScoreBatch` in the order of the requests. Prefixes that requests share go through the model once, which
    changes no score beyond rounding. Raises TypeError or ValueError naming the request; what cannot be scored gets a
    status and NaN instead.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> pairs = [("Once upon a", " time"), ("Once upon a", " table"), ("", "")]
    >>> batch = instsel.score_batch(scorer, pairs)  # doctest: +SKIP
    >>> batch.mean_logprob.round(3).tolist(), batch.status.tolist()  # doctest: +SKIP
    ([-0.001, -4.781, nan], ['ok', 'ok', 'empty_target'])
    """
    check_scorer(scorer)
    return scorer.score(requests, token_logprobs=token_logprobs, max_length=max_length, progress=progress)


class Executor(Protocol):
    """What holds a model and runs requests through it."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None: ...

    @property
    def execute(self) -> Callable[..., AbstractContextManager[tuple[Execution, Iterator[tuple[Layout, Any]]]]]: ...


def score_in_session(
    scorer: Executor,
    session: ModelSession,
    requests: Requests,
    token_logprobs: bool,
    max_length: int | None,
    progress: ProgressLike,
    began: float,
) -> ScoreBatch:
    """The scores of requests within a session; see `score_batch`."""
    if session.info.dtype == torch.float64:  # which it may have for its hidden states alone
        raise ValueError(
            "model: expected weights of float32, bfloat16 or float16 to score with, got float64; "
            "dtype float32 casts them"
        )
    prepared = prepare(scorer, session.info, requests, max_length)
    count, unshared = prepared.num_tokens, prepared.tokens_unshared
    total = np.zeros(len(prepared))
    greedy = prepared.first_scored > 0
    ends = np.cumsum(np.where(prepared.first_scored > 0, count, 0))
    each = np.full(int(ends[-1]) if len(ends) else 0, np.nan, np.float32) if token_logprobs else None
    rows = pairs = 0
    output, logits = partial(_pair_values, session), session.head is None
    session.find_again = not session.rows_stay_nonfinite
    executions = []
    while True:
        with scorer.execute(session, prepared, output, logits=logits, progress=progress) as (execution, results):
            executions.append(execution)
            for layout, (values, best) in results:
                value, sequence = values[layout.scored_pair], layout.scored_sequence
                layout.add_by_sequence(value, total)
                greedy[sequence[best[layout.scored_pair] == 0]] = False
                if each is not None:
                    last = ends[sequence] - prepared.lengths[sequence]
                    each[last + layout.scored_position] = value
                rows += len(layout.rows)
                pairs += len(layout.pair_row)
        lost = ~np.isfinite(total) & ~execution.failed
        if session.find_again or not lost.any():
            break
        # Perhaps by values that they do not see: once more, with these left out in every layer.
        session.find_again, progress = True, None
        prepared = replace(prepared, first_scored=np.where(lost, prepared.first_scored, 0))
        total[lost], greedy[lost] = 0.0, prepared.first_scored[lost] > 0
    status = prepared.status.copy()
    status[np.any([one.failed for one in executions], axis=0) & (status == "ok")] = "out_of_memory"
    status[~np.isfinite(total) & (status == "ok")] = "nonfinite"
    good = status == "ok"
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(good, total / count, np.nan)
    stats = ScoreStats(
        len(prepared),
        sum(one.tokens_forwarded for one in executions),
        unshared,
        sum(one.packs for one in executions),
        rows,
        pairs,
        time.perf_counter() - began,
    )
    arrays = None
    if each is not None:
        empty = np.zeros(0, np.float32)
        arrays = [each[e - c : e] if ok else empty for e, c, ok in zip(ends, count, good, strict=True)]
    return ScoreBatch(mean, np.where(good, total, np.nan), count, greedy & good, status, arrays, stats)


def _pair_values(session: ModelSession, layout: Layout, rows: Tensor) -> PairValues:
    if session.head is None:
        return pair_logprobs_of_logits(rows, layout.pair_row, layout.pair_target, backend=session.backend)
    rows = rows.to(session.head.weight.device, non_blocking=True)
    return pair_logprobs(rows, session.head, layout.pair_row, layout.pair_target, backend=session.backend)


def plan_batch(scorer: ScorerProtocol, requests: Requests, *, max_length: int | None = None) -> Plan:
    """What `score_batch` would do with these requests: tokens, packs and floating-point operations, with no forward."""
    check_scorer(scorer)
    model = scorer.outline
    prepared = prepare(scorer, model, requests, max_length)
    work = scorer.plan(model, prepared)
    rows = sum(part.head_rows() for part in work)
    pairs = int(prepared.num_tokens[prepared.first_scored > 0].sum())
    tokens = sum(part.num_tokens for part in work)
    contexts = sum(_context_tokens(part) for part in work)
    return Plan(
        int((prepared.first_scored > 0).sum()),
        tokens,
        prepared.tokens_unshared,
        sum(len(part.steps) for part in work),
        rows,
        pairs,
        model.arithmetic().flops(tokens=tokens, contexts=contexts, rows=rows, pairs=pairs),
    )


def _context_tokens(part: PlannedTree) -> int:
    """Sum over the forwarded tokens of the tokens that each attends to, itself included."""
    first, last = part.tree.start, part.tree.end
    return int((last * (last + 1) - first * (first + 1)).sum() // 2)
