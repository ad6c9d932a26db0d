from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import (
    CONTEXT,
    VOCABULARY,
    distinct_prefixes,
    means_one_by_one,
    new_llama,
    random_ids,
    shared_llama,
    token_logprobs_one_by_one,
    tree_requests,
)

import instsel
from instsel.engine.results import STATUSES
from instsel.engine.scoring import plan_batch
from instsel.kernels.native_arrays import has_bfloat16_products

pytestmark = pytest.mark.usefixtures("two_threads")

TOLERANCE = 2e-5  # nats a token, float32 against float64


def scorer_of(model: Any, budget: int | str = "auto", **settings: Any) -> instsel.Scorer:
    return instsel.Scorer(
        model, device="cpu", dtype=settings.pop("dtype", "float32"), max_batch_tokens=budget, **settings
    )


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return scorer_of(shared_llama(), 64)


@pytest.mark.parametrize("budget", [1, 7, 48, 200, 4096])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_tree_of_requests_scores_as_one_by_one(budget: int, backend: str) -> None:
    pairs = tree_requests(np.random.default_rng(budget))
    batch = instsel.score_batch(scorer_of(shared_llama(), budget, backend=backend), pairs, token_logprobs=True)
    want = token_logprobs_one_by_one(shared_llama(), pairs)
    assert batch.status.tolist() == ["ok"] * len(pairs)
    assert batch.num_tokens.tolist() == [len(continuation) for _, continuation in pairs]
    assert np.abs(batch.mean_logprob - [w.mean() for w in want]).max() < TOLERANCE
    assert np.allclose(batch.sum_logprob, batch.mean_logprob * batch.num_tokens, rtol=1e-12)
    assert batch.token_logprobs is not None
    for got, expected in zip(batch.token_logprobs, want, strict=True):
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() < 4 * TOLERANCE
    assert batch.stats.tokens_forwarded == distinct_prefixes(pairs)
    assert batch.stats.tokens_unshared == sum(len(a) + len(b) - 1 for a, b in pairs)


@pytest.mark.long
@given(
    st.lists(
        st.tuples(st.lists(st.integers(3, 5), min_size=1, max_size=6), st.lists(st.integers(3, 5), max_size=6)),
        max_size=10,
    ),
    st.integers(1, 30),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_any_requests_any_budget_any_order(pairs: list[tuple[list[int], list[int]]], budget: int, random: Any) -> None:
    scorer = scorer_of(shared_llama(), budget)
    scorer._model = loaded_llama()
    batch = instsel.score_batch(scorer, pairs)
    full = [i for i, (_, continuation) in enumerate(pairs) if continuation]
    assert batch.stats.tokens_forwarded == distinct_prefixes(pairs)
    assert batch.status.tolist() == ["ok" if b else "empty_target" for _, b in pairs]
    if full:
        assert (
            np.abs(batch.mean_logprob[full] - means_one_by_one(double_llama(), [pairs[i] for i in full])).max()
            < TOLERANCE
        )
    order = list(range(len(pairs)))
    random.shuffle(order)
    again = instsel.score_batch(scorer, [pairs[i] for i in order])
    assert np.allclose(again.mean_logprob, batch.mean_logprob[order], atol=TOLERANCE, equal_nan=True)
    assert again.status.tolist() == batch.status[order].tolist()


_once: dict[str, Any] = {}


def loaded_llama() -> Any:
    """The model with its checks made, which take longer than the scoring."""
    if "loaded" not in _once:
        _once["loaded"] = scorer_of(shared_llama()).model
    return _once["loaded"]


def double_llama() -> Any:
    if "double" not in _once:
        _once["double"] = new_llama().double()
    return _once["double"]


def test_branches_from_every_height_of_a_long_prefix() -> None:
    """What hangs on the upper part of a kept path sees the keys of that part alone, whichever nodes are kept."""
    ids = np.random.default_rng(1).integers(10, 60, 60).tolist()
    pairs = [(ids[:end], [tail, 7]) for end in range(2, 60, 3) for tail in (5, 6)]
    batch = instsel.score_batch(scorer_of(shared_llama(), 17), pairs)
    want = token_logprobs_one_by_one(shared_llama(), pairs)
    assert np.abs(batch.mean_logprob - [w.mean() for w in want]).max() < TOLERANCE
    assert batch.stats.tokens_forwarded == distinct_prefixes(pairs)


def test_each_pair_and_each_head_row_is_computed_once(scorer: instsel.Scorer) -> None:
    prompt = [5, 6, 7]
    pairs = [(prompt, [target]) for target in range(10, 30)] + [(prompt, [10])] * 5
    stats = instsel.score_batch(scorer, pairs).stats
    assert (stats.tokens_forwarded, stats.head_rows, stats.pairs) == (3, 1, 20)
    assert stats.sequences == 25
    assert stats.sharing_factor == 25
    assert (stats + stats).pairs == 40


def test_plan_says_what_the_run_then_takes(scorer: instsel.Scorer) -> None:
    pairs = tree_requests(np.random.default_rng(1))
    plan = plan_batch(scorer, pairs)
    stats = instsel.score_batch(scorer, pairs).stats
    assert (plan.tokens_forwarded, plan.tokens_unshared) == (stats.tokens_forwarded, stats.tokens_unshared)
    assert (plan.packs, plan.head_rows) == (stats.packs, stats.head_rows)
    assert plan.estimated_flops > 2 * 3 * 64 * 96 * 3 * stats.tokens_forwarded  # the feed-forward products alone


def test_the_same_call_gives_the_same_bits(scorer: instsel.Scorer) -> None:
    pairs = tree_requests(np.random.default_rng(2))
    first, second = (instsel.score_batch(scorer, pairs, token_logprobs=True) for _ in range(2))
    assert first.mean_logprob.tobytes() == second.mean_logprob.tobytes()
    assert first.token_logprobs is not None and second.token_logprobs is not None
    assert b"".join(x.tobytes() for x in first.token_logprobs) == b"".join(x.tobytes() for x in second.token_logprobs)


@pytest.mark.long
@pytest.mark.skipif(not has_bfloat16_products(), reason="needs a processor with bfloat16 arithmetic")
def test_bfloat16_gives_the_same_bits_in_packs_of_any_size() -> None:
    """Every product, attention and log-sum-exp of a row is the same, whatever rows come with it."""
    pairs = tree_requests(np.random.default_rng(3))
    models = {name: new_llama().bfloat16() for name in ("auto", "reference")}
    bits = {
        name: [
            instsel.score_batch(scorer_of(model, budget, dtype="bfloat16", backend=name), pairs).mean_logprob.tobytes()
            for budget in (7, 48, 200, 4096)
        ]
        for name, model in models.items()
    }
    assert len(set(bits["auto"])) == 1
    assert len(set(bits["reference"])) > 1, "a control: attention by torch's own products depends on their sizes"


def test_the_models_state_is_restored_when_a_run_is_interrupted() -> None:
    model = new_llama()
    scorer = scorer_of(model, 16)
    implementation = model.config._attn_implementation

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        instsel.score_batch(scorer, tree_requests(np.random.default_rng(3)), progress=stop)
    assert model.config._attn_implementation == implementation
    pairs = tree_requests(np.random.default_rng(3))
    assert np.abs(instsel.score_batch(scorer, pairs).mean_logprob - means_one_by_one(model, pairs)).max() < TOLERANCE


def test_progress_ends_at_the_total(scorer: instsel.Scorer) -> None:
    seen: list[tuple[int, int]] = []
    pairs = tree_requests(np.random.default_rng(4))
    instsel.score_batch(scorer, pairs, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (distinct_prefixes(pairs),) * 2
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float64(dtype: str) -> None:
    """At most twice as far off as the model's own code in that dtype, run one by one (and a little more for chance)."""
    pairs = tree_requests(np.random.default_rng(5))
    want = means_one_by_one(new_llama(), pairs)
    model = new_llama().to(getattr(torch, dtype))
    own = np.abs(means_one_by_one(model, pairs, float64=False) - want).max()
    got = instsel.score_batch(scorer_of(model, 64, dtype=dtype), pairs)
    assert got.status.tolist() == ["ok"] * len(pairs)
    assert np.abs(got.mean_logprob - want).max() <= 2 * own + torch.finfo(getattr(torch, dtype)).eps


# --- statuses -----------------------------------------------------------------------------------------------------


def test_each_row_gets_its_status_and_no_number_that_is_not_a_score(scorer: instsel.Scorer) -> None:
    rng = np.random.default_rng(6)
    long = random_ids(rng, CONTEXT, CONTEXT + 1)
    pairs = [([5, 6], [7]), ([5, 6], []), (long, [5]), (long[:-1], [5]), ([], []), ([5], [6, 7])]
    batch = instsel.score_batch(scorer, pairs, token_logprobs=True)
    assert batch.status.tolist() == ["ok", "empty_target", "too_long", "ok", "empty_target", "ok"]
    assert set(batch.status.tolist()) <= set(STATUSES)
    good = batch.status == "ok"
    assert (np.isfinite(batch.mean_logprob) == good).all()
    assert (np.isfinite(batch.sum_logprob) == good).all()
    assert not batch.is_greedy[~good].any()
    assert batch.token_logprobs is not None
    assert [len(x) for x in batch.token_logprobs] == [1, 0, 0, 1, 0, 2]
    scored = [pairs[i] for i in np.flatnonzero(good)]
    assert np.abs(batch.mean_logprob[good] - means_one_by_one(shared_llama(), scored)).max() < TOLERANCE


def test_max_length_counts_context_and_continuation(scorer: instsel.Scorer) -> None:
    pairs = [([5, 6, 7], [8]), ([5, 6, 7], [8, 9])]
    assert instsel.score_batch(scorer, pairs, max_length=4).status.tolist() == ["ok", "too_long"]
    assert instsel.score_batch(scorer, pairs, max_length=10**9).status.tolist() == ["ok", "ok"]


def test_no_requests_at_all(scorer: instsel.Scorer) -> None:
    batch = instsel.score_batch(scorer, [], token_logprobs=True)
    assert len(batch) == 0
    assert batch.token_logprobs == []
    assert batch.stats.tokens_forwarded == batch.stats.packs == 0
    assert batch.stats.sharing_factor == 1


def test_an_empty_context_is_the_models_bos_or_else_its_eos(scorer: instsel.Scorer) -> None:
    (got,) = instsel.score_batch(scorer, [([], [9, 10])]).mean_logprob
    assert abs(got - means_one_by_one(shared_llama(), [([1], [9, 10])])[0]) < TOLERANCE
    without_bos = new_llama(bos_token_id=None)
    (got,) = instsel.score_batch(scorer_of(without_bos), [([], [9, 10])]).mean_logprob
    assert abs(got - means_one_by_one(without_bos, [([2], [9, 10])])[0]) < TOLERANCE
    with pytest.raises(ValueError, match=r"requests\[1\]"):
        neither = new_llama(bos_token_id=None, eos_token_id=None)
        instsel.score_batch(scorer_of(neither), [([5], [6]), ([], [9, 10])])


# --- arg max ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_greedy_continuations_are_found(scorer: instsel.Scorer) -> None:
    model, rng = shared_llama(), np.random.default_rng(7)
    pairs = []
    for _ in range(12):
        ids = random_ids(rng, 3, 9)
        context = list(ids)
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        pairs += [(context, ids[len(context) :]), (context, [*ids[len(context) : -1], (ids[-1] + 1) % VOCABULARY])]
    assert instsel.score_batch(scorer, pairs).is_greedy.tolist() == [True, False] * 12


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_equal_logits_the_lowest_token_is_the_arg_max(backend: str, dtype: str) -> None:
    """As torch.argmax has it; all logits of a head of zeros are equal."""
    model = new_llama(tie_word_embeddings=False)
    torch.nn.init.zeros_(model.lm_head.weight)
    batch = instsel.score_batch(scorer_of(model, backend=backend, dtype=dtype), [([5], [0]), ([5], [1]), ([5], [210])])
    assert batch.is_greedy.tolist() == [True, False, False]
    assert np.allclose(batch.mean_logprob, -np.log(VOCABULARY), atol=1e-6)
