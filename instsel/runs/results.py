"""The result file of a finished run folder: found within the folder, held against its digest, its columns known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from instsel.runs.column_names import checked_names, names_guessed, names_of_old_run
from instsel.runs.durable_files import digest_file
from instsel.runs.finished_run import RunReader
from instsel.runs.manifest_shape import Manifest, Output
from instsel.runs.run_files import SHARDS
from instsel.runs.scored_files import ScoredFile


def describe_result(path: Path, own: Mapping[str, str]) -> Output:
    """What a manifest says of the result: its name, size and digest, and the name in it of each of our columns."""
    return {"name": path.name, "bytes": path.stat().st_size, "digest": digest_file(path), "columns": dict(own)}


def result_path(run: RunReader) -> Path:
    """The result of a finished run, read once to compare its digest.

    Raises ValueError where there is none, where it is a link out of the folder, or where the file is not as it was
    written. Selections had no digest before this version.
    """
    output, path = _output(run.manifest), run.result()
    if path is None:
        raise ValueError(f"{run.folder} is not a finished run folder (see instsel status)")
    if not path.resolve().is_relative_to(run.folder.resolve()):
        raise ValueError(f"the manifest of {run.folder} names a result outside the folder: run the same command again")
    if "digest" not in output and run.manifest.get("method") == "select":
        return path
    if digest_file(path) != output.get("digest"):
        raise ValueError(
            f"{path} is not as it was written (its digest differs from the manifest's): run the same command again, "
            "which writes it anew"
        )
    return path


def open_result(run: RunReader) -> ScoredFile:
    """The result as `result_path` finds it, with the names of the run's own columns; ValueError where it is damaged."""
    scored = ScoredFile(result_path(run))
    told = _output(run.manifest).get("columns")
    if told is None:
        scored.own = _derived_names(run, scored.columns)
    elif (own := checked_names(told, scored.columns)) is not None:
        scored.own = own
    else:
        raise ValueError(
            f"the manifest of {run.folder} names columns that {scored.path.name} has not: write the run anew"
        )
    return scored


def _output(manifest: Manifest) -> Output:
    output = manifest.get("output")
    return output or {}


def _derived_names(run: RunReader, columns: list[str]) -> dict[str, str]:
    """The names in a folder whose manifest does not tell them: those before this version were given by a fixed rule."""
    if run.manifest.get("method") == "select":
        return names_guessed(columns)  # whatever it was made from
    kept = set(run.manifest.get("columns") or ())
    added = _columns_of_shards(run)
    if added is not None:
        found = names_of_old_run(added, kept)
        if set(found.values()) <= set(columns):
            return found
    rest = [name for name in columns if name not in kept]
    guessed = {found: name for name, found in names_guessed(columns).items()}
    return {guessed.get(name, name): name for name in rest}


def _columns_of_shards(run: RunReader) -> list[str] | None:
    """The columns of a run's last stage, where its shards are there."""
    stages = run.manifest.get("stages") or ()
    for path in sorted(run.place(SHARDS).glob(f"{stages[-1][0]}-*.parquet"))[:1] if stages else ():
        try:
            return list(pq.read_schema(path).names)
        except (pa.ArrowException, OSError):
            return None
    return None
