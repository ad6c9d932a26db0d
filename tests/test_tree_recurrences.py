"""Convolutions and recurrences along a tree: every node as its path by itself, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import instruction_sets
import numpy as np
import pytest
import torch
from recurrence_paths import (
    by_paths,
    convolution_of_path,
    delta_rule_of_path,
    exact,
    random_nodes,
    rounded,
    scan_of_path,
)

from instsel.kernels import TreeNodes, tree_convolution, tree_delta_rule, tree_scan

FLOAT, HALF, DOUBLE = torch.float32, torch.bfloat16, torch.float64
RUNS = [("reference", DOUBLE), ("reference", FLOAT), ("reference", HALF), ("cpu", FLOAT), ("cpu", HALF)]
TOLERANCE = {DOUBLE: 1e-12, FLOAT: 3e-5, HALF: 2e-2}  # of results of about one; HALF's are rounded to it


def difference(got: torch.Tensor, want: Any) -> float:
    want = np.asarray(want)
    assert got.shape == want.shape
    return float(np.abs(exact(got) - want).max(initial=0.0) / max(1.0, np.abs(want).max(initial=0.0)))


def states_of(dtype: torch.dtype) -> torch.dtype:
    return DOUBLE if dtype == DOUBLE else FLOAT


class Convolution:
    """A random convolution over nodes of which `run` gives output and states, and `want` the truth."""

    def __init__(
        self, nodes: TreeNodes, dtype: torch.dtype, *, channels: int = 37, width: int = 4, plain: bool = False
    ):
        rng = np.random.default_rng(0)
        self.x = rounded(dtype, nodes.num_tokens, channels + 3, rng=rng)[:, 3:]  # rows with a gap between them
        self.weight = rounded(dtype, channels, width, rng=rng)
        self.bias = None if plain else rounded(dtype, channels, rng=rng)
        self.activation = None if plain else "silu"
        self.initial = rounded(dtype, nodes.num_initial, width - 1, channels, rng=rng)
        self.nodes = nodes

    def run(self, backend: str, nodes: TreeNodes | None = None, **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nodes = nodes or self.nodes
        settings = {"bias": self.bias, "activation": self.activation, "keep": range(len(nodes))}
        settings["initial"] = self.initial if nodes.num_initial else None
        return tree_convolution(self.x, self.weight, nodes, **{**settings, **changed}, backend=backend)  # type: ignore[arg-type]

    def want(self) -> tuple[np.ndarray, list[np.ndarray]]:
        x, weight = exact(self.x), exact(self.weight)
        bias, silu = None if self.bias is None else exact(self.bias), self.activation == "silu"
        return by_paths(
            lambda tokens, begun: convolution_of_path(x[tokens], weight, bias, silu, begun),
            self.nodes,
            exact(self.initial),
        )


class DeltaRule:
    def __init__(
        self, nodes: TreeNodes, dtype: torch.dtype, *, sizes: tuple[int, int] = (24, 21), per_row: bool = False
    ):
        rng = np.random.default_rng(0)
        tokens, state = nodes.num_tokens, states_of(dtype)
        both = rounded(dtype, tokens, 2, 3, sizes[0], rng=rng)  # rows with a gap between them
        decay = -np.abs(rng.standard_normal((tokens, 6, *sizes[:1])[: 3 if per_row else 2])) * 0.3
        self.parts = {
            "query": both[:, 0],
            "key": both[:, 1],
            "value": rounded(dtype, tokens, 6, sizes[1], rng=rng),
            "decay": torch.from_numpy(decay).to(state),
            "beta": torch.from_numpy(rng.uniform(0.1, 0.9, (tokens, 6))).to(state),
        }
        self.initial = rounded(state, nodes.num_initial, 6, *sizes, rng=rng, scale=0.3)
        self.nodes = nodes

    def run(self, backend: str, nodes: TreeNodes | None = None, **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nodes = nodes or self.nodes
        settings = {"keep": range(len(nodes)), "normalize": True, "scaling": 0.7}
        settings["initial"] = self.initial if nodes.num_initial else None
        return tree_delta_rule(*self.parts.values(), nodes, **{**settings, **changed}, backend=backend)  # type: ignore[arg-type]

    def want(self) -> tuple[np.ndarray, list[np.ndarray]]:
        parts = {name: exact(x) for name, x in self.parts.items()}

        def of_path(tokens: np.ndarray, begun: Any) -> Any:
            return delta_rule_of_path({name: x[tokens] for name, x in parts.items()}, 0.7, True, begun)

        return by_paths(of_path, self.nodes, exact(self.initial))


class Scan:
    def __init__(
        self,
        nodes: TreeNodes,
        dtype: torch.dtype,
        *,
        sizes: tuple[int, int] = (20, 13),
        per_row: bool = False,
        heads: int = 6,
        plain: bool = False,
    ):
        rng = np.random.default_rng(0)
        tokens, state = nodes.num_tokens, states_of(dtype)
        both = rounded(dtype, tokens, 2, 2, sizes[0], rng=rng, scale=0.5)
        self.parts = {
            "x": rounded(dtype, tokens, heads, sizes[1], rng=rng),
            "step_size": torch.from_numpy(rng.uniform(0.1, 0.9, (tokens, heads))).to(state),
            "write": both[:, 0],
            "read": both[:, 1],
        }
        self.rate = -rounded(state, heads, *sizes[:1], rng=rng).abs()
        self.rate = self.rate if per_row else self.rate[:, 0].contiguous()
        self.skip = None if plain else rounded(state, heads, rng=rng)
        self.initial = rounded(state, nodes.num_initial, heads, *sizes, rng=rng)
        self.nodes = nodes

    def run(self, backend: str, nodes: TreeNodes | None = None, **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
        nodes = nodes or self.nodes
        settings = {"keep": range(len(nodes)), "skip": self.skip}
        settings["initial"] = self.initial if nodes.num_initial else None
        x, step_size, write, read = self.parts.values()
        return tree_scan(x, step_size, self.rate, write, read, nodes, **{**settings, **changed}, backend=backend)  # type: ignore[arg-type]

    def want(self) -> tuple[np.ndarray, list[np.ndarray]]:
        parts = {name: exact(x) for name, x in self.parts.items()}
        rate, skip = exact(self.rate), None if self.skip is None else exact(self.skip)

        def of_path(tokens: np.ndarray, begun: Any) -> Any:
            return scan_of_path({name: x[tokens] for name, x in parts.items()}, rate, skip, begun)

        return by_paths(of_path, self.nodes, exact(self.initial))


KINDS: dict[str, Any] = {
    "convolution": Convolution,
    "convolution of two taps alone": lambda *given: Convolution(*given, width=2, plain=True),
    "delta rule": DeltaRule,
    "delta rule with a decay a row": lambda *given: DeltaRule(*given, per_row=True),
    "delta rule of whole vectors": lambda *given: DeltaRule(*given, sizes=(32, 64)),
    "scan": Scan,
    "scan without a skip": lambda *given: Scan(*given, plain=True),
    "scan with a rate a row": lambda *given: Scan(*given, per_row=True),
    "scan of single channels": lambda *given: Scan(*given, per_row=True, heads=38, sizes=(16, 1)),
}


@pytest.mark.parametrize(("backend", "dtype"), RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_node_is_as_its_path_by_itself(kind: str, backend: str, dtype: torch.dtype) -> None:
    for seed, num_initial in ((1, 0), (2, 3)):
        one = KINDS[kind](random_nodes(seed, num_initial=num_initial), dtype)
        out, states = one.run(backend)
        want, ends = one.want()
        assert difference(out, want) <= TOLERANCE[dtype]
        assert difference(states, ends) <= TOLERANCE[dtype if "convolution" in kind else states.dtype]


@pytest.mark.parametrize(("backend", "dtype"), RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_another_node_is_another_result(kind: str, backend: str, dtype: torch.dtype) -> None:
    """Negative controls: what a wrong parent, and a sibling that is seen, would change is far beyond the tolerance."""
    nodes = TreeNodes.from_lists([0, 4, 8, 11, 15], [-1, -1, 0, 0])
    want, _ = KINDS[kind](nodes, dtype).want()
    for parents in ([-1, -1, 1, 0], [-1, -1, 0, 2], [-1, 0, 0, 0], [-1, -1, 0, -1]):
        out, _ = KINDS[kind](nodes, dtype).run(backend, TreeNodes.from_lists(nodes.offsets, parents))
        assert difference(out, want) > 2 * TOLERANCE[dtype]


@pytest.mark.parametrize(("backend", "dtype"), RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_states_go_on_in_a_later_pack_with_the_same_bits(kind: str, backend: str, dtype: torch.dtype) -> None:
    """A chain of nodes in one pack, and each node in a pack of its own; some nodes are empty."""
    offsets = np.concatenate([[0], np.cumsum([3, 1, 0, 2, 5, 1, 1, 4])])
    nodes = TreeNodes.from_lists(offsets, range(-1, 7))
    one = KINDS[kind](nodes, dtype)
    out, states = one.run(backend)
    for node in range(1, 8):
        first, last = offsets[node : node + 2].tolist()
        later = KINDS[kind](nodes, dtype)
        for name, value in vars(later).items():
            if name == "x":
                later.x = value[first:last]
            elif name == "parts":
                later.parts = {key: x[first:last] for key, x in value.items()}
        again, end = later.run(
            backend, TreeNodes.from_lists([0, last - first], [-2], 1), initial=states[node - 1 : node]
        )
        assert torch.equal(again, out[first:last]) and torch.equal(end[0], states[node])


@pytest.mark.parametrize("instructions", instruction_sets.long_but_best(instruction_sets.FLOAT32))
@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_set_computes_the_same(kind: str, instructions: str) -> None:
    for dtype in (FLOAT, HALF):
        one = KINDS[kind](random_nodes(3, num_initial=1), dtype)
        with instruction_sets.forced(instructions):
            out, states = one.run("cpu")
        want, ends = one.want()
        assert difference(out, want) <= TOLERANCE[dtype] and difference(states, ends) <= TOLERANCE[dtype]


def test_the_number_of_threads_changes_no_bit() -> None:
    for kind in KINDS:
        nodes = random_nodes(5, count=9)
        out, states = KINDS[kind](nodes, HALF).run("cpu")
        for count in (1, 16):  # more threads than heads divide a head's columns
            with threads_of_torch(count):
                again, ends = KINDS[kind](nodes, HALF).run("cpu")
            assert torch.equal(out, again) and torch.equal(states, ends)


@pytest.mark.parametrize("per_row", [False, True])
def test_decays_that_leave_nothing(per_row: bool) -> None:
    """A few tokens decay a key to less than float32 can hold; the last keys still count."""
    one = DeltaRule(random_nodes(6, num_initial=1), FLOAT, per_row=per_row)
    one.parts["decay"] = one.parts["decay"] * 200.0
    out, states = one.run("cpu")
    want, ends = one.want()
    assert difference(out, want) <= TOLERANCE[FLOAT] and difference(states, ends) <= TOLERANCE[FLOAT]


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("backend", "dtype"), RUNS[1:])
def test_a_chain_of_five_hundred_levels_and_a_pack_of_nothing(backend: str, dtype: torch.dtype) -> None:
    for kind in ("convolution", "delta rule", "scan"):
        one = KINDS[kind](TreeNodes.from_lists([0, 500], [-1]), dtype)
        out, states = one.run(backend, TreeNodes.from_lists(range(501), range(-1, 499)), keep=[499])
        want, ends = one.want()
        assert difference(out, want) <= TOLERANCE[dtype] and difference(states, ends) <= TOLERANCE[dtype]
        out, states = KINDS[kind](TreeNodes.from_lists([0], []), dtype).run(backend)
        assert len(out) == len(states) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": TreeNodes.from_lists([0, 2], [-1])}, "nodes: expected nodes of 3 tokens in all, got 2"),
        ({"nodes": TreeNodes.from_lists([0, 3], [-2], 1), "initial": None}, "initial: expected 1 states, got None"),
        ({"nodes": TreeNodes.from_lists([0, 3], [-2], 1), "initial": torch.zeros(1, 3)}, "initial: expected"),
        ({"keep": [1]}, "keep: expected nodes from 0 to 0, got 1"),
        ({"keep": [0, 0]}, "keep: expected different nodes"),
        ({"backend": "gpu"}, "backend: expected"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    nodes = TreeNodes.from_lists([0, 3], [-1])
    for one in (Convolution(nodes, FLOAT), DeltaRule(nodes, FLOAT), Scan(nodes, FLOAT)):
        given = {"backend": "reference", **change}
        with pytest.raises((ValueError, TypeError), match=message.replace("(", "\\(")):
            one.run(**given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TreeNodes.from_lists([1, 2], [-1]), "offsets: expected non-decreasing"),
        (lambda: TreeNodes.from_lists([0, 2], [-1, 0]), "parents: expected 1 entries"),
        (lambda: TreeNodes.from_lists([0, 2], [0]), "parents: expected an earlier node"),
        (lambda: TreeNodes.from_lists([0, 2], [-3], 1), "got -3 of node 0"),
        (lambda: TreeNodes.from_lists([0, 2], [-1], -1), "num_initial"),
        (lambda: tree_convolution(torch.zeros(3, 2), torch.zeros(3, 4), None), "weight: expected shape"),  # type: ignore[arg-type]
        (lambda: tree_convolution(torch.zeros(3), torch.zeros(3, 4), None), "x: expected 2 dimensions"),  # type: ignore[arg-type]
        (lambda: tree_convolution(torch.zeros(3, 2), torch.zeros(2, 4), [0, 3]), "nodes: expected TreeNodes, got list"),  # type: ignore[arg-type]
    ],
)
def test_nodes_and_weights_that_are_none(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()
