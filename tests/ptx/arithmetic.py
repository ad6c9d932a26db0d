"""Instructions on registers alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .block import Block, Step, type_of
from .numbers import narrow, widen
from .program import Instruction

Maker = Callable[[Block, Instruction], Step]


def _shift(left: bool) -> Callable[[Any, Any], Any]:
    def shift(x: Any, count: Any) -> Any:
        bits = 8 * x.dtype.itemsize
        within = np.minimum(count, bits - 1).astype(x.dtype)
        shifted = x << within if left else x >> within
        return np.where((count >= bits) & (left | (x.dtype.kind == "u")), x.dtype.type(0), shifted)

    return shift


def _quotient(x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return x / y
    wide = (
        np.abs(x.astype(object if x.itemsize == 8 else np.int64)),
        np.abs(y.astype(object if y.itemsize == 8 else np.int64)),
    )
    return np.where((x < 0) != (y < 0), -1, 1) * (wide[0] // np.where(wide[1] == 0, 1, wide[1]))


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "div": _quotient, "rem": np.fmod, "shl": _shift(True), "shr": _shift(False),
    "min": np.fmin, "max": np.fmax,
}  # fmt: skip
UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative, "abs": np.abs, "not": np.invert, "ex2": np.exp2, "lg2": np.log2, "sqrt": np.sqrt,
    "rcp": lambda x: 1 / x, "rsqrt": lambda x: 1 / np.sqrt(x), "tanh": np.tanh,
    "cos": np.cos, "sin": np.sin,
}  # fmt: skip
COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal,
}  # fmt: skip
HALVES = ("f16", "bf16", "f16x2", "bf16x2")


def binary(block: Block, one: Instruction) -> Step:
    operation, kind_name = one.parts[0], one.parts[-1]
    function: Any = np.minimum if operation == "min" else np.maximum
    function = function if "NaN" in one.parts else BINARY[operation]
    if kind_name in HALVES:
        return halves(block, one, function)
    kind = np.dtype(type_of(kind_name))
    x = block.operand(one.operands[1], kind)
    if operation in ("shl", "shr"):
        y: Any = block.operand(one.operands[2], np.uint32)
    else:
        y = block.operand(one.operands[2], kind)
    wide = kind
    if "wide" in one.parts:
        wide = np.dtype(f"{kind.kind}{2 * kind.itemsize}")
    elif "hi" in one.parts and operation == "mul":
        raise NotImplementedError(one.text)
    put = block.put(one, one.operands[0], wide)
    if wide != kind:
        return lambda: put(x.astype(wide) * y.astype(wide))
    if one.predicate is None and isinstance(function, np.ufunc):
        out = block.view(one.operands[0], kind)
        return lambda: function(x, y, out=out)
    return lambda: put(function(x, y))


def unary(block: Block, one: Instruction) -> Step:
    function = UNARY[one.parts[0]]
    if one.parts[-1] in HALVES:
        return halves(block, one, function)
    kind = type_of(one.parts[-1])
    x, put = block.operand(one.operands[1], kind), block.put(one, one.operands[0], kind)
    return lambda: put(function(x))


def halves(block: Block, one: Instruction, function: Callable[..., Any]) -> Step:
    """16-bit floating point numbers, alone or in pairs."""
    kind = one.parts[-1].removesuffix("x2")
    size = np.uint32 if one.parts[-1].endswith("x2") else np.uint16
    given = [block.operand(text, size) for text in one.operands[1:]]
    put = block.put(one, one.operands[0], size)

    def run() -> None:
        numbers = [widen(np.array(np.broadcast_to(x, block.threads)).view(np.uint16), kind) for x in given]
        put(narrow(function(*numbers), kind).view(size))

    return run


def multiply_add(block: Block, one: Instruction) -> Step:
    if one.parts[-1] in HALVES:
        return halves(block, one, lambda x, y, z: x.astype(np.float64) * y + z)
    kind = np.dtype(type_of(one.parts[-1]))
    wide = np.dtype(f"{kind.kind}{2 * kind.itemsize}") if "wide" in one.parts else kind
    x, y, z = (block.operand(text, k) for text, k in zip(one.operands[1:], (kind, kind, wide), strict=True))
    put = block.put(one, one.operands[0], wide)
    if kind == np.float32:
        # Two factors of 24 bits are exact in float64; the sum is rounded twice, which may differ by an ulp.
        return lambda: put(x.astype(np.float64) * y + z)
    return lambda: put(x.astype(wide) * y.astype(wide) + z)


def move(block: Block, one: Instruction) -> Step:
    kind = np.dtype(type_of(one.parts[1]))
    to, source = one.operands
    if to.startswith("{"):
        names = [name.strip() for name in to.strip("{} ").split(",")]
        x, part = block.operand(source, kind), np.dtype(f"u{kind.itemsize // len(names)}")
        puts = [block.put(one, name, part) for name in names]

        def unpack() -> None:
            parts = np.ascontiguousarray(np.broadcast_to(x, block.threads)).view(part).reshape(block.threads, -1)
            for index, put in enumerate(puts):
                put(parts[:, index])

        return unpack
    put = block.put(one, to, kind)
    if source.startswith("{"):
        names = [name.strip() for name in source.strip("{} ").split(",")]
        part = np.dtype(f"u{kind.itemsize // len(names)}")
        given = [block.operand(name, part) for name in names]

        def pack() -> None:
            parts = np.stack([np.broadcast_to(x, block.threads) for x in given], 1)
            put(np.ascontiguousarray(parts).view(kind)[:, 0])

        return pack
    x = block.operand(source, kind)
    return lambda: put(x)


def compare(block: Block, one: Instruction) -> Step:
    name, kind = one.parts[1], type_of(one.parts[-1])
    x, y = (block.operand(text, kind) for text in one.operands[1:3])
    unordered = one.parts[-1][0] == "f" and name[-1] == "u" and name[:-1] in COMPARE
    put = block.put(one, one.operands[0], np.bool_)
    if name in ("num", "nan"):
        return lambda: put((np.isnan(x) | np.isnan(y)) == (name == "nan"))
    function = COMPARE[name[:-1] if unordered else name]
    if name == "ne" and one.parts[-1][0] == "f":
        return lambda: put((x < y) | (x > y))
    if unordered:
        return lambda: put(function(x, y) | np.isnan(x) | np.isnan(y))
    if len(one.parts) > 3 and one.parts[2] in ("and", "or", "xor"):
        more, join = block.operand(one.operands[3], np.bool_), BINARY[one.parts[2]]
        return lambda: put(join(function(x, y), more))
    return lambda: put(function(x, y))


def select(block: Block, one: Instruction) -> Step:
    kind = type_of(one.parts[-1])
    x, y = (block.operand(text, kind) for text in one.operands[1:3])
    choice, put = block.operand(one.operands[3], np.bool_), block.put(one, one.operands[0], kind)
    return lambda: put(np.where(choice, x, y))


def convert(block: Block, one: Instruction) -> Step:
    to, source = one.parts[-2:]
    if to.endswith("x2"):
        high, low = (block.operand(text, type_of(source)) for text in one.operands[1:3])
        put = block.put(one, one.operands[0], np.uint32)

        def pair() -> None:
            halves = [narrow(np.broadcast_to(x, block.threads), to[:-2]).astype(np.uint32) for x in (high, low)]
            put((halves[0] << np.uint32(16)) | halves[1])

        return pair
    x, put = block.operand(one.operands[1], type_of(source)), block.put(one, one.operands[0], type_of(to))
    if source in HALVES:
        assert to == "f32", one.text
        return lambda: put(widen(np.array(np.broadcast_to(x, block.threads)), source))
    if to in HALVES:
        return lambda: put(narrow(x.astype(np.float32), to))
    roundings = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
    if rounding := next((roundings[part] for part in one.parts if part in roundings), None):
        return lambda: put(rounding(x).astype(type_of(to)))
    # A conversion to a narrower register of a wider type keeps the low bits.
    return lambda: put(x.astype(type_of(to)))


def extract(block: Block, one: Instruction) -> Step:
    kind = np.dtype(type_of(one.parts[-1]))
    x, put = block.operand(one.operands[1], kind), block.put(one, one.operands[0], kind)
    begin, count = (int(text, 0) for text in one.operands[2:])
    bits = 8 * kind.itemsize
    # Shifted up and down again, which spreads the field's sign.
    return lambda: put((x << kind.type(bits - begin - count)) >> kind.type(bits - count))


def permute(block: Block, one: Instruction) -> Step:
    """Four bytes out of the eight of two registers: three bits of the selector each, and one that spreads the sign."""
    if one.parts != ["prmt", "b32"]:
        raise NotImplementedError(one.text)
    low, high, selector = (block.operand(text, np.uint32) for text in one.operands[1:])
    put = block.put(one, one.operands[0], np.uint32)

    def run() -> None:
        given = (np.broadcast_to(high, block.threads).astype(np.uint64) << np.uint64(32)) | low
        found = np.zeros(block.threads, np.uint32)
        for position in range(4):
            chosen = selector >> np.uint32(4 * position)
            byte = ((given >> ((chosen & np.uint32(7)) * np.uint32(8))) & np.uint64(0xFF)).astype(np.uint32)
            byte = np.where(chosen & np.uint32(8), (byte >> np.uint32(7)) * np.uint32(0xFF), byte)
            found |= byte << np.uint32(8 * position)
        put(found)

    return run


def shuffle(block: Block, one: Instruction) -> Step:
    x, put = block.operand(one.operands[1], np.uint32), block.put(one, one.operands[0], np.uint32)
    by, mode, lane = block.operand(one.operands[2], np.uint32), one.parts[2], block.lane

    def run() -> None:
        shift = np.broadcast_to(by, block.threads).astype(np.int64)
        source = {"bfly": lane ^ shift, "up": lane - shift, "down": lane + shift, "idx": shift & 31}[mode]
        source = np.where((source < 0) | (source > 31), lane, source)
        put(np.broadcast_to(x, block.threads)[block.warp * 32 + source])

    return run


def reduce(block: Block, one: Instruction) -> Step:
    kind = type_of(one.parts[-1])
    x, put = block.operand(one.operands[1], kind), block.put(one, one.operands[0], kind)
    members, function = (
        block.operand(one.operands[2], np.uint32),
        {"min": np.min, "max": np.max, "add": np.sum}[one.parts[2]],
    )

    def run() -> None:
        given = np.broadcast_to(x, block.threads).reshape(-1, 32)
        masks = np.broadcast_to(members, block.threads).reshape(-1, 32)
        found = np.empty(given.shape, kind)
        for warp, row in enumerate(masks):
            for mask in np.unique(row):
                inside = (int(mask) >> np.arange(32)) & 1 == 1
                found[warp, inside] = function(given[warp, inside])
        put(found.reshape(-1))

    return run


OPERATIONS: dict[str, Maker] = {
    **dict.fromkeys(BINARY, binary), **dict.fromkeys(UNARY, unary), "fma": multiply_add, "mad": multiply_add,
    "mov": move, "setp": compare, "selp": select, "cvt": convert, "bfe": extract,
    "prmt": permute, "shfl": shuffle, "redux": reduce,
}  # fmt: skip
