"""Requests of several turns of one conversation, scored together and reported as one answer.

The turns of a conversation are prefixes of each other, so all of them cost about one pass over its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.results import ScoreBatch


class TurnRequests(tuple[Any, ...]):
    """The requests of a conversation's scored turns, in order; they stand for one request."""


def flat(requests: Sequence[Any]) -> list[Request]:
    """All requests one by one."""
    return [one for request in requests for one in (request if isinstance(request, TurnRequests) else (request,))]


def regrouped(requests: Sequence[object], each: Sequence[object]) -> list[Any]:
    """Other requests `each`, one for each of `flat(requests)`, grouped as those are."""
    left = iter(each)
    return [
        TurnRequests(next(left) for _ in request) if isinstance(request, TurnRequests) else next(left)
        for request in requests
    ]


def answers_alone(requests: Sequence[object]) -> list[Any]:
    """The answers without their prompts."""
    return regrouped(requests, [("", answer) for _, answer in flat(requests)])


def combined(batch: ScoreBatch, requests: Sequence[object]) -> ScoreBatch:
    """The scores of `flat(requests)` with one entry for each of `requests`: of several turns the mean of all tokens.

    The status of several is the first that is not "ok", and "empty_target" where there are none.
    """
    if not any(isinstance(request, TurnRequests) for request in requests):
        return batch
    sizes = [len(request) if isinstance(request, TurnRequests) else 1 for request in requests]
    starts = np.cumsum([0, *sizes[:-1]])
    mean, total = np.full(len(requests), np.nan), np.full(len(requests), np.nan)
    tokens, greedy = np.zeros(len(requests), np.int64), np.zeros(len(requests), bool)
    status = np.full(len(requests), "empty_target", "<U13")
    logprobs: list[np.ndarray] = []
    for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        part = slice(int(start), int(start) + size)
        failed = [one for one in batch.status[part] if one != "ok"]
        tokens[i] = batch.num_tokens[part].sum()
        if size:
            status[i] = failed[0] if failed else "ok"
        if batch.token_logprobs is not None:
            each = batch.token_logprobs[part]
            logprobs.append(np.concatenate(each) if each and not failed else np.zeros(0, np.float32))
        if failed or not size:
            continue
        total[i], greedy[i] = batch.sum_logprob[part].sum(), batch.is_greedy[part].all()
        mean[i] = batch.mean_logprob[part][0] if size == 1 else total[i] / tokens[i]
    return replace(
        batch,
        mean_logprob=mean,
        sum_logprob=total,
        num_tokens=tokens,
        is_greedy=greedy,
        status=status,
        token_logprobs=None if batch.token_logprobs is None else logprobs,
    )
