"""tree_attention against a float64 oracle that attends one token at a time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import instruction_sets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instsel.kernels import TreeSegments, tree_attention

pytestmark = pytest.mark.usefixtures("two_threads")

Contexts = list[list[tuple[int, int]]]
# name: (offsets of the nodes' queries, their contexts, keys cached from an earlier forward)
TREES: dict[str, tuple[list[int], Contexts, int]] = {
    "one token": ([0, 1], [[]], 0),
    "chain": ([0, 40, 77, 100], [[], [(0, 40)], [(0, 40), (40, 77)]], 0),
    "fan": ([0, 70, 133, 134, 200], [[], [(0, 70)], [(0, 70)], [(0, 70)]], 0),
    "forest with an empty node": ([0, 10, 10, 45], [[], [], []], 0),
    "cached prefix": ([0, 33, 70], [[(0, 300)], [(0, 300), (300, 333)]], 300),
    "merged ancestors": ([0, 20, 50, 64], [[], [(0, 20)], [(0, 50)]], 0),
    "short siblings": ([0, 225, 228, 229, 234, 236, 236, 237, 280], [[], *[[(0, 225)]] * 7], 0),
    "short roots": ([0, 3, 4, 8, 10, 11], [[], [], [], [], []], 0),
    "short cousins": ([0, 40, 60, 62, 65, 90, 93, 94], [[], *[[(0, 40)], *[[(0, 40), (40, 60)]] * 2] * 2], 0),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 24},
    "cap": {"softcap": 4.0, "scaling": 0.3},
    "window and cap": {"window": 75, "softcap": 20.0},
}
# What runs at all in the C++ kernels: float32 everywhere, bfloat16 where it can be multiplied as such.
KINDS = [(torch.float32, name) for name in ("plain", "avx2", "avx512")]
KINDS += [(torch.bfloat16, name) for name in ("plain", *instruction_sets.WITH_BFLOAT16)] + [(torch.float16, "")]
each_kind = pytest.mark.parametrize(
    ("dtype", "instructions"), instruction_sets.long_but_best(KINDS), ids=lambda value: str(value) or "best"
)
SHAPES = [(6, 2, 64), (2, 2, 96), (3, 1, 128), (2, 2, 256), (2, 1, 72), (1, 1, 8)]  # heads, key heads, head size


def oracle(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: tuple[list[int], Contexts, int],
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    offsets, contexts, cached = tree
    group = query.shape[1] // key.shape[1]
    queries = query.double().numpy()
    keys, values = (x.double().numpy().repeat(group, axis=1).swapaxes(0, 1) for x in (key, value))  # by head
    extra = np.full((query.shape[1], 1), -np.inf) if sinks is None else sinks.double().numpy()[:, None]
    out = np.zeros(queries.shape)
    for node, context in enumerate(contexts):
        path = [index for start, stop in context for index in range(start, stop)]
        before = len(path)
        path += range(cached + offsets[node], cached + offsets[node + 1])
        own_keys, own_values = keys[:, path], values[:, path]
        for token in range(offsets[node], offsets[node + 1]):
            last = before + token - offsets[node] + 1
            seen = slice(0 if window is None else max(0, last - window), last)
            scores = (own_keys[:, seen] @ queries[token][:, :, None])[:, :, 0]  # [heads, keys]
            scores = scores * (query.shape[2] ** -0.5 if scaling is None else scaling)
            scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
            largest = np.maximum(extra, scores.max(axis=1, keepdims=True))
            weights = np.exp(scores - largest)
            sums = (weights[:, None] @ own_values[:, seen])[:, 0]
            out[token] = sums / (weights.sum(axis=1, keepdims=True) + np.exp(extra - largest))
    return torch.from_numpy(out)


def tensors(
    tree: tuple[list[int], Contexts, int], shape: tuple[int, int, int], dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    heads, key_heads, size = shape
    generator = torch.Generator().manual_seed(seed)
    total = tree[0][-1]
    counts = ((total, heads), (total + tree[2], key_heads), (total + tree[2], key_heads))
    query, key, value = (torch.randn(n, h, size, generator=generator).to(dtype) for n, h in counts)
    return query, key, value


def naive(query: Tensor, key: Tensor, value: Tensor, tree: tuple[list[int], Contexts, int], **options: Any) -> Tensor:
    """The same with probabilities and result rounded to the tensors' own type, as unfused code would have them."""
    segments = TreeSegments.from_lists(tree[0], tree[1])
    exact = tree_attention(query, key, value, segments, backend="reference", **options)
    return exact.double()


def assert_within_budget(got: Tensor, exact: Tensor, low: Tensor) -> None:
    """Largest error at most twice the reference's own, plus what the type resolves."""
    assert bool(torch.isfinite(got).all())
    resolution = float(torch.finfo(got.dtype).eps) * 4 * float(exact.abs().max())
    error, budget = float((got.double() - exact).abs().max()), 2 * float((low - exact).abs().max()) + resolution
    assert error <= budget, f"error {error:.2e}, budget {budget:.2e}"


class Case(NamedTuple):
    """Attention over one of `TREES`, exact and with the reference's error, which has been checked itself."""

    tensors: tuple[Tensor, Tensor, Tensor]
    segments: TreeSegments
    asked: dict[str, Any]
    exact: Tensor
    low: Tensor


@lru_cache(maxsize=len(SHAPES) + 1)  # the instruction sets come one after another, with the same shapes each
def case(name: str, options: str, shape: tuple[int, int, int], dtype: torch.dtype, sinks: tuple[float, ...]) -> Case:
    tree = TREES[name]
    asked = {**OPTIONS[options], **({"sinks": torch.tensor(sinks)} if sinks else {})}
    given = tensors(tree, shape, dtype)
    exact, low = oracle(*given, tree, **asked), naive(*given, tree, **asked)
    assert_within_budget(low.to(dtype), exact, low)
    return Case(given, TreeSegments.from_lists(tree[0], tree[1]), asked, exact, low)


@each_kind
@pytest.mark.parametrize("name", list(TREES))
@pytest.mark.parametrize("options", list(OPTIONS))
def test_matches_float64(name: str, options: str, dtype: torch.dtype, instructions: str) -> None:
    for shape in SHAPES if instructions else SHAPES[::5]:
        known = case(name, options, shape, dtype, ())
        with instruction_sets.forced(instructions):
            got = tree_attention(*known.tensors, known.segments, backend="cpu", **known.asked)
        assert_within_budget(got, known.exact, known.low)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_forgotten_prefix_and_a_leak_would_be_seen(backend: str) -> None:
    """Negative controls: dropping the ancestors, or letting a sibling be seen, falls far outside the budget."""
    tree = TREES["fan"]
    query, key, value = tensors(tree, (4, 2, 64), torch.bfloat16)
    exact, low = oracle(query, key, value, tree), naive(query, key, value, tree)
    for contexts in ([[], [], [], []], [[], [(0, 70)], [(0, 133)], [(0, 70)]]):
        wrong = tree_attention(query, key, value, TreeSegments.from_lists(tree[0], contexts), backend=backend)
        with pytest.raises(AssertionError):
            assert_within_budget(wrong, exact, low)


@each_kind
@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=5), st.integers(0, 2**31))
def test_a_forest_equals_its_trees_one_by_one(
    dtype: torch.dtype, instructions: str, lengths: list[int], seed: int
) -> None:
    """Each tree is a root of 50 tokens and a child; its bits do not depend on the trees beside it."""
    with instruction_sets.forced(instructions):
        check_trees_alone(dtype, lengths, seed)


def check_trees_alone(dtype: torch.dtype, lengths: list[int], seed: int) -> None:
    offsets, contexts, first = [0], [], 0
    for length in lengths:
        offsets += [first + 50, first + 50 + length]
        contexts += [[], [(first, first + 50)]]
        first += 50 + length
    query, key, value = tensors((offsets, contexts, 0), (6, 2, 64), dtype, seed)
    together = tree_attention(query, key, value, TreeSegments.from_lists(offsets, contexts), backend="cpu")
    for tree, length in enumerate(lengths):
        rows = slice(offsets[2 * tree], offsets[2 * tree + 2])
        alone = TreeSegments.from_lists([0, 50, 50 + length], [[], [(0, 50)]])
        got = tree_attention(query[rows], key[rows], value[rows], alone, backend="cpu")
        assert torch.equal(got, together[rows])


@pytest.mark.parametrize("instructions", instruction_sets.long_but_best(instruction_sets.FLOAT32))
def test_bits_do_not_hang_on_how_a_path_is_divided(instructions: str) -> None:
    """Into how many nodes a prefix falls hangs on what shares it; its keys are added up in one order all the same."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(180, heads, 64, generator=generator) for heads in (6, 2, 2))
    whole = TreeSegments.from_lists([0, 150, 180], [[], [(0, 150)]])
    parts = [(0, 37), (37, 101), (101, 150)]
    divided = TreeSegments.from_lists([0, 37, 101, 150, 180], [parts[:node] for node in range(4)])
    with instruction_sets.forced(instructions):
        results = [tree_attention(query, key, value, plan, backend="cpu") for plan in (whole, divided)]
    assert torch.equal(results[0][150:], results[1][150:])


@each_kind
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 300), st.lists(st.integers(0, 9), min_size=2, max_size=9), st.integers(0, 2**31))
def test_short_siblings_have_the_bits_that_each_has_alone(
    dtype: torch.dtype, instructions: str, before: int, lengths: list[int], seed: int
) -> None:
    """Siblings that share a row block: none is changed by how many there are, nor by where their keys end a chunk."""
    offsets = np.concatenate([[0], before + np.cumsum([0, *lengths])]).tolist()
    query, key, value = tensors((offsets, [], 0), (6, 2, 64), dtype, seed)
    segments = TreeSegments.from_lists(offsets, [[], *[[(0, before)]] * len(lengths)])
    with instruction_sets.forced(instructions):
        together = tree_attention(query, key, value, segments, backend="cpu")
        for sibling, length in enumerate(lengths):
            first = offsets[sibling + 1]
            rows = [*range(before), *range(first, first + length)]
            alone = TreeSegments.from_lists([0, before, before + length], [[], [(0, before)]])
            got = tree_attention(query[rows], key[rows], value[rows], alone, backend="cpu")
            assert torch.equal(got, together[rows])


@each_kind
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_node(dtype: torch.dtype, instructions: str, bad: float) -> None:
    """A probability of 0 times infinity would be NaN in siblings, which see none of it."""
    tree = TREES["short siblings"]
    segments = TreeSegments.from_lists(*tree[:2])
    for changed in range(3):
        given_tensors = tensors(tree, (6, 2, 64), dtype)
        with instruction_sets.forced(instructions):
            before = tree_attention(*given_tensors, segments, backend="cpu")
            given_tensors[changed][229:234, :, 5] = bad
            after = tree_attention(*given_tensors, segments, backend="cpu")
        others = [row for row in range(280) if not 229 <= row < 234]
        assert torch.equal(before[others], after[others])
        assert not torch.isfinite(after[229:234]).all()


def test_strides_do_not_matter() -> None:
    """transformers gives [heads, tokens, size] turned around."""
    tree = TREES["chain"]
    segments = TreeSegments.from_lists(tree[0], tree[1])
    given_tensors = tensors(tree, (9, 3, 64), torch.bfloat16)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in given_tensors]
    first, second = (tree_attention(*x, segments, backend="cpu") for x in (given_tensors, turned))
    assert torch.equal(first, second) and first.is_contiguous()


@each_kind
def test_large_scores_and_long_paths(dtype: torch.dtype, instructions: str) -> None:
    """Scores in the thousands (a maximum is needed) and paths of many chunks of keys (it must be carried along)."""
    tree = ([0, 700, 760], [[], [(0, 700)]], 0)
    query, key, value = tensors(tree, (2, 1, 64), dtype)
    for scaling in (0.125, 40.0):
        exact = oracle(query, key, value, tree, scaling=scaling)
        low = naive(query, key, value, tree, scaling=scaling)
        segments = TreeSegments.from_lists(*tree[:2])
        with instruction_sets.forced(instructions):
            got = tree_attention(query, key, value, segments, scaling=scaling, backend="cpu")
        assert_within_budget(got, exact, low)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": torch.zeros(4, 3, 8)}, ValueError, "value: expected the shape of key"),
        ({"query": torch.zeros(5, 2, 8)}, ValueError, "segments: expected nodes of 5 queries"),
        ({"query": torch.zeros(4, 2, 8).double()}, TypeError, "query: expected dtype"),
        ({"window": 0}, ValueError, "window: expected None or a positive"),
        ({"scaling": float("inf")}, ValueError, "scaling"),
        ({"softcap": 1e-300}, ValueError, "softcap: expected None or a positive finite number of float32"),
        ({"backend": "varlen"}, ValueError, "backend: 'varlen' cannot be used: flash attention needs GPU"),
        ({"segments": TreeSegments.from_lists([0, 4], [[(0, 9)]])}, ValueError, "key ranges within 4 keys"),
    ],
)
def test_refusals_name_the_parameter(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "query": torch.zeros(4, 2, 8),
        "key": torch.zeros(4, 1, 8),
        "value": torch.zeros(4, 1, 8),
        "segments": TreeSegments.from_lists([0, 4], [[]]),
    }
    with pytest.raises(error, match=message):
        tree_attention(**(arguments | change))


def test_segments_refuse_what_is_inconsistent() -> None:
    with pytest.raises(ValueError, match="query_offsets: expected non-decreasing"):
        TreeSegments.from_lists([0, 4, 2], [[], []])
    with pytest.raises(ValueError, match="context_offsets: expected 3 entries"):
        TreeSegments.from_lists([0, 4, 6], [[]])
    with pytest.raises(ValueError, match="context_start: expected 0 <= start <= stop"):
        TreeSegments.from_lists([0, 4], [[(5, 3)]])
