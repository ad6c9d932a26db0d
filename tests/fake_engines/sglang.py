"""What the benchmark calls of SGLang, as its documentation has it, by a model of transformers on the processor."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM


class Engine:
    def __init__(
        self, *, model_path: str, skip_tokenizer_init: bool = False, dtype: str = "auto",
        context_length: int | None = None, mem_fraction_static: float | None = None, log_level: str = "error",
    ) -> None:  # fmt: skip
        assert skip_tokenizer_init, "the folder has no tokenizer"
        self.model = AutoModelForCausalLM.from_pretrained(model_path, dtype=getattr(torch, dtype)).eval()
        self.longest = context_length or self.model.config.max_position_embeddings

    def flush_cache(self) -> None:
        pass

    def shutdown(self) -> None:
        pass

    @torch.inference_mode()
    def generate(
        self, *, input_ids: list[list[int]], sampling_params: dict[str, Any], return_logprob: bool = False,
        logprob_start_len: list[int] | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        found = []
        starts = logprob_start_len or [-1] * len(input_ids)
        for ids, begin in zip(input_ids, starts, strict=True):
            assert len(ids) <= self.longest
            start = begin if begin >= 0 else len(ids) - 1  # by default the output's alone
            logprobs = torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)
            entries = [(None, ids[start], None)]
            entries += [(float(logprobs[at - 1, ids[at]]), ids[at], None) for at in range(start + 1, len(ids))]
            meta = {"prompt_tokens": len(ids)}
            found.append({"meta_info": {**meta, "input_token_logprobs": entries} if return_logprob else meta})
        return found
