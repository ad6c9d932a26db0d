"""How one call's sequences are divided among workers: in equal parts, shared prefixes kept together."""

from __future__ import annotations

import numpy as np

from instsel.planning.prefix_tree import PrefixTree


def divide(tree: PrefixTree, chosen: np.ndarray, shares: int) -> list[np.ndarray]:
    """Indices of the chosen sequences in `shares` parts of about equal tree tokens, shared prefixes kept together.

    A subtree of more than an eighth of a share is divided among its children if its own tokens, which each part then
    forwards anew, are few beside theirs (such as a BOS before everything, but not the demonstration of one group).
    """
    sizes = tree.subtree_tokens()
    limit = tree.num_tokens / (8 * shares)
    whole: list[int] = []
    divided: list[int] = []
    nodes = tree.roots().tolist()
    while nodes:
        node = nodes.pop()
        children = tree.children(node)
        if children and sizes[node] > limit and tree.lengths[node] * shares < sizes[node] / 4:
            divided.append(node)
            nodes += children
        else:
            whole.append(node)
    owner = np.full(len(tree.parent), -1, np.int64)
    load = [0] * shares
    for node in sorted(whole, key=lambda node: (-int(sizes[node]), node)):
        share = load.index(min(load))
        load[share] += int(sizes[node])
        owner[node : tree.subtree_end[node]] = share
    for node in sorted(divided, reverse=True):  # a sequence that ends here goes with the first child, which follows it
        owner[node] = owner[node + 1]
    sequences = np.flatnonzero(chosen & (tree.terminal >= 0))
    owners = owner[tree.terminal[sequences]]
    return [sequences[owners == share] for share in range(shares)]
