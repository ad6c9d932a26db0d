"""Checks of the public functions' arguments, each error naming the parameter, what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_FLOAT32 = torch.finfo(torch.float32)


def check_tensor(
    name: str, value: object, dims: int, dtypes: tuple[torch.dtype, ...], device: torch.device | None
) -> None:
    """A tensor of the given number of dimensions, one of the dtypes, on the device (None: any)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if value.ndim != dims:
        raise ValueError(f"{name}: expected {dims} dimension{'s' * (dims != 1)}, got shape {tuple(value.shape)}")
    if value.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: expected dtype {names}, got {str(value.dtype).removeprefix('torch.')}")
    if device is not None and value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {value.device}")


def check_length(name: str, value: Tensor, expected: int, of: str) -> None:
    if value.shape[0] != expected:
        raise ValueError(f"{name}: expected length {expected} ({of}), got {value.shape[0]}")


def check_range(name: str, value: Tensor, size: int, mask: Tensor | None = None) -> None:
    """Every (unmasked) index in [0, size). CPU tensors only: on a GPU it would wait for the device."""
    if value.device.type != "cpu" or value.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(value))
    if low >= 0 and high < size:
        return
    bad = (value < 0) | (value >= size)
    if mask is not None:
        bad &= mask
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(f"{name}: expected indices in [0, {size}), got {int(value[first])} at position {first}")


def check_pairs(
    rows: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    offsets: Tensor | None,
    *,
    num_rows: int,
    vocabulary: int,
    device: torch.device,
) -> None:
    """Pairs (row, target), their mask and the offsets of their sequences."""
    integers = (torch.int64,)
    check_tensor("rows", rows, 1, integers, device)
    check_tensor("targets", targets, 1, integers, device)
    check_length("targets", targets, rows.shape[0], "one per entry of rows")
    if mask is not None:
        check_tensor("mask", mask, 1, (torch.bool,), device)
        check_length("mask", mask, rows.shape[0], "one per entry of rows")
    check_range("rows", rows, num_rows, mask)
    check_range("targets", targets, vocabulary, mask)
    if offsets is None:
        return
    check_tensor("offsets", offsets, 1, integers, device)
    if offsets.shape[0] == 0:
        raise ValueError("offsets: expected at least one entry, got none")
    if device.type == "cpu":
        steps = offsets.diff()
        if int(offsets[0]) != 0 or int(offsets[-1]) != rows.shape[0] or bool((steps < 0).any()):
            raise ValueError(
                f"offsets: expected non-decreasing positions from 0 to {rows.shape[0]} (the number of pairs)"
            )


def check_head(
    bias: Tensor | None, scale: float, softcap: float | None, *, vocabulary: int, device: torch.device
) -> None:
    """What a head does after the matrix product."""
    if bias is not None:
        check_tensor("bias", bias, 1, FLOATS, device)
        check_length("bias", bias, vocabulary, "the size of the vocabulary")
    if not isinstance(scale, (int, float)) or not abs(scale) <= _FLOAT32.max:
        raise ValueError(f"scale: expected a finite number of float32, got {scale!r}")
    check_positive("softcap", softcap)


def check_positive(name: str, value: float | None) -> None:
    """None or a positive number that is neither 0 nor infinite in float32, in which kernels take it."""
    if value is not None and not (isinstance(value, (int, float)) and _FLOAT32.tiny <= value <= _FLOAT32.max):
        raise ValueError(f"{name}: expected None or a positive finite number of float32, got {value!r}")
