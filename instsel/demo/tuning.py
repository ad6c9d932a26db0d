"""Fine-tuning on selected rows, and what the tuned model makes of rows that it has not seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsel.prompts.building import Row

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pair = tuple[list[int], list[int]]  # token ids of a prompt and of its answer
IGNORED = -100  # of cross_entropy: a token without a loss
WARM_UP = 0.1  # of the steps, in which the learning rate rises; then it falls to nothing along a line


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a model makes of rows that it was not tuned on.

    loss   nats a token: mean negative log-likelihood over all tokens of the answers
    exact  share of the rows whose whole answer is what greedy decoding writes
    """

    loss: float
    exact: float


def product_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    *,
    scaling: float,
    **ignored: object,
) -> tuple[Tensor, None]:
    """Causal attention as two batched matrix products, in the form that transformers calls.

    On short sequences its backward pass takes half the time of the fused CPU kernel's. `query`, `key` and `value` are
    [batch, heads, length, size]; gives [batch, length, heads, size].
    """
    import torch

    batch, heads, length, _ = query.shape
    mask = torch.full((length, length), float("-inf"), dtype=query.dtype).triu(1).expand(batch * heads, -1, -1)
    flat_query, flat_key, flat_value = (part.reshape(batch * heads, length, -1) for part in (query, key, value))
    weights = torch.baddbmm(mask, flat_query, flat_key.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights, flat_value).view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


def encode_rows(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], template: str = "plain") -> list[Pair]:
    """Token ids of prompt and answer of each row, as the methods would score them."""
    from instsel.prompts import build_request_ids

    return [build_request_ids(tokenizer, row, template=template) for row in rows]


def tune(
    model: PreTrainedModel,
    pairs: Sequence[Pair],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    after_step: Callable[[], object] = lambda: None,
) -> PreTrainedModel:
    """Tune a model in place on the answers of `pairs`, the loss being the mean over the answers' tokens of a batch.

    AdamW on the parameters that ask for gradients, in float32 with products in bfloat16; the learning rate rises over
    the first tenth of the steps and then falls to nothing. The rows are shuffled anew each time that all of them have
    been seen. `after_step` is called after each. Returns the model.
    """
    import torch

    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    rows = shuffled(len(pairs), seed)
    model.train()
    for step in range(steps):
        place = (step + 1) / (steps + 1)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(place / WARM_UP, (1 - place) / (1 - WARM_UP))
        ids, targets = padded([pairs[next(rows)] for _ in range(batch_size)], model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            logits = answer_logits(model, ids, targets)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets[targets != IGNORED])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        after_step()
    return model.eval()


def held_out(model: PreTrainedModel, pairs: Sequence[Pair], *, batch_size: int = 32) -> HeldOut:
    """Loss and exact answers of a model on `pairs`, by plain forwards, products in bfloat16 as in tuning."""
    import torch

    total = tokens = exact = 0.0
    order = sorted(range(len(pairs)), key=lambda row: sum(map(len, pairs[row])))
    for start in range(0, len(order), batch_size):
        batch = [pairs[row] for row in order[start : start + batch_size]]
        ids, targets = padded(batch, model.device)
        with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
            logprobs = answer_logits(model, ids, targets).float().log_softmax(-1)
        wanted = targets[targets != IGNORED]
        total -= float(logprobs.gather(1, wanted[:, None]).sum())
        tokens += len(wanted)
        right = (logprobs.argmax(-1) == wanted).split([len(answer) for _, answer in batch])
        exact += sum(bool(part.all()) for part in right)
    return HeldOut(loss=total / tokens, exact=exact / len(pairs))


def answer_logits(model: PreTrainedModel, ids: Tensor, targets: Tensor) -> Tensor:
    """Logits [m, vocabulary] before each of the m answer tokens of a batch, row after row."""
    mask = (ids != IGNORED).long()
    return model(input_ids=ids.clamp(min=0), attention_mask=mask, use_cache=False).logits[targets != IGNORED]


def padded(batch: Sequence[Pair], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids int64 [count, width] of prompts with answers, `IGNORED` behind them, and what each place is to predict."""
    import torch

    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = np.full((len(batch), width), IGNORED)
    targets = np.full((len(batch), width), IGNORED)
    for line, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        ids[line, :end] = prompt + answer
        targets[line, len(prompt) - 1 : end - 1] = answer
    return torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device)


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Rows in random order, again and again, each time in another one."""
    rng = random.Random(f"order of rows {seed}")
    while True:
        order = list(range(count))
        rng.shuffle(order)
        yield from order
