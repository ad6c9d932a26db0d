"""GRAPE: of several answers to one instruction, the one that the base model finds likeliest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.engine.requests import token_limit
from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.engine.scorer import Request, Scorer, score_batch
from instsel.engine.token_progress import ProgressLike
from instsel.methods.chunks import Columns, Groups, in_chunks
from instsel.methods.difficulty import request
from instsel.prompts import encode_pairs
from instsel.records import Example, to_groups

NORMALIZATIONS = ("mean", "sum")
CHUNK_ROWS = 512


@dataclass(frozen=True, slots=True)
class GrapeResult(ResultTable):
    """The best answer of each group, in the order given.

    best    int64 [g], the place of the best answer within its group, -1 where `status` is not "ok"
    scores  a float64 array a group, nats (nats a token for "mean"), one number an answer, NaN where it has none
    status  str [g], "ok" where at least one answer was scored; otherwise the status of the group's first answer, and
            "empty_target" where there is none
    """

    best: np.ndarray
    scores: list[np.ndarray]
    status: np.ndarray
    normalize: str
    template: str
    include_eos: bool
    stats: ScoreStats


def grape(
    scorer: Scorer,
    groups: Iterable[Any],
    *,
    normalize: str = "mean",
    template: str = "plain",
    include_eos: bool = False,
    max_length: int | None = None,
    columns: Mapping[str, str] | None = None,
    progress: ProgressLike = None,
) -> GrapeResult:
    """Choose of each group the answer with the highest log-probability after its prompt; ties by place.

        normalize="mean":  score(y) = mean_t log p(y_t | x, y_<t)
        normalize="sum":   score(y) = sum_t log p(y_t | x, y_<t)      (the first version of the paper)

    groups       dicts with `instruction`, `input` and `candidates: [{"response": ...}, ...]`, or `Group`s
    template     "plain", "alpaca" or "chat": how a prompt is written
    include_eos  whether the tokenizer's EOS ends each answer and is scored with it
    max_length   longest sequence in tokens, prompt and answer together; an answer is never cut, a longer one has no
                 score and is not chosen
    columns      which column holds which field, where the format is not to be found by itself
    progress     None, True for a bar on stderr, or a function of (tokens done, tokens in all)

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2502.04194.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> group = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...          "candidates": [{"response": "The committee adjourned."},
    ...                         {"response": "She loved to play outside in the park."}]}
    >>> found = instsel.grape(scorer, [group])  # doctest: +SKIP
    >>> found.best.tolist(), found.scores[0].round(2).tolist()  # doctest: +SKIP
    ([1], [-4.75, -0.66])
    """
    check_normalize(normalize)
    records = to_groups(groups, columns=columns)

    def compute(rows: range, progress: ProgressLike) -> tuple[Columns, ScoreStats]:
        return grape_rows(
            scorer,
            records,
            rows,
            template=template,
            include_eos=include_eos,
            max_length=max_length,
            progress=progress,
        )

    found, stats = in_chunks(compute, len(records), CHUNK_ROWS, progress)
    best, scores = combine_grape(found, normalize)
    return GrapeResult(best, scores, found["status"], normalize, template, include_eos, stats)


def grape_rows(
    scorer: Scorer,
    groups: Groups,
    rows: Iterable[int],
    *,
    template: str = "plain",
    include_eos: bool = False,
    max_length: int | None = None,
    progress: ProgressLike = None,
) -> tuple[Columns, ScoreStats]:
    """The columns mean_logprob, sum_logprob (a float64 array a group) and status of some rows, and what they cost."""
    rows = list(rows)
    members = [groups[row] for row in rows]
    requests = grape_requests(scorer, groups, rows, template, include_eos, max_length)
    batch = score_batch(scorer, requests, max_length=max_length, progress=progress)
    stop = np.cumsum([len(group.responses) for group in members], dtype=np.int64)
    start = stop - [len(group.responses) for group in members]
    status = np.full(len(members), "empty_target", "<U13")
    columns: Columns = {"mean_logprob": np.empty(len(members), object), "sum_logprob": np.empty(len(members), object)}
    for i, (low, high) in enumerate(zip(start, stop, strict=True)):
        columns["mean_logprob"][i] = batch.mean_logprob[low:high]
        columns["sum_logprob"][i] = batch.sum_logprob[low:high]
        if high > low:
            each = batch.status[low:high]
            status[i] = "ok" if (each == "ok").any() else each[0]
    return {**columns, "status": status}, batch.stats


def grape_requests(
    scorer: Scorer,
    groups: Groups,
    rows: Iterable[int],
    template: str,
    include_eos: bool = False,
    max_length: int | None = None,
) -> list[Request]:
    """All answers of some rows' groups after their prompts, as requests.

    Raises ValueError where EOS is to be included and the tokenizer has none, or a chat template refuses a row.
    """
    requests: list[Request] = [
        request(scorer, Example(group.instruction, group.input, response, group.history), template, row=row)
        for row in rows
        for group in [groups[row]]
        for response in group.responses
    ]
    if not include_eos:
        return requests
    end = getattr(scorer.tokenizer, "eos_token_id", None)
    if end is None:
        raise ValueError("include_eos=True needs a tokenizer with an EOS token, and this one has none")
    # As ids, so that no tokenizer can make anything else of the token's text. What is to be scored stays joint.
    encoded = encode_pairs(scorer.tokenizer, requests, max_tokens=token_limit(scorer.outline, max_length))
    for i, one in enumerate(encoded):
        if not requests[i][1]:
            requests[i] = ("", "")
        elif not one.too_long:  # what is surely too long stays text, of which `score_batch` finds the same
            requests[i] = (one.ids[: one.start].tolist(), [*one.ids[one.start :].tolist(), int(end)])
    return requests


def combine_grape(columns: Mapping[str, np.ndarray], normalize: str = "mean") -> tuple[np.ndarray, list[np.ndarray]]:
    """The place of the best answer of each group, int64 `[g]`, -1 where none was scored; and all scores.

    >>> columns = {"mean_logprob": np.array([[-2.0, -1.0, -1.0], [np.nan] * 3])}
    >>> combine_grape(columns)[0]
    array([ 1, -1])
    """
    check_normalize(normalize)
    scores = [np.asarray(group, np.float64) for group in columns[f"{normalize}_logprob"]]
    best = [int(np.nanargmax(group)) if np.isfinite(group).any() else -1 for group in scores]
    return np.array(best, np.int64), scores


def check_normalize(normalize: str) -> None:
    """Raise ValueError unless `normalize` is known."""
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize must be one of {', '.join(NORMALIZATIONS)}, got {normalize!r}")
