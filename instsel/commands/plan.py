"""What a run would cost, said before it begins: requests planned as they would be scored, with no forward."""

from __future__ import annotations

from typing import Any

from instsel.commands.session import Session
from instsel.methods.stages import Columns, Stage
from instsel.terminal import say

# Up to so many requests are planned one and all; of more, rows spread evenly over the pool, and the sums scaled up.
PLANNED_REQUESTS = 200_000
SAMPLED_REQUESTS = 16_000
_COUNTS = ("sequences", "tokens_forwarded", "tokens_unshared", "packs", "estimated_flops")


def print_plan(session: Session) -> None:
    """Plan every stage and print the sums."""
    total: dict[str, float] = dict.fromkeys(_COUNTS, 0.0)
    known: dict[str, Columns] = {}
    sampled = ""
    for stage in session.stages:
        length = session.lengths[stage.name]
        if stage.requests is not None and length:
            rows = _rows_to_plan(session, stage, known)
            planned = sum(len(part) for part in rows)
            for part in rows:
                session.interrupts.check()
                _add(total, session, stage, part, known, length / planned)
            if planned < length:
                sampled = f", estimated from {planned:,} of {length:,} rows of the stage {stage.name}"
        if stage.guess is not None:
            known[stage.name] = stage.guess(session.parameters, len(session.rows))
    factor = total["tokens_unshared"] / max(total["tokens_forwarded"], 1)
    say(f"{session.method.name}: plan for {len(session.rows):,} rows, nothing is forwarded{sampled}")
    for name, label in zip(_COUNTS[:3], ("sequences", "tree tokens", "unshared tokens"), strict=True):
        say(f"  {label:<16} {round(total[name]):>20,}")
    say(f"  {'sharing factor':<16} {factor:>20.2f}")
    say(f"  {'packs':<16} {round(total['packs']):>20,}")
    say(f"  {'estimated FLOPs':<16} {total['estimated_flops']:>20.3g}")


def _rows_to_plan(session: Session, stage: Stage[Any], known: dict[str, Columns]) -> list[range]:
    """The slices to plan: all of them, or few rows each where there are too many requests."""
    length = session.lengths[stage.name]
    step = session.shards_of(stage).shard_rows
    assert stage.requests is not None
    middle = range(length // 2, length // 2 + 1)
    each = max(len(stage.requests(session.slice(stage, middle, known))), 1)
    if each * length <= PLANNED_REQUESTS:
        return [range(start, min(start + step, length)) for start in range(0, length, step)]
    count = max(SAMPLED_REQUESTS // each, 8)
    together = min(step, max(count // 16, 1))
    places = max(count // together, 1)
    starts = sorted({i * (length - together) // max(places - 1, 1) for i in range(places)})
    return [range(start, start + together) for start in starts]


def _add(
    total: dict[str, float],
    session: Session,
    stage: Stage[Any],
    rows: range,
    known: dict[str, Columns],
    scale: float,
) -> None:
    from instsel.engine.scoring import plan_batch

    assert stage.requests is not None
    requests = stage.requests(session.slice(stage, rows, known))
    plan = plan_batch(session.scorer, requests, max_length=session.args.max_length)
    for name in _COUNTS:
        total[name] += getattr(plan, name) * scale
