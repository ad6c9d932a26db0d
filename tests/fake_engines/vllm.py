"""What the benchmark calls of vLLM, as its documentation has it, by a model of transformers on the processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    prompt_logprobs: int | None = None
    detokenize: bool = True


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None


class LLM:
    def __init__(
        self, model: str, *, skip_tokenizer_init: bool = False, dtype: str = "auto", max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
    ) -> None:  # fmt: skip
        assert skip_tokenizer_init, "the folder has no tokenizer"
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.longest = max_model_len or self.model.config.max_position_embeddings

    @torch.inference_mode()
    def generate(self, prompts: list[dict[str, Any]], params: SamplingParams, *, use_tqdm: bool) -> list[RequestOutput]:
        found = []
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            assert len(ids) + params.max_tokens <= self.longest
            if params.prompt_logprobs is None:
                found.append(RequestOutput(ids, None))
                continue
            logprobs = torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)
            places: list[dict[int, Logprob] | None] = [None]
            for row, token in zip(logprobs[:-1], ids[1:], strict=True):
                shown = [token, *row.topk(params.prompt_logprobs).indices.tolist()]
                places.append({one: Logprob(float(row[one])) for one in shown})
            found.append(RequestOutput(ids, places))
        return found
