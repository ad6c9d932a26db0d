"""Right calls of the convolution and the recurrences along a tree, and float64 references for what they return."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from fuzz_arrays import GuardedMemory, decode, encode
from fuzz_calls import EPS, ROUNDING, Call, close, machine
from fuzz_layers import draw_element
from recurrence_paths import by_paths, convolution_of_path, delta_rule_of_path, scan_of_path

# Of a few dozen steps with numbers of about one.
LOOSE = 2**10 * EPS


def draw_nodes(rng: np.random.Generator, memory: GuardedMemory) -> tuple[Any, dict[str, np.ndarray]]:
    """A few nodes, and what says so to the module; the nodes kept are all but some."""
    count, num_initial = int(rng.integers(0, 6)), int(rng.integers(0, 3))
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 5, count))]).astype(np.int64)
    parents = np.array([rng.integers(-1 - num_initial, node) for node in range(count)], np.int64)
    keep = rng.permutation(count)[: int(rng.integers(0, count + 1))].astype(np.int64)
    arrays = {"offsets": offsets, "parents": parents, "keep": keep}
    nodes = SimpleNamespace(offsets=offsets, parents=parents, num_tokens=int(offsets[-1]), num_initial=num_initial)
    return nodes, {name: memory.place(rng, values) for name, values in arrays.items()}


def draw_rows(rng: np.random.Generator, memory: GuardedMemory, element: str, *shape: int) -> np.ndarray:
    """A matrix whose rows may have gaps between them."""
    return memory.place_strided(rng, encode(rng.standard_normal(shape), element), 1)


def check_tree(
    name: str, nodes: Any, of_path: Any, initial: np.ndarray, keep: np.ndarray, out: np.ndarray, ends: np.ndarray
) -> None:
    exact, states = by_paths(of_path, nodes, decode(initial).astype(np.float64))
    scale = 1.0 + np.abs(exact)
    element = "bfloat16" if out.dtype == np.uint16 else "float32"
    close("out", decode(out), exact.reshape(out.shape), ((ROUNDING[element] + LOOSE) * scale).reshape(out.shape))
    for i, node in enumerate(keep.tolist()):
        close(name, decode(ends[i]), states[node], LOOSE * (1.0 + np.abs(states[node])))


def tree_convolution(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    element, silu = draw_element(rng), bool(rng.random() < 0.5)
    nodes, tree = draw_nodes(rng, memory)
    channels, width = int(rng.choice([1, 7, 33, 513])), int(rng.choice([1, 2, 3, 4, 5, 9]))
    x = draw_rows(rng, memory, element, nodes.num_tokens, channels)
    taps = memory.place(rng, rng.standard_normal((width, channels)).astype(np.float32))
    bias = memory.place(rng, rng.standard_normal(channels).astype(np.float32)) if rng.random() < 0.5 else None
    initial = memory.place(rng, encode(rng.standard_normal((nodes.num_initial, width - 1, channels)), element))
    out = memory.place(rng, encode(np.zeros((nodes.num_tokens, channels)), element))
    ends = memory.place(rng, encode(np.zeros((len(tree["keep"]), width - 1, channels)), element))

    def check(_: object) -> None:
        given, weight = decode(x), taps.T.astype(np.float64)

        def of_path(tokens: np.ndarray, begun: Any) -> Any:
            return convolution_of_path(given[tokens], weight, bias, silu, begun)

        check_tree("ends", nodes, of_path, initial, tree["keep"], out, ends)

    arguments = {"x": x, "taps": taps, "bias": bias, "silu": silu, **tree, "initial": initial, "out": out, "ends": ends}
    return Call({**arguments, **machine(rng)}, ("out", "ends"), check)


def draw_states(
    rng: np.random.Generator, memory: GuardedMemory, nodes: Any, kept: int, *shape: int
) -> dict[str, np.ndarray]:
    initial = (0.3 * rng.standard_normal((nodes.num_initial, *shape))).astype(np.float32)
    return {"initial": memory.place(rng, initial), "states": memory.place(rng, np.zeros((kept, *shape), np.float32))}


def tree_delta_rule(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    element, normalize, per_row = draw_element(rng), bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    nodes, tree = draw_nodes(rng, memory)
    tokens, key_heads, heads = nodes.num_tokens, 2, int(rng.choice([2, 6]))
    rows, columns = int(rng.choice([1, 5, 16, 33])), int(rng.choice([1, 8, 31, 32, 65]))
    rows += per_row and rows == 1  # else one a row were one a head
    scale = 1.0 if normalize else rows**-0.5
    query, key = (draw_rows(rng, memory, element, tokens, key_heads * rows) for _ in range(2))
    for array in (query, key):
        array[...] = encode(scale * decode(array), element)
    value = draw_rows(rng, memory, element, tokens, heads * columns)
    decay = draw_rows(rng, memory, "float32", tokens, heads * rows if per_row else heads)
    decay[...] = -np.abs(decay)
    beta = memory.place(rng, rng.uniform(0.1, 0.9, (tokens, heads)).astype(np.float32))
    states = draw_states(rng, memory, nodes, len(tree["keep"]), heads, rows, columns)
    out = memory.place(rng, encode(np.zeros((tokens, heads * columns)), element))

    def check(_: object) -> None:
        part = {
            "query": decode(query).reshape(tokens, key_heads, rows),
            "key": decode(key).reshape(tokens, key_heads, rows),
            "value": decode(value).reshape(tokens, heads, columns),
            "decay": decode(decay).reshape(tokens, heads, *(rows,) * per_row),
            "beta": decode(beta),
        }

        def of_path(chosen: np.ndarray, begun: Any) -> Any:
            return delta_rule_of_path({name: x[chosen] for name, x in part.items()}, 0.5, normalize, begun)

        check_tree("states", nodes, of_path, states["initial"], tree["keep"], out, states["states"])

    # fmt: off
    arguments = {"query": query, "key": key, "value": value, "decay": decay, "beta": beta, "key_heads": key_heads,
                 "heads": heads, "scaling": 0.5, "normalize": normalize, **tree, **states, "out": out, **machine(rng)}
    # fmt: on
    return Call(arguments, ("out", "states"), check)


def tree_scan(rng: np.random.Generator, memory: GuardedMemory) -> Call:
    element, per_row = draw_element(rng), bool(rng.random() < 0.5)
    nodes, tree = draw_nodes(rng, memory)
    tokens, groups = nodes.num_tokens, int(rng.choice([1, 2]))
    heads, size = groups * int(rng.choice([1, 3, 40])), int(rng.choice([1, 1, 5, 33]))
    rows = int(rng.choice([1, 5, 16]))
    x = draw_rows(rng, memory, element, tokens, heads * size)
    write, read = (draw_rows(rng, memory, element, tokens, groups * rows) for _ in range(2))
    step_size = memory.place(rng, rng.uniform(0.1, 0.9, (tokens, heads)).astype(np.float32))
    rate = memory.place(rng, -rng.uniform(0.1, 2.0, (heads, rows if per_row else 1)).astype(np.float32))
    skip = memory.place(rng, rng.standard_normal(heads).astype(np.float32)) if rng.random() < 0.5 else None
    states = draw_states(rng, memory, nodes, len(tree["keep"]), heads, rows, size)
    out = memory.place(rng, np.zeros((tokens, heads * size), np.float32))

    def check(_: object) -> None:
        part = {
            "x": decode(x).reshape(tokens, heads, size),
            "step_size": decode(step_size),
            "write": decode(write).reshape(tokens, groups, rows),
            "read": decode(read).reshape(tokens, groups, rows),
        }

        def of_path(chosen: np.ndarray, begun: Any) -> Any:
            return scan_of_path({name: y[chosen] for name, y in part.items()}, decode(rate), skip, begun)

        check_tree("states", nodes, of_path, states["initial"], tree["keep"], out, states["states"])

    # fmt: off
    arguments = {"x": x, "step_size": step_size, "rate": rate, "write": write, "read": read, "skip": skip,
                 "groups": groups, **tree, **states, "out": out, **machine(rng)}
    # fmt: on
    return Call(arguments, ("out", "states"), check)
