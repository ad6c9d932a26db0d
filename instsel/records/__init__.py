"""Rows of data as examples and candidate groups: what the formats are, and the files that hold them."""

from instsel.records.examples import Example, Group, SurrogateFilter, Unreadable, to_examples, to_groups
from instsel.records.row_sources import open_rows, open_table

__all__ = ["Example", "Group", "SurrogateFilter", "Unreadable", "open_rows", "open_table", "to_examples", "to_groups"]
