"""Selection: the best-scoring rows within a budget, none too similar to another, of every part of the pool."""

from instsel.selection.selector import COVERAGES, select

__all__ = ["COVERAGES", "select"]
