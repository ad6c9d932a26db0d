"""Random trees of nodes, and convolutions and recurrences of one path by itself in float64, by their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from instsel.kernels import TreeNodes

Arrays = dict[str, np.ndarray]


def random_nodes(seed: int, count: int = 12, num_initial: int = 0, longest: int = 9) -> TreeNodes:
    """Nodes of 0 to `longest` tokens, with parents before them, none, or an initial state."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    parents = [int(rng.integers(-1 - num_initial, n)) for n in range(count)]
    return TreeNodes.from_lists(np.concatenate([[0], np.cumsum(lengths)]), parents, num_initial)


def paths(nodes: TreeNodes) -> list[tuple[int, np.ndarray]]:
    """Of each node: the initial state that its path begins with (-1: none), and its path's tokens."""
    found: list[tuple[int, np.ndarray]] = []
    for node, parent in enumerate(nodes.parents.tolist()):
        origin, before = found[parent] if parent >= 0 else (-2 - parent if parent < -1 else -1, np.zeros(0, np.int64))
        found.append((origin, np.concatenate([before, np.arange(nodes.offsets[node], nodes.offsets[node + 1])])))
    return found


def by_paths(of_path: Any, nodes: TreeNodes, initial: np.ndarray | None) -> tuple[np.ndarray, list[np.ndarray]]:
    """Every token's output and every node's last state, each path run by itself from its beginning."""
    out: dict[int, np.ndarray] = {}
    states = []
    for node, (origin, tokens) in enumerate(paths(nodes)):
        values, state = of_path(tokens, None if origin < 0 or initial is None else initial[origin])
        own = int(nodes.offsets[node + 1] - nodes.offsets[node])
        out.update(zip(tokens[len(tokens) - own :].tolist(), values[len(tokens) - own :], strict=True))
        states.append(state)
    return np.array([out[t] for t in range(nodes.num_tokens)]), states


def convolution_of_path(x: np.ndarray, weight: np.ndarray, bias: Any, silu: bool, begun: Any) -> tuple[Any, Any]:
    width = weight.shape[1]
    before = np.zeros((width - 1, x.shape[1])) if begun is None else begun
    whole = np.concatenate([before, x])
    sums = sum(weight[:, k] * whole[k : k + len(x)] for k in range(width)) + (0.0 if bias is None else bias)
    return (sums / (1.0 + np.exp(-sums)) if silu else sums), whole[len(whole) - width + 1 :]


def delta_rule_of_path(part: Arrays, scaling: float, normalize: bool, begun: Any) -> tuple[Any, Any]:
    """`S (I - beta k k^T)`-wise: a head and a token at a time."""
    tokens, heads, values = part["value"].shape
    group, rows = heads // part["key"].shape[1], part["key"].shape[2]
    out = np.zeros((tokens, heads, values))
    states = np.zeros((heads, rows, values)) if begun is None else begun.copy()
    for h in range(heads):
        state = states[h]
        for t in range(tokens):
            q, k = (part[name][t, h // group] for name in ("query", "key"))
            if normalize:
                q, k = (y / np.sqrt((y**2).sum() + 1e-6) for y in (q, k))
            beta, decay = part["beta"][t, h], np.exp(part["decay"][t, h]) * np.ones(rows)
            state = (np.eye(rows) - beta * np.outer(k, k)) @ (decay[:, None] * state)
            state = state + beta * np.outer(k, part["value"][t, h])
            out[t, h] = scaling * (q @ state)
        states[h] = state
    return out, states


def scan_of_path(part: Arrays, rate: np.ndarray, skip: Any, begun: Any) -> tuple[Any, Any]:
    tokens, heads, size = part["x"].shape
    group, rows = heads // part["write"].shape[1], part["write"].shape[2]
    out = np.zeros((tokens, heads, size))
    states = np.zeros((heads, rows, size)) if begun is None else begun.copy()
    for h in range(heads):
        for t in range(tokens):
            step, x = part["step_size"][t, h], part["x"][t, h]
            decay = np.exp(step * rate[h]) * np.ones(rows)
            states[h] = decay[:, None] * states[h] + np.outer(part["write"][t, h // group], step * x)
            out[t, h] = part["read"][t, h // group] @ states[h] + (0.0 if skip is None else skip[h] * x)
    return out, states


def rounded(dtype: torch.dtype, *shape: int, rng: np.random.Generator, scale: float = 1.0) -> torch.Tensor:
    """Random numbers that the dtype has."""
    return torch.from_numpy(rng.standard_normal(shape) * scale).to(dtype)


def exact(x: torch.Tensor) -> np.ndarray:
    values: np.ndarray = x.double().numpy()
    return values
