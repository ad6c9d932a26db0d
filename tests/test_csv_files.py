"""CSV files that were written for another reader: another separator, cells that are empty."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from instsel.records import Example, to_examples
from instsel.records.files import read_rows


@pytest.mark.parametrize(
    ("name", "mark", "advice"),
    [
        ("a.csv", ";", "save it with commas"),
        ("a.csv", "\t", "name the file .tsv"),
        ("a.tsv", ",", "save it with commas"),
    ],
)
def test_another_separator_is_named(tmp_path: Path, name: str, mark: str, advice: str) -> None:
    path = tmp_path / name
    path.write_text(f"instruction{mark}output\na{mark}b\n")
    with pytest.raises(ValueError, match=rf"seems to be separated by {re.escape(repr(mark))}.*{advice}"):
        read_rows(path)


def test_an_empty_history_cell_of_a_csv_file_is_no_history(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("instruction,output,history\na,b,\n")
    assert to_examples(read_rows(path)) == [Example("a", "", "b")]
