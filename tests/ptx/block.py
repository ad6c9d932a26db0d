"""A block of threads: registers as arrays over its threads, and its instructions one after another for all of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from .memory import GlobalMemory, SharedMemory
from .program import TYPES, Instruction, Program

Step = Callable[[], None]
POISON = 0xFFC1FFC1FFC1FFC1  # NaN in every format


class Block:
    """Threads go on together; where they part those behind go first, until all are at the same place again."""

    def __init__(self, program: Program, arguments: list[Any], memory: GlobalMemory, faults: Counter[str]) -> None:
        self.program, self.arguments, self.memory, self.faults = program, arguments, memory, faults
        self.warps, self.threads = program.warps, 32 * program.warps
        self.thread = np.arange(self.threads)
        self.warp, self.lane = self.thread // 32, self.thread % 32
        self.registers = {name: np.zeros(self.threads, kind) for name, kind in program.registers.items()}
        self.place = np.zeros(3, np.uint32)
        self.special = {"%tid.x": self.thread.astype(np.uint32), "%laneid": self.lane.astype(np.uint32)}
        self.special |= {
            f"%{kind}.{axis}": np.zeros(self.threads, np.uint32) for kind in ("ctaid", "nctaid") for axis in "xyz"
        }
        self.special |= {"%tid.y": np.zeros(self.threads, np.uint32), "%tid.z": np.zeros(self.threads, np.uint32)}
        self.shared = SharedMemory(max(program.shared, 16), self.warps, faults)
        self._forget_products()
        self.executed = 0
        self.active: np.ndarray | None = None  # the threads that go on; None: all of them
        self._steps = [self._compile(one) for one in program.instructions]

    def _forget_products(self) -> None:
        self.products: list[tuple[frozenset[str], list[np.ndarray]]] = []  # groups that are not waited for
        self.open_registers: set[str] = set()
        self.open_reads: list[np.ndarray] = []
        self.flying: set[str] = set()  # registers that products under way read or write

    def view(self, name: str, kind: Any) -> np.ndarray:
        """A register's bits as another type of the same size."""
        return self.registers[name].view(kind)

    def operand(self, text: str, kind: Any) -> Any:
        """A register, a number or an address, as an array or a scalar of a type."""
        kind = np.dtype(kind)
        if text in self.special:
            return self.special[text].view(kind) if kind.itemsize == 4 else self.special[text].astype(kind)
        if text.startswith("%"):
            return self.view(text, kind)
        if text.startswith(("0f", "0F")):
            return np.array([int(text[2:], 16)], np.uint32).view(kind)[0]
        if text.startswith(("0d", "0D")):
            return np.array([int(text[2:], 16)], np.uint64).view(kind)[0]
        if text.startswith("global_smem"):
            return kind.type(int(text.partition("+")[2] or 0))
        if kind.kind == "b":
            return np.bool_(int(text, 0))
        number = int(text.removesuffix("U"), 0) & ((1 << 8 * kind.itemsize) - 1)
        return np.array([number], f"u{kind.itemsize}").view(kind)[0]

    def address(self, text: str, kind: Any) -> Callable[[], np.ndarray]:
        found = re.fullmatch(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]", text)
        assert found, text
        base, offset = self.operand(found[1], kind), int(found[2] or "0", 0)
        return lambda: np.broadcast_to(base, self.threads).astype(np.int64) + offset

    def chosen(self, instruction: Instruction) -> Callable[[], np.ndarray] | None:
        """The threads for which an instruction is done, of those that go on; None for all."""
        if instruction.predicate is None:
            return None
        predicate = self.registers[instruction.predicate]
        return (lambda: ~predicate) if instruction.negated else (lambda: predicate)

    def put(self, instruction: Instruction, name: str, kind: Any) -> Callable[[Any], None]:
        """What writes a register in the chosen threads."""
        if name == "_":
            return lambda value: None
        register, chosen = self.view(name, kind), self.chosen(instruction)
        if chosen is None:
            return lambda value: np.copyto(register, value, casting="unsafe")
        return lambda value: np.copyto(register, value, where=chosen(), casting="unsafe")

    def _compile(self, instruction: Instruction) -> Any:
        from . import arithmetic, products, transfers

        operation = instruction.parts[0]
        if operation in ("bra", "ret", "exit"):
            return instruction
        if operation in ("bar", "barrier") and "warp" not in instruction.parts:
            assert instruction.operands == ["0"], instruction.text
            return self._barrier
        if operation == "nop" or instruction.operation == "bar.warp.sync":
            return lambda: None
        for module in (arithmetic, transfers, products):
            if operation in module.OPERATIONS:
                return self._watched(instruction, module.OPERATIONS[operation](self, instruction))
        raise NotImplementedError(instruction.text)

    def _watched(self, instruction: Instruction, step: Step) -> Step:
        """Of threads that do not go on registers stay; products are waited for before their registers are used."""
        is_product = instruction.parts[0] == "wgmma"
        together = is_product or instruction.parts[0] in ("shfl", "redux", "mma", "ldmatrix", "stmatrix")
        registers, kept = instruction.registers, [self.registers[name] for name in instruction.registers]

        def run() -> None:
            if self.flying and not is_product and not self.flying.isdisjoint(registers):
                self.faults["a register is used before its product has been waited for"] += 1
            if self.active is None:
                step()
                return
            if together:
                self.faults[f"{instruction.parts[0]} without all threads of a warp"] += 1
            before = [register.copy() for register in kept]
            step()
            for register, old in zip(kept, before, strict=True):
                register[~self.active] = old[~self.active]

        return run

    def going(self, chosen: np.ndarray) -> np.ndarray:
        """Those of some threads that go on."""
        return chosen if self.active is None else chosen & self.active

    def _barrier(self) -> None:
        if self.active is not None:
            self.faults["a barrier that not all threads reach"] += 1
        self.shared.barrier()
        self.memory.epoch += 1

    def run(self, place: tuple[int, int, int], grid: tuple[int, int, int]) -> None:
        """As the block at one place of the grid: nothing is left of the one before."""
        self.shared.clear()
        self._forget_products()
        for axis, here, size in zip("xyz", place, grid, strict=True):
            self.special[f"%ctaid.{axis}"][:], self.special[f"%nctaid.{axis}"][:] = here, size
        for register in self.registers.values():
            register[:] = True if register.dtype == bool else POISON & ((1 << 8 * register.itemsize) - 1)
        self.memory.epoch += 1
        everyone = np.ones(self.threads, bool)
        groups = {0: everyone}  # of threads, by the instruction that they are at
        while groups:
            at = min(groups)
            going = groups.pop(at)
            self.active = None if going.all() else going
            self._run_group(at, min(groups, default=len(self._steps)), going, groups)
        if self.products or self.open_registers:
            self.faults["a product is never waited for"] += 1
        if any(self.shared.copies) or self.shared.uncommitted:
            self.faults["a copy is never waited for"] += 1

    def _run_group(self, at: int, stop: int, going: np.ndarray, groups: dict[int, np.ndarray]) -> None:
        """Runs a group of threads to `stop`, where others wait, or until they part."""
        steps, labels = self._steps, self.program.labels
        while at < stop:
            step = steps[at]
            self.executed += 1
            at += 1
            if not isinstance(step, Instruction):
                step()
                continue
            chosen = self.chosen(step)
            taken = going if chosen is None else chosen() & going
            to = labels[step.operands[0]] if step.parts[0] == "bra" else len(steps)
            if not taken.any():
                continue
            if (taken == going).all():
                at = to
                continue
            for place, threads in ((to, taken), (at, going & ~taken)):
                groups[place] = groups.get(place, False) | threads
            return
        if at < len(steps):
            groups[at] = groups.get(at, False) | going


def type_of(name: str) -> Any:
    return TYPES[name]
