"""What the C++ attention needs to know of a pack: distinct key ranges cut into blocks, and the path of each node."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tree_segments import TreeSegments

KEY_BLOCK = 32  # csrc/attention/tree_layout.h


@dataclass(frozen=True, slots=True)
class TreePlan:
    """int32 arrays: ranges of keys `start:stop`, the first block of each, and per node the ranges of its path."""

    query_offsets: np.ndarray
    range_start: np.ndarray
    range_stop: np.ndarray
    range_block: np.ndarray
    path_offsets: np.ndarray
    path_ranges: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of them, in the order in which the C++ functions take them."""
        return (
            self.query_offsets,
            self.range_start,
            self.range_stop,
            self.range_block,
            self.path_offsets,
            self.path_ranges,
        )

    @property
    def num_blocks(self) -> int:
        return int(self.range_block[-1])


def make_plan(segments: TreeSegments, num_cached: int) -> TreePlan:
    """Ranges that several nodes share (an ancestor's) are listed once, so that their keys are packed once."""
    queries = segments.query_offsets.numpy().astype(np.int64)
    offsets = segments.context_offsets.numpy().astype(np.int64)
    nodes = len(queries) - 1
    # Each node's own range goes after its context ranges.
    path_offsets = offsets + np.arange(nodes + 1)
    own = path_offsets[1:] - 1
    start, stop = (np.empty(path_offsets[-1], dtype=np.int64) for _ in range(2))
    context = np.ones(path_offsets[-1], dtype=bool)
    context[own] = False
    start[context], stop[context] = segments.context_start.numpy(), segments.context_stop.numpy()
    start[own], stop[own] = queries[:-1] + num_cached, queries[1:] + num_cached
    ranges, path_ranges = np.unique(np.stack([start, stop], axis=1), axis=0, return_inverse=True)
    blocks = np.concatenate([[0], np.cumsum(-(-(ranges[:, 1] - ranges[:, 0]) // KEY_BLOCK))])
    arrays = (queries, ranges[:, 0], ranges[:, 1], blocks, path_offsets, path_ranges.reshape(-1))
    return TreePlan(*(np.ascontiguousarray(array, dtype=np.int32) for array in arrays))
