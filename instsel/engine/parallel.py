"""Data parallel scoring: one process per device, each with its own copy of the model and its share of the tree."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from types import TracebackType

import numpy as np
import torch

from instsel.engine.prefix_tree import PrefixTree, build_prefix_tree
from instsel.engine.requests import Request, prepare
from instsel.engine.results import ScoreBatch, ScoreStats
from instsel.engine.scorer import Scorer, score_batch

_scorer: Scorer | None = None  # in a worker process: its own


class ParallelScorer:
    """A scorer on several devices: `with ParallelScorer(scorer, ["cuda:0", "cuda:1"]) as parallel: ...`.

    scorer   made from a folder or hub id, which every process loads for itself
    devices  one process each; the same one may be named several times, such as ["cpu", "cpu"]

    Raises ValueError for a scorer of a loaded model, or no devices. A process that dies raises BrokenProcessPool.
    """

    def __init__(self, scorer: Scorer, devices: Sequence[str]) -> None:
        if scorer.source.held is not None:
            raise ValueError("scorer: expected one made from a folder or hub id, which other processes can load")
        if not devices or isinstance(devices, str):
            raise ValueError(f"devices: expected a list of device names, got {devices!r}")
        self.scorer = scorer
        threads = max((os.cpu_count() or 1) // len(devices), 1)
        context = multiprocessing.get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=(_moved(scorer, device), threads))
            for device in devices
        ]

    def score_batch(
        self, requests: Iterable[Request], *, token_logprobs: bool = False, max_length: int | None = None
    ) -> ScoreBatch:
        """`instsel.score_batch` over all devices; the statistics' seconds are those that passed here."""
        began = time.perf_counter()
        prepared = prepare(self.scorer.tokenizer, self.scorer.outline, requests, max_length)
        first, offsets = prepared.first_scored, prepared.offsets
        tree = build_prefix_tree(prepared.tokens, offsets, chosen=first > 0)
        shares = divide(tree, first > 0, len(self._pools))
        futures = []
        for pool, share in zip(self._pools, shares, strict=True):
            ids = [prepared.tokens[offsets[i] : offsets[i + 1]] for i in share]
            split = [(s[:f].tolist(), s[f:].tolist()) for s, f in zip(ids, first[share].tolist(), strict=True)]
            futures.append(pool.submit(_score, split, token_logprobs))
        count = len(prepared)
        mean, total, status = np.full(count, np.nan), np.full(count, np.nan), prepared.status.copy()
        greedy, stats = np.zeros(count, bool), ScoreStats()
        arrays = [np.zeros(0, np.float32)] * count
        for share, future in zip(shares, futures, strict=True):
            part = future.result()
            mean[share], total[share] = part.mean_logprob, part.sum_logprob
            greedy[share], status[share] = part.is_greedy, part.status
            stats = stats + part.stats
            for i, values in zip(share.tolist(), part.token_logprobs or (), strict=False):
                arrays[i] = values
        stats = replace(stats, sequences=count, seconds=time.perf_counter() - began)
        return ScoreBatch(mean, total, prepared.num_tokens, greedy, status, arrays if token_logprobs else None, stats)

    def close(self) -> None:
        """Ends the processes."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ParallelScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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


def _moved(scorer: Scorer, device: str) -> Scorer:
    """A scorer of the same settings on another device, not loaded."""
    source = replace(scorer.source, device=device)
    return Scorer(
        source.model,
        tokenizer=source.tokenizer,
        device=device,
        dtype=source.dtype or "auto",
        backend=source.backend,
        max_batch_tokens=scorer.max_batch_tokens,
        revision=source.revision,
        trust_remote_code=source.trust_remote_code,
    )


def _start(scorer: Scorer, threads: int) -> None:
    global _scorer
    torch.set_num_threads(threads)
    _scorer = scorer


def _score(requests: list[Request], token_logprobs: bool) -> ScoreBatch:
    assert _scorer is not None
    return score_batch(_scorer, requests, token_logprobs=token_logprobs)
