"""`tree_attention` by flash attention over gathered paths, with the packages' functions in plain float64.

Those are written from their documentation: queries and keys of a sequence lie between its offsets, a causal mask is
aligned at the end of both, and a window counts the keys to either side of the one that is aligned; -1 is no limit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import test_tree_attention as tree
import torch
import torch.nn.attention.varlen
from kernel_checks import TREE
from torch import Tensor

from instsel.kernels import TreeSegments, varlen_attention
from instsel.kernels.attention_kinds import AttentionOptions

SHAPE = (6, 2, 16)
SINKS = torch.tensor([-30.0, 0.0, 3.0, -3.0, 10.0, 2.5])


def attend(
    query: Tensor, key: Tensor, value: Tensor, offsets: tuple[Tensor, Tensor, int, int], scale: float | None,
    window: tuple[int, int], causal: bool, softcap: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention and its scores' log-sum-exp [heads, T]."""
    query_offsets, key_offsets, longest_query, longest_key = offsets
    assert query_offsets.dtype == key_offsets.dtype == torch.int32
    assert query_offsets[-1] == len(query) and key_offsets[-1] == len(key) == len(value)
    assert query_offsets.diff().min() > 0, "flash attention may divide by a length"
    assert longest_query >= query_offsets.diff().max() and longest_key >= key_offsets.diff().max()
    group = query.shape[1] // key.shape[1]
    out, logsumexp = torch.zeros(query.shape, dtype=torch.float64), torch.zeros(query.shape[1], len(query)).double()
    for first, stop, begin, end in zip(query_offsets, query_offsets[1:], key_offsets, key_offsets[1:], strict=False):
        own = query[first:stop].double()
        keys, values = (x[begin:end].double().repeat_interleave(group, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", own, keys) * (scale or query.shape[2] ** -0.5)
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        aligned = torch.arange(stop - first)[:, None] + (end - begin) - (stop - first)
        distance = aligned - torch.arange(end - begin)[None, :]  # positive: to the left
        right = 0 if causal else window[1]
        hidden = (distance > window[0]) & (window[0] >= 0) | (-distance > right) & (right >= 0)
        scores = scores.masked_fill(hidden, -torch.inf)
        out[first:stop] = torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1), values)
        logsumexp[:, first:stop] = torch.logsumexp(scores, -1)
    return out.to(query.dtype), logsumexp


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    return []


@pytest.fixture(params=["flash-attn", "torch"])
def package(request: Any, monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]) -> Iterator[str]:
    """What the packages' functions take, by name and place; what else they are given is an error."""

    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False, return_attn_probs=False,
    ):  # fmt: skip
        asked.append({"deterministic": deterministic, "causal": causal})
        offsets = (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
        out, logsumexp = attend(q, k, v, offsets, softmax_scale, window_size, causal, softcap)
        return (out, logsumexp, None) if return_attn_probs else out

    def varlen_attn(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
        enable_gqa=False, num_splits=None,
    ):  # fmt: skip
        asked.append({"num_splits": num_splits})
        assert enable_gqa or query.shape[1] == key.shape[1]
        out, logsumexp = attend(
            query, key, value, (cu_seq_q, cu_seq_k, max_q, max_k), scale, window_size, window_size[1] == 0, 0.0
        )
        return (out, logsumexp) if return_aux is not None else out

    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(torch.nn.attention.varlen, "AuxRequest", lambda lse: SimpleNamespace(lse=lse), raising=False)
    monkeypatch.setattr(varlen_attention, "has_flash_attn", lambda: request.param == "flash-attn")
    monkeypatch.setattr(varlen_attention, "triton_error", lambda device: "none here")
    yield request.param


def run(
    segments: TreeSegments, tensors: tuple[Tensor, Tensor, Tensor], *, find_again: bool = True, **options: Any
) -> Tensor:
    asked = AttentionOptions(**{"scaling": 0.3, **options})
    return varlen_attention.tree_attention(*tensors, segments, asked, find_again=find_again)


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 9}, {"window": 1}, {"softcap": 5.0}, {"window": 30, "softcap": 4.0}, {"sinks": SINKS}],
    ids=str,
)
def test_matches_float64(package: str, options: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    if "softcap" in options and package == "torch":
        pytest.skip("torch's has no soft-cap, and is not asked")
    tensors = tree.tensors(TREE, SHAPE, torch.float32)
    got = run(TreeSegments.from_lists(TREE[0], TREE[1]), tensors, **options)
    exact = tree.oracle(*tensors, TREE, scaling=0.3, **options)
    torch.testing.assert_close(got.double(), exact, atol=1e-5, rtol=0)
    assert asked == [{"deterministic": True, "causal": True} if package == "flash-attn" else {"num_splits": 1}]


def test_a_plan_is_of_its_number_of_cached_keys(package: str) -> None:
    """Layers of one pack may have other numbers of cached keys, and the same segments."""
    segments = TreeSegments.from_lists([0, 3, 5], [[], [(0, 2)]])
    for cached in (0, 4, 2):
        given = ([0, 3, 5], [[], [(0, 2)]], cached)
        tensors = tree.tensors(given, SHAPE, torch.float32, seed=cached)
        exact = tree.oracle(*tensors, given, scaling=0.3)
        torch.testing.assert_close(run(segments, tensors).double(), exact, atol=1e-5, rtol=0)


def test_what_rows_do_not_see_is_left_out(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel that finds results again which are not finite, with all that was asked for."""
    from instsel.kernels import triton_unseen_values

    found: list[AttentionOptions] = []
    monkeypatch.setattr(varlen_attention, "triton_error", lambda device: None)

    def leave_out(
        query: Tensor, key: Tensor, value: Tensor, result: Tensor, segments: TreeSegments, asked: AttentionOptions
    ) -> None:
        assert result.is_contiguous() and len(key) == len(value) == len(query) + TREE[2]
        found.append(asked)

    monkeypatch.setattr(triton_unseen_values, "leave_out_unseen", leave_out)
    tensors = tree.tensors(TREE, SHAPE, torch.float32)
    run(TreeSegments.from_lists(TREE[0], TREE[1]), tensors, window=9, sinks=SINKS)
    run(TreeSegments.from_lists(TREE[0], TREE[1]), tensors, find_again=False)
    assert found == [AttentionOptions(scaling=0.3, window=9, sinks=SINKS)]


def test_a_plan_is_of_its_device() -> None:
    segments = TreeSegments.from_lists([0, 3, 5], [[], [(0, 2)]])
    for device in (torch.device("cpu"), torch.device("meta")):
        assert varlen_attention.gather_plan(segments, 0, device)["path"].device == device
