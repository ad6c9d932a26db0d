"""Right calls of the layer operations and of tree attention, and float64 references for what they return."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from fuzz_arrays import GuardedMemory, decode, draw_numbers, encode
from fuzz_calls import EPS, ROUNDING, Call, bfloat16_machine, close, machine

TINY = 1e-30


def draw_element(rng: np.random.Generator) -> str:
    return str(rng.choice(["float32", "bfloat16"]))


def layer_norm(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    element, centred, add = draw_element(rng), bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    shape = (int(rng.choice([0, 1, 3, 8])), int(rng.choice([0, 1, 7, 255, 256, 257, 600])))
    x = memory.place(rng, encode(draw_numbers(rng, *shape), element))
    weight, given = (memory.place(rng, encode(rng.standard_normal(shape[1]), element)) for _ in range(2))
    bias = given if rng.random() < 0.5 else None
    out = memory.place(rng, encode(rng.standard_normal(shape), element))
    offset, epsilon = float(rng.choice([0.0, 1.0])), float(rng.choice([1e-6, 1e-5]))
    held = decode(out) if add else np.zeros(shape)
    # fmt: off
    arguments = {"x": x, "weight": weight, "bias": bias, "weight_offset": offset, "epsilon": epsilon,
                 "centred": centred, "add": add, "out": out, **machine(rng)}
    # fmt: on
    def check(_: object) -> None:
        with np.errstate(all="ignore"):
            rows = decode(x)
            # A mean's rounding is one of the numbers that it is of, and so is what is left of them.
            error = np.abs(rows).max(axis=1, keepdims=True, initial=0.0) if centred else np.zeros((shape[0], 1))
            rows = rows - (rows.sum(axis=1, keepdims=True) / max(1, shape[1]) if centred else 0.0)
            root = np.sqrt((rows * rows).sum(axis=1, keepdims=True) / max(1, shape[1]) + epsilon)
            parts = rows / root * (decode(weight) + offset), 0.0 if bias is None else decode(bias), held
            size = np.abs(parts[0]) + np.abs(parts[1]) + np.abs(parts[2])
            exact = parts[0] + parts[1] + parts[2]
            moved = (
                (16 + shape[1] / 8) * EPS * (size + error / root * np.abs(decode(weight) + offset) * (1 + error / root))
            )
        close("out", decode(out), exact, ROUNDING[element] * np.abs(exact) + moved + TINY)

    return Call(arguments, ("out",), check)


def gate_in_place(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    element, activation = draw_element(rng), str(rng.choice(["silu", "gelu_tanh"]))
    shape = (int(rng.choice([0, 1, 3, 70])), int(rng.choice([0, 1, 255, 256, 257])))
    x, up = (memory.place(rng, encode(draw_numbers(rng, *shape), element)) for _ in range(2))
    before = decode(x)

    def check(_: object) -> None:
        u, got = decode(up), decode(x)
        finite = np.isfinite(before) & np.isfinite(u)
        with np.errstate(all="ignore"):
            cubic = np.sqrt(2 / np.pi) * (before + 0.044715 * before**3)
            share = 1 / (1 + np.exp(-before)) if activation == "silu" else 0.5 * (1 + np.tanh(cubic))
            exact = before * share * u
            bound = ROUNDING[element] * np.abs(exact) + 128 * EPS * np.abs(exact) + TINY * (1 + np.abs(u))
            # 1 + tanh cancels where the activation is nearly nothing.
            bound = bound + (8 * EPS * np.abs(before * u) if activation == "gelu_tanh" else 0.0)
        close("x", got[finite], exact[finite], bound[finite])
        assert np.isnan(got[np.isnan(before) | np.isnan(u)]).all(), "NaN is lost"

    return Call({"x": x, "up": up, "activation": activation, **machine(rng)}, ("x",), check)


def rotate_in_place(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    element = draw_element(rng)
    rows, heads, size = (int(rng.choice(choices)) for choices in ([0, 1, 4], [0, 1, 3], [0, 2, 8, 64, 514]))
    turned, interleaved = int(rng.choice([0, size // 4 * 2, size])), bool(rng.random() < 0.5)
    x = memory.place(rng, encode(draw_numbers(rng, rows, heads, size), element))
    tables = (rng.uniform(-1, 1, (rows, turned)).astype(np.float32) for _ in range(2))
    cos, sin = (memory.place(rng, table) for table in tables)
    before = decode(x)

    def check(_: object) -> None:
        with np.errstate(all="ignore"):
            part, exact = before[..., :turned], before.copy()
            other = np.concatenate([-part[..., turned // 2 :], part[..., : turned // 2]], axis=-1)
            if interleaved:
                other = np.stack([-part[..., 1::2], part[..., ::2]], axis=-1).reshape(part.shape)
            parts = [np.zeros_like(before) for _ in range(2)]
            parts[0][..., :turned], parts[1][..., :turned] = part * cos[:, None], other * sin[:, None]
            exact[..., :turned] = (parts[0] + parts[1])[..., :turned]
            bound = ROUNDING[element] * np.abs(exact) + 4 * EPS * (np.abs(parts[0]) + np.abs(parts[1])) + TINY
        close("x", decode(x), exact, bound)

    return Call({"x": x, "cos": cos, "sin": sin, "interleaved": interleaved, **machine(rng)}, ("x",), check)


def draw_weights(rng: np.random.Generator, memory: GuardedMemory, *rows: int) -> list[np.ndarray]:
    """Matrices of bfloat16 with as many columns, one of each number of rows."""
    depth = int(rng.choice([32, 64, 96, 672]))
    return [memory.place_strided(rng, encode(rng.standard_normal((count, depth)), "bfloat16"), 1) for count in rows]


def product_bound(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What a float32 sum of the terms of x weight^T may be off by."""
    return EPS * x.shape[1] * (np.abs(x) @ np.abs(weight).T)


def bfloat16_linear(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    rows, outputs = int(rng.choice([0, 1, 16, 31, 33, 140])), int(rng.choice([0, 1, 16, 17, 32, 50]))
    x, weight = draw_weights(rng, memory, rows, outputs)
    bias = memory.place(rng, encode(rng.standard_normal(outputs), "bfloat16")) if rng.random() < 0.5 else None
    before = encode(rng.standard_normal((rows, outputs)), "bfloat16")
    out, add = memory.place(rng, before), bool(rng.random() < 0.5)

    def check(_: object) -> None:
        exact = decode(x) @ decode(weight).T + (0.0 if bias is None else decode(bias)) + add * decode(before)
        bound = ROUNDING["bfloat16"] * np.abs(exact) + product_bound(decode(x), decode(weight)) + TINY
        close("out", decode(out), exact, bound)

    arguments = {"x": x, "weight": weight, "bias": bias, "add": add, "out": out, **bfloat16_machine(rng)}
    return Call(arguments, ("out",), check)


def bfloat16_gated_linear(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    rows, outputs = int(rng.choice([0, 1, 16, 31, 33, 140])), int(rng.choice([0, 1, 15, 16, 17, 40]))
    x, gate, up = draw_weights(rng, memory, rows, outputs, outputs)
    out = memory.place(rng, np.zeros((rows, outputs), np.uint16))

    def check(_: object) -> None:
        g, u = decode(x) @ decode(gate).T, decode(x) @ decode(up).T
        exact = g / (1 + np.exp(-g)) * u
        bound = 1.2 * product_bound(decode(x), decode(gate)) * np.abs(u)
        bound += np.abs(g) * product_bound(decode(x), decode(up))
        close(
            "out", decode(out), exact, bound + ROUNDING["bfloat16"] * np.abs(exact) + 128 * EPS * np.abs(g * u) + TINY
        )

    # fmt: off
    arguments = {"x": x, "gate": gate, "up": up, "activation": "silu", "out": out, **bfloat16_machine(rng)}
    # fmt: on
    return Call(arguments, ("out",), check)


def draw_tree(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], list[np.ndarray], int]:
    """The plan's arrays of a random tree behind some cached keys, and the key indices of every node's path."""
    nodes, cached = int(rng.integers(1, 6)), int(rng.choice([0, 0, 1, 40]))
    parents = [int(rng.integers(-1, node)) if node else -1 for node in range(nodes)]
    lengths = rng.choice([0, 1, 2, 5, 31, 32, 33, 70], size=nodes)
    queries = np.concatenate([[0], np.cumsum(lengths)])
    ranges = [(int(a) + cached, int(b) + cached) for a, b in itertools.pairwise(queries)]
    ranges.append((0, cached))
    paths: list[list[int]] = []
    for node, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else [nodes] if cached else []), node])
    sizes = np.array([stop - start for start, stop in ranges])
    plan = {
        "query_offsets": queries,
        "range_start": np.array([start for start, _ in ranges]),
        "range_stop": np.array([stop for _, stop in ranges]),
        "range_block": np.concatenate([[0], np.cumsum(-(-sizes // 32))]),
        "path_offsets": np.concatenate([[0], np.cumsum([len(path) for path in paths])]),
        "path_ranges": np.concatenate(paths),
    }
    keys = [np.concatenate([np.arange(*ranges[index]) for index in path]) for path in paths]
    return {name: array.astype(np.int32) for name, array in plan.items()}, keys, cached


def attention(rng: np.random.Generator, memory: GuardedMemory, element: str, needed: Callable[..., int] | None) -> Call:
    plan, paths, cached = draw_tree(rng)
    tokens = int(plan["query_offsets"][-1])
    size = int(rng.choice([1, 2, 7, 8, 24, 32, 33, 64, 77] if rng.random() < 0.95 else [128, 256]))
    key_heads, group = int(rng.integers(1, 3)), int(rng.integers(1, 5))
    odd = rng.random() < 0.1  # with infinities and NaN: nothing must break
    shapes = ((tokens, key_heads * group, size), *2 * [(cached + tokens, key_heads, size)])
    query, key, value = (
        memory.place_strided(rng, encode(draw_numbers(rng, *s) if odd else rng.standard_normal(s), element), 2)
        for s in shapes
    )
    out = memory.place_strided(rng, encode(np.zeros(query.shape), element), 2)
    scaling, softcap = float(size**-0.5), float(rng.choice([0.0, 0.0, 5.0]))
    window = int(rng.choice([0, 0, 1, 20, 2**40]))
    sinks = None
    if rng.random() < 0.5:
        numbers = draw_numbers(rng, key_heads * group, 1)[:, 0] if odd else rng.standard_normal(key_heads * group)
        sinks = memory.place(rng, (numbers * rng.choice([1.0, 20.0])).astype(np.float32))
    plan = {name: memory.place(rng, array) for name, array in plan.items()}
    # fmt: off
    arguments = {"query": query, "key": key, "value": value, "out": out, **plan, "scaling": scaling,
                 "softcap": softcap, "window": window, "sinks": sinks,
                 **(machine(rng) if needed is None else bfloat16_machine(rng))}
    # fmt: on
    written = ("out",)
    if needed is not None:
        count = needed(int(plan["range_block"][-1]), key_heads, size)
        exact_size = memory.empty(rng, count, np.dtype(np.uint8))
        raw = np.empty(count + 64, np.uint8)
        skip = -raw.ctypes.data % 64
        aligned = exact_size.ctypes.data % 64 == 0
        arguments["workspace"] = exact_size if aligned else raw[skip : skip + count]
        written = ("out", "workspace")

    def check(_: object) -> None:
        if odd:
            return
        q, k, v = decode(query), np.repeat(decode(key), group, 1), np.repeat(decode(value), group, 1)
        largest = np.abs(v).max(initial=0.0)
        score_error = 2 * EPS * (size + 16) * np.abs(q).max(initial=0.0) * np.abs(k).max(initial=0.0) * size * scaling
        bound = (3e-5 + 2 * score_error + (3 * ROUNDING[element] if element == "bfloat16" else 0.0)) * (largest + TINY)
        for node, path in enumerate(paths):
            first, last = plan["query_offsets"][node : node + 2]
            scores = np.einsum("qhd,khd->hqk", q[first:last], k[path]) * scaling
            scores = scores if softcap == 0.0 else softcap * np.tanh(scores / softcap)
            distance = (np.arange(last - first) + len(path) - (last - first))[:, None] - np.arange(len(path))
            seen = (distance >= 0) & ((window == 0) | (distance < window))
            scores = np.where(seen, scores, -np.inf)
            if sinks is not None:
                shape = scores.shape[0], scores.shape[1], 1
                scores = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], shape)], axis=2)
            weights = np.exp(scores - scores.max(axis=2, keepdims=True, initial=-1e30))
            weights /= weights.sum(axis=2, keepdims=True)
            exact = np.einsum("hqk,khd->qhd", weights[:, :, : len(path)], v[path])
            close(f"out of node {node}", decode(out[first:last]), exact, bound)

    return Call(arguments, written, check)
