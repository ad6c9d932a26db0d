"""Learned sinks: one more logit a head in the softmax of attention, which has no value."""

from __future__ import annotations

import instruction_sets
import numpy as np
import pytest
import test_tree_attention as tree
import torch
from architectures import build_model
from random_models import tree_requests
from test_attention_sharing import TOLERANCE, one_by_one
from test_recurrences import scores

from instsel.kernels import TreeSegments, tree_attention, varlen_attention
from instsel.kernels.attention_kinds import AttentionKind
from instsel.layers import attention

pytestmark = pytest.mark.usefixtures("two_threads")
FAMILIES = ["gpt_oss", "mimo_v2_flash", "granite_swa", "granitemoe_swa", "flint"]
SINKS = [-1e30, 0.0, 30.0, -3.0, 1e4, 2.5]  # far below the scores, among them, above, and beyond what exp holds


def sinks_of(heads: int, first: int = 0) -> tuple[float, ...]:
    return tuple(SINKS[(first + head) % len(SINKS)] for head in range(heads))


@tree.each_kind
@pytest.mark.parametrize("name", list(tree.TREES))
@pytest.mark.parametrize("options", ["plain", "window and cap"])
def test_matches_float64(name: str, options: str, dtype: torch.dtype, instructions: str) -> None:
    for first, shape in enumerate([*tree.SHAPES, (2, 1, 320)] if instructions else tree.SHAPES[::5]):
        known = tree.case(name, options, shape, dtype, sinks_of(shape[0], first))
        with instruction_sets.forced(instructions):
            got = tree_attention(*known.tensors, known.segments, backend="cpu", **known.asked)
        tree.assert_within_budget(got, known.exact, known.low)
        if dtype == torch.float32:  # the control: without sinks the result is another
            without = tree_attention(*known.tensors, known.segments, backend="cpu", **tree.OPTIONS[options])
            with pytest.raises(AssertionError):
                tree.assert_within_budget(without, known.exact, known.low)


@pytest.mark.parametrize("instructions", instruction_sets.long_but_best(instruction_sets.FLOAT32))
@pytest.mark.parametrize("lead", [20.0, 60.0, 80.0])
def test_what_a_large_sink_leaves_is_exact(lead: float, instructions: str) -> None:
    """Relative to the result, which is about exp(-lead)."""
    given_tree = tree.TREES["cached prefix"]
    query, key, value = tree.tensors(given_tree, (4, 2, 64), torch.float32)
    sinks = torch.full((4,), lead)
    exact = tree.oracle(query, key, value, given_tree, sinks=sinks)
    with instruction_sets.forced(instructions):
        got = tree_attention(query, key, value, TreeSegments.from_lists(*given_tree[:2]), sinks=sinks, backend="cpu")
    assert float((got.double() - exact).abs().max()) <= 1e-5 * float(exact.abs().max())


@tree.each_kind
def test_sinks_that_no_score_comes_near_change_no_bit(dtype: torch.dtype, instructions: str) -> None:
    for given_tree in tree.TREES.values():
        segments = TreeSegments.from_lists(*given_tree[:2])
        tensors = tree.tensors(given_tree, (6, 2, 64), dtype)
        with instruction_sets.forced(instructions):
            without = tree_attention(*tensors, segments, backend="cpu")
            got = tree_attention(*tensors, segments, sinks=torch.full((6,), -1e30), backend="cpu")
        assert torch.equal(got, without)


@tree.each_kind
def test_what_is_not_finite_stays_with_those_who_see_it(dtype: torch.dtype, instructions: str) -> None:
    given_tree = tree.TREES["short siblings"]
    segments, sinks = TreeSegments.from_lists(*given_tree[:2]), torch.tensor([0.0, 1.0, -2.0, 0.5, 3.0, 0.0])
    query, key, value = tree.tensors(given_tree, (6, 2, 64), dtype)
    with instruction_sets.forced(instructions):
        before = tree_attention(query, key, value, segments, sinks=sinks, backend="cpu")
        value[229, :, 5] = float("inf")
        after = tree_attention(query, key, value, segments, sinks=sinks, backend="cpu")
    others = [row for row in range(280) if not 229 <= row < 234]
    assert torch.equal(before[others], after[others])
    assert bool((after[229:234, :, 5] == float("inf")).all())


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_scores_of_minus_infinity_leave_all_to_the_sink(backend: str) -> None:
    query, key = torch.ones(3, 2, 8), torch.full((3, 1, 8), float("-inf"))
    segments = TreeSegments.from_lists([0, 3], [[]])
    got = tree_attention(query, key, torch.ones(3, 1, 8), segments, sinks=torch.zeros(2), backend=backend)
    assert torch.equal(got, torch.zeros(3, 2, 8))


def test_sinks_by_the_log_sum_exp() -> None:
    """What varlen attention, which needs a GPU, gives is made attention with sinks after it."""
    given_tree = ([0, 50], [[]], 0)
    query, key, value = tree.tensors(given_tree, (6, 2, 16), torch.float32)
    sinks, segments = torch.tensor(sinks_of(6)), TreeSegments.from_lists([0, 50], [[]])
    products = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(3, 1)) / 4
    seen = torch.ones(50, 50, dtype=torch.bool).tril()
    logsumexp = products.masked_fill(~seen, float("-inf")).logsumexp(-1)
    without = tree_attention(query, key, value, segments, backend="reference")
    exact = tree.oracle(query, key, value, given_tree, sinks=sinks)
    got = varlen_attention.with_sinks(without, logsumexp, sinks)
    assert float((got - exact).abs().max()) < 2e-6


def test_flash_attention_without_a_log_sum_exp_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_attention, "has_flash_attn", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    options = {"enable_gqa", "window_size", "num_splits"}
    kinds = [AttentionKind(torch.device("cuda"), torch.bfloat16, 64, 4, False, False, has) for has in (False, True)]
    for names, taken in ((options, False), (options | {"return_aux"}, True)):
        monkeypatch.setattr(varlen_attention, "torch_varlen_options", lambda names=names: frozenset(names))
        assert varlen_attention.varlen_error(kinds[0]) is None
        error = varlen_attention.varlen_error(kinds[1])
        assert error is None if taken else "no log-sum-exp" in str(error)


def test_refusals_name_the_parameter() -> None:
    query, segments = torch.zeros(4, 2, 8), TreeSegments.from_lists([0, 4], [[]])
    for sinks, error, message in (
        (torch.zeros(3), ValueError, r"sinks: expected length 2 \(the number of query heads\), got 3"),
        (torch.zeros(1, 2), ValueError, "sinks: expected 1 dimension"),
        (torch.zeros(2).long(), TypeError, "sinks: expected dtype"),
        ([0.0, 0.0], TypeError, "sinks: expected a torch.Tensor"),
    ):
        with pytest.raises(error, match=message):
            tree_attention(query, query, query, segments, sinks=sinks)  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_with_sinks_shares_and_scores_as_one_by_one(kind: str) -> None:
    model = build_model(kind)
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            torch.nn.init.normal_(parameter.data, generator=torch.Generator().manual_seed(0))
    pairs = tree_requests(np.random.default_rng(7))
    want = one_by_one(model, pairs)
    for budget in (17, 64, 4096):
        loaded, batch, said = scores(model, pairs, budget)
        assert loaded.shareable_length != 0, said
        assert batch.stats.tokens_forwarded < batch.stats.tokens_unshared
        assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE


@pytest.mark.long
def test_a_sink_left_out_is_seen_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = build_model("gpt_oss"), tree_requests(np.random.default_rng(7))
    want = one_by_one(model, pairs)
    monkeypatch.setattr(attention, "tree_attention", lambda *t, sinks, **more: tree_attention(*t, **more))
    loaded, batch, said = scores(model, pairs, 64)
    assert loaded.shareable_length == 0 and "prefixes cannot be shared" in said[0]
    assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE
