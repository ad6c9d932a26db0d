"""`instsel status DIR`: how far a run is, what it was run with, how long it will take; reads, never writes."""

from __future__ import annotations

import argparse
import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instsel.commands.summary import duration, summary_lines
from instsel.runs.lock import running_holder
from instsel.runs.manifest import read_manifest
from instsel.runs.shards import infos
from instsel.runs.worker_notes import read_notes
from instsel.terminal import escaped, say

_HIDDEN = ("format", "version", "method")  # said elsewhere


def add_parser(commands: Any) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("status", help="progress, counts and settings of a run folder")
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Any) -> int:
    """Print the status of a run folder."""
    manifest = open_manifest(args.folder)
    holder = running_holder(args.folder)
    state = manifest.get("state", "unknown")
    if holder is not None:
        state = f"running ({holder})"
    elif state == "running":
        state = "stopped without a word (killed?); the same command continues"
    say(f"{args.folder}: {manifest['method']}, {escaped(state)}")
    for line in _progress_lines(args.folder, manifest):
        say(line)
    for line in _worker_lines(args.folder) if holder is not None else []:
        say(line)
    for line in summary_lines(manifest)[1:] if manifest.get("state") == "finished" else []:
        say(line)
    say(f"input: {escaped(str(manifest.get('input')))} ({manifest.get('rows', 0):,} rows)")
    say(f"model: {escaped(str(manifest.get('model')))}")
    settings = {name: manifest.get(name) for name in manifest.get("compared", ()) if name not in _HIDDEN}
    for name, value in settings.items():
        say(f"  {name:<18}{escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}")
    return 0


def open_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder; ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    manifest, damaged = read_manifest(folder)
    if damaged:
        raise ValueError(f"the manifest of {folder} is damaged; the command that made the run repairs it")
    if manifest is None or "method" not in manifest:
        raise ValueError(f"{folder} is not a run folder: it has no manifest.json")
    return manifest


def _progress_lines(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, rows, _ in manifest.get("stages", ()):
        counts: collections.Counter[str] = collections.Counter()
        stats: collections.Counter[str] = collections.Counter()
        done = 0
        for info in infos(folder / "shards", name):
            done += info.num_rows
            counts.update(info.counts)
            stats.update(info.stats)
        line = f"  {name}: {done:,} of {rows:,} rows ({done / max(rows, 1):.1%})"
        seconds = stats.get("wall_seconds", 0.0)
        if done and seconds:
            line += f", {done / seconds:,.1f} rows/s"
            if stats.get("tokens_forwarded"):
                line += f", {stats['tokens_forwarded'] / seconds:,.0f} tokens/s"
            if done < rows:
                line += f", about {duration((rows - done) * seconds / done)} left"
        if counts:
            line += "; " + ", ".join(f"{n:,} {status}" for status, n in sorted(counts.items()))
        lines.append(line)
    return lines


def _worker_lines(folder: Path) -> list[str]:
    """One line a worker: where it is, how fast it is, what it is doing, how often it died."""
    lines = []
    for number, worker in enumerate(read_notes(folder)):
        line = f"  worker {number} on {worker.get('place')}"
        if "pid" in worker:
            line += f" (process {worker['pid']} on {worker.get('host')})"
        line += f": {escaped(str(worker.get('state')))}; {worker.get('rows', 0):,} rows"
        if worker.get("seconds"):
            line += f", {worker['rows'] / worker['seconds']:,.1f} rows/s"
        if worker.get("deaths"):
            line += f", died {worker['deaths']} times"
        lines.append(line)
    return lines
