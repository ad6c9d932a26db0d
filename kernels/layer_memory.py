"""What the decoder layers of a pack write beside its hidden states, in memory that the next pack uses again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layer_products import Rows
from .native_arrays import array_of
from .rotary_tables import Rotary
from .tree_segments import TreeSegments


class LayerShape(NamedTuple):
    """Columns of what a layer computes on its way."""

    hidden: int
    queries: int
    keys: int  # and of the values
    gate: int
    head_size: int
    gates: int  # matrices that the feed-forward network is computed in
    slots: int = 1  # matrices of as many columns as the hidden states


def _blocks(shape: LayerShape, tokens: int, cached: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of what the layers of a shape write for a pack's tokens, behind keys that are cached."""
    keys = cached + tokens, shape.keys
    # Queries and what they attend to are done with before the gate is computed.
    shared = tokens, max(shape.gates * shape.gate, 2 * shape.queries)
    return {"slots": (tokens, shape.slots * shape.hidden), "shared": shared, "keys": keys, "values": keys}


class Storage:
    """Memory for one pack after another: taken where a pack needs more than those before, kept until this goes.

    Memory that is new has to be given by the system page by page, which a pack would pay for each time.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """[rows, columns] where the last of this name was, with whatever stands there."""
        block = self._blocks.get(name)
        if block is None or block.dtype != dtype or block.numel() < rows * columns:
            block = None
            self._blocks.pop(name, None)  # not both at once
            block = self._blocks[name] = torch.empty(rows * columns, dtype=dtype)
        return block[: rows * columns].view(rows, columns)

    def take_all(self, shape: LayerShape, tokens: int, cached: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """All that a pack needs, by name, from the thread that calls where it is new.

        The C library keeps what a thread frees for that thread, and gives large blocks of other threads than the main
        one back to the system.
        """
        blocks = _blocks(shape, tokens, cached).items()
        return {name: self.take(name, rows, columns, dtype) for name, (rows, columns) in blocks}


class _KeyRows(NamedTuple):
    """Keys or values [cached + T, kv_heads * d]: all of them, the pack's own and the place of those before."""

    all: Rows
    own: Rows
    before: Tensor

    @classmethod
    def of(cls, tensor: Tensor, cached: int) -> _KeyRows:
        return cls(Rows.of(tensor), Rows.of(tensor[cached:]), tensor[:cached])


class LayerMemory:
    """What the layers of one shape write in one pack, of whose `segments` the first `cached` keys stand before its own.

    Made once in a pack, written anew by each layer.
    """

    def __init__(
        self, shape: LayerShape, segments: TreeSegments, cached: int, dtype: torch.dtype, storage: Storage
    ) -> None:
        tokens = segments.num_queries
        taken = storage.take_all(shape, tokens, cached, dtype)
        self.head_size = shape.head_size
        self.segments = segments

        def parts(block: str, count: int, columns: int) -> list[Rows]:
            rows = taken[block].view(-1)[: count * tokens * columns].view(count, tokens, columns)
            return [Rows.of(rows[index]) for index in range(count)]

        self.slots = parts("slots", shape.slots, shape.hidden)
        self.query, self.attended = parts("shared", 2, shape.queries)
        self.raw_keys = Rows.of(self.attended.tensor.view(-1)[: tokens * shape.keys].view(tokens, shape.keys))
        self.gated = parts("shared", shape.gates, shape.gate)
        self.keys, self.values = _KeyRows.of(taken["keys"], cached), _KeyRows.of(taken["values"], cached)
        self._tables: dict[object, tuple[list[Tensor], list[np.ndarray]]] = {}

    def by_head(self, rows: Rows) -> np.ndarray:
        """[T * heads, d]"""
        return rows.array.reshape(-1, self.head_size)

    def heads(self, rows: Rows) -> np.ndarray:
        """[T, heads, d]"""
        return rows.array.reshape(rows.array.shape[0], -1, self.head_size)

    def tables(self, rotary: Rotary, given: Sequence[Tensor]) -> list[np.ndarray]:
        """A rotary embedding's tables as arrays, made once for all layers that are given the same tensors.

        Those are kept, so that no other tensor comes to their address.
        """
        key = rotary, *(table.data_ptr() for table in given)
        if key not in self._tables:
            self._tables[key] = list(given), [array_of(rotary.table(table)) for table in given]
        return self._tables[key][1]
