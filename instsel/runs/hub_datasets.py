"""Datasets of the Hugging Face hub, through the package `datasets`."""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instsel.error_text import first_line
from instsel.hub import offline, out_of_reach
from instsel.optional_packages import need_package
from instsel.records.compression import data_suffix
from instsel.records.files import SUFFIXES
from instsel.runs.input_parts import InputPart
from instsel.runs.row_store import Batch

_BATCH_ROWS = 1024
_PREFIX = "hf://datasets/"
_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(:(?P<split>\w[\w.:+%\[\]-]*))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """A dataset of the hub as it was named: `OWNER/NAME[:SPLIT]`, `hf://datasets/OWNER/NAME[@REVISION][/PATH]`."""

    name: str
    dataset: str
    split: str | None = None
    revision: str | None = None
    files: str | None = None  # path or glob within the repository

    @classmethod
    def parsed(cls, name: str) -> HubName | None:
        """The dataset that a name means; None where it means none.

        >>> HubName.parsed("hf://datasets/a/b@v2/data/*.parquet")
        HubName(name='hf://datasets/a/b@v2/data/*.parquet',
                dataset='a/b', split=None, revision='v2', files='data/*.parquet')
        >>> HubName.parsed("a/b:test").split, HubName.parsed("a/b.jsonl")
        ('test', None)
        """
        if name.startswith(_PREFIX):
            owner, _, rest = name.removeprefix(_PREFIX).partition("/")
            own, _, files = rest.partition("/")
            dataset = "/".join(part for part in (owner, own) if part)
            dataset, _, split = dataset.partition(":")
            dataset, _, revision = dataset.partition("@")
            if not dataset:
                raise ValueError(f"input {name} names no dataset; expected {_PREFIX}OWNER/NAME")
            return cls(name, dataset, split or None, urllib.parse.unquote(revision) or None, files.rstrip("/") or None)
        found = _ID.fullmatch(name)
        if found is None or data_suffix(Path(found["id"])) in SUFFIXES:
            return None
        return cls(name, found["id"], found["split"])


def open_dataset(hub: HubName, split: str | None) -> InputPart:
    """The split asked for of a hub dataset; where none is, its only one, or "train".

    Raises ValueError where the hub gives no such dataset or split, or the package `datasets` is not installed.
    """
    if split is not None and hub.split not in (None, split):
        raise ValueError(f"input {hub.name} names the split {hub.split}, and --split {split}")
    wanted = split or hub.split or ("train" if hub.files else None)
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"input {hub.name} does not exist (for a dataset of the hub install instsel[datasets])"
        ) from error
    need_package("datasets", "datasets", ">=3", extra="datasets")
    unreachable = out_of_reach()
    options = {"split": wanted, "revision": hub.revision, "data_files": hub.files}
    try:
        with offline() if unreachable else contextlib.nullcontext():
            given = {key: value for key, value in options.items() if value is not None}
            found: Any = datasets.load_dataset(hub.dataset, **given)
    except Exception as error:  # whatever the hub, the network or the dataset's files are up to
        first = unreachable or first_line(error)
        what = "is not a dataset" if hub.name.startswith(_PREFIX) else "is neither a file nor a dataset"
        raise ValueError(f"input {hub.name} {what} that the hub gives: {first}") from error
    if wanted is None:
        if "train" not in found and len(found) != 1:
            raise ValueError(f"input {hub.name} has the splits {', '.join(found)}; name one with --split")
        found = found["train"] if "train" in found else next(iter(found.values()))
    dataset = found.with_format("arrow")

    def read(limit: int | None) -> Iterable[Batch]:
        part = dataset if limit is None else dataset.select(range(min(limit, len(dataset))))
        return part.iter(_BATCH_ROWS)

    digest = f"dataset {dataset._fingerprint}"
    return InputPart(hub.name, "dataset", lambda: digest, read, dataset.features.arrow_schema.remove_metadata())
