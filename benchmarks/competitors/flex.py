"""Packs of groups with a shared prefix each, run by transformers' FlexAttention; logits for the rows needed only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel
from workloads import Workload

BATCH_SIZES = (1024, 2048, 4096)  # tokens of a pack
GPU_BATCH_SIZES = (8192, 16_384)


@dataclass(slots=True)
class _Pack:
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    member: list[int] = field(default_factory=list)  # -1 for a prefix, which the whole group sees
    rows: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)  # of each row


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Plans the packs, all padded to one length so that one mask kernel is compiled, and compiles."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, ((context, continuation), shared) in enumerate(zip(work.requests, work.shared, strict=True)):
        groups[tuple((context + continuation)[:shared]) if shared else (-1, i)].append(i)
    packs: list[_Pack] = [_Pack()]
    for number, members in enumerate(groups.values()):
        for part in _parts(work, members, batch_size):
            size = _tokens(work, part)
            if packs[-1].ids and len(packs[-1].ids) + size > batch_size:
                packs.append(_Pack())
            _append(packs[-1], work, part, number)
    model.set_attn_implementation("flex_attention")
    lengths = np.array([len(continuation) for _, continuation in work.requests])

    def score() -> np.ndarray:
        total = np.zeros(len(work))
        for pack in packs:
            np.add.at(total, pack.requests, _logprobs(model, pack, -(-len(pack.ids) // batch_size) * batch_size))
        return total / lengths

    return score


def _tokens(work: Workload, members: list[int]) -> int:
    shared = work.shared[members[0]]
    return shared + sum(max(sum(map(len, work.requests[i])) - shared - 1, 0) for i in members)


def _parts(work: Workload, members: list[int], budget: int) -> list[list[int]]:
    """A group in parts of at most `budget` tokens, its prefix repeated in each."""
    parts: list[list[int]] = [[]]
    for i in members:
        if parts[-1] and _tokens(work, [*parts[-1], i]) > budget:
            parts.append([])
        parts[-1].append(i)
    return parts


def _append(pack: _Pack, work: Workload, members: list[int], number: int) -> None:
    shared = work.shared[members[0]]
    begin = len(pack.ids)
    context, continuation = work.requests[members[0]]
    _extend(pack, (context + continuation)[:shared], 0, number, -1)
    for i in members:
        context, continuation = work.requests[i]
        sequence = context + continuation
        offset = len(pack.ids) - shared
        _extend(pack, sequence[shared:-1], shared, number, i)
        for position in range(len(context) - 1, len(sequence) - 1):
            pack.rows.append(position + (begin if position < shared else offset))
            pack.targets.append(sequence[position + 1])
            pack.requests.append(i)


def _extend(pack: _Pack, ids: list[int], start: int, group: int, member: int) -> None:
    pack.ids += ids
    pack.positions += range(start, start + len(ids))
    pack.group += [group] * len(ids)
    pack.member += [member] * len(ids)


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, pack: _Pack, length: int) -> np.ndarray:
    from torch.nn.attention.flex_attention import create_block_mask

    device = model.device
    fill = length - len(pack.ids)
    ids = torch.tensor([pack.ids + [0] * fill], device=device)
    positions = torch.tensor([pack.positions + [0] * fill], device=device)
    group = torch.tensor(pack.group + [-1] * fill, device=device)
    member = torch.tensor(pack.member + [-1] * fill, device=device)

    def visible(batch, head, query, key):
        related = (member[key] == -1) | (member[key] == member[query])
        return (query >= key) & (group[query] == group[key]) & related

    mask = create_block_mask(visible, None, None, length, length, device=device)
    hidden = model.get_decoder()(
        input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state[0]
    rows, index = torch.unique(torch.tensor(pack.rows, device=device), return_inverse=True)
    logprobs = torch.log_softmax(model.get_output_embeddings()(hidden[rows]).float(), -1)
    return logprobs[index, torch.tensor(pack.targets, device=device)].double().cpu().numpy()
