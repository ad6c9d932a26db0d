"""Rows that are no examples, or none for the template: found before any is scored, named by file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from instsel.methods.parameters import Parameters
from instsel.methods.refused_rows import refused_rows
from instsel.methods.stages import UNREADABLE
from instsel.parallel.row_references import RowReader
from instsel.records import Unreadable
from instsel.records.formats import detect_layout
from instsel.records.unread_keys import UnreadKeys
from instsel.runner.configuration import Messages, RunConfiguration
from instsel.runner.input_rows import InputRows
from instsel.runs.inputs import InputSource
from instsel.runs.manifest_shape import Manifest, UnreadableRow, UnreadableRows
from instsel.runs.row_store import RowStore

if TYPE_CHECKING:
    from instsel.engine.scorer_protocol import ScorerProtocol

READING = "tools and reasoning"  # how rows are read; another word where the same rows would give other prompts
REASON = "status_reason"  # the column that says why, in the result of a run with such rows
_CHECKED_ROWS = 4096  # converted at a time
_NAMED = 10  # of them in the manifest


def check_rows(
    configuration: RunConfiguration,
    inputs: InputRows,
    parameters: Parameters,
    scorer: ScorerProtocol,
    source: InputSource,
    unread: UnreadKeys,
    messages: Messages,
) -> UnreadableRows:
    """Read every row as its format, and write it by the template, before any is scored; what the manifest says of
    those where that fails, which are left out of `inputs`.

    What rows hold that the prompt does not is gathered in `unread`, and said.

    Raises ValueError naming file, line and reason where no row can be read, or with `strict` where one cannot.
    """
    count, total, first, refused = 0, len(inputs), dict[int, str](), dict[int, str]()
    if total == 0:
        raise ValueError(f"{', '.join(configuration.input)} has no rows")
    for start in range(0, total, _CHECKED_ROWS):
        messages.interrupts.check()
        records = inputs.read(range(start, min(start + _CHECKED_ROWS, total)), unread)
        bad = {row: one.reason for row, one in records.items() if isinstance(one, Unreadable)}
        of_template = refused_rows(records, parameters, scorer, unread)
        refused |= of_template
        bad = dict(sorted((bad | of_template).items()))
        count += len(bad)
        first.update(list(bad.items())[: _NAMED - len(first)])
        if first and configuration.strict:
            break
    places = source.places(list(first)) if first else {}
    named: list[UnreadableRow] = [{"row": row, "place": places[row], "reason": reason} for row, reason in first.items()]
    read_as = configuration.method.rows
    found: UnreadableRows = {"rows": count, "read_as": read_as, "first": named, "refused": _by_reason(refused)}
    inputs.leave_out(refused)
    if count == total and refused:
        raise ValueError(f"the template takes no row of the input; the first, {_said(named[0])}")
    if count == total:
        name = inputs.reader.layout.name
        raise ValueError(f"no row of the input can be read as {name}; the first, {_said(named[0])}")
    check_strict(found, configuration.strict)
    if count:
        messages.warn(f"{count:,} of {total:,} rows cannot be read and get the status {UNREADABLE}; {_said(named[0])}")
    unread.warn()
    return found


def check_strict(found: UnreadableRows, strict: bool) -> None:
    """ValueError naming the first row that cannot be read, if there is one and none is allowed."""
    if strict and found.get("first"):
        raise ValueError(_said(found["first"][0]))


def check_same_reading(before: Manifest, now: Manifest, folder: str) -> None:
    """ValueError where an earlier version read the rows of a folder that is to go on in another way.

    Its shards would hold scores of other prompts, or statuses of rows that are scored now. Rows that only the template
    refuses ended the run of a version that did not look for them: no shard holds one.
    """
    if not before.get("input_checked"):
        return
    then, found = before.get("unreadable", {}), now["unreadable"]["rows"]
    if "refused" not in then:
        found -= len(refused_of(now))
    was = then.get("rows", 0)
    left_out = before.get("not_in_prompt", now["not_in_prompt"])
    changes = [f"{was:,} rows could not be read then, {found:,} now"] if was != found else []
    if left_out != now["not_in_prompt"]:
        names = ", ".join(sorted({*left_out, *now["not_in_prompt"]}))
        changes.append(f"{names}: not the same part of the prompt")
    if changes:
        raise ValueError(
            f"{folder} was begun by a version that reads rows differently ({'; '.join(changes)}): give another --output"
        )


def refused_of(manifest: Manifest) -> dict[int, str]:
    """Why the template refuses those of a run's rows that it does, as its manifest holds it."""
    return {row: reason for reason, rows in manifest["unreadable"].get("refused", {}).items() for row in rows}


def _by_reason(refused: Mapping[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, reason in refused.items():
        found.setdefault(reason, []).append(row)
    return found


def _said(row: UnreadableRow) -> str:
    return f"{row['place']}: {row['reason']}"


def with_reasons(
    tables: Callable[[], Iterable[pa.Table]], rows: RowStore, manifest: Manifest
) -> Callable[[], Iterable[pa.Table]]:
    """The tables of a run's result, with a column of reasons if some of its rows could not be read."""
    found = manifest.get("unreadable", {})
    if not found.get("rows"):
        return tables
    kind, mapping = found["read_as"], manifest.get("column_mapping")
    reader = RowReader(kind, mapping, detect_layout(manifest["columns"], mapping, kind=kind), refused_of(manifest))

    def give() -> Iterator[pa.Table]:
        start = 0
        for table in tables():
            wanted = [start + at for at, one in enumerate(table["status"].to_pylist()) if one == UNREADABLE]
            records = reader.read(rows, wanted)
            reasons = [getattr(records.get(start + at), "reason", None) for at in range(table.num_rows)]
            yield table.append_column(REASON, pa.array(reasons, pa.string()))
            start += table.num_rows

    return give
