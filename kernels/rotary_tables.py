"""How a rotary embedding's tables of cosines and sines turn the numbers of a head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """How a table [T, r] of cosines, and one of sines, turns the first numbers of each head.

    interleaved  each number with its neighbour, or with that of the other half
    order        which of a table's columns belongs to each of the numbers that are turned: "as given"; "halves", the
                 first `columns` of them for either half; "pairs", each of the first `columns` for two neighbours
    columns      of a table that are used, all where none are named
    """

    interleaved: bool = False
    order: str = "as given"
    columns: int | None = None

    def table(self, given: Tensor) -> Tensor:
        """The table in float32, with a column for every number that is turned."""
        used = given[:, : self.columns].float()
        if self.order == "halves":
            return torch.cat([used, used], dim=1)
        return used.repeat_interleave(2, dim=1) if self.order == "pairs" else used.contiguous()

    def table_in(self, dtype: torch.dtype, given: Tensor) -> Tensor:
        """The same in a dtype, and where nothing is to be done the given table itself."""
        table = given[:, : self.columns] if self.order == "as given" else self.table(given)
        return table.to(dtype)


HALVES = Rotary()  # the usual kind: halves of the whole head, with a table as wide as it
