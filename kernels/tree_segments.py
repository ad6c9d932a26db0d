"""How the tokens of a packed prefix tree lie in memory, for `tree_attention`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Integers = Sequence[int] | np.ndarray | Tensor  # a sequence of ints, an integer NumPy array or an integer tensor


@dataclass(frozen=True, slots=True)
class TreeSegments:
    """The nodes of a pack: each is a run of consecutive query tokens that continues a list of key ranges.

    Keys are `[cached | pack]`: with T queries and K keys, the first K - T keys come from an earlier forward (none in
    most packs) and key K - T + t belongs to the pack's own token t. Node n
    - owns the query tokens `query_offsets[n]:query_offsets[n + 1]` (the offsets run from 0 to T, in order);
    - sees, fully, the key ranges `context_start[m]:context_stop[m]` for m in
      `context_offsets[n]:context_offsets[n + 1]`: its ancestors, root first, so that the ranges followed by the node's
      own tokens are the whole path from position 0 (adjacent ranges may be merged);
    - sees, causally, its own tokens' keys.

    All fields are int32 tensors on the CPU. `from_lists` checks and builds them.

    >>> from instsel.kernels import TreeSegments  # a root of 4 tokens with two children, of 3 tokens each
    >>> TreeSegments.from_lists([0, 4, 7, 10], [[], [(0, 4)], [(0, 4)]]).context_length.tolist()
    [0, 4, 4]
    """

    query_offsets: Tensor
    context_offsets: Tensor
    context_start: Tensor
    context_stop: Tensor
    # What a backend derives from the fields above, kept because every layer of a model uses the same segments.
    plans: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)
    # Read from the fields once, as every layer asks for them.
    num_queries: int = field(init=False, repr=False, compare=False)
    last_key: int = field(init=False, repr=False, compare=False)  # where the last range of keys ends, 0 without ranges

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_queries", int(self.query_offsets[-1]))
        object.__setattr__(self, "last_key", int(self.context_stop.max()) if self.context_stop.numel() else 0)

    @classmethod
    def from_lists(cls, query_offsets: Integers, contexts: list[list[tuple[int, int]]]) -> TreeSegments:
        """From the offsets of the nodes' queries and, per node, the key ranges (start, stop) that it continues."""
        offsets = np.concatenate([[0], np.cumsum([len(ranges) for ranges in contexts])])
        flat = np.array([bounds for ranges in contexts for bounds in ranges], dtype=np.int64).reshape(-1, 2)
        return cls.from_arrays(query_offsets, offsets, flat[:, 0], flat[:, 1])

    @classmethod
    def from_arrays(
        cls, query_offsets: Integers, context_offsets: Integers, context_start: Integers, context_stop: Integers
    ) -> TreeSegments:
        """From four integer arrays, as the fields are described; ValueError names the one that is inconsistent."""
        queries, offsets, start, stop = (
            np.asarray(values, dtype=np.int64).reshape(-1)
            for values in (query_offsets, context_offsets, context_start, context_stop)
        )
        for name, values, last in (("query_offsets", queries, None), ("context_offsets", offsets, len(start))):
            if len(values) == 0 or values[0] != 0 or np.any(np.diff(values) < 0):
                raise ValueError(f"{name}: expected non-decreasing offsets from 0, got {values[:8].tolist()}")
            if last is not None and values[-1] != last:
                raise ValueError(f"{name}: expected a last entry of {last}, the number of ranges, got {values[-1]}")
        if len(queries) != len(offsets):
            raise ValueError(f"context_offsets: expected {len(queries)} entries, as query_offsets, got {len(offsets)}")
        if len(start) != len(stop):
            raise ValueError(f"context_stop: expected {len(start)} entries, as context_start, got {len(stop)}")
        if np.any(start < 0) or np.any(stop < start):
            raise ValueError("context_start: expected 0 <= start <= stop for every range")
        if len(stop) and stop.max() >= 2**31:
            raise ValueError(f"context_stop: expected key indices below 2**31, got {stop.max()}")
        fields = [torch.from_numpy(values.astype(np.int32)) for values in (queries, offsets, start, stop)]
        return cls(fields[0], fields[1], fields[2], fields[3])

    @property
    def num_nodes(self) -> int:
        return self.query_offsets.shape[0] - 1

    @property
    def context_length(self) -> Tensor:
        """int64 [N]: how many tokens come before each node's first."""
        total = torch.zeros(self.context_start.shape[0] + 1, dtype=torch.int64)
        torch.cumsum(self.context_stop.long() - self.context_start, 0, out=total[1:])
        return total[self.context_offsets.long()].diff()

    def key_indices(self, node: int, num_cached: int) -> Tensor:
        """int64: the indices of the keys on the node's path, in order of position, its own tokens last."""
        ranges = range(int(self.context_offsets[node]), int(self.context_offsets[node + 1]))
        parts = [torch.arange(int(self.context_start[m]), int(self.context_stop[m])) for m in ranges]
        first, last = int(self.query_offsets[node]), int(self.query_offsets[node + 1])
        return torch.cat([*parts, torch.arange(num_cached + first, num_cached + last)])
