"""What a run folder's manifest must look like to be taken for one: it may come from anybody, and be damaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypedDict, TypeGuard

from instsel.runs.run_files import RESULTS, STAGE_NAME

MAX_DEPTH = 64
MAX_ROWS = 1 << 40  # of one stage
Check = Callable[[object], bool]


class Output(TypedDict, total=False):
    """The result's file: its name, and what it was when the run ended; `columns` has our names by those in the file."""

    name: str
    bytes: int
    digest: str
    columns: dict[str, str]


class UnreadableRow(TypedDict, total=False):
    """A row without a number, where it stands in the input, and why."""

    row: int
    place: str
    reason: str


class UnreadableRows(TypedDict, total=False):
    """How many rows cannot be read as what, the first of them, and by reason those that the template refuses."""

    rows: int
    read_as: str
    first: list[UnreadableRow]
    refused: dict[str, list[int]]


class Manifest(TypedDict, total=False):
    """What a run folder's manifest says, by version more or less of it; `_FIELDS` is the same as checks."""

    format: int
    method: str
    version: str
    state: str
    created: str
    updated: str
    compared: list[str]
    parameters: dict[str, Any]  # of the method
    template: object
    template_date: str
    input: str
    input_digest: str
    input_checked: bool
    read_by: str
    column_mapping: dict[str, str] | None
    not_in_prompt: dict[str, int]
    unreadable: UnreadableRows
    model: str | None
    model_files: dict[str, dict[str, Any]]
    context_length: int | None
    shard_rows: int
    environment: dict[str, str]
    resolved: dict[str, str]
    arithmetic: list[str]
    float_products: list[tuple[int, int, str]]
    arguments: dict[str, Any]
    rows: int
    columns: list[str]
    score: str
    stages: list[tuple[str, int]]
    stages_to_come: list[str]
    stages_complete: bool
    counts: dict[str, int]
    stats: dict[str, float]
    findings: dict[str, Any]  # by the method, or of a selection
    output: Output


def is_manifest(found: object) -> TypeGuard[Manifest]:
    """Whether what a JSON file says is a manifest whose fields have the types that all readers count on."""
    if not (isinstance(found, dict) and {"format", "method"} <= set(found) and _nests_at_most(found, MAX_DEPTH)):
        return False
    checks = {**_FIELDS, "parameters": _SELECTION} if found["method"] == "select" else _FIELDS
    return all(check(found[name]) for name, check in checks.items() if name in found)


def is_text(value: object) -> bool:
    """Whether it is a text."""
    return isinstance(value, str)


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0 to what 63 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30 and math.isfinite(value)
    )


def is_mapping(of: Check) -> Check:
    """A check for a mapping of names to values that pass `of`."""
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


def _anything(value: object) -> bool:
    return True


def _maybe(of: Check) -> Check:
    return lambda value: value is None or of(value)


def _list(of: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _record(*of: Check) -> Check:
    return lambda value: (
        isinstance(value, list)
        and len(value) == len(of)
        and all(one(part) for one, part in zip(of, value, strict=True))
    )


def _fields(**checks: Check) -> Check:
    return lambda value: (
        isinstance(value, dict) and all(check(value[name]) for name, check in checks.items() if name in value)
    )


def _stage(value: object) -> bool:
    """A name and a number of rows; earlier versions wrote the rows of a shard behind them."""
    if not (isinstance(value, list) and _record(is_text, is_count)(value[:2]) and all(map(is_count, value[2:]))):
        return False
    return STAGE_NAME.fullmatch(value[0]) is not None and value[1] < MAX_ROWS


def _nests_at_most(value: object, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    within = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_nests_at_most(one, depth - 1) for one in within)


_FIELDS: dict[str, Check] = {
    "format": is_count,
    "method": is_text,
    "version": is_text,
    "state": is_text,
    "compared": _list(is_text),
    "parameters": is_mapping(_anything),
    "input_digest": is_text,
    "input": is_text,
    "model": _maybe(is_text),
    "model_files": is_mapping(is_mapping(_anything)),
    "environment": is_mapping(is_text),
    "resolved": is_mapping(is_text),
    "arithmetic": _list(is_text),
    "float_products": _list(_record(is_count, is_count, is_text)),
    "arguments": is_mapping(_anything),
    "rows": is_count,
    "columns": _list(is_text),
    "score": is_text,
    "stages": _list(_stage),
    "stages_to_come": _list(is_text),
    "counts": is_mapping(is_count),
    "stats": is_mapping(is_number),
    "findings": _fields(clusters=is_mapping(_record(is_count, is_count)), num_clusters_found=is_count),
    "column_mapping": _maybe(is_mapping(is_text)),
    "template_date": is_text,
    "not_in_prompt": is_mapping(is_count),
    "unreadable": _fields(
        rows=is_count, read_as=is_text, first=_list(_fields(row=is_count, place=is_text, reason=is_text))
    ),
    "output": _maybe(
        _fields(
            name=lambda value: is_text(value) and value in RESULTS,
            bytes=is_count,
            digest=is_text,
            columns=is_mapping(is_text),
        )
    ),
}
_SELECTION = _fields(
    by=is_text,
    budget=_maybe(is_number),
    budget_tokens=_maybe(is_count),
    num_tokens=_maybe(is_text),
    max_score=_maybe(is_number),
    max_similarity=_maybe(is_number),
    coverage=_maybe(is_text),
    clusters=_maybe(is_text),
    num_clusters=_maybe(is_count),
    embeddings=_maybe(is_text),
)
