"""Random models whose weights are spread wide enough that a wrong mask, row or position moves scores, and the truth."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

VOCABULARY = 211
CONTEXT = 256
Pair = tuple[list[int], list[int]]

transformers.utils.logging.set_verbosity_error()


def new_llama(*, seed: int = 0, **settings: Any) -> Any:
    """A Llama of 3 layers with grouped queries, float32."""
    torch.manual_seed(seed)
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.15,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(config | settings))).eval()


@functools.cache
def shared_llama() -> Any:
    """One Llama for the tests that do not change it."""
    return new_llama()


@torch.inference_mode()
def token_logprobs_one_by_one(model: Any, pairs: Sequence[Pair], *, float64: bool = True) -> list[np.ndarray]:
    """The truth: one forward per sequence by the model's own code, in float64 where its code allows."""
    if float64:
        model = copy.deepcopy(model).double()
    found = []
    for context, continuation in pairs:
        ids = torch.tensor([list(context) + list(continuation)])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].double()
        values = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0]
        found.append(values[len(context) - 1 :].numpy())
    return found


def means_one_by_one(model: Any, pairs: Sequence[Pair], *, float64: bool = True) -> np.ndarray:
    """Mean log-probability of each continuation, in nats a token."""
    return np.array([values.mean() for values in token_logprobs_one_by_one(model, pairs, float64=float64)])


def random_ids(rng: np.random.Generator, low: int, high: int, vocabulary: int = VOCABULARY) -> list[int]:
    """Between `low` and `high - 1` token ids, none of them special."""
    return rng.integers(3, vocabulary, rng.integers(low, high)).tolist()


def tree_requests(rng: np.random.Generator, vocabulary: int = VOCABULARY) -> list[Pair]:
    """Header, demonstrations, questions and answers, with a duplicate, a prefix of another, loners and a long path."""
    ids = functools.partial(random_ids, rng, vocabulary=vocabulary)
    header = ids(5, 20)
    pairs = []
    for _ in range(3):
        demonstration = header + ids(1, 30)
        for _ in range(3):
            question = demonstration + ids(0, 9)
            pairs += [(question, ids(1, 12)) for _ in range(rng.integers(1, 4))]
    pairs += [(ids(1, 5), ids(1, 40)), (ids(1, 30), ids(1, 2)), pairs[0], (pairs[1][0], pairs[1][1][:1])]
    pairs += [(header + ids(60, 61), ids(20, 21)), (header + ids(31, 32), ids(50, 51))]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def distinct_prefixes(pairs: Sequence[Pair]) -> int:
    """Tokens that have to be forwarded, counted by brute force: distinct prefixes that are not a whole sequence."""
    sequences = [tuple(context) + tuple(continuation) for context, continuation in pairs if continuation]
    return len({sequence[:end] for sequence in sequences for end in range(1, len(sequence))})
