"""What a row does not see contributes nothing to it, whatever it holds: every row's bits, beside infinities and NaN."""

from __future__ import annotations

import instruction_sets
import pytest
import test_tree_attention as tree
import torch
from torch import Tensor

from instsel.kernels import TreeSegments, tree_attention

BAD = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
Tree = tuple[list[int], tree.Contexts, int]
NAMES = ["chain", "cached prefix", "short siblings", "short roots"]


def path_of(given_tree: Tree, token: int) -> list[int]:
    """The keys of a token's path, itself last."""
    offsets, contexts, cached = given_tree
    node = next(n for n in range(len(contexts)) if offsets[n] <= token < offsets[n + 1])
    before = [key for start, stop in contexts[node] for key in range(start, stop)]
    return before + list(range(cached + offsets[node], cached + token + 1))


def seen_by(given_tree: Tree, window: int | None) -> Tensor:
    """bool [tokens, keys], from the definition."""
    seen = torch.zeros(given_tree[0][-1], given_tree[0][-1] + given_tree[2], dtype=torch.bool)
    for token in range(len(seen)):
        path = path_of(given_tree, token)
        seen[token, path if window is None else path[-window:]] = True
    return seen


def check_rows(
    name: str, options: str, shape: tuple[int, int, int], dtype: torch.dtype, backend: str, close: float = 0.0
) -> None:
    """Keys and values that a token does not see are replaced, or some at random: who sees none keeps its bits.

    `close` is for what finds rows anew by other code, which rounds otherwise.
    """
    given_tree, chosen = tree.TREES[name], tree.OPTIONS[options]
    segments = TreeSegments.from_lists(*given_tree[:2])
    tensors = tree.tensors(given_tree, shape, dtype)
    seen = seen_by(given_tree, chosen.get("window"))
    before = tree_attention(*tensors, segments, backend=backend, **chosen)
    generator = torch.Generator().manual_seed(len(name))
    tokens = torch.randperm(len(seen), generator=generator)[:3].tolist()
    hidden = [(~seen[token], bad) for token, bad in zip(tokens, BAD.values(), strict=True)]
    hidden += [(torch.rand(seen.shape[1], generator=generator) < 0.03, BAD["nan"])]
    for bad_keys, bad in hidden:
        for changed in ((1,), (2,), (1, 2)):
            now = [x.clone() for x in tensors]
            for which in changed:
                now[which][bad_keys, :, ::7] = bad
            after = tree_attention(*now, segments, backend=backend, **chosen)
            kept = ~seen[:, bad_keys].any(dim=1)
            assert bool(torch.isfinite(after[kept]).all())
            torch.testing.assert_close(after[kept], before[kept], atol=close, rtol=close)
            if changed == (2,):
                # A column of values is added up by itself, and the softmax knows nothing of it.
                torch.testing.assert_close(after[..., 1:7], before[..., 1:7], atol=close, rtol=close)
                assert not torch.isfinite(after[~kept][..., ::7]).any()


@tree.each_kind
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", list(tree.OPTIONS))
def test_rows_keep_their_bits(name: str, options: str, dtype: torch.dtype, instructions: str) -> None:
    with instruction_sets.forced(instructions):
        check_rows(name, options, (6, 2, 72 if name == "chain" else 64), dtype, "cpu")


@pytest.mark.long
@pytest.mark.parametrize("options", ["plain", "window", "cap"])
def test_rows_of_heads_too_large_for_the_kernels_keep_their_bits(options: str) -> None:
    check_rows("short siblings", options, (2, 1, 264), torch.float32, "cpu", close=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", list(tree.OPTIONS))
def test_rows_of_the_reference_keep_their_bits(options: str, dtype: torch.dtype) -> None:
    check_rows("short cousins", options, (2, 1, 16), dtype, "reference")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf")])
def test_an_infinite_value_is_in_the_sums_of_those_who_see_it(backend: str, bad: float, dtype: torch.dtype) -> None:
    given_tree = tree.TREES["short siblings"]
    query, key, value = tree.tensors(given_tree, (2, 1, 64), dtype)
    value[230, 0, 3] = bad
    got = tree_attention(query, key, value, TreeSegments.from_lists(*given_tree[:2]), backend=backend)
    exact = tree.oracle(query, key, value, given_tree)
    assert torch.equal(got.double().isfinite(), exact.isfinite())
    assert torch.equal(got[230:234, :, 3].double(), exact[230:234, :, 3])
