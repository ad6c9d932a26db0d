"""Right calls of a mixture's experts, and a float64 reference for what they return."""

from __future__ import annotations

import numpy as np
from fuzz_arrays import GuardedMemory, decode, encode
from fuzz_calls import ROUNDING, Call, bfloat16_machine, close
from fuzz_layers import TINY, product_bound


def draw_weight(rng: np.random.Generator, memory: GuardedMemory, *shape: int) -> np.ndarray:
    """[E, N, H], whose numbers or outputs follow each other, or whose outputs stand in every other place."""
    values = encode(rng.standard_normal(shape), "bfloat16")
    order = int(rng.integers(0, 3))
    if order == 0:
        return memory.place_strided(rng, values, 2)
    if order == 1:
        return memory.place_strided(rng, values.transpose(0, 2, 1), 2).transpose(0, 2, 1)
    # The last output is the last number of its memory.
    first = int(rng.integers(0, 2))
    both = np.full((shape[0], shape[2], 2 * shape[1] - 1 + first), 0x7FC0, np.uint16)
    both[:, :, first::2] = values.transpose(0, 2, 1)
    return memory.place(rng, both)[:, :, first::2].transpose(0, 2, 1)


def experts_bytes(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    rows, chosen, experts, hidden, inner = (int(n) for n in rng.integers(0, 100, 5))

    def check(result: object) -> None:
        groups = min(rows * chosen, rows * chosen // 32 + experts)
        assert result == groups * 32 * 2 * (hidden + inner), f"{result} bytes"

    names = ("rows", "chosen", "experts", "hidden", "inner")
    return Call(dict(zip(names, (rows, chosen, experts, hidden, inner), strict=True)), check=check)


def bfloat16_experts(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    rows, chosen = int(rng.choice([0, 1, 5, 70])), int(rng.choice([0, 1, 3]))
    count, hidden, inner = int(rng.choice([1, 2, 5])), int(rng.choice([32, 64])), int(rng.choice([32, 96]))
    x = memory.place_strided(rng, encode(rng.standard_normal((rows, hidden)), "bfloat16"), 1)
    experts = memory.place(rng, rng.integers(-1, count + 1, (rows, chosen)))
    weights = memory.place(rng, rng.random((rows, chosen)).astype(np.float32))
    gate, up = (draw_weight(rng, memory, count, inner, hidden) for _ in range(2))
    down = draw_weight(rng, memory, count, hidden, inner)
    # fmt: off
    gate_bias, up_bias, down_bias = (
        memory.place(rng, encode(rng.standard_normal((count, n)), "bfloat16")) if rng.random() < 0.5 else None
        for n in (inner, inner, hidden)
    )
    groups = min(rows * chosen, rows * chosen // 32 + count)
    size = groups * 64 * (hidden + inner)
    space = np.empty(size + 64, np.uint8)
    begin = -space.ctypes.data % 64
    out = memory.place(rng, np.zeros((rows, hidden), np.uint16))
    arguments = {"x": x, "experts": experts, "weights": weights, "gate": gate, "gate_bias": gate_bias, "up": up,
                 "up_bias": up_bias, "down": down, "down_bias": down_bias, "gelu_tanh": False, "alpha": 1.5,
                 "limit": 4.0, "offset": 1.0, "memory": space[begin : begin + size], "out": out,
                 **bfloat16_machine(rng)}
    # fmt: on
    def check(_: object) -> None:
        exact, bound = np.zeros((rows, hidden)), np.full((rows, hidden), TINY)
        for expert in range(count):
            row, k = np.nonzero(experts == expert)
            numbers, factors = decode(x)[row], weights[row, k, None].astype(np.float64)
            g, u = (
                numbers @ decode(w[expert]).T + (0.0 if bias is None else decode(bias[expert]))
                for w, bias in ((gate, gate_bias), (up, up_bias))
            )
            a, c = np.minimum(g, 4.0), np.clip(u, -4.0, 4.0)
            inside = a / (1 + np.exp(-1.5 * a)) * (c + 1)
            own = decode(down[expert])
            result = inside @ own.T + (0.0 if down_bias is None else decode(down_bias[expert]))
            moved = 1.2 * product_bound(numbers, decode(gate[expert])) * np.abs(c + 1)
            moved += np.abs(a) * product_bound(numbers, decode(up[expert]))
            moved += ROUNDING["bfloat16"] * np.abs(inside) + 1e-5 * (1 + np.abs(g) + np.abs(u)) * (1 + np.abs(u))
            error = moved @ np.abs(own).T + product_bound(inside, own) + ROUNDING["bfloat16"] * np.abs(result)
            np.add.at(exact, row, factors * result)
            np.add.at(bound, row, factors * (error + 1e-5 * np.abs(result)))
        close("out", decode(out), exact, bound + ROUNDING["bfloat16"] * (np.abs(exact) + bound))

    return Call(arguments, ("out", "memory"), check)
