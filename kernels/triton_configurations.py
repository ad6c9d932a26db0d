"""Tile sizes of the Triton kernels by architecture and type: a table, as autotuning would make results depend on it.

Every entry is compiled ahead of time by the tests for its architecture, in every Triton that a supported torch brings
(`make check-triton`): without register spills, and with no wait between Hopper's products of a group. The tile of
`linear_logprob` decides in which order a row is added up, so it depends on nothing but the device, the type and H.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from .backends import version_outside


@dataclass(frozen=True, slots=True)
class LinearConfiguration:
    """A tile of `block_r` rows times `block_v` vocabulary entries, `block_h` hidden components at a time."""

    block_r: int
    block_v: int
    block_h: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class AttentionConfiguration:
    """`block_q` rows (token, head of the group) times `block_k` keys, with or without asking for all registers."""

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int
    all_registers: bool = False

    def options(self, *, nvidia: bool | None = None) -> dict[str, int]:
        """Launch options, for an NVIDIA GPU as `all_registers`."""
        registers = all_registers(nvidia=nvidia) if self.all_registers else {}
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **registers}


# Keyed by architecture, bytes per element and whether the arg max is wanted, whose indices need registers beside the
# tile of logits. 4 bytes: float32 products in full, without tensor cores.
LINEAR: dict[tuple[str, int, bool], LinearConfiguration] = {
    ("sm_90", 2, False): LinearConfiguration(128, 256, 64, 8, 3),
    ("sm_90", 2, True): LinearConfiguration(128, 128, 64, 8, 4),
    **{
        (arch, 2, argmax): LinearConfiguration(128, 128, 64, 8, 3)
        for arch in ("sm_80", "sm_86")
        for argmax in (False, True)
    },
    **{("gfx942", 2, argmax): LinearConfiguration(128, 128, 32, 8, 2) for argmax in (False, True)},
    **{
        (arch, 4, argmax): LinearConfiguration(64, 64, 32, 8, 2)
        for arch in ("sm_80", "sm_86", "sm_90", "gfx942")
        for argmax in (False, True)
    },
}
# With arg max where nothing stands between product and maximum, in the versions of Triton in which it spills nothing:
# 3.9 would spill 64 bytes; with a bias, a scale and a cap 3.6 would spill 240 and 3.8 would spill 48, and 3.8 spills 8
# where blocks do not fill the rows.
WIDE_ARGMAX: dict[tuple[str, int], LinearConfiguration] = {("sm_90", 2): LinearConfiguration(128, 256, 64, 8, 3)}
WIDE_ARGMAX_TRITON = "<3.9"
# Keyed by architecture, bytes per element and the head size rounded up to a power of two. With 128 rows times 32 keys,
# heads of 128 would spill 16 to 128 bytes, and on sm_90 there would be 20 waits for 20 products.
ATTENTION: dict[tuple[str, int, int], AttentionConfiguration] = {
    **{(arch, 2, 64): AttentionConfiguration(128, 128, 8, 2) for arch in ("sm_80", "sm_86", "sm_90")},
    **{(arch, 2, 128): AttentionConfiguration(64, 64, 8, 2) for arch in ("sm_80", "sm_86", "sm_90")},
    # 32 rows are too few for Hopper's own matrix instructions; the older ones do the work. In one compiler or another
    # each tile of 64 rows that was tried would spill (24 to 790 bytes) or wait for each product.
    **{(arch, 2, 256): AttentionConfiguration(32, 32, 4, 1) for arch in ("sm_80", "sm_86")},
    ("sm_90", 2, 256): AttentionConfiguration(32, 32, 8, 2),  # with 4 warps 8 bytes would spill in Triton 3.9
    **{("gfx942", 2, size): AttentionConfiguration(64, 32, 4, 1) for size in (64, 128, 256)},
    **{
        (arch, 4, size): AttentionConfiguration(32, 16, 8 if size == 256 else 4, 1)
        for arch in ("sm_80", "sm_86", "sm_90", "gfx942")
        for size in (64, 128, 256)
    },
}
# With learned sinks some of the tiles above would spill 8 to 56 bytes.
ATTENTION_WITH_SINKS: dict[tuple[str, int, int], AttentionConfiguration] = {
    **{
        (arch, 2, size): AttentionConfiguration(32, 32, 8, 1)
        for arch in ("sm_80", "sm_86", "sm_90")
        for size in (64, 128, 256)
    },
    ("sm_86", 4, 128): AttentionConfiguration(16, 16, 4, 1),
}
# sm_120 runs what stands for sm_86, of which Triton 3.6 and 3.7 spilled 8 to 88 bytes in four tiles for it.
for _tiles in (ATTENTION, ATTENTION_WITH_SINKS):
    _tiles |= {place: replace(tile, all_registers=place[0] == "sm_86") for place, tile in _tiles.items()}
LARGEST_BLOCK_H = 64  # of the tiles of `linear_logprob`
# Vocabulary entries that one program walks: its partial sums are joined in order afterwards. From the vocabulary alone,
# so that a row's value does not depend on its batch.
SPLIT_ENTRIES = 2048
# Under the interpreter tiles are small, so that small tests cross tile borders.
INTERPRETED_LINEAR = LinearConfiguration(16, 32, 16, 4, 1)
INTERPRETED_SPLIT = 128
INTERPRETED_ATTENTION = AttentionConfiguration(16, 16, 4, 1)


def all_registers(*, nvidia: bool | None = None) -> dict[str, int]:
    """Launch options by which a thread may have all 255 registers of an NVIDIA GPU, that of this process by default.

    Unasked, the assemblers of Triton 3.6 and 3.7 spill a few to fit one program more on a multiprocessor.
    """
    return {"maxnreg": 255} if nvidia or (nvidia is None and torch.version.hip is None) else {}


def architecture(device: torch.device) -> str:
    """The table's name for a device: NVIDIA parts whose programs get 227 KiB of shared memory (9.0, 10.x) run as sm_90,
    those with 99 KiB (8.6, 8.9, and 12.x again) as sm_86, those with 163 KiB (8.0) and older ones as sm_80."""
    if torch.version.hip is not None:
        return "gfx942"
    capability = torch.cuda.get_device_capability(device)
    if (9, 0) <= capability < (12, 0):
        return "sm_90"
    return "sm_86" if capability >= (8, 6) and capability != (8, 7) else "sm_80"


@functools.cache
def linear_tile(name: str, size: int, *, argmax: bool, plain: bool) -> LinearConfiguration:
    """For an architecture's name and bytes per element; `plain` logits are products alone, of rows that blocks of H
    fill."""
    if argmax and plain and (name, size) in WIDE_ARGMAX and version_outside("triton", WIDE_ARGMAX_TRITON) is None:
        return WIDE_ARGMAX[name, size]
    return LINEAR[name, size, argmax]


def linear_configuration(
    device: torch.device, dtype: torch.dtype, *, argmax: bool, transformed: bool, size: int
) -> LinearConfiguration:
    """The tile for rows of `size` numbers, whose logits are `transformed` by a bias, a scale or a cap."""
    if device.type == "cpu":
        return INTERPRETED_LINEAR
    plain = not transformed and size % LARGEST_BLOCK_H == 0
    return linear_tile(architecture(device), dtype.itemsize, argmax=argmax, plain=plain)


def attention_configuration(
    device: torch.device, dtype: torch.dtype, padded_head: int, *, sinks: bool
) -> AttentionConfiguration:
    if device.type == "cpu":
        return INTERPRETED_ATTENTION
    place = (architecture(device), dtype.itemsize, max(padded_head, 64))
    if place not in ATTENTION:
        raise ValueError(f"query: expected a head size up to 256 for backend 'triton', got one of {padded_head}")
    return ATTENTION_WITH_SINKS.get(place, ATTENTION[place]) if sinks else ATTENTION[place]


def split_entries(device: torch.device) -> int:
    return INTERPRETED_SPLIT if device.type == "cpu" else SPLIT_ENTRIES


def choose_fused(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the fused kernel is taken when the caller does not say: a row's bits do not depend on its batch there (a
    vendor's product may choose another algorithm for another number of rows), and no logits take memory.

    But not in float32: without tensor cores the kernel is far from the library's rate, whatever the device.
    """
    return device.type == "cpu" or dtype.itemsize == 2
