"""Requests as planned work, and running that work step by step through a model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from instsel.engine.attention import Kept, Place
from instsel.engine.guest import Guest
from instsel.engine.layout import Layout, ScoredSpans, find_spans, lay_out
from instsel.engine.packing import Step, plan_steps, split_step
from instsel.engine.prefix_tree import PrefixTree, build_prefix_tree
from instsel.engine.processors import sleeping_waits
from instsel.engine.side_by_side import SideBySide, packs_at_once
from instsel.engine.turns import turn

OUT_OF_MEMORY_TEXT = ("can't allocate memory", "out of memory")


@dataclass(frozen=True, slots=True)
class Work:
    """Sequences that run the same way: as a tree of shared prefixes, or each by itself."""

    tree: PrefixTree
    spans: ScoredSpans
    steps: list[Step]
    alone: bool

    @property
    def num_tokens(self) -> int:
        """Tokens to forward."""
        return self.tree.num_tokens

    def last_token(self, node: int) -> int:
        """Of the sequence that ends in a node; no part of the tree, since nothing is predicted from it."""
        return int(self.tree.tokens[self.tree.offsets[self.tree.source[node] + 1] - 1])

    def head_rows(self) -> int:
        """Distinct rows of which some token is scored: the union of each node's spans."""
        spans = self.spans
        if not len(spans.sequence):
            return 0
        node = np.repeat(np.arange(len(self.tree.parent)), np.diff(spans.by_node))
        order = np.lexsort((spans.first, node))
        # Nodes are set apart by more than any row number, so that one running maximum serves all of them.
        shift = node[order] * (int(spans.last.max()) + 1)
        first, last = spans.first[order] + shift, spans.last[order] + shift
        reached = np.concatenate([[0], np.maximum.accumulate(last)[:-1]])
        return int(np.maximum(last - np.maximum(first, reached), 0).sum())


def plan_work(
    tokens: np.ndarray, offsets: np.ndarray, first_scored: np.ndarray, budget: int, shareable_length: int | None
) -> list[Work]:
    """Work for all sequences; those longer than `shareable_length` (where there is such a limit) run alone.

    Sequences with `first_scored` 0 have nothing to score and are left out.
    """
    lengths = np.diff(offsets)
    wanted = first_scored > 0
    together = wanted if shareable_length is None else wanted & (lengths <= shareable_length)
    work = []
    for chosen, alone in ((together, False), (wanted & ~together, True)):
        if not chosen.any():
            continue
        # A sequence that is not chosen keeps its place, with no tokens to forward.
        tree = build_prefix_tree(tokens, offsets, share=not alone, chosen=chosen)
        work.append(Work(tree, find_spans(tree, first_scored), plan_steps(tree, budget, alone=alone), alone))
    return work


class _Pack(NamedTuple):
    """What running one step gives."""

    finish: Callable[[], None]
    kept: dict[int, Kept]


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out: on a GPU torch.OutOfMemoryError, on a CPU a RuntimeError that only its text tells."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        text in str(error) for text in OUT_OF_MEMORY_TEXT
    )


def _release(step: Step, caches: dict[int, Kept]) -> None:
    for node in step.release:
        caches.pop(node, None)


class Execution:
    """Runs work within a token budget that shrinks when memory runs out.

    `consume(layout, rows)` is called with the output rows of each step and gives a function that is called once the
    next step has been started, so that reading results back does not leave a GPU waiting; `fail(sequences)` with the
    sequences that do not fit into memory even by themselves; `progress(tokens)` after each step. Where packs may run
    side by side `consume` is called in their threads; all else in the one that runs the work, in the order of steps.
    """

    def __init__(
        self,
        model: Guest,
        *,
        logits: bool,
        consume: Callable[[Layout, Tensor], Callable[[], None]],
        fail: Callable[[np.ndarray], None],
        progress: Callable[[int], None],
    ) -> None:
        self.model = model
        self.logits = logits
        self.consume = consume
        self.fail = fail
        self.progress = progress
        self.budget: int | None = None  # set when memory ran out: what fitted since
        self.tokens_forwarded = 0
        self.packs = 0
        with model.undisturbed():  # with as many threads as there will be
            self._at_once = packs_at_once(model)
        self._side_by_side = SideBySide(model, self._at_once)
        self._finish: Callable[[], None] | None = None  # of the latest step

    def run(self, work: Work) -> None:
        """All steps of one piece of work."""
        caches: dict[int, Kept] = {}
        lost: set[int] = set()
        queue = deque(work.steps)
        with self.model.undisturbed(), self.model.ready(alone=work.alone):
            self._drain(work, queue, caches, lost)
            self._finish_latest()

    def _finish_latest(self) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish()

    def _drain(self, work: Work, queue: deque[Step], caches: dict[int, Kept], lost: set[int]) -> None:
        while queue:
            step = queue.popleft()
            if lost.intersection(step.cached):
                self._give_up(work, step, lost)
                continue
            again: list[Step] = []
            if self.budget is not None and step.num_tokens > self.budget:
                again = split_step(work.tree, step, self.budget)
            if not again:
                steps = [step, *self._beside(work, queue, caches)]
                again = self._attempt(work, steps, caches)
                if again and len(steps) > 1:
                    self._at_once = 1  # each by itself they may fit
                elif again:
                    again = self._with_less(work, step, caches, lost)
            queue.extendleft(reversed(again))

    def _beside(self, work: Work, queue: deque[Step], caches: dict[int, Kept]) -> list[Step]:
        """Steps of the queue that may run at the same time, taken from it: none that waits for another of them."""
        steps: list[Step] = []
        while queue and not work.alone and len(steps) + 1 < self._at_once:
            following = queue[0]
            if any(node not in caches for node in following.cached):
                break
            if self.budget is not None and following.num_tokens > self.budget:
                break
            steps.append(queue.popleft())
        return steps

    def _with_less(self, work: Work, step: Step, caches: dict[int, Kept], lost: set[int]) -> list[Step]:
        """What becomes of a step that memory did not suffice for: smaller ones, or another attempt."""
        # The failed forward's tensors are gone by now; here the last pack's go too.
        self._finish_latest()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        half = max(step.num_tokens // 2, 1)
        self.budget = half if self.budget is None else min(self.budget, half)
        smaller = split_step(work.tree, step, self.budget)
        # A node cannot be split, and every sequence below it would be lost: it gets a second chance.
        if not smaller and self._attempt(work, [step], caches):
            self._give_up(work, step, lost)
            _release(step, caches)
        return smaller

    def _attempt(self, work: Work, steps: list[Step], caches: dict[int, Kept]) -> list[Step]:
        """Runs steps at once; those that memory did not suffice for."""
        tasks = [partial(self._run, work, step, [caches[node] for node in step.cached]) for step in steps]
        with turn(), sleeping_waits():  # a pack at a time, as others come and go
            if len(steps) > 1 and not self._reserve(work, steps):
                return steps
            done = self._side_by_side.run(tasks)
        failed: list[Step] = []
        for step, pack in zip(steps, done, strict=True):
            if pack is None:
                failed.append(step)
                continue
            self._finish_latest()
            self._finish = pack.finish
            caches.update(pack.kept)
            self.tokens_forwarded += step.num_tokens
            self.packs += 1
            self.progress(step.num_tokens)
            if failed:  # which may still need what this one would let go
                failed[-1] = replace(failed[-1], release=(*failed[-1].release, *step.release))
            else:
                _release(step, caches)
        return failed

    def _reserve(self, work: Work, steps: list[Step]) -> bool:
        """Memory for steps that are to run at once; False if there is not so much."""
        try:
            for step, place in zip(steps, self._side_by_side.places, strict=False):
                self.model.reserve(place, step.num_tokens, sum(int(work.tree.lengths[node]) for node in step.cached))
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            return False
        return True

    def _run(self, work: Work, step: Step, cached: list[Kept], place: Place) -> _Pack | None:
        """One pack, in whatever thread; None if memory ran out."""
        try:
            layout = lay_out(work.tree, work.spans, step)
            if work.alone:
                following = work.last_token(int(step.nodes[-1]))
                rows = self.model.forward_alone(layout.ids, layout.rows, logits=self.logits, following=following)
                return _Pack(self.consume(layout, rows), {})
            rows, state = self.model.forward_pack(layout, cached, logits=self.logits, place=place)
            return _Pack(self.consume(layout, rows), state.keys_values)
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            return None

    def _give_up(self, work: Work, step: Step, lost: set[int]) -> None:
        """No sequence that ends in these nodes can be scored, nor any below the ones that were to be kept."""
        lost.update(step.keep)
        self.fail(np.flatnonzero(np.isin(work.tree.terminal, step.nodes)))
        self.progress(step.num_tokens)
