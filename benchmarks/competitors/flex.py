"""Packs of groups with a shared prefix each, run by transformers' FlexAttention; logits for the rows needed only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel
from workloads import Workload

from competitors.packs import Pack, packs_of

BATCH_SIZES = (1024, 2048, 4096)  # tokens of a pack
GPU_BATCH_SIZES = (8192, 16_384)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Plans the packs, all padded to one length so that one mask kernel is compiled, and compiles."""
    packs = packs_of(work, batch_size)
    model.set_attn_implementation("flex_attention")
    lengths = np.array([len(continuation) for _, continuation in work.requests])

    def score() -> np.ndarray:
        total = np.zeros(len(work))
        for pack in packs:
            np.add.at(total, pack.requests, _logprobs(model, pack, -(-len(pack.ids) // batch_size) * batch_size))
        return total / lengths

    return score


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, pack: Pack, length: int) -> np.ndarray:
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
