"""How long planned work takes on this machine, by a few packs of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from instsel.methods.turn_requests import flat

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer import Scorer

SECONDS = 6.5  # of all stages' packs, the call that warms up not counted
SPREAD = 0.15
_TOGETHER = 0.05  # packs side by side end within this share of a call
PLACES = 8  # of a stage from which rows are taken
ROUNDS = 2  # of packs side by side, behind the first
_WARM_TOKENS = 512
_WARM_RATE = 1.4  # by how much the call that warms up is slower, about
_LEAST_PACK = 2048


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage's slices, what their rows score, and what all that is left of it would take."""

    parts: Sequence[range]
    requests: Callable[[range], list[Request]]
    tokens: float
    flops: float
    rows: int


def time_stages(
    scorer: Scorer, work: Sequence[PlannedStage], max_length: int | None, spread: float
) -> tuple[float, float] | None:
    """The least and the most seconds that the work takes, its tokens uncertain by `spread`; None where there is none.

    Some rows of each stage, from several places of it, are scored in a few packs. A stage's time is in proportion to
    its operations, those of forwarded tokens and of rows of the head, by its own rate.
    """
    all_flops = sum(stage.flops for stage in work)
    if not all_flops:
        return None
    from instsel.engine.side_by_side import packs_at_once  # with torch, which help and status do without

    with scorer.session() as session, session.inference_context():
        clock = _Clock(scorer, max_length, packs_at_once(session))
    by_size = sorted(work, key=lambda stage: -stage.flops)
    rate = clock.rate(by_size[0], _WARM_TOKENS) / _WARM_RATE  # seconds an operation
    total = 0.0
    for stage in by_size:
        tokens = SECONDS * stage.tokens / all_flops / rate
        rate = clock.rate(stage, min(tokens, (1 + ROUNDS * clock.at_once) * scorer.budget))
        total += stage.flops * rate
    relative = math.hypot(SPREAD, spread)
    return total * (1 - min(relative, 0.9)), total * (1 + relative)


@dataclass(frozen=True, slots=True)
class _Clock:
    scorer: Scorer
    max_length: int | None
    at_once: int

    def rate(self, stage: PlannedStage, tokens: float) -> float:
        """Seconds an operation of about so many tokens of a stage.

        The first pack of a call runs alone, for what all others share, and is not counted where there are others. On
        a CPU packs are smaller than they will be where there would be fewer than run side by side.
        """
        from instsel.engine.scoring import plan_batch, score_batch

        began = time.perf_counter()
        requests = _some_requests(stage, max(round(tokens * stage.rows / stage.tokens), 1))
        plan = plan_batch(self.scorer, requests, max_length=self.max_length)
        prepared = time.perf_counter() - began
        done: list[tuple[float, int]] = []  # when so many tokens were through
        before = self.scorer.max_batch_tokens
        if self.at_once > 1:
            least = max(plan.tokens_forwarded // (1 + ROUNDS * self.at_once), _LEAST_PACK)
            self.scorer.max_batch_tokens = min(least, self.scorer.budget)
        try:
            done.append((time.perf_counter(), 0))
            score_batch(
                self.scorer,
                requests,
                max_length=self.max_length,
                progress=lambda through, _: done.append((time.perf_counter(), through)),
            )
        finally:
            self.scorer.max_batch_tokens = before
        apart = _TOGETHER * (done[-1][0] - done[0][0])
        ends = [one for one, following in pairwise(done) if following[0] - one[0] > apart] + done[-1:]
        (first, through), (last, all_tokens) = ends[1 if len(ends) > 2 else 0], ends[-1]
        forwarding = (last - first) * all_tokens / max(all_tokens - through, 1)
        return (forwarding + prepared) / max(plan.estimated_flops, 1.0)


def _some_requests(stage: PlannedStage, rows: int) -> list[Request]:
    """What about so many rows of a stage score, from several places of it."""
    numbers = [row for part in stage.parts for row in part]
    places = min(PLACES, rows)
    starts = [numbers[place * len(numbers) // places] for place in range(places)]
    requests: list[Request] = []
    for start in starts:
        part = next(part for part in stage.parts if start in part)
        requests += flat(stage.requests(range(start, min(start + max(round(rows / places), 1), part.stop))))
    return requests
