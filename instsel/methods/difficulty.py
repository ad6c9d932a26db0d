"""Instruction-following difficulty: how much of an answer's uncertainty is left when its prompt is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.engine.scorer import Request, Scorer, score_batch
from instsel.engine.token_progress import ProgressLike
from instsel.methods.chunks import Columns, Examples, in_chunks
from instsel.prompts import prompt_and_answer
from instsel.records import Example, to_examples

KINDS = ("ppl", "loss")
CHUNK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class DifficultyResult(ResultTable):
    """Difficulty of each example, in the order given; NaN where `status` is not "ok".

    direct       float64 [n], nats a token: mean log-probability of the answer alone, after BOS (or EOS)
    conditional  float64 [n], nats a token: mean log-probability of the answer after its prompt
    ifd          float64 [n], as `kind` says
    num_tokens   int64 [n], tokens of the answer after its prompt
    status       str [n], one of `instsel.engine.results.STATUSES`
    """

    direct: np.ndarray
    conditional: np.ndarray
    ifd: np.ndarray
    num_tokens: np.ndarray
    status: np.ndarray
    kind: str
    template: str
    stats: ScoreStats


def ifd(
    scorer: Scorer,
    examples: Iterable[Any],
    *,
    kind: str = "ppl",
    template: str = "plain",
    max_length: int | None = None,
    columns: Mapping[str, str] | None = None,
    progress: ProgressLike = None,
) -> DifficultyResult:
    """Instruction-following difficulty (IFD) of examples.

        kind="ppl":   PPL(y|x) / PPL(y) = exp(direct - conditional)      (Superfiltering, wICI)
        kind="loss":  mean loss(y|x) / mean loss(y) = conditional / direct      (Cherry LLM)

    Both are published as IFD, and they rank differently. 1 means that the prompt does not help.

    examples    dicts in any known format, a `Dataset`, or `Example`s
    template    "plain", "alpaca" or "chat": how a prompt is written
    max_length  longest sequence in tokens, prompt and answer together; by default and at most the model's context.
                An answer is never cut: an example that is longer has the status "too_long"
    columns     which column holds which field, where the format is not to be found by itself
    progress    None, True for a bar on stderr, or a function of (tokens done, tokens in all)

    An answer of nothing but white space has the status "empty_target".

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2402.00530 ("ppl"), arXiv 2308.12032 ("loss").

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> nothing = {"instruction": "Say nothing.", "output": ""}
    >>> found = instsel.ifd(scorer, [lily, nothing])  # doctest: +SKIP
    >>> found.ifd.round(3).tolist(), found.status.tolist()  # doctest: +SKIP
    ([0.86, nan], ['ok', 'empty_target'])
    """
    check_kind(kind)
    records = to_examples(examples, columns=columns)

    def compute(rows: range, progress: ProgressLike) -> tuple[Columns, ScoreStats]:
        return difficulty_rows(
            scorer, records, rows, kind=kind, template=template, max_length=max_length, progress=progress
        )

    found, stats = in_chunks(compute, len(records), CHUNK_ROWS, progress)
    return DifficultyResult(**found, kind=kind, template=template, stats=stats)


def difficulty_rows(
    scorer: Scorer,
    examples: Examples,
    rows: Iterable[int],
    *,
    kind: str = "ppl",
    template: str = "plain",
    max_length: int | None = None,
    progress: ProgressLike = None,
) -> tuple[Columns, ScoreStats]:
    """The columns direct, conditional, ifd, num_tokens and status of some rows (see `ifd`), and what they cost."""
    check_kind(kind)
    rows = list(rows)
    requests = difficulty_requests(scorer, examples, rows, template)
    batch = score_batch(scorer, requests, max_length=max_length, progress=progress)
    direct, conditional = np.split(batch.mean_logprob, 2)
    status = first_failure(*np.split(batch.status, 2)[::-1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = np.exp(direct - conditional) if kind == "ppl" else conditional / direct
    status = np.where((status == "ok") & ~np.isfinite(value), "nonfinite", status)
    good = status == "ok"
    return {
        "direct": np.where(good, direct, np.nan),
        "conditional": np.where(good, conditional, np.nan),
        "ifd": np.where(good, value, np.nan),
        "num_tokens": batch.num_tokens[len(rows) :],
        "status": status,
    }, batch.stats


def direct_rows(
    scorer: Scorer,
    examples: Examples,
    rows: Iterable[int],
    *,
    template: str = "plain",
    max_length: int | None = None,
    progress: ProgressLike = None,
) -> tuple[Columns, ScoreStats]:
    """The columns direct (mean log-probability of the answer alone) and direct_status of some rows, and their cost."""
    requests = direct_requests(scorer, examples, rows, template)
    batch = score_batch(scorer, requests, max_length=max_length, progress=progress)
    return {"direct": batch.mean_logprob, "direct_status": batch.status}, batch.stats


def direct_requests(scorer: Scorer, examples: Examples, rows: Iterable[int], template: str) -> list[Request]:
    """The answers alone, as requests."""
    return [("", request(scorer, examples[row], template, row=row)[1]) for row in rows]


def difficulty_requests(scorer: Scorer, examples: Examples, rows: Iterable[int], template: str) -> list[Request]:
    """The answers alone, then the answers after their prompts, as requests."""
    prompted: list[Request] = [request(scorer, examples[row], template, row=row) for row in rows]
    return [("", answer) for _, answer in prompted] + prompted


def request(
    scorer: Scorer,
    example: Example,
    template: str,
    demonstration: Example | None = None,
    *,
    row: int | None = None,
    demonstration_row: int | None = None,
) -> tuple[str, str]:
    """An answer after its prompt, and before that a demonstration; an answer of nothing but white space is none."""
    context, answer = prompt_and_answer(
        template,
        example,
        demonstration=demonstration,
        tokenizer=scorer.tokenizer,
        row=row,
        demonstration_row=demonstration_row,
    )
    return context, answer if example.response.strip() else ""


def first_failure(*statuses: np.ndarray) -> np.ndarray:
    """Elementwise the first status that is not "ok"; "ok" where all are."""
    out = statuses[-1]
    for status in statuses[-2::-1]:
        out = np.where(status != "ok", status, out)
    return out


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` is known."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
