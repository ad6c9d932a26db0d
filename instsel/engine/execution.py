"""Planned trees run pack by pack: what a pack gives is read once the next is under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from instsel.engine.inference_lock import inference_lock
from instsel.engine.kept_states import KeptStates
from instsel.engine.model_session import ModelSession
from instsel.engine.processors import sleeping_waits
from instsel.engine.side_by_side import SideBySide, packs_at_once
from instsel.layers.attention import NodeCache, Workspace
from instsel.planning.layout import Layout, lay_out
from instsel.planning.packing import Step, split_step
from instsel.planning.planned_tree import PlannedTree

# What is wanted of a pack's output rows, on its way to the host: a function that waits for the numbers.
Output = Callable[[Layout, Tensor], Callable[[], np.ndarray]]

OUT_OF_MEMORY_TEXT = ("can't allocate memory", "out of memory")


class _Pack(NamedTuple):
    """A pack that was given to the model."""

    layout: Layout
    read: Callable[[], np.ndarray] | None  # None where no row of it is scored
    kept: dict[int, NodeCache]


def _is_of_memory(error: Exception) -> bool:
    """Whether memory ran out: on a GPU torch.OutOfMemoryError, on a CPU a RuntimeError that only its text tells."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        text in str(error) for text in OUT_OF_MEMORY_TEXT
    )


class Execution:
    """Runs planned trees in packs within a token budget that shrinks when memory runs out.

    `output(layout, rows)` is asked for each pack with scored rows: in the thread of the pack, where several run side by
    side. All else, `progress(tokens)` after each pack too, is in the thread that takes the results.

    failed  bool [sequences]: which do not fit into memory even by themselves
    budget  what fitted since memory ran out; None where it did not
    """

    def __init__(
        self,
        session: ModelSession,
        trees: Sequence[PlannedTree],
        output: Output,
        *,
        sequences: int,
        logits: bool,
        progress: Callable[[int], None],
    ) -> None:
        self.session = session
        self.trees = trees
        self.output = output
        self.logits = logits
        self.progress = progress
        self.failed = np.zeros(sequences, bool)
        self.budget: int | None = None
        self.tokens_forwarded = 0
        self.packs = 0
        with session.inference_context():  # with as many threads as there will be
            self._at_once = packs_at_once(session)
        self._side_by_side = SideBySide(session, self._at_once)

    def results(self) -> Generator[tuple[Layout, np.ndarray], None, None]:
        """Each pack's layout and numbers, read once the next pack is under way, so that no GPU waits for the reader."""
        latest: _Pack | None = None
        with closing(self._launched()) as launched:
            for pack in launched:
                if latest is not None and latest.read is not None:
                    yield latest.layout, latest.read()
                latest = pack

    def _launched(self) -> Generator[_Pack | None, None, None]:
        """The packs as they are given to the model; None where what is under way is to be read before the next."""
        for planned in self.trees:
            with self.session.inference_context(), self.session.ready(alone=planned.alone):
                yield from self._launched_of(planned)
                yield None

    def _launched_of(self, planned: PlannedTree) -> Iterator[_Pack | None]:
        queue = deque(planned.steps)
        caches: dict[int, NodeCache] = {}
        states = KeptStates(planned.tree) if planned.state_tokens else None
        lost: set[int] = set()  # nodes below which nothing can be scored
        tried: Step | None = None  # which memory did not suffice for
        while queue:
            step = queue.popleft()
            if lost.intersection(step.cached):
                self._give_up(planned, step, lost)
                continue
            if self.budget is not None and step.num_tokens > self.budget:
                smaller = split_step(planned.tree, step, self.budget, planned.state_tokens)
                if smaller:
                    queue.extendleft(reversed(smaller))
                    continue
            steps = [step] if step is tried else [step, *self._concurrent_steps(planned, queue, caches)]
            packs = self._run_steps(planned, steps, caches)
            failed = _update(caches, states, steps, packs)
            for done, pack in zip(steps, packs, strict=True):
                if pack is not None:
                    yield pack
                    self.tokens_forwarded += done.num_tokens
                    self.packs += 1
                    self.progress(done.num_tokens)
            if failed and len(steps) > 1:
                self._at_once = 1  # each by itself they may fit
            elif failed:
                yield None  # the failed forward's tensors are gone by now; so the last pack's go too
                if step is tried:
                    self._give_up(planned, step, lost)
                    _release(step, caches)
                    continue
                # It comes back in parts. A node has none, and every sequence below it would be lost: a second chance.
                tried = step
                self._lessen_budget(step)
            queue.extendleft(reversed(failed))

    def _concurrent_steps(self, planned: PlannedTree, queue: deque[Step], caches: dict[int, NodeCache]) -> list[Step]:
        """Steps of the queue that may run at the same time, taken from it: none that waits for another of them."""
        steps: list[Step] = []
        while queue and not planned.alone and len(steps) + 1 < self._at_once:
            following = queue[0]
            if any(node not in caches for node in following.cached):
                break
            if self.budget is not None and following.num_tokens > self.budget:
                break
            steps.append(queue.popleft())
        return steps

    def _lessen_budget(self, step: Step) -> None:
        if self.session.device.type == "cuda":
            torch.cuda.empty_cache()
        half = max(step.num_tokens // 2, 1)
        self.budget = half if self.budget is None else min(self.budget, half)

    def _run_steps(self, planned: PlannedTree, steps: list[Step], caches: dict[int, NodeCache]) -> list[_Pack | None]:
        """The packs of steps that run at once; None for those that memory did not suffice for."""
        tasks = [partial(self._run_pack, planned, step, [caches[node] for node in step.cached]) for step in steps]
        with inference_lock(), sleeping_waits():  # a pack at a time, as others come and go
            if len(steps) > 1 and not self._reserve(planned, steps):
                return [None] * len(steps)
            return self._side_by_side.run_packs(tasks)

    def _reserve(self, planned: PlannedTree, steps: list[Step]) -> bool:
        """Memory for steps that are to run at once; False if there is not so much."""
        lengths = planned.tree.lengths
        try:
            for step, workspace in zip(steps, self._side_by_side.workspaces, strict=False):
                self.session.reserve(workspace, step.num_tokens, sum(int(lengths[node]) for node in step.cached))
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            return False
        return True

    def _run_pack(
        self, planned: PlannedTree, step: Step, cached: list[NodeCache], workspace: Workspace
    ) -> _Pack | None:
        """One pack, in whatever thread; None if memory ran out."""
        try:
            layout = lay_out(planned.tree, planned.spans, step)
            if planned.alone:
                following = planned.last_token(int(step.nodes[-1]))
                rows = self.session.forward_alone(layout.ids, layout.rows, logits=self.logits, following=following)
                kept: dict[int, NodeCache] = {}
            else:
                rows, state = self.session.forward_pack(layout, cached, logits=self.logits, workspace=workspace)
                kept = state.keys_values
            return _Pack(layout, self.output(layout, rows) if len(layout.rows) else None, kept)
        except (MemoryError, RuntimeError) as error:
            if not _is_of_memory(error):
                raise
            return None

    def _give_up(self, planned: PlannedTree, step: Step, lost: set[int]) -> None:
        """No sequence that ends in these nodes can be scored, nor any below the ones that were to be kept."""
        lost.update(step.keep)
        self.failed |= np.isin(planned.tree.terminal, step.nodes)
        self.progress(step.num_tokens)


def _update(
    caches: dict[int, NodeCache], states: KeptStates | None, steps: list[Step], packs: list[_Pack | None]
) -> list[Step]:
    """Takes what packs have kept and lets go of what no step needs any more; gives the steps that have no pack."""
    failed: list[Step] = []
    for step, pack in zip(steps, packs, strict=True):
        if pack is None:
            failed.append(step)
            continue
        caches.update(pack.kept)
        if states is not None:
            states.ran(step, caches)
        if failed:  # which may still need what this one would let go
            failed[-1] = replace(failed[-1], release=(*failed[-1].release, *step.release))
        else:
            _release(step, caches)
    return failed


def _release(step: Step, caches: dict[int, NodeCache]) -> None:
    for node in step.release:
        caches.pop(node, None)
