"""Instructions between registers and memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .arithmetic import Maker
from .block import Block, Step, type_of
from .program import Instruction


def _registers(text: str) -> list[str]:
    return [name.strip() for name in text.strip("{} ").split(",")]


def _everyone(block: Block, one: Instruction) -> Any:
    everyone = np.ones(block.threads, bool)
    return block.chosen(one) or (lambda: everyone)


def parameter(block: Block, one: Instruction) -> Step:
    found = re.search(r"_param_(\d+)", one.operands[1])
    assert found
    value, kind = block.arguments[int(found[1])], np.dtype(type_of(one.parts[-1]))
    if isinstance(value, float):
        value = np.array([value], np.float32).view(np.uint32)[0]
    given = np.array([int(value) & ((1 << 8 * kind.itemsize) - 1)], f"u{kind.itemsize}").view(kind)
    register = block.registers[one.operands[0]]
    put, wide = block.put(one, one.operands[0], register.dtype), given.astype(f"{kind.kind}{register.itemsize}")
    return lambda: put(wide.view(register.dtype))


def load_or_store(block: Block, one: Instruction) -> Step:
    space = one.parts[1].partition("::")[0]
    if space == "param":
        return parameter(block, one)
    kind, is_load = np.dtype(type_of(one.parts[-1])), one.parts[0] == "ld"
    operands = one.operands if is_load else [one.operands[1], one.operands[0], *one.operands[2:]]
    names, everyone = _registers(operands[0]), _everyone(block, one)
    address = block.address(operands[1], np.uint64 if space == "global" else np.uint32)
    size, count = kind.itemsize, len(names)
    if space not in ("global", "shared"):
        raise NotImplementedError(one.text)

    def access(at: np.ndarray, warps: np.ndarray, written: np.ndarray | None) -> np.ndarray:
        if space == "global":
            what = "read" if written is None else "write"
            return block.memory.access(at, size * count, warps, written, what)
        if (at % (size * count)).any():
            block.faults["a misaligned access of shared memory"] += 1
        index = at[:, None] + np.arange(size * count)
        if written is None:
            return block.shared.read(index, warps)
        block.shared.write(index, warps, written)
        return written

    if is_load:
        targets = [block.registers[name] for name in names]

        def load() -> None:
            chosen = np.flatnonzero(block.going(everyone()))
            found = np.ascontiguousarray(access(address()[chosen], block.warp[chosen], None)).view(kind)
            for place, target in enumerate(targets):
                wide = found[:, place].astype(f"{kind.kind}{target.itemsize}") if kind.kind in "iu" else found[:, place]
                target[chosen] = wide.view(target.dtype)

        return load
    sources = [block.registers[name] if name.startswith("%") else block.operand(name, kind) for name in names]

    def store() -> None:
        chosen = np.flatnonzero(block.going(everyone()))
        wide = [np.broadcast_to(source, block.threads)[chosen] for source in sources]
        given = np.stack([one.astype(f"u{size}") if one.itemsize > size else one.view(f"u{size}") for one in wide], 1)
        access(address()[chosen], block.warp[chosen], given.view(np.uint8))

    return store


def copy(block: Block, one: Instruction) -> Step:
    if "commit_group" in one.parts:
        return block.shared.commit_copies
    if "wait_group" in one.parts or "wait_all" in one.parts:
        left = int(one.operands[0]) if one.operands else 0
        return lambda: block.shared.wait_for_copies(left)
    assert one.operation.startswith("cp.async.c"), one.text
    to, source = block.address(one.operands[0], np.uint32), block.address(one.operands[1], np.uint64)
    size, everyone = int(one.operands[2], 0), _everyone(block, one)
    given: Any = block.operand(one.operands[3], np.uint32) if len(one.operands) > 3 else np.uint32(size)

    def run() -> None:
        chosen = np.flatnonzero(block.going(everyone()))
        length, at = np.broadcast_to(given, block.threads)[chosen].astype(np.int64), source()[chosen]
        found = np.zeros((len(chosen), size), np.uint8)
        for count in np.unique(length[length > 0]):
            whole = length == count
            if count == size:
                found[whole] = block.memory.access(at[whole], size, block.warp[chosen[whole]])
            else:
                raise NotImplementedError(f"a copy of {count} bytes: {one.text}")
        index = to()[chosen, None] + np.arange(size)
        if (index[:, 0] % size).any():
            block.faults["a misaligned access of shared memory"] += 1
        block.shared.begin_copy(index, block.warp[chosen], found)

    return run


def matrices(block: Block, one: Instruction) -> Step:
    """ldmatrix and stmatrix: 8 x 8 matrices of 16 bits; lane 4 r + c has row r's elements 2 c and 2 c + 1."""
    is_load = one.parts[0] == "ldmatrix"
    names = _registers(one.operands[0 if is_load else 1])
    address = block.address(one.operands[1 if is_load else 0], np.uint32)
    assert {"m8n8", "b16"} <= set(one.parts), one.text
    count, warps, transposed = len(names), block.warps, "trans" in one.parts
    registers = [block.registers[name] for name in names]
    of_rows = np.repeat(np.arange(warps), 8 * count)

    def run() -> None:
        at = address().reshape(warps, 32)[:, : 8 * count]
        index = (at[:, :, None] + np.arange(16)).reshape(-1, 16)
        if (at % 16).any():
            block.faults["a misaligned access of shared memory"] += 1
        if is_load:
            rows = np.ascontiguousarray(block.shared.read(index, of_rows)).view(np.uint16).reshape(warps, count, 8, 8)
            rows = rows.swapaxes(2, 3) if transposed else rows
            for number, register in enumerate(registers):
                register[:] = np.ascontiguousarray(rows[:, number]).view(np.uint32).reshape(-1)
            return
        rows = np.stack([x.view(np.uint16).reshape(warps, 8, 8) for x in registers], 1)
        rows = np.ascontiguousarray(rows.swapaxes(2, 3) if transposed else rows)
        block.shared.write(index, of_rows, rows.view(np.uint8).reshape(-1, 16))

    return run


def fence(block: Block, one: Instruction) -> Step:
    if not one.operation.startswith("fence.proxy.async"):
        return lambda: None

    def run() -> None:
        block.shared.unfenced[:] = False

    return run


OPERATIONS: dict[str, Maker] = {
    "ld": load_or_store, "st": load_or_store, "cp": copy, "ldmatrix": matrices, "stmatrix": matrices, "fence": fence,
}  # fmt: skip
