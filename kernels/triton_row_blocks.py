"""The blocks of rows that programs of the Triton attention kernels take, and a pack's segments on the device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .devices import to_device
from .tree_segments import TreeSegments

# A pack's arrays are parts of one, at any multiple of four bytes, and read an entry at a time: a kernel compiled for
# each alignment of each of them would be the same code many times over.
UNALIGNED = (
    "block_node",
    "block_first",
    "query_offsets",
    "context_offsets",
    "context_start",
    "context_stop",
    "context_length",
)

# Sizes: a kernel that knew them for multiples of 16 would be another than the one whose registers the tests look at,
# which spills up to 344 bytes.
UNSPECIALISED = ("num_cached", "num_heads", "group", "window", "head_size")


def row_blocks(segments: TreeSegments, rows_per_token: int, block_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Node and first row of every block of `block_rows` rows, each token having `rows_per_token` of them."""
    rows = segments.query_offsets.numpy().astype(np.int64)
    counts = -(-np.diff(rows) * rows_per_token // block_rows)
    nodes = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(nodes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return nodes.astype(np.int32), (within * block_rows).astype(np.int32)


def device_arrays(segments: TreeSegments, device: torch.device, group: int, block_q: int) -> list[Tensor]:
    """The segments and the row blocks on the device: copied once a pack, not once a layer."""
    place = ("triton", device, group, block_q)
    arrays: list[Tensor] | None = segments.plans.get(place)
    if arrays is None:
        blocks = [torch.from_numpy(array) for array in row_blocks(segments, group, block_q)]
        fields = [segments.query_offsets, segments.context_offsets, segments.context_start, segments.context_stop]
        flat = [*blocks, *fields, segments.context_length.int()]
        # One copy for all of them.
        packed = to_device(torch.cat(flat), device)
        arrays = list(packed.split([array.shape[0] for array in flat]))
        segments.plans[place] = arrays
    return arrays
