"""The end of a run: its result is merged, its rows and costs are counted, its manifest is closed."""

from __future__ import annotations

import collections

from instsel.records.json_types import JsonObject
from instsel.runner.row_checks import with_reasons
from instsel.runs import RunFolder
from instsel.runs.merged_output import write_merged
from instsel.runs.results import describe_result
from instsel.runs.row_store import RowStore
from instsel.runs.shards import ShardedStage, infos


def finish(
    folder: RunFolder,
    rows: RowStore,
    last: ShardedStage,
    result: str,
    findings: JsonObject,
    stages: list[ShardedStage],
    score: str,
) -> None:
    """Merge the result and close the manifest over it."""
    folder.interrupts.check()
    with folder.explained():
        scores = with_reasons(lambda: folder.shards.tables(last), rows, folder.manifest)
        told = folder.manifest
        own = write_merged(
            folder.path, result, rows, scores, columns=told["columns"], mapping=told.get("column_mapping")
        )
        path = folder.path / result
        output = describe_result(path, own)
        folder.written(path)
    counts, stats = _count_by_status(folder, last, stages)
    folder.finish(output=output, counts=counts, stats=stats, findings=findings, score=score)


def _count_by_status(
    folder: RunFolder, last: ShardedStage, stages: list[ShardedStage]
) -> tuple[dict[str, int], dict[str, float]]:
    """Rows of the result by status, and the cost of all stages together."""
    counts: collections.Counter[str] = collections.Counter()
    stats: collections.Counter[str] = collections.Counter()
    for stage in stages:
        for info in infos(folder.shards.folder, stage.name):
            stats.update(info.stats)
            if stage is last:
                counts.update(info.counts)
    return dict(sorted(counts.items())), dict(stats)
