"""Names that stand for several files: a folder of shards, a glob."""

from __future__ import annotations

import glob
import warnings
from pathlib import Path

from instsel.records.compression import data_suffix
from instsel.records.files import SUFFIXES
from instsel.runs.manifest import read_manifest
from instsel.runs.run_files import MANIFEST

_FORMATS = "JSON, JSONL, Parquet or CSV"


def files_named(name: str) -> list[Path]:
    """The files of a folder, or those that a glob matches, sorted by name; ValueError where there is none.

    Of a folder: those whose names are of a known format, not those of its own folders, and none whose name begins with
    a dot or an underscore. Of a glob: every file.
    """
    folder = Path(name)
    if not folder.is_dir():
        found = sorted(path for path in map(Path, glob.glob(name, recursive=True)) if path.is_file())
        if not found:
            raise ValueError(f"input {name} matches no file")
        return found
    if read_manifest(folder)[0] is not None:
        raise ValueError(f"input {name} is a run folder (it holds a {MANIFEST}); name a file in it, or the run's input")
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "_")))
    files = [path for path in entries if path.is_file() and data_suffix(path) in SUFFIXES]
    if not files:
        within = [path.name for path in entries if path.is_dir()][:3]
        hint = f"; for the files of its folders ({', '.join(within)}) give a glob" if within else ""
        raise ValueError(f"input {name} is a folder without a {_FORMATS} file{hint}")
    others = [path.name for path in entries if path.is_file() and path not in set(files)]
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        warnings.warn(f"input {name}: left out what is by its name no {_FORMATS} file: {shown}", stacklevel=1)
    return files
