"""Arrays for the fuzzer of the C++ binding: where they lie, right numbers for them, and ways to make them wrong.

Half of them lie on the heap, between AddressSanitizer's red zones; half end or start at a page that may not be touched,
which also catches loads that no instrumentation sees (tiles, masked vectors).
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.lib.stride_tricks import as_strided

PAGE = mmap.PAGESIZE
ROOM = 16 * PAGE
PROT_NONE = 0


class GuardedMemory:
    """Blocks of memory between pages that may not be touched, handed out in turn."""

    def __init__(self, count: int = 40) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._blocks = []
        self._turn = 0
        for _ in range(count):
            block = mmap.mmap(-1, ROOM + 2 * PAGE)
            address = ctypes.addressof(ctypes.c_char.from_buffer(block))
            for page in (address, address + PAGE + ROOM):
                if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), PROT_NONE) != 0:
                    raise OSError(ctypes.get_errno(), "mprotect")
            self._blocks.append(block)

    def empty(self, rng: np.random.Generator, count: int, dtype: np.dtype) -> np.ndarray:
        """A vector on the heap, or against a guard page."""
        size = count * dtype.itemsize
        if size == 0 or size > ROOM or rng.random() < 0.5:
            return np.empty(count, dtype)
        self._turn = (self._turn + 1) % len(self._blocks)
        offset = PAGE if rng.random() < 0.3 else PAGE + ROOM - size
        return np.frombuffer(self._blocks[self._turn], dtype, count, offset)

    def place(self, rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
        """A contiguous copy."""
        array = self.empty(rng, values.size, values.dtype).reshape(values.shape)
        array[...] = values
        return array

    def place_strided(self, rng: np.random.Generator, values: np.ndarray, contiguous_from: int) -> np.ndarray:
        """A copy whose axes before `contiguous_from` lie in any order with gaps between them, full of NaN."""
        if values.size == 0 or rng.random() < 0.4:
            return self.place(rng, values)
        strides = [0] * values.ndim
        reach = 1
        for axis in reversed(range(contiguous_from, values.ndim)):
            strides[axis], reach = reach, reach * values.shape[axis]
        for axis in rng.permutation(contiguous_from):
            strides[axis] = reach + int(rng.integers(0, 4))
            reach = strides[axis] * values.shape[axis]
        extent = 1 + sum((n - 1) * s for n, s in zip(values.shape, strides, strict=True))
        owner = self.empty(rng, extent, values.dtype)
        owner.view(np.uint8)[...] = 0xFF
        view = np.ndarray(values.shape, values.dtype, owner, 0, [s * values.itemsize for s in strides])
        view[...] = values
        return view


def encode(values: np.ndarray, element: str) -> np.ndarray:
    """Numbers as float32, float16 or, to the nearest, as the bits of bfloat16."""
    if element != "bfloat16":
        return values.astype(element)
    single = values.astype(np.float32)
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(single), 0x7FC0, rounded).astype(np.uint16)


def decode(array: np.ndarray) -> np.ndarray:
    """The numbers of an encoded array in float64."""
    if array.dtype != np.uint16:
        return array.astype(np.float64)
    return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def draw_numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float64 numbers of some spread, some with a common offset, a few with -inf, +inf or NaN among them."""
    values = rng.standard_normal(shape) * rng.choice([0.1, 1.0, 8.0]) + rng.choice([0.0, 0.0, 0.0, -200.0, 1e4])
    if values.size and rng.random() < 0.25:
        some = rng.random(shape) < rng.choice([0.05, 0.5, 1.0])
        values[some] = rng.choice([-np.inf, -np.inf, np.inf, np.nan])
    return values


OTHER_DTYPES = ["f4", "f2", "f8", "u2", "i2", "i4", "u4", "i8", "u8", "u1", "?", "c8", "O", "S4", "M8[s]", "f4,f4"]
OTHER_DTYPES += [">f4", ">f2", ">u2", ">i4", ">i8", ">f8"]
EXTREMES = [-1, 0, 1, 2, 31, 32, 33, 2**31 - 1, -(2**31), 2**31, 2**62, 2**63 - 1, -(2**63)]
NOT_ARRAYS = [None, 3, 1.5, "rows", b"\xff", [1, 2], [[1.0]], (), object(), np.float32(1), np.array(1.0)]


def wrong_array(rng: np.random.Generator, memory: GuardedMemory, array: np.ndarray) -> object:
    """One property of the array changed; whatever it declares exists in memory."""
    kind = rng.integers(13)
    if kind == 0:
        return NOT_ARRAYS[rng.integers(len(NOT_ARRAYS))]
    if kind == 1:  # the numbers in another type
        with np.errstate(all="ignore"):
            return array.astype(OTHER_DTYPES[rng.integers(len(OTHER_DTYPES))], casting="unsafe")
    if kind == 2:  # the bytes read as another type
        same = [name for name in OTHER_DTYPES if np.dtype(name).itemsize == array.itemsize and name not in ("O", ">O")]
        return array.copy().view(same[rng.integers(len(same))]) if same else array[..., None]
    if kind == 3:  # longer or shorter along an axis
        axis = int(rng.integers(array.ndim))
        length = int(rng.choice([0, 1, max(0, array.shape[axis] - 1), array.shape[axis] + 1]))
        shape = (*array.shape[:axis], length, *array.shape[axis + 1 :])
        return memory.place(rng, np.resize(array, shape) if array.size else np.zeros(shape, array.dtype))
    if kind == 4:  # another number of dimensions
        flat = array.reshape(-1)
        return [array[None], array[..., None], flat, array[0:0], flat[:1].squeeze()][rng.integers(5)]
    if kind == 5:
        axis = int(rng.integers(array.ndim))
        return np.flip(array.copy(), axis) if rng.random() < 0.5 else array.T
    if kind == 6:  # every second element, then every second row
        axis = int(rng.integers(array.ndim))
        return np.repeat(array, 2, axis)[tuple(slice(None, None, 2 if i == axis else 1) for i in range(array.ndim))]
    if kind == 7:  # misaligned
        raw = memory.empty(rng, array.nbytes + 1, np.dtype(np.uint8))
        moved = np.ndarray(array.shape, array.dtype, raw, offset=1)
        moved[...] = array
        return moved
    if kind == 8:
        frozen = array.copy()
        frozen.flags.writeable = False
        return frozen
    if kind == 9:  # one row that claims to be many, or none that claims so
        length = int(rng.choice([3, 2**33, 2**40, 2**45]))
        first = np.zeros((1, *array.shape[1:]), array.dtype) if array.shape[0] == 0 else array[:1]
        empty = np.empty((length, *(0 for _ in array.shape[1:])), array.dtype) if array.ndim > 1 else array
        return as_strided(first, (length, *array.shape[1:]), (0, *first.strides[1:])) if rng.random() < 0.7 else empty
    if kind == 10:  # a single row, or none, whose stride is never used
        stride = int(rng.choice([2**62, -(2**62), 2**61 + 4, 1, 3]))
        return as_strided(array, (min(1, array.shape[0]), *array.shape[1:]), (stride, *array.strides[1:]))
    if kind == 11:
        return np.ma.masked_array(array) if rng.random() < 0.5 else array.astype(array.dtype.newbyteorder())
    return wrong_numbers(rng, array)


def wrong_numbers(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    """A copy with some entries out of range, or no numbers."""
    changed = array.copy()
    if changed.size == 0:
        return changed
    where = rng.integers(changed.size, size=int(rng.integers(1, 4)))
    with np.errstate(all="ignore"):
        if changed.dtype.kind == "f":
            changed.reshape(-1)[where] = rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, -0.0])
        elif rng.random() < 0.5 or changed.dtype.kind not in "iu":
            changed.reshape(-1)[where] = np.array(EXTREMES[rng.integers(len(EXTREMES))]).astype(changed.dtype)
        else:
            changed.reshape(-1)[where] += np.array(int(rng.choice([-1, 1, 32]))).astype(changed.dtype)
    return changed


def overlapping(
    rng: np.random.Generator, memory: GuardedMemory, one: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays in one piece of memory, the second's numbers last."""
    if one.size == 0 or other.size == 0:
        return one, other
    skip = 8 if one.nbytes > 8 and rng.random() < 0.5 else 0
    raw = memory.empty(rng, max(one.nbytes, skip + other.nbytes), np.dtype(np.uint8))
    raw[...] = 0
    first = raw[: one.nbytes].view(one.dtype).reshape(one.shape)
    second = raw[skip : skip + other.nbytes].view(other.dtype).reshape(other.shape)
    first[...] = one
    second[...] = other
    return first, second
