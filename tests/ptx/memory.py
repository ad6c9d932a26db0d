"""Memory of the device and of a block, and who may read and write what when."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import Tensor

REGION = 44  # bits: an argument's own range of addresses, so that no offset leads into another's
TRACKED = 1 << 22  # bytes: of more nothing but the bounds is checked
NOBODY = -1


class Region:
    """The elements of a tensor that a launch was given, at addresses of their own.

    Of each byte: which block and warp wrote it, or read it, last, and between which barriers.
    """

    def __init__(self, tensor: Tensor, number: int) -> None:
        size = tensor.element_size()
        length = (
            sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1 if tensor.numel() else 0
        )
        flat = torch.as_strided(tensor.detach(), (length,), (1,), tensor.storage_offset())
        self.bytes = flat.view(torch.uint8).numpy()
        self.base = ((number + 1) << REGION) + tensor.data_ptr() % 4096
        self.there: np.ndarray | None = None
        if length != tensor.numel() and length * size <= TRACKED:
            elements = np.zeros(length, bool)
            np.lib.stride_tricks.as_strided(elements, tensor.shape, tensor.stride())[...] = True
            self.there = np.repeat(elements, size)
        self.is_written = False
        self.marks: dict[str, np.ndarray] = {}

    def mark(self, name: str) -> np.ndarray:
        return self.marks.setdefault(name, np.full(len(self.bytes), NOBODY, np.int32))


class GlobalMemory:
    """The arguments of one launch."""

    def __init__(self, faults: Counter[str]) -> None:
        self.faults = faults
        self.regions: list[Region] = []
        self.block = 0
        self.epoch = 0  # counts barriers, of all blocks

    def add(self, tensor: Tensor) -> int:
        self.regions.append(Region(tensor, len(self.regions)))
        return self.regions[-1].base

    def access(
        self, addresses: np.ndarray, size: int, warps: np.ndarray, written: np.ndarray | None = None, what: str = "read"
    ) -> np.ndarray:
        """The bytes [accesses, size] at addresses, or what is written there."""
        found = np.zeros((len(addresses), size), np.uint8)
        if (addresses % size).any():
            self.faults[f"a misaligned global {what}"] += 1
        numbers = (addresses >> REGION) - 1
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            if not 0 <= number < len(self.regions):
                self.faults[f"a global {what} outside of every tensor"] += len(chosen)
                continue
            region = self.regions[number]
            begin = addresses[chosen] - region.base
            inside = (begin >= 0) & (begin + size <= len(region.bytes))
            index = begin[inside, None] + np.arange(size)
            if region.there is not None:
                there = region.there[index].all(1)
                inside[inside] = there
                index = index[there]
            if not inside.all():
                self.faults[f"a global {what} outside of its tensor"] += int((~inside).sum())
            chosen = chosen[inside]
            if len(region.bytes) <= TRACKED:
                self._track(region, index, warps[chosen, None], None if written is None else written[chosen])
            if written is None:
                found[chosen] = region.bytes[index]
            else:
                region.is_written = True
                region.bytes[index] = written[chosen]
        return found

    def _track(self, region: Region, index: np.ndarray, warps: np.ndarray, written: np.ndarray | None) -> None:
        if written is None and not region.is_written:
            return
        block, warp, epoch = (region.mark(f"writer's {name}") for name in ("block", "warp", "epoch"))
        by_other_block = (block[index] != NOBODY) & (block[index] != self.block)
        by_other_warp = (epoch[index] == self.epoch) & (warp[index] != warps)
        differs = np.True_ if written is None else region.bytes[index] != written
        what = "reads" if written is None else "writes over"
        self._report(f"a block {what} what another wrote", by_other_block & differs)
        self._report(f"a warp {what} global memory that another wrote since the last barrier", by_other_warp & differs)
        if written is None:
            marks = [region.mark(f"reader's {name}") for name in ("block", "warp", "epoch")]
        else:
            marks = [block, warp, epoch]
            reader, reading, read = (region.mark(f"reader's {name}") for name in ("block", "warp", "epoch"))
            other = (reader[index] != NOBODY) & (reader[index] != self.block)
            self._report("a block writes over what another read", other & differs)
            other = (read[index] == self.epoch) & (reading[index] != warps)
            self._report("a warp writes over global memory that another read since the last barrier", other & differs)
        for mark, value in zip(marks, (self.block, np.broadcast_to(warps, index.shape), self.epoch), strict=True):
            mark[index] = value

    def _report(self, what: str, wrong: np.ndarray) -> None:
        if wrong.any():
            self.faults[what] += int(wrong.sum())


UNWRITTEN, THERE, COMING = range(3)


class SharedMemory:
    """A block's memory: which bytes are there, and which warps used them since the last barrier."""

    def __init__(self, size: int, warps: int, faults: Counter[str]) -> None:
        self.faults = faults
        self.bytes, self.state = (np.empty(size, np.uint8) for _ in range(2))
        self.readers, self.writers = (np.empty((warps, size), bool) for _ in range(2))
        self.unfenced = np.empty(size, bool)  # written as threads do, and not yet seen by a product's own path
        self.in_products = np.empty(size, np.int16)  # products under way that read it
        self.clear()

    def clear(self) -> None:
        """As a block finds it."""
        self.bytes[:], self.state[:] = 0xFF, UNWRITTEN
        self.unfenced[:], self.in_products[:] = False, 0
        self.barrier()
        self.copies: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = []
        self.uncommitted: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def barrier(self) -> None:
        self.readers[:], self.writers[:] = False, False

    def _inside(self, index: np.ndarray) -> bool:
        if index.size and (index.min() < 0 or index.max() >= len(self.bytes)):
            self.faults["shared memory that the block does not have"] += 1
            return False
        return index.size > 0

    def read(self, index: np.ndarray, warps: np.ndarray) -> np.ndarray:
        """Bytes [accesses, size] at an index of that shape, each access by a warp."""
        if not self._inside(index):
            return np.zeros(index.shape, np.uint8)
        state = self.state[index]
        if (state == UNWRITTEN).any():
            self.faults["shared memory is read that was never written"] += 1
        if (state == COMING).any():
            self.faults["shared memory is read before its copy has been waited for"] += 1
        self._check(self.writers, index, warps, np.True_, "reads what another wrote")
        self.readers[warps[:, None], index] = True
        return self.bytes[index]

    def write(self, index: np.ndarray, warps: np.ndarray, values: np.ndarray) -> None:
        if not self._inside(index):
            return
        self.check_write(index, warps, self.bytes[index] != values)
        self.bytes[index], self.state[index] = values, THERE
        self.unfenced[index] = True

    def check_write(self, index: np.ndarray, warps: np.ndarray, differs: np.ndarray | np.bool_) -> None:
        self._check(self.readers, index, warps, np.True_, "writes over what another read")
        self._check(self.writers, index, warps, differs, "writes over what another wrote")
        if (self.state[index] == COMING).any():
            self.faults["shared memory is written while a copy to it is under way"] += 1
        if self.in_products[index].any():
            self.faults["shared memory is written while a product reads it"] += 1
        self.writers[warps[:, None], index] = True

    def _check(
        self, users: np.ndarray, index: np.ndarray, warps: np.ndarray, differs: np.ndarray | np.bool_, what: str
    ) -> None:
        others = users[:, index].sum(0) > users[warps[:, None], index]
        if (others & differs).any():
            self.faults[f"a warp {what} since the last barrier"] += 1

    def begin_copy(self, index: np.ndarray, warps: np.ndarray, values: np.ndarray) -> None:
        """From now on the bytes may change, and are there when the copy has been waited for."""
        if self._inside(index):
            self.check_write(index, warps, np.True_)
            self.state[index], self.bytes[index] = COMING, 0xFF
            self.uncommitted.append((index, warps, values))

    def commit_copies(self) -> None:
        self.copies.append(self.uncommitted)
        self.uncommitted = []

    def wait_for_copies(self, left: int) -> None:
        while len(self.copies) > left:
            for index, warps, values in self.copies.pop(0):
                self.bytes[index], self.state[index] = values, THERE
                self.unfenced[index] = True
                self.writers[warps[:, None], index] = True
