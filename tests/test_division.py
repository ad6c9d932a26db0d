"""Requests divided among workers: every one once, shared prefixes kept together, parts of equal work."""

import numpy as np
import pytest

from instsel.parallel.division import divide
from instsel.planning.prefix_tree import build_prefix_tree, concatenate


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
