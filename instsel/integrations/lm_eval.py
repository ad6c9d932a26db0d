"""lm-evaluation-harness with the engine in place of its forwards: the model `instsel`, and the harness's command line.

    python -m instsel.integrations.lm_eval run --model instsel --model_args pretrained=FOLDER,dtype=float32 --tasks TASK

All but the forwards is the harness's own `HFLM`: loading, tokens, chat templates, rolling windows, generation.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import Any

import torch

from instsel import Scorer, score_batch
from instsel.optional_packages import need_package

need_package("lm-eval", "lm_eval", ">=0.4.9,<0.5", extra="lm-eval", program=__name__ == "__main__")

import lm_eval.models  # noqa: F401  (before registering, or the harness forgets its own models)
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

Tokens = tuple[tuple[str, str] | None, list[int], list[int]]  # the texts, the context's ids, the continuation's

_ONE_DEVICE = "the engine runs a model on one device"
_OWN_DTYPE = "the engine runs in the model's own dtype: give dtype"
_REFUSED = {"parallelize": _ONE_DEVICE, "tp_plan": _ONE_DEVICE, "mixed_precision_dtype": _OWN_DTYPE}
_SAVED_AT_A_TIME = 4096  # requests, where answers are kept on the way (--use_cache)
_logger = logging.getLogger(__name__)


@register_model("instsel")
class InstselLM(HFLM):
    """A causal model whose loglikelihoods the engine computes; all arguments of `HFLM`, and two of `Scorer`.

    device            by default a GPU if there is one
    max_batch_tokens  tokens in one forward; `batch_size` concerns generation only
    kernels           the scorer's backend: "auto", "reference", "cpu" or "triton"

    Raises ValueError for what the engine cannot run: encoder-decoders, several devices, mixed precision, prompt tuning.

    >>> lm_eval.simple_evaluate(InstselLM("Qwen/Qwen2.5-0.5B"), tasks=["arc_easy"])["results"]  # doctest: +SKIP
    """

    def __init__(
        self,
        pretrained: object,
        *,
        device: str | None = None,
        max_batch_tokens: int | str = "auto",
        kernels: str = "auto",
        **options: object,
    ) -> None:
        for name in [name for name in _REFUSED if options.get(name)]:
            raise ValueError(f"{name}: {_REFUSED[name]}, got {options[name]!r}")
        super().__init__(pretrained, device=device or ("cuda" if torch.cuda.is_available() else "cpu"), **options)
        if self.backend != "causal":
            raise ValueError(f"pretrained: expected a causal language model, got one of backend {self.backend!r}")
        model = self.model
        if adapters := getattr(model, "peft_config", {}):
            if any(adapter.is_prompt_learning for adapter in adapters.values()):
                raise ValueError("peft: expected an adapter of the model's weights, got prompt learning")
            model = model.get_base_model()  # its layers hold the adapter's
        self.scorer = Scorer(model, tokenizer=self.tokenizer, backend=kernels, max_batch_tokens=max_batch_tokens)
        if self.scorer.model.max_length is not None:
            self.scorer.model.max_length += 1  # the harness does not count the last token, which is not forwarded
        self._encode = functools.lru_cache(maxsize=8)(super().tok_encode)  # a question's options share their context

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: object) -> list[int]:
        """The token ids of a text."""
        return list(self._encode(string, add_special_tokens=add_special_tokens, **options))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, all windows of all texts at once."""
        own, self.batch_size_per_gpu = self.batch_size, sys.maxsize
        try:
            return list(super().loglikelihood_rolling(requests, disable_tqdm))
        finally:
            self.batch_size_per_gpu = own

    def _loglikelihood_tokens(
        self, requests: list[Tokens], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        limit, pairs, cut = self.max_length, [], 0
        for texts, context, continuation in requests:
            if not 0 < len(continuation) <= limit:
                raise ValueError(f"continuation: expected 1 to {limit} tokens, got {len(continuation)} in {texts!r}")
            room = limit + 1 - len(continuation)
            cut += len(context) > room
            pairs.append((context[-room:], continuation))
        if cut:
            _logger.warning("%d contexts were cut from the left to the model's %d tokens", cut, limit)
        order = sorted(range(len(pairs)), key=lambda i: pairs[i])  # what shares a prefix is scored together
        step = len(order) if self.cache_hook.dbdict is None else _SAVED_AT_A_TIME
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        for part in [order[start : start + step] for start in range(0, len(order), max(step, 1))]:
            batch = score_batch(self.scorer, [pairs[i] for i in part], progress=not disable_tqdm and self.rank == 0)
            for i, total, greedy in zip(part, batch.sum_logprob.tolist(), batch.is_greedy.tolist(), strict=True):
                answers[i] = (total, greedy)
            # What has no finite number, no memory, or more tokens than the model's context: as the harness has it.
            if left := [i for i, status in zip(part, batch.status, strict=True) if status != "ok"]:
                _logger.warning("%d requests are scored by HFLM: %s", len(left), ", ".join({*batch.status} - {"ok"}))
                found = super()._loglikelihood_tokens([requests[i] for i in left], disable_tqdm=disable_tqdm)
                answers = [dict(zip(left, found, strict=True)).get(i, answer) for i, answer in enumerate(answers)]
            for i in part:
                if (texts := requests[i][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, answers[i])
        return answers


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
