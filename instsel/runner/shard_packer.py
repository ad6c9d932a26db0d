"""A slice's columns as the shard of a run folder, made where they were computed."""

from __future__ import annotations

from dataclasses import dataclass

from instsel.engine.results import ScoreStats
from instsel.methods.stages import Columns
from instsel.runs.shards import PackedShard, pack_shard


@dataclass(frozen=True, slots=True)
class ShardPacker:
    """Packs shards of the run with these settings.

    A shard's seconds are divided by the number of workers, so that those of all shards add up to the run's.
    """

    settings: str
    workers: int = 1

    def __call__(self, stage: str, rows: range, columns: Columns, stats: ScoreStats, seconds: float) -> PackedShard:
        cost = {name: getattr(stats, name) for name in stats.__slots__}
        return pack_shard(stage, self.settings, rows, columns, {**cost, "wall_seconds": seconds / self.workers})
