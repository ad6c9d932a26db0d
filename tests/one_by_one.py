"""Log-probabilities of answers the slow way, as the truth for methods: float64, one sequence at a time, full logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class OneByOne:
    """A model in float64, with the prompts of the template "plain" written out by hand."""

    folder: str

    @cached_property
    def model(self) -> Any:
        """The model, with transformers' own plain attention."""
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float64, attn_implementation="eager")

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer, which adds no special tokens."""
        return AutoTokenizer.from_pretrained(self.folder)

    @torch.inference_mode()
    def token_logprobs(self, context: str, answer: str, end: list[int] | None = None) -> np.ndarray:
        """Of each token that carries a character of the answer, after BOS where nothing stands before it."""
        found = self.tokenizer(context + answer, return_offsets_mapping=True)
        ids, stops = found["input_ids"], [stop for _, stop in found["offset_mapping"]]
        first = next(i for i, stop in enumerate(stops) if stop > len(context))
        if first == 0:
            ids, first = [self.tokenizer.bos_token_id, *ids], 1
        ids = ids + (end or [])
        logits = self.model(torch.tensor([ids])).logits[0, :-1]
        logprob = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        return logprob[first - 1 :].numpy()

    @torch.inference_mode()
    def next_token(self, text: str) -> np.ndarray:
        """Probabilities of all tokens of the vocabulary right after a text, float64 [V]."""
        ids = self.tokenizer(text)["input_ids"]
        return torch.softmax(self.model(torch.tensor([ids])).logits[0, -1], -1).numpy()

    def expected_rating(self, prompt: str, row: dict[str, str]) -> float:
        """Softmax over the logits of the six digits, times 1 to 6: from the whole vocabulary's probabilities."""
        asked = row["instruction"] + ("\n" + row["input"] if row["input"].strip() else "")
        chances = self.next_token(prompt.replace("{request}", asked).replace("{response}", row["output"]))
        six = np.array([chances[self.tokenizer.convert_tokens_to_ids(digit)] for digit in "123456"])
        return float((six / six.sum()) @ np.arange(1, 7))

    def perplexity(self, context: str, answer: str) -> float:
        """`exp(-mean log-probability)` of the answer."""
        return float(np.exp(-self.token_logprobs(context, answer).mean()))

    def length(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer(text)["input_ids"])


def plain(row: dict[str, str], demonstration: dict[str, str] | None = None) -> str:
    """The prompt of a row in the template "plain", after a demonstration."""
    before = "" if demonstration is None else plain(demonstration) + demonstration["output"]
    return before + row["instruction"] + "\n" + (row["input"] + "\n" if row["input"].strip() else "")
