"""Tuning a real model with LoRA on a few dozen rows, and the loss on rows held out as instsel measures it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from real_rows import plan
from real_rows.damage import Row

import instsel
from instsel.demo.tuning import IGNORED, WARM_UP, Pair, padded, shuffled

CHANGED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
PART = 4  # rows of a batch forwarded at a time, of like length: little padding


class Learner:
    """A model with adapters that can be put back to where they began."""

    def __init__(self, model: str, device: str = "cpu", rank: int = plan.LORA_RANK) -> None:
        import peft
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="eager")
        changed = [name for name in CHANGED_LOGITS if getattr(base.config, name, None)]
        if changed:
            raise ValueError(f"model: expected one whose logits are products with its head, got one with {changed[0]}")
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        torch.manual_seed(0)
        self.model = peft.get_peft_model(base.to(device), peft.LoraConfig(r=rank, target_modules="all-linear"))
        self.base, self.device = base, device
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.first = [weight.detach().clone() for weight in self.weights]
        self.scorer = instsel.Scorer(self.model.eval(), tokenizer=self.tokenizer)

    def tune(self, pairs: Sequence[Pair], vocabulary: np.ndarray, rate: float, seed: int) -> list[float]:
        """Put the adapters back and tune them for `plan.EPOCHS`; gives the mean loss over answers' tokens of each step.

        `vocabulary` int64 [m], ascending, holds all tokens of the pairs' answers: the softmax is over these. AdamW, the
        learning rate rising over a tenth of the steps and then falling to nothing.
        """
        import torch

        with torch.no_grad():
            for weight, value in zip(self.weights, self.first, strict=True):
                weight.copy_(value)
        head = self.base.get_output_embeddings().weight.detach()[torch.from_numpy(vocabulary).to(self.device)]
        optimizer = torch.optim.AdamW(self.weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
        rows, steps = shuffled(len(pairs), seed), -(-plan.EPOCHS * len(pairs) // plan.BATCH)
        losses = []
        self.model.train()
        for step in range(steps):
            place = (step + 1) / (steps + 1)
            for group in optimizer.param_groups:
                group["lr"] = rate * min(place / WARM_UP, (1 - place) / (1 - WARM_UP))
            batch = sorted((pairs[next(rows)] for _ in range(plan.BATCH)), key=lambda pair: sum(map(len, pair)))
            tokens, total = sum(len(answer) for _, answer in batch), 0.0
            for start in range(0, len(batch), PART):
                ids, targets = padded(batch[start : start + PART], self.device)
                asked = targets != IGNORED
                wanted = torch.from_numpy(np.searchsorted(vocabulary, targets[asked].cpu().numpy())).to(self.device)
                with torch.autocast(torch.device(self.device).type, torch.bfloat16):
                    states = self.base.base_model(
                        input_ids=ids.clamp(min=0), attention_mask=(ids != IGNORED).long(), use_cache=False
                    ).last_hidden_state
                    logits = states[asked] @ head.T
                loss = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum") / tokens
                loss.backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total)
        self.model.eval()
        return losses

    def losses(self, rows: Sequence[Row], sources: np.ndarray) -> dict[str, float]:
        """Mean negative log-likelihood of the rows' answers, nats a token, of all and of each source."""
        found = instsel.perplexity(self.scorer, list(rows), template=plan.TEMPLATE)
        parts = {"all": np.ones(len(rows), bool)} | {str(name): sources == name for name in np.unique(sources)}
        return {
            name: float(-found.sum_logprob[part].sum() / found.num_tokens[part].sum()) for name, part in parts.items()
        }

    def before(self, rows: Sequence[Row], sources: np.ndarray) -> dict[str, float]:
        """The losses of the model without its adapters."""
        with self.model.disable_adapter():
            return self.losses(rows, sources)
