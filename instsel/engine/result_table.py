"""Results as tables: the columns of a result dataclass for Arrow, pandas, polars, plain lists and notebooks."""

from __future__ import annotations

import collections
import dataclasses
import html
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from instsel.optional_packages import need_package

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

SHOWN_ROWS = 10
SHOWN_VALUES = 8  # of a list in a cell
_CELL = "padding: 2px 8px; text-align: left"


class ResultTable:
    """What a result dataclass inherits to be a table with one row for each of its statuses.

    Its columns are the fields with one entry a row, in the order of the class: arrays [n], arrays [n, k] and lists of
    arrays. Fields that are None and those named in `NOT_COLUMNS`, such as embeddings, are left out, whatever their
    length. A number that does not exist is NaN in NumPy and pandas, and null (None) elsewhere.
    """

    __slots__ = ()

    NOT_COLUMNS: ClassVar[frozenset[str]] = frozenset({"embeddings"})
    status: np.ndarray

    def __len__(self) -> int:
        return len(self.status)

    def _columns(self) -> dict[str, np.ndarray | list[object]]:
        """The arrays and lists with one entry a row, by name."""
        fields = [field.name for field in dataclasses.fields(cast(Any, self))]
        values = {name: getattr(self, name) for name in fields if name not in self.NOT_COLUMNS}
        held = {name: value for name, value in values.items() if isinstance(value, (np.ndarray, list))}
        return {name: value for name, value in held.items() if len(value) == len(self)}

    def to_dict(self) -> dict[str, list[object]]:
        """The columns as lists of Python's own values, None where there is no number.

        >>> batch.to_dict()["status"]  # doctest: +SKIP
        ['ok', 'ok', 'empty_target']
        """
        return self.to_arrow().to_pydict()

    def to_arrow(self) -> pyarrow.Table:
        """The columns as a pyarrow `Table`; arrays [n, k] as lists of k, null where there is no number."""
        from instsel.records.score_columns import to_table

        return to_table(self._columns())

    def to_pandas(self) -> pandas.DataFrame:
        """The columns as a pandas `DataFrame`; ImportError where pandas is not installed."""
        need_package("pandas", "pandas", ">=2", extra="tables")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """The columns as a polars `DataFrame`; ImportError where polars is not installed."""
        need_package("polars", "polars", ">=1", extra="tables")
        import polars

        return cast("polars.DataFrame", polars.from_arrow(self.to_arrow()))

    def _repr_html_(self) -> str:
        """The first rows for a notebook, under counts by status."""
        columns = self._columns()
        counts = collections.Counter(str(status) for status in self.status)
        said = ", ".join(f"{count:,} {status}" for status, count in counts.most_common()) or "no rows"
        head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in ("", *columns))
        rows = [
            "".join(f'<td style="{_CELL}">{html.escape(_cell(value))}</td>' for value in (row, *values))
            for row, values in zip(range(SHOWN_ROWS), zip(*columns.values(), strict=True), strict=False)
        ]
        more = f"<p>and {len(self) - SHOWN_ROWS:,} more rows</p>" if len(self) > SHOWN_ROWS else ""
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        title = f"<p><b>{html.escape(type(self).__name__)}</b>: {html.escape(said)}</p>"
        return f"<div>{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"


def _cell(value: object) -> str:
    if isinstance(value, (np.ndarray, list, tuple)):
        shown = ", ".join(_cell(item) for item in value[:SHOWN_VALUES])
        return f"[{shown}{', …' if len(value) > SHOWN_VALUES else ''}]"
    if isinstance(value, (float, np.floating)):
        return "" if value != value else f"{float(value):.4g}"
    return str(value)
