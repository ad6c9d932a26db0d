"""Rows of data as examples and candidate groups: what the formats are, and the files that hold them."""

from instsel.records.examples import Example, Group, SurrogateFilter, open_rows, to_examples, to_groups

__all__ = ["Example", "Group", "SurrogateFilter", "open_rows", "to_examples", "to_groups"]
