"""Scoring over several processes: the same numbers, every request once, shared prefixes kept together."""

import numpy as np
import pytest
from tiny_model import tiny_model_folder

import instsel
from instsel.engine.parallel import ParallelScorer, divide
from instsel.engine.prefix_tree import build_prefix_tree, concatenate


def groups(number, suffixes, prefix, suffix, *, bos=False, seed=0):
    random = np.random.default_rng(seed)
    sequences = []
    for _ in range(number):
        head = [0] * bos + random.integers(1, 250, prefix).tolist()
        sequences += [np.array(head + random.integers(1, 250, suffix).tolist(), np.int32) for _ in range(suffixes)]
    return sequences


def tree_tokens(sequences):
    return build_prefix_tree(*concatenate(sequences)).num_tokens if sequences else 0


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("shares", [1, 2, 3, 8])
def test_parts_are_balanced_and_forward_hardly_more_than_the_whole_tree(shares, bos):
    sequences = groups(40, 4, 30, 10, bos=bos)
    order = np.random.default_rng(1).permutation(len(sequences))
    sequences = [sequences[i] for i in order]
    parts = divide(build_prefix_tree(*concatenate(sequences)), np.ones(len(sequences), bool), shares)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(sequences)))
    costs = [tree_tokens([sequences[i] for i in part]) for part in parts]
    assert max(costs) <= 1.15 * sum(costs) / shares
    # Round robin over the requests, which splits the groups, forwards far more.
    naive = sum(tree_tokens(sequences[share::shares]) for share in range(shares))
    assert sum(costs) <= tree_tokens(sequences) + 8 * shares
    assert shares == 1 or naive > 1.3 * sum(costs)


def test_one_long_header_is_divided_among_its_questions():
    sequences = [np.concatenate([np.arange(1, 50), part]).astype(np.int32) for part in groups(200, 1, 20, 4)]
    parts = divide(build_prefix_tree(*concatenate(sequences)), np.ones(len(sequences), bool), 2)
    assert min(map(len, parts)) >= 90


def test_two_processes_give_the_scores_of_one_in_the_order_given():
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    requests = [("say the thing", " and the other"), ("", "alone"), ("nothing to score", ""), ("x" * 400, "too long")]
    requests += [(f"demonstration {i // 4}: the ring", f" answer {i} of the thing") for i in range(24)]
    expected = instsel.score_batch(scorer, requests, token_logprobs=True)
    assert sorted(set(expected.status)) == ["empty_target", "ok", "too_long"]
    with ParallelScorer(scorer, ["cpu", "cpu"]) as parallel:
        found = parallel.score_batch(requests, token_logprobs=True)
        none = parallel.score_batch([])
        with pytest.raises(ValueError, match="token ids"):
            parallel.score_batch([([5], [10**6])])
    assert found.status.tolist() == expected.status.tolist()
    assert found.num_tokens.tolist() == expected.num_tokens.tolist()
    assert found.is_greedy.tolist() == expected.is_greedy.tolist()
    np.testing.assert_allclose(found.mean_logprob, expected.mean_logprob, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.sum_logprob, expected.sum_logprob, rtol=1e-5)
    for ours, theirs in zip(found.token_logprobs, expected.token_logprobs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert found.stats.sequences == len(requests) and found.stats.pairs == expected.stats.pairs
    assert expected.stats.tokens_forwarded <= found.stats.tokens_forwarded < 1.3 * expected.stats.tokens_forwarded
    assert len(none) == 0


def test_what_cannot_run_elsewhere_is_refused():
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu")
    with pytest.raises(ValueError, match="devices"):
        ParallelScorer(scorer, [])
    with pytest.raises(ValueError, match="scorer: expected one made from a folder"):
        ParallelScorer(instsel.Scorer(scorer.model.model), ["cpu"])
