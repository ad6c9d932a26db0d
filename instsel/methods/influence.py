"""In-context influence: how much an example, shown as a demonstration, lowers the difficulty of others."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.engine.scorer import Request, Scorer, score_batch
from instsel.engine.token_progress import ProgressLike
from instsel.methods.chunks import Columns, Examples
from instsel.methods.demonstrations import cut_to_fit
from instsel.methods.difficulty import first_failure, request

RULES = ("paper", "release")
NO_ANSWER = "empty_target"  # status of a pair without a probe, or whose demonstration or probe has no answer


def influence_rows(
    scorer: Scorer,
    examples: Examples,
    rows: Iterable[int],
    probes: np.ndarray,
    *,
    template: str = "plain",
    max_length: int | None = None,
    cut_demonstration: bool = False,
    progress: ProgressLike = None,
) -> tuple[Columns, ScoreStats]:
    """Score the answers of some rows and of their probes, after their prompts; all in one call of `score_batch`.

    A row's own prompt and answer are the very prefix that its probes share, so they cost nothing beyond it.

    `probes` is int64 `[n, k]` over all rows, -1 for none. Gives the columns conditional, conditional_status and
    num_tokens `[r]` of the rows' own answers, and of their pairs one_shot (mean log-probability of the probe's answer
    after demonstration and prompt), one_shot_status and demonstration_cut `[r, k]`; and what it all cost.
    """
    rows = np.asarray(list(rows), np.int64)
    own, where, pairs, cut = influence_requests(scorer, examples, rows, probes, template, max_length, cut_demonstration)
    batch = score_batch(scorer, own + pairs, max_length=max_length, progress=progress)
    one_shot = np.full((len(rows), probes.shape[1]), np.nan)
    status = np.full(one_shot.shape, NO_ANSWER, batch.status.dtype)
    was_cut = np.zeros(one_shot.shape, bool)
    one_shot[where] = batch.mean_logprob[len(rows) :]
    status[where] = batch.status[len(rows) :]
    was_cut[where] = cut
    return {
        "conditional": batch.mean_logprob[: len(rows)],
        "conditional_status": batch.status[: len(rows)],
        "num_tokens": batch.num_tokens[: len(rows)],
        "one_shot": one_shot,
        "one_shot_status": status,
        "demonstration_cut": was_cut,
    }, batch.stats


def influence_requests(
    scorer: Scorer,
    examples: Examples,
    rows: Iterable[int],
    probes: np.ndarray,
    template: str,
    max_length: int | None = None,
    cut_demonstration: bool = False,
) -> tuple[list[Request], tuple[np.ndarray, ...], list[Request], np.ndarray]:
    """Requests for the rows' own answers, the places `[r, k]` of their pairs, the pairs' requests, and which were cut.

    A pair has a request where there is a probe and both demonstration and probe have an answer.
    """
    rows = np.asarray(list(rows), np.int64)
    own: list[Request] = [request(scorer, examples[int(row)], template, row=int(row)) for row in rows]
    answered = np.array([bool(answer) for _, answer in own], bool)
    needed = np.unique(probes[rows][probes[rows] >= 0])
    has_answer = np.array([bool(examples[int(probe)].response.strip()) for probe in needed], bool)
    scorable = np.isin(probes[rows], needed[has_answer]) & answered[:, None]
    where = np.nonzero(scorable)
    numbers = [(int(rows[row]), int(probes[rows[row], place])) for row, place in zip(*where, strict=True)]
    pairs = [(examples[row], examples[probe]) for row, probe in numbers]
    shown = [demonstration for demonstration, _ in pairs]
    cut = np.zeros(len(pairs), bool)
    if cut_demonstration:
        for i, shorter in enumerate(cut_to_fit(scorer, pairs, template, max_length, numbers)):
            if shorter is not None:
                shown[i], cut[i] = shorter, True
    texts: list[Request] = [
        request(scorer, example, template, demonstration, row=probe, demonstration_row=row)
        for demonstration, (_, example), (row, probe) in zip(shown, pairs, numbers, strict=True)
    ]
    return own, where, texts, cut


def combine_influence(
    *,
    direct: np.ndarray,
    direct_status: np.ndarray,
    conditional: np.ndarray,
    conditional_status: np.ndarray,
    one_shot: np.ndarray,
    one_shot_status: np.ndarray,
    probes: np.ndarray,
    similarity: np.ndarray,
    rule: str = "paper",
) -> Columns:
    """Scores from log-probabilities. With `ifd(b) = exp(direct(b) - conditional(b))` and `b` over a row's probes:

        one_shot_ifd(a, b) = exp(direct(b) - one_shot(a, b))
        influence(a, b)    = ifd(b) - one_shot_ifd(a, b)
        rule="paper":    score(a) = mean over b of (1 - cos(a, b)) / 2 * influence(a, b)
        rule="release":  score(a) = mean over b with influence(a, b) > 0 of (1 - cos(a, b)) * influence(a, b), else 0;
                         and a is selectable where ifd(a) <= 1

    A pair that was not scored has no influence (NaN) and is left out of the mean.

    Takes the columns of `direct_rows` and `influence_rows` for all rows, `probes` int64 and `similarity` float64
    `[n, k]`. Gives score, ifd, selectable, status `[n]` and one_shot_ifd, influence `[n, k]`. A row's status is "ok"
    where it has a score, that is, where at least one pair was scored; else it is the row's own failure or, where it
    has none, that of its first pair. A row without any probe is "empty_target": there is no answer to be lowered.

    Raises ValueError for an unknown rule.
    """
    check_rule(rule)
    with np.errstate(over="ignore", invalid="ignore"):
        own = np.exp(direct - conditional)
        own_status = first_failure(conditional_status, direct_status)
        own_status = np.where((own_status == "ok") & ~np.isfinite(own), "nonfinite", own_status)
        own = np.where(own_status == "ok", own, np.nan)
        one_shot_ifd = np.exp(direct[probes] - one_shot)
        pair_status = first_failure(one_shot_status, own_status[probes])
        pair_status = np.where(probes < 0, NO_ANSWER, pair_status)
        pair_status = np.where((pair_status == "ok") & ~np.isfinite(one_shot_ifd), "nonfinite", pair_status)
        scored = pair_status == "ok"
        one_shot_ifd = np.where(scored, one_shot_ifd, np.nan)
        influence = np.where(scored, own[probes] - one_shot_ifd, np.nan)
    has_score = scored.any(1)
    score = weighted_mean(influence, similarity, rule)
    status = np.where(own_status != "ok", own_status, first_failure(*pair_status.T))
    status = np.where(has_score, "ok", status)
    status = np.where(has_score & ~np.isfinite(score), "nonfinite", status)
    score = np.where(status == "ok", score, np.nan)
    selectable = (status == "ok") & ((own <= 1) if rule == "release" else True)
    return {
        "score": score,
        "ifd": own,
        "one_shot_ifd": one_shot_ifd,
        "influence": influence,
        "selectable": selectable,
        "status": status,
    }


def weighted_mean(influence: np.ndarray, similarity: np.ndarray, rule: str) -> np.ndarray:
    """Scores float64 `[n]` by a rule of `combine_influence`, from influences and cosines `[n, k]`.

    A pair without an influence (NaN) is left out of the mean; a row with none at all has NaN.
    """
    scored = ~np.isnan(influence)
    with np.errstate(over="ignore", invalid="ignore"):
        far = 1 - similarity
        counted = scored & (influence > 0) if rule == "release" else scored
        terms = np.where(counted, far * influence if rule == "release" else far / 2 * influence, 0.0)
    return np.where(scored.any(1), terms.sum(1) / np.maximum(counted.sum(1), 1), np.nan)


def check_rule(rule: str) -> None:
    """Raise ValueError unless `rule` is known."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
