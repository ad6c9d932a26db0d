"""A prefix tree as steps that each fit a token budget.

A step is one forward: whole subtrees side by side, or, where a subtree does not fit, a path from its root downwards
(the spine) together with as many of the subtrees that hang on it as fit. The spine's keys and values are then kept
and what else hangs on it runs against them in later steps, so that no token is forwarded twice.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from dataclasses import dataclass, replace

import numpy as np

from instsel.planning.prefix_tree import PrefixTree


@dataclass(frozen=True, slots=True)
class Step:
    """Nodes of one forward, in preorder."""

    nodes: np.ndarray  # int64, the nodes to forward
    num_tokens: int  # tokens to forward
    cached: tuple[int, ...] = ()  # a path from a root down whose keys and values earlier steps kept
    keep: tuple[int, ...] = ()  # nodes, continuing that path, whose keys and values later steps read
    release: tuple[int, ...] = ()  # nodes whose keys and values no later step reads


def plan_steps(tree: PrefixTree, budget: int, *, alone: bool = False, state_tokens: int = 0) -> list[Step]:
    """Steps that forward every token of the tree once, largest first.

    Where kept nodes have states of a recurrence, `state_tokens` is how many tokens of the budget one is worth: spines
    end where their nodes' states fill it, and what hangs on a spine runs before larger subtrees add states of theirs.

    A node longer than `budget` tokens makes a step of its own; with `alone` every root's subtree does, however small.
    """
    sizes = tree.subtree_tokens()
    if alone:
        units = tree.roots()
        return [_subtrees(tree, sizes, [unit], ()) for unit in units[np.argsort(-sizes[units], kind="stable")].tolist()]
    return _plan(tree, sizes, budget, tree.roots().tolist(), (), state_tokens)


def split_step(tree: PrefixTree, step: Step, budget: int, state_tokens: int = 0) -> list[Step]:
    """The same nodes in steps of at most `budget` tokens; an empty list if the step is one node and cannot be split."""
    if len(step.nodes) == 1:
        return []
    sizes = tree.subtree_tokens()
    inside = set(step.nodes.tolist())
    kept = set(step.keep)
    hanging = [
        n for n in inside if n not in kept and (int(tree.parent[n]) not in inside or int(tree.parent[n]) in kept)
    ]
    steps: list[Step] = []
    path = step.cached
    for part in _spine_parts(tree, step.keep, budget):
        steps.append(Step(np.array(part, np.int64), int(tree.lengths[list(part)].sum()), path, part))
        path = (*path, *part)
    steps += _plan(tree, sizes, budget, sorted(hanging), path, state_tokens)
    steps[-1] = replace(steps[-1], release=(*steps[-1].release, *step.release))
    return steps


def _plan(
    tree: PrefixTree, sizes: np.ndarray, budget: int, units: list[int], cached: tuple[int, ...], state_tokens: int
) -> list[Step]:
    """Steps for subtrees whose ancestors are all on the path `cached`.

    The work is a stack, not a recursion: a tree may be thousands of levels deep.
    """
    steps: list[Step] = []
    work: list[Step | int | tuple[int, ...]] = []  # a step to take, a subtree too large for one, nodes to release
    paths: dict[int, tuple[int, ...]] = {}

    def push(large: list[int], path: tuple[int, ...], packs: list[list[int]]) -> None:
        """Large subtrees run first, since their first steps are full; then the packs, largest first."""
        packs = sorted((p for p in packs if p), key=lambda pack: -int(sizes[pack].sum()))
        tasks: list[list[Step | int | tuple[int, ...]]] = [
            [_subtrees(tree, sizes, pack, path) for pack in reversed(packs)],
            [*reversed(large)],
        ]
        for part in reversed(tasks) if state_tokens else tasks:
            work.extend(part)
        # A subtree may hang higher up on the path: its own ancestors end at its parent.
        paths.update((unit, path[: path.index(int(tree.parent[unit])) + 1] if path else ()) for unit in large)

    small, large = _by_size(sizes, budget, units)
    push(large, cached, _best_fit(small, sizes[small].tolist(), budget, None))
    while work:
        task = work.pop()
        if isinstance(task, Step):
            steps.append(task)
        elif isinstance(task, tuple):
            steps[-1] = replace(steps[-1], release=(*steps[-1].release, *task))
        else:
            path = paths.pop(task)
            spine, hanging = _spine(tree, sizes, budget, task, state_tokens)
            if not hanging:
                steps.append(_subtrees(tree, sizes, [task], path))
                continue
            small, large = _by_size(sizes, budget, hanging)
            length = int(tree.lengths[list(spine)].sum())
            first, *packs = _best_fit(small, sizes[small].tolist(), budget, max(budget - length, 0))
            steps.append(_subtrees(tree, sizes, first, path, spine))
            work.append(spine)
            push(large, (*path, *spine), packs)
    return steps


def _spine(
    tree: PrefixTree, sizes: np.ndarray, budget: int, unit: int, state_tokens: int
) -> tuple[tuple[int, ...], list[int]]:
    """A path down from `unit` through subtrees too large for a step, as far as it fits, and what hangs on it."""
    spine = [unit]
    hanging: list[int] = []
    room = budget - int(tree.lengths[unit])
    while True:
        children = tree.children(spine[-1])
        room -= state_tokens if len(children) > 1 else 0  # a single child that is taken in goes on within the step
        below = [c for c in children if sizes[c] > budget and tree.lengths[c] <= room and tree.subtree_end[c] > c + 1]
        if not below:
            return tuple(spine), hanging + children
        child = max(below, key=lambda c: (int(sizes[c]), -c))
        hanging += [c for c in children if c != child]
        room -= int(tree.lengths[child])
        spine.append(child)


def _spine_parts(tree: PrefixTree, spine: tuple[int, ...], budget: int) -> list[tuple[int, ...]]:
    """A spine cut into runs of at most `budget` tokens (a node longer than that makes a run of its own)."""
    parts: list[tuple[int, ...]] = []
    room = 0
    for node in spine:
        length = int(tree.lengths[node])
        if parts and length <= room:
            parts[-1] = (*parts[-1], node)
        else:
            parts.append((node,))
            room = budget
        room -= length
    return parts


def _by_size(sizes: np.ndarray, budget: int, units: list[int]) -> tuple[list[int], list[int]]:
    """Subtrees that fit the budget, largest first, and those that do not, in preorder."""
    ids = np.array(sorted(units), np.int64)
    fits = sizes[ids] <= budget
    small = ids[fits]
    return small[np.argsort(-sizes[small], kind="stable")].tolist(), ids[~fits].tolist()


def _subtrees(
    tree: PrefixTree, sizes: np.ndarray, units: list[int], cached: tuple[int, ...], spine: tuple[int, ...] = ()
) -> Step:
    parts = [np.array(spine, np.int64), *(np.arange(unit, tree.subtree_end[unit]) for unit in units)]
    num_tokens = int(tree.lengths[list(spine)].sum() + sizes[units].sum())
    return Step(np.sort(np.concatenate(parts)), num_tokens, cached, spine)


def _best_fit(units: list[int], sizes: list[int], budget: int, first_room: int | None) -> list[list[int]]:
    """Units (largest first) in packs of at most `budget`, each into the fullest pack that has room for it.

    Where `first_room` is given the first pack has that much room and may stay empty.
    """
    packs: list[list[int]] = []
    rooms: list[int] = []  # the distinct amounts of room that some pack has, ascending
    with_room: dict[int, list[int]] = {}

    def put_back(pack: int, room: int) -> None:
        if room not in with_room:
            with_room[room] = []
            insort(rooms, room)
        heapq.heappush(with_room[room], pack)  # of several packs with equal room the earliest: a fixed order

    if first_room is not None:
        packs.append([])
        put_back(0, first_room)
    for unit, size in zip(units, sizes, strict=True):
        at = bisect_left(rooms, size)
        if at < len(rooms):
            room = rooms[at]
            pack = heapq.heappop(with_room[room])
            if not with_room[room]:
                del with_room[room], rooms[at]
        else:
            room = budget
            pack = len(packs)
            packs.append([])
        packs[pack].append(unit)
        put_back(pack, room - size)
    return packs
