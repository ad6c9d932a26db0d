"""PTX as text to instructions: https://docs.nvidia.com/cuda/parallel-thread-execution/."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

TYPES = {
    "pred": np.bool_, "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16,
    "s16": np.int16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "b64": np.uint64,
    "u64": np.uint64, "s64": np.int64, "f64": np.float64, "f16": np.uint16, "bf16": np.uint16,
}  # fmt: skip


@dataclass
class Instruction:
    text: str
    predicate: str | None
    negated: bool
    operation: str
    operands: list[str]
    registers: frozenset[str]

    @property
    def parts(self) -> list[str]:
        return self.operation.split(".")


@dataclass
class Program:
    """`shared` bytes and `warps` are not in the text."""

    shared: int
    warps: int
    parameters: list[str] = field(default_factory=list)  # the types
    registers: dict[str, type] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def split_operands(text: str) -> list[str]:
    """At commas outside of brackets."""
    found, depth, begin = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "{[") - (character in "}]")
        if character == "," and not depth:
            found.append(text[begin:place])
            begin = place + 1
    return [one.strip() for one in [*found, text[begin:]] if one.strip()]


def parse_instruction(text: str) -> Instruction:
    found = re.fullmatch(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)", text, re.DOTALL)
    if found is None:
        raise ValueError(f"no instruction: {text}")
    negated, predicate, operation, rest = found.groups()
    registers = frozenset(re.findall(r"%(?:rs|rd|r|f|fd|p)\d+", text))
    return Instruction(text, predicate, bool(negated), operation, split_operands(rest), registers)


def parse(ptx: str, shared: int, warps: int) -> Program:
    program = Program(shared, warps)
    head, _, body = ptx[ptx.index(".visible .entry") :].partition("{")
    program.parameters = re.findall(r"\.param\s+\.(\w+)", head)
    for line in body.split("\n.section")[0].splitlines():
        line = line.partition("//")[0].strip()
        declared = re.fullmatch(r"\.reg\s+\.(\w+)\s+(%\w+)<(\d+)>;", line)
        if declared:
            kind, name, count = declared.groups()
            program.registers |= {f"{name}{i}": TYPES[kind] for i in range(int(count))}
        elif label := re.fullmatch(r"(\$\w+):", line):
            program.labels[label[1]] = len(program.instructions)
        elif line and line[0] not in ".{}#":
            for text in filter(None, map(str.strip, line.split(";"))):
                program.instructions.append(parse_instruction(text))
    return program


def without(program: Program, place: int) -> Program:
    """The program with an instruction that does nothing in the place of one."""
    instructions = list(program.instructions)
    instructions[place] = Instruction("nop", None, False, "nop", [], frozenset())
    return Program(program.shared, program.warps, program.parameters, program.registers, instructions, program.labels)
