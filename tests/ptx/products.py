"""Matrix products: mma.sync of a warp, wgmma of four warps, which goes on while the threads do other things."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .arithmetic import Maker
from .block import Block, Step
from .numbers import widen
from .program import Instruction
from .transfers import _registers

QUAD, PAIR = np.arange(32) // 4, np.arange(32) % 4  # of a lane


def _halves(register: np.ndarray, kind: str) -> np.ndarray:
    """[warps, 32, 2] in float32."""
    return widen(register.view(np.uint16), kind).reshape(-1, 32, 2)


def _left(registers: list[np.ndarray], kind: str) -> np.ndarray:
    """[warps, 16, 16] of a warp's four registers of pairs."""
    found = np.empty((len(registers[0]) // 32, 16, 16))
    for number, register in enumerate(registers):
        row, column = QUAD + 8 * (number % 2), 2 * PAIR + 8 * (number // 2)
        pairs = _halves(register, kind)
        found[:, row, column], found[:, row, column + 1] = pairs[:, :, 0], pairs[:, :, 1]
    return found


def of_warp(block: Block, one: Instruction) -> Step:
    """m16n8k16: the fragments are those of the PTX documentation's figures for .f16 and .bf16."""
    shape = re.search(r"m16n8k16\.row\.col\.f32\.(bf16|f16)\.(bf16|f16)\.f32", one.operation)
    if shape is None:
        raise NotImplementedError(one.text)
    kind = shape[1]
    out, left, right, added = ([block.registers[name] for name in _registers(text)] for text in one.operands)

    def run() -> None:
        b = np.empty((block.warps, 16, 8))
        for number, register in enumerate(right):
            pairs, row = _halves(register, kind), 2 * PAIR + 8 * number
            b[:, row, QUAD], b[:, row + 1, QUAD] = pairs[:, :, 0], pairs[:, :, 1]
        product = _left(left, kind) @ b
        for number in range(4):
            cells = product[:, QUAD + 8 * (number // 2), 2 * PAIR + number % 2].reshape(-1)
            out[number].view(np.float32)[:] = cells + added[number].view(np.float32)

    return run


def places(descriptor: int, rows: int, transposed: bool) -> np.ndarray:
    """Addresses [rows, 16] of a matrix in shared memory: see "matrix descriptor" and "swizzling modes" in the PTX
    documentation. `transposed`: the 16 are rows there, not columns."""
    begin, leading, stride = (((descriptor >> shift) & 0x3FFF) << 4 for shift in (0, 16, 32))
    width = {1: 128, 2: 64, 3: 32}[(descriptor >> 62) & 3]
    row, inner = np.arange(rows)[:, None], np.arange(16)[None, :]
    if transposed:
        lines = width // 2
        at = row // lines * leading + inner // 8 * stride + inner % 8 * width + row % lines * 2
    else:
        at = row // 8 * stride + row % 8 * width + 2 * inner
    at = begin + at
    return at ^ (((at >> 7) & (width // 16 - 1)) << 4)


def of_group(block: Block, one: Instruction) -> Step:
    if "fence" in one.parts:
        return lambda: None
    if "commit_group" in one.parts:
        return lambda: _commit(block)
    if "wait_group" in one.parts:
        left = int(one.operands[0])
        return lambda: _wait(block, left)
    shape = re.search(r"m64n(\d+)k16\.f32\.(bf16|f16)\.", one.operation)
    if shape is None:
        raise NotImplementedError(one.text)
    columns, kind = int(shape[1]), shape[2]
    names, from_registers = _registers(one.operands[0]), one.operands[1].startswith("{")
    out = [block.view(name, np.float32) for name in names]
    left: Any = _registers(one.operands[1]) if from_registers else block.operand(one.operands[1], np.uint64)
    right, adds = block.operand(one.operands[2], np.uint64), block.operand(one.operands[3], np.bool_)
    flags = [int(text) for text in one.operands[4:]]
    assert flags[:2] == [1, 1], one.text  # no signs
    transposed = (False, bool(flags[2])) if from_registers else (bool(flags[2]), bool(flags[3]))
    used = {*names, *(left if from_registers else ())}

    def read(at: np.ndarray, warps: np.ndarray) -> np.ndarray:
        index = at[:, :, None] + np.arange(2)
        flat = index.reshape(-1, 2)
        for warp in warps:
            found = block.shared.read(flat, np.full(len(flat), warp))
        if block.shared.unfenced[flat].any():
            block.faults["a product reads shared memory with no fence after it was written"] += 1
        touched = np.unique(flat)
        block.shared.in_products[touched] += 1
        block.open_reads.append(touched)
        return widen(np.ascontiguousarray(found).view(np.uint16), kind).reshape(at.shape)

    def run() -> None:
        for group in range(block.warps // 4):
            threads, warps = slice(128 * group, 128 * group + 128), np.arange(4 * group, 4 * group + 4)
            if from_registers:
                a = _left([block.registers[name][threads] for name in left], kind).reshape(64, 16)
            else:
                a = read(places(int(left[threads][0]), 64, transposed[0]), warps)
            b = read(places(int(right[threads][0]), columns, transposed[1]), warps)
            product = (a.astype(np.float64) @ b.T.astype(np.float64)).reshape(4, 16, columns)
            keeps = bool(np.broadcast_to(adds, block.threads)[threads][0])
            for number, register in enumerate(out):
                row, column = QUAD + 8 * (number % 4 // 2), 8 * (number // 4) + 2 * PAIR + number % 2
                cells = product[:, row, column].reshape(-1)
                register[threads] = cells + register[threads] if keeps else cells
        block.open_registers |= used
        block.flying |= used

    return run


def _commit(block: Block) -> None:
    block.products.append((frozenset(block.open_registers), block.open_reads))
    block.open_registers, block.open_reads = set(), []


def _wait(block: Block, left: int) -> None:
    while len(block.products) > left:
        _, reads = block.products.pop(0)
        for index in reads:
            block.shared.in_products[index] -= 1
            block.shared.readers[:, index] = True  # up to now
    block.flying = set(block.open_registers).union(*(registers for registers, _ in block.products))


OPERATIONS: dict[str, Maker] = {"mma": of_warp, "wgmma": of_group}
