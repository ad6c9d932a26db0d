"""Where a command's rows come from: a file, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instsel.records.files import iter_batches
from instsel.runs.fingerprints import input_digest
from instsel.runs.row_store import Batch

_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class InputSource:
    """A named input: what it is called, the digest of its content, and reading its rows in batches."""

    name: str
    digest: str
    read: Callable[[], Iterable[Batch]]


def open_input(name: str, limit: int | None) -> InputSource:
    """The input of that name; ValueError or OSError if there is none."""
    path = Path(name)
    if path.is_dir():
        raise ValueError(f"input {name} is a folder; name a JSON, JSONL, Parquet or CSV file")
    if path.exists():
        if not path.is_file():
            raise ValueError(f"input {name} is not a regular file")
        return InputSource(os.path.abspath(name), input_digest(path), lambda: iter_batches(path, limit=limit))
    if path.suffix or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ValueError(f"input {name} does not exist")
    return _hub_dataset(name, limit)


def _hub_dataset(name: str, limit: int | None) -> InputSource:
    """The "train" split of a hub dataset, or its only split."""
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"input {name} does not exist (for a dataset of the hub install instsel[datasets])") from error
    try:
        found: Any = datasets.load_dataset(name)
    except Exception as error:  # whatever the hub, the network or the dataset's files are up to
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"input {name} is neither a file nor a dataset that the hub gives: {first}") from error
    if "train" not in found and len(found) != 1:
        raise ValueError(f"dataset {name} has the splits {', '.join(found)}; save the one you want as a file")
    dataset = found["train"] if "train" in found else next(iter(found.values()))
    if limit is not None:
        dataset = dataset.select(range(min(limit, len(dataset))))
    dataset = dataset.with_format("arrow")
    return InputSource(name, f"dataset {dataset._fingerprint}", lambda: dataset.iter(_BATCH_ROWS))
