"""In-context influence: how much an example, shown as a demonstration, lowers the difficulty of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instsel.methods.demonstrations import cut_to_fit
from instsel.methods.pairs import NO_ANSWER, pair_scores, pair_statuses
from instsel.methods.stages import Columns, StageSlice, first_failure
from instsel.methods.turn_requests import answers_alone

if TYPE_CHECKING:
    from instsel.engine.requests import Request

RULES = ("paper", "release", "gain")
WEIGHTS = ("rule", "distance", "none")
NEGATIVES = ("rule", "keep", "drop")


def direct_requests(part: StageSlice) -> list[Request]:
    """The answers alone."""
    return answers_alone([part.request(row) for row in part.rows])


def direct_columns(part: StageSlice) -> Columns:
    """The columns direct (mean log-probability of the answer alone) and direct_status."""
    batch = part.score(direct_requests(part))
    return {"direct": batch.mean_logprob, "direct_status": batch.status}


def shown_rows(part: StageSlice) -> list[int]:
    """The rows of a slice and their probes."""
    probes = part.columns["probes"]
    return [*part.rows, *probes[probes >= 0].tolist()]


def influence_columns(part: StageSlice, *, cut_demonstration: bool = False) -> Columns:
    """Score the answers of some rows and of their probes, after their prompts; all in one call of `score_batch`.

    A row's own prompt and answer are the very prefix that its probes share, so they cost nothing beyond it.

    Reads the column probes, int64 `[r, k]`, -1 for none. Gives the columns conditional, conditional_status and
    num_tokens `[r]` of the rows' own answers, and of their pairs one_shot (mean log-probability of the probe's answer
    after demonstration and prompt), one_shot_status and demonstration_cut `[r, k]`.
    """
    own, known, pairs, cut = _pairs(part, cut_demonstration)
    batch = part.score(own + pairs)
    count = len(part.rows)
    one_shot, status = pair_scores(batch, count, known)
    was_cut = np.zeros(known.shape, bool)
    was_cut[known == "ok"] = cut
    return {
        "conditional": batch.mean_logprob[:count],
        "conditional_status": batch.status[:count],
        "num_tokens": batch.num_tokens[:count],
        "one_shot": one_shot,
        "one_shot_status": status,
        "demonstration_cut": was_cut,
    }


def influence_requests(part: StageSlice, *, cut_demonstration: bool = False) -> list[Request]:
    """What `influence_columns` will score."""
    own, _, pairs, _ = _pairs(part, cut_demonstration)
    return own + pairs


def _pairs(part: StageSlice, cut_demonstration: bool) -> tuple[list[Request], np.ndarray, list[Request], np.ndarray]:
    """Requests for the rows' own answers, statuses `[r, k]` of their pairs, the pairs' requests, and which were cut.

    A pair has a request where there is a probe and both demonstration and probe have an answer.
    """
    probes, examples = part.columns["probes"], part.examples
    own = [part.request(row) for row in part.rows]
    needed = np.unique(probes[probes >= 0])
    has_answer = np.array([bool(examples[int(probe)].response.strip()) for probe in needed], bool)
    status = pair_statuses(np.isin(probes, needed[has_answer]) & part.answered[:, None])
    numbers = [(part.rows[row], int(probes[row, place])) for row, place in np.argwhere(status == "ok").tolist()]
    shown = [examples[row] for row, _ in numbers]
    cut = np.zeros(len(numbers), bool)
    if cut_demonstration:
        pairs = [(examples[row], examples[probe]) for row, probe in numbers]
        for i, shorter in enumerate(cut_to_fit(part, pairs, numbers)):
            if shorter is not None:
                shown[i], cut[i] = shorter, True
    texts = [
        part.request(probe, demonstration, row) for demonstration, (row, probe) in zip(shown, numbers, strict=True)
    ]
    return own, status, texts, cut


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
    weight: str = "rule",
    negatives: str = "rule",
    relative: bool = False,
) -> Columns:
    """Scores from log-probabilities. With `ifd(b) = exp(direct(b) - conditional(b))` and `b` over a row's probes:

        one_shot_ifd(a, b) = exp(direct(b) - one_shot(a, b))
        influence(a, b)    = ifd(b) - one_shot_ifd(a, b), over ifd(b) where it is relative
        rule="paper":    score(a) = mean over b of (1 - cos(a, b)) / 2 * influence(a, b)
        rule="release":  score(a) = mean over b with influence(a, b) > 0 of (1 - cos(a, b)) * influence(a, b), else 0;
                         and a is selectable where ifd(a) <= 1
        rule="gain":     influence(a, b) = one_shot(a, b) - conditional(b), and score(a) = its mean over b

    A pair that was not scored has no influence (NaN) and is left out of the mean.

    Takes the columns of `direct_columns` and `influence_columns` for all rows, `probes` int64 and `similarity` float64
    `[n, k]`. Gives score, gain (the score by rule="gain", whatever the rule), ifd, selectable, status `[n]` and
    one_shot_ifd, influence `[n, k]`. A row's status is "ok"
    where it has a score, that is, where at least one pair was scored; else it is the row's own failure or, where it
    has none, that of its first pair. A row without any probe is "empty_target": there is no answer to be lowered.

    """
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
        gains = np.where(scored, one_shot - conditional[probes], np.nan)
        influence = gains if rule == "gain" else own[probes] - one_shot_ifd
        influence = np.where(scored, influence / own[probes] if relative else influence, np.nan)
    has_score = scored.any(1)
    score = weighted_mean(influence, similarity, rule, weight, negatives)
    status = np.where(own_status != "ok", own_status, first_failure(*pair_status.T))
    status = np.where(has_score, "ok", status)
    status = np.where(has_score & ~np.isfinite(score), "nonfinite", status)
    score = np.where(status == "ok", score, np.nan)
    gain = np.where(status == "ok", weighted_mean(gains, similarity, "gain"), np.nan)
    selectable = (status == "ok") & ((own <= 1) if rule == "release" else True)
    return {
        "score": score,
        "gain": gain,
        "ifd": own,
        "one_shot_ifd": one_shot_ifd,
        "influence": influence,
        "selectable": selectable,
        "status": status,
    }


def score_by_rule(
    ifd: np.ndarray, one_shot_ifd: np.ndarray, probes: np.ndarray, similarity: np.ndarray, rule: str
) -> np.ndarray:
    """Scores float64 `[n]` by any rule of `combine_influence`, from what `wici` found by another one.

    `ifd` float64 `[n]`; `one_shot_ifd`, `probes` (-1 where there is none) and `similarity` `[n, k]`. NaN where a row
    has no pair that was scored.

    >>> score_by_rule(np.array([0.5, 0.8]), np.array([[0.4], [0.5]]), np.array([[1], [0]]), np.zeros((2, 1)), "paper")
    array([0.2, 0. ])
    """
    own = np.where(probes >= 0, ifd[probes], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        influence = np.log(own) - np.log(one_shot_ifd) if rule == "gain" else own - one_shot_ifd
    return weighted_mean(influence, similarity, rule)


def weighted_mean(
    influence: np.ndarray, similarity: np.ndarray, rule: str, weight: str = "rule", negatives: str = "rule"
) -> np.ndarray:
    """Scores float64 `[n]` by a rule of `combine_influence`, from influences and cosines `[n, k]`.

    weight     "distance": each influence times `(1 - cos) / 2`, or `1 - cos` with rule="release"; "none": as it is;
               "rule": by distance, and with rule="gain" as it is
    negatives  "drop": influences of 0 and below are left out, and a row without any other has 0; "keep": all count;
               "rule": kept, and with rule="release" dropped

    A pair without an influence (NaN) is left out of the mean; a row with none at all has NaN.
    """
    scored = ~np.isnan(influence)
    weighs = weight == "distance" or (weight == "rule" and rule != "gain")
    drops = negatives == "drop" or (negatives == "rule" and rule == "release")
    with np.errstate(over="ignore", invalid="ignore"):
        far = (1 - similarity) / (1 if rule == "release" else 2)
        counted = scored & (influence > 0) if drops else scored
        terms = np.where(counted, far * influence if weighs else influence, 0.0)
    return np.where(scored.any(1), terms.sum(1) / np.maximum(counted.sum(1), 1), np.nan)
