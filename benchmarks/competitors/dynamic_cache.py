"""transformers with the shared prefix's `DynamicCache` expanded over padded batches of suffixes.

What a good engineer writes in an afternoon, who knows which prefix each group of requests shares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from workloads import Workload

from competitors.padded import mean_of_targets, pad, score_padded

BATCH_SIZES = (2, 4, 8, 16)
GPU_BATCH_SIZES = (8, 16, 32, 64)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Groups by shared prefix; the prefix's last token goes with the suffixes, whose first token it predicts."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    rest: list[int] = []
    for i, ((context, continuation), shared) in enumerate(zip(work.requests, work.shared, strict=True)):
        if shared > 1:
            groups[tuple((context + continuation)[:shared])].append(i)
        else:
            rest.append(i)

    @torch.inference_mode()
    def score() -> np.ndarray:
        scores = np.zeros(len(work))
        scores[rest] = score_padded(model, [work.requests[i] for i in rest], batch_size)
        for prefix, members in groups.items():
            _score_group(model, work, list(prefix), members, batch_size, scores)
        return scores

    return score


def _score_group(
    model: PreTrainedModel, work: Workload, prefix: list[int], members: list[int], batch_size: int, scores: np.ndarray
) -> None:
    whole = [i for i in members if sum(map(len, work.requests[i])) == len(prefix)]  # the demonstration's own score
    ids = torch.tensor([prefix], device=model.device)
    kept = {} if whole else {"logits_to_keep": 1}
    out = model(input_ids=ids[:, :-1], use_cache=True, **kept)
    for i in whole:
        first = torch.tensor([len(work.requests[i][0]) - 1], device=model.device)
        scores[i] = mean_of_targets(out.logits, ids[:, 1:], torch.ones_like(ids[:, 1:]), first)[0]
    sequences = {i: work.requests[i][0] + work.requests[i][1] for i in members if i not in whole}
    suffixes = {i: sequence[len(prefix) - 1 :] for i, sequence in sequences.items()}
    order = sorted(suffixes, key=lambda i: -len(suffixes[i]))
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        cache = DynamicCache(
            [(layer.keys.expand(len(chosen), -1, -1, -1), layer.values.expand(len(chosen), -1, -1, -1))
             for layer in out.past_key_values.layers]
        )  # fmt: skip
        ids, mask = pad([suffixes[i] for i in chosen], model.device)
        before = torch.ones(len(chosen), len(prefix) - 1, dtype=mask.dtype, device=model.device)
        full = torch.cat([before, mask[:, :-1]], 1)
        logits = model(input_ids=ids[:, :-1], attention_mask=full, past_key_values=cache).logits
        first = torch.tensor([len(work.requests[i][0]) - len(prefix) for i in chosen], device=model.device)
        scores[chosen] = mean_of_targets(logits, ids[:, 1:], mask[:, 1:], first)
