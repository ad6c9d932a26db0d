"""`score_batch` gives the log-probabilities of continuations under a model; `plan_batch` what that would cost."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from torch import Tensor

from instsel.engine.execution import Work
from instsel.engine.guest import Guest
from instsel.engine.layout import Layout
from instsel.engine.logprob import PairValues, pair_logprobs, pair_logprobs_of_logits
from instsel.engine.requests import Requests, prepare
from instsel.engine.results import Plan, ScoreBatch, ScoreStats
from instsel.engine.scorer import Scorer
from instsel.engine.token_progress import ProgressLike


def score_batch(
    scorer: Scorer,
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
    elsewhere = getattr(scorer, "score_elsewhere", None)  # a pool of workers
    if elsewhere is not None:
        batch: ScoreBatch = elsewhere(requests, token_logprobs=token_logprobs, max_length=max_length, progress=progress)
        return batch
    began = time.perf_counter()
    with scorer.visit() as guest:
        return _score(scorer, guest, requests, token_logprobs, max_length, progress, began)


def _score(
    scorer: Scorer,
    guest: Guest,
    requests: Requests,
    token_logprobs: bool,
    max_length: int | None,
    progress: ProgressLike,
    began: float,
) -> ScoreBatch:
    model = guest.facts
    prepared = prepare(scorer, model, requests, max_length)
    count = prepared.num_tokens
    total = np.zeros(len(prepared))
    greedy = prepared.first_scored > 0
    failed = np.zeros(len(prepared), bool)
    ends = np.cumsum(np.where(prepared.first_scored > 0, count, 0))
    each = np.full(int(ends[-1]) if len(ends) else 0, np.nan, np.float32) if token_logprobs else None
    seen = {"rows": 0, "pairs": 0}

    def add(layout: Layout, rows: Tensor) -> Callable[[], None]:
        pair_values = _pair_values(guest, layout, rows) if len(layout.rows) else None
        return lambda: None if pair_values is None else collect(layout, *pair_values())

    def collect(layout: Layout, values: np.ndarray, best: np.ndarray) -> None:
        value = values[layout.scored_pair]
        sequence = layout.scored_sequence
        layout.add_by_sequence(value, total)
        greedy[sequence[~best[layout.scored_pair]]] = False
        if each is not None:
            last = ends[sequence] - prepared.lengths[sequence]
            each[last + layout.scored_position] = value
        seen["rows"] += len(layout.rows)
        seen["pairs"] += len(layout.pair_row)

    def fail(sequences: np.ndarray) -> None:
        failed[sequences] = True

    execution = scorer.execute(guest, prepared, logits=guest.head is None, consume=add, fail=fail, progress=progress)
    status = prepared.status.copy()
    status[failed & (status == "ok")] = "out_of_memory"
    status[~np.isfinite(total) & (status == "ok")] = "nonfinite"
    good = status == "ok"
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(good, total / count, np.nan)
    stats = ScoreStats(
        len(prepared),
        execution.tokens_forwarded,
        prepared.tokens_unshared,
        execution.packs,
        seen["rows"],
        seen["pairs"],
        time.perf_counter() - began,
    )
    arrays = None
    if each is not None:
        empty = np.zeros(0, np.float32)
        arrays = [each[e - c : e] if ok else empty for e, c, ok in zip(ends, count, good, strict=True)]
    return ScoreBatch(mean, np.where(good, total, np.nan), count, greedy & good, status, arrays, stats)


def _pair_values(model: Guest, layout: Layout, rows: Tensor) -> PairValues:
    if model.head is None:
        return pair_logprobs_of_logits(rows, layout.pair_row, layout.pair_target, backend=model.backend)
    rows = rows.to(model.head.weight.device, non_blocking=True)
    return pair_logprobs(rows, model.head, layout.pair_row, layout.pair_target, backend=model.backend)


def plan_batch(scorer: Scorer, requests: Requests, *, max_length: int | None = None) -> Plan:
    """What `score_batch` would do with these requests: tokens, packs and floating-point operations, with no forward."""
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


def _context_tokens(part: Work) -> int:
    """Sum over the forwarded tokens of the tokens that each attends to, itself included."""
    first, last = part.tree.start, part.tree.end
    return int((last * (last + 1) - first * (first + 1)).sum() // 2)
