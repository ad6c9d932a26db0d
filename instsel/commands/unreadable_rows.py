"""Rows that are no examples, or none for the template: found before any is scored, named by file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from instsel.methods.refused_rows import refused_rows
from instsel.methods.stages import UNREADABLE
from instsel.parallel.row_references import RowReader
from instsel.records import Unreadable
from instsel.records.formats import detect_layout
from instsel.records.unread_keys import UnreadKeys
from instsel.runs.inputs import InputSource
from instsel.runs.row_store import RowStore
from instsel.terminal import complain

if TYPE_CHECKING:
    from instsel.commands.session import Session

REASON = "status_reason"  # the column that says why, in the result of a run with such rows
_CHECKED_ROWS = 4096  # converted at a time
_NAMED = 10  # of them in the manifest


def check_rows(session: Session, source: InputSource, unread: UnreadKeys) -> dict[str, Any]:
    """Read every row as its format, and write it by the template, before any is scored; what the manifest says of
    those where that fails.

    What rows hold that the prompt does not is gathered in `unread`, and said.

    Raises ValueError naming file, line and reason where no row can be read, or with --strict where one cannot.
    """
    count, total, first, refused = 0, len(session.rows), dict[int, str](), dict[int, str]()
    if total == 0:
        raise ValueError(f"{', '.join(session.args.input)} has no rows")
    for start in range(0, total, _CHECKED_ROWS):
        session.interrupts.check()
        records = session.numbered(range(start, min(start + _CHECKED_ROWS, total)), unread)
        bad = {row: one.reason for row, one in records.items() if isinstance(one, Unreadable)}
        of_template = refused_rows(records, session.parameters, session.scorer)
        refused |= of_template
        bad = dict(sorted((bad | of_template).items()))
        count += len(bad)
        first.update(list(bad.items())[: _NAMED - len(first)])
        if first and session.args.strict:
            break
    places = source.places(list(first)) if first else {}
    named = [{"row": row, "place": places[row], "reason": reason} for row, reason in first.items()]
    found = {"rows": count, "read_as": session.method.rows, "first": named, "refused": _by_reason(refused)}
    session.leave_out(refused)
    if count == total and refused:
        raise ValueError(f"the template takes no row of the input; the first, {_said(named[0])}")
    if count == total:
        raise ValueError(f"no row of the input can be read as {session.layout.name}; the first, {_said(named[0])}")
    check_strict(found, session.args.strict)
    if count:
        complain(
            "warning", f"{count:,} of {total:,} rows cannot be read and get the status {UNREADABLE}; {_said(named[0])}"
        )
    unread.warn()
    return found


def check_strict(found: Mapping[str, Any], strict: bool) -> None:
    """ValueError naming the first row that cannot be read, if there is one and none is allowed."""
    if strict and found.get("first"):
        raise ValueError(_said(found["first"][0]))


def refused_of(manifest: Mapping[str, Any]) -> dict[int, str]:
    """Why the template refuses those of a run's rows that it does, as its manifest holds it."""
    return {row: reason for reason, rows in manifest["unreadable"].get("refused", {}).items() for row in rows}


def _by_reason(refused: Mapping[int, str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row, reason in refused.items():
        found.setdefault(reason, []).append(row)
    return found


def _said(row: Mapping[str, Any]) -> str:
    return f"{row['place']}: {row['reason']}"


def with_reasons(
    tables: Callable[[], Iterable[pa.Table]], rows: RowStore, manifest: Mapping[str, Any]
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
