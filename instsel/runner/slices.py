"""Where a stage is cut into slices, each of which becomes a shard: so much work each, whatever the rows' lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from instsel.methods.stages import Stage
from instsel.methods.turn_requests import flat

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer_protocol import ScorerProtocol

# What a processor of few cores, or a GPU, does in half a minute to a minute. Not measured: a run that is repeated, or
# goes on elsewhere, must have the same slices to have the same bits, since a slice's sequences are packed together.
FLOPS_OF_A_SHARD = {"cpu": 1.2e13, "cuda": 6e15}
LEAST_TOKENS = {"cpu": 4_096, "cuda": 65_536}  # below which packs would not be full
SAMPLED_ROWS = 16  # of a block of `slice_rows`, and at most one in 32
_WHOLE_ROWS = 8192  # in a shard of a stage that is computed at once


@dataclass(frozen=True, slots=True)
class Slices:
    """Cuts the stages of a run over `count` rows.

    shard_rows  rows of a slice where they are asked for, of stages with the pool's rows
    device      the kind that the model runs on
    """

    scorer: ScorerProtocol
    count: int
    shard_rows: int | None
    device: str
    max_length: int | None

    def of(
        self, stage: Stage, length: int, missing: Iterable[range], requests: Callable[[range], list[Request]]
    ) -> Iterator[range]:
        """The slices of what is missing of a stage of `length` rows, in order; they depend on its rows alone.

        A stage is cut into blocks of `Stage.slice_rows`, and each of them evenly into slices of about
        `FLOPS_OF_A_SHARD`, by what some of its rows would score, which `requests` gives. Where earlier shards end
        otherwise, what is between them is cut there too.
        """
        step, is_weighed = self._rows_at_once(stage, length)
        for gap in missing:
            for start in range(gap.start // step * step, gap.stop, step):
                block = range(start, min(start + step, length))
                within = self._rows_of_a_shard(block, requests) if is_weighed else step
                for first in range(start, block.stop, within):
                    rows = range(max(first, gap.start), min(first + within, block.stop, gap.stop))
                    if rows:
                        yield rows

    def _rows_at_once(self, stage: Stage, length: int) -> tuple[int, bool]:
        """Rows of a block, and whether it is to be cut by what its rows score."""
        if self.shard_rows is not None and length == self.count:
            return self.shard_rows, False
        if stage.whole:
            return max(stage.slice_rows, _WHOLE_ROWS), False
        return stage.slice_rows, stage.requests is not None

    def _rows_of_a_shard(self, block: range, requests: Callable[[range], list[Request]]) -> int:
        from instsel.engine.scoring import plan_batch

        places = min(max(len(block) // 32, 1), SAMPLED_ROWS)
        rows = [block.start + place * len(block) // places for place in range(places)]
        sample = [request for row in rows for request in requests(range(row, row + 1))]
        plan = plan_batch(self.scorer, flat(sample), max_length=self.max_length)
        if not plan.tokens_forwarded:
            return len(block)
        kind = "cpu" if self.device == "cpu" else "cuda"
        wanted = max(FLOPS_OF_A_SHARD[kind] / plan.estimated_flops, LEAST_TOKENS[kind] / plan.tokens_forwarded)
        parts = max(-(-len(block) // max(round(wanted * places), 1)), 1)
        return -(-len(block) // parts)
