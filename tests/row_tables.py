"""The same columns as a table of each library that rows may come from, and the rows of JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KINDS = ("pandas", "pandas-arrow", "polars", "polars-lazy", "arrow", "arrow-batch", "dataset", "iterable", "columns")


def table_of(kind: str, columns: dict[str, list[Any]]) -> Any:
    """Columns as the table of a kind of `KINDS`; None is whatever that kind has for a missing value."""
    if kind == "columns":
        return columns
    import pyarrow

    if kind.startswith("pandas"):
        import pandas

        return pyarrow.table(columns).to_pandas() if kind == "pandas-arrow" else pandas.DataFrame(columns)
    if kind.startswith("polars"):
        import polars

        frame = polars.DataFrame(columns)
        return frame.lazy() if kind == "polars-lazy" else frame
    if kind.startswith("arrow"):
        table = pyarrow.table(columns)
        return table if kind == "arrow" else table.combine_chunks().to_batches()[0]
    import datasets

    dataset = datasets.Dataset.from_dict(columns)
    return dataset if kind == "dataset" else dataset.to_iterable_dataset()


def loaded(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON file, a list of them or one a line."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
