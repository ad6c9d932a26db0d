"""What is wrong with a row."""

from __future__ import annotations


class RowError(ValueError):
    """A row that does not hold what its format says; the caller adds the row's number."""
