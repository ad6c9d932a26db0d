"""What a run says at its end."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

from instsel.runs import RunFolder
from instsel.runs.shards import Stage, infos
from instsel.terminal import complain, escaped, say

# Rows that the input itself makes impossible to score; everything else but "ok" is a failure of the run.
UNSCORABLE = ("empty_target", "too_long")


def count_by_status(folder: RunFolder, last: Stage, stages: list[Stage]) -> tuple[dict[str, int], dict[str, float]]:
    """Rows of the result by status, and the cost of all stages together."""
    counts: collections.Counter[str] = collections.Counter()
    stats: collections.Counter[str] = collections.Counter()
    for stage in stages:
        for info in infos(folder.shards.folder, stage.name):
            stats.update(info.stats)
            if stage is last:
                counts.update(info.counts)
    return dict(sorted(counts.items())), dict(stats)


def closing_summary(folder: RunFolder, quiet: bool, *, again: bool = False) -> None:
    """Print counts by status, cost and where the result is."""
    if quiet:
        return
    manifest = folder.manifest
    say("\n".join(summary_lines(manifest)))
    say(f"{'already finished' if again else 'written'}: {escaped(folder.name + '/' + manifest['output']['name'])}")


def summary_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Counts by status, cost, and what the method found."""
    counts, stats = manifest.get("counts", {}), manifest.get("stats", {})
    rows, seconds = sum(counts.values()), stats.get("wall_seconds", 0.0)
    lines = [f"{escaped(manifest['method'])}: {rows:,} rows in {duration(seconds)}"]
    lines += [f"  {escaped(status):<16}{count:>10,}  {count / max(rows, 1):6.1%}" for status, count in counts.items()]
    forwarded, unshared = stats.get("tokens_forwarded", 0), stats.get("tokens_unshared", 0)
    if forwarded:
        lines.append(
            f"tokens forwarded: {forwarded:,.0f}; an unshared run: {unshared:,.0f} "
            f"(sharing factor {unshared / forwarded:.2f}); {forwarded / max(seconds, 1e-9):,.0f} tokens/s"
        )
    for name, value in manifest.get("findings", {}).items():
        said = value["text"] if isinstance(value, Mapping) and "text" in value else value
        lines.append(escaped(f"{name}: {said}"))
    return lines


def failure(manifest: Mapping[str, Any], allowed: float) -> int:
    """The exit code of a finished run: 1, with a line that says so, if more than the allowed share of rows failed."""
    counts = manifest["counts"]
    rows = sum(counts.values())
    failed = {status: n for status, n in counts.items() if status != "ok" and status not in UNSCORABLE}
    if sum(failed.values()) <= allowed * rows:
        if rows and not counts.get("ok"):
            complain("warning", f"no row was scored: {', '.join(f'{n:,} {status}' for status, n in counts.items())}")
        return 0
    named = ", ".join(f"{n:,} {status}" for status, n in failed.items())
    hint = "; does the model have NaN weights, or is its dtype too narrow?" if failed.get("nonfinite") else ""
    complain("error", f"{named} of {rows:,} rows: more than --max-failures {allowed:.1%} failed{hint}")
    return 1


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
