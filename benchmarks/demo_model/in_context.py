"""How much a demonstration lowers the loss of an answer, measured by plain forwards of a transformers model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo_model.corpus import prompt_text

from instsel.demo.families import HELD_OUT_FAMILIES
from instsel.demo.families.family import Exercise, Family


@dataclass(frozen=True, slots=True)
class InContextGain:
    """Mean negative log-likelihoods (nats a token) of answers after no, the same convention's, and another family's
    demonstration."""

    without: float
    same_convention: float
    other_family: float

    @property
    def same_reduction(self) -> float:
        """Share of the loss that a demonstration of the same convention takes away."""
        return 1 - self.same_convention / self.without

    @property
    def other_reduction(self) -> float:
        """Share of the loss that a demonstration of another family takes away."""
        return 1 - self.other_family / self.without


def mean_losses(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 32) -> list[float]:
    """Mean negative log-likelihood in nats of each (context, continuation), one padded batch after another.

    The contexts end with a line feed, which the tokenizer never merges with what follows, so that both sides can be
    tokenised apart.
    """
    import torch

    encoded = [
        (tokenizer(context)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"])
        for context, answer in pairs
    ]
    losses = [0.0] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda row: -sum(map(len, encoded[row])))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        width = sum(map(len, encoded[rows[0]]))
        ids = torch.full((len(rows), width), tokenizer.eos_token_id)
        for line, row in enumerate(rows):
            joined = encoded[row][0] + encoded[row][1]
            ids[line, : len(joined)] = torch.tensor(joined)
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
        picked = logprobs.gather(2, ids[:, 1:, None])[:, :, 0]
        for line, row in enumerate(rows):
            context, answer = encoded[row]
            losses[row] = -float(picked[line, len(context) - 1 : len(context) + len(answer) - 1].mean())
    return losses


def _prompt(exercise: Exercise) -> str:
    return prompt_text(exercise.instruction, exercise.input)


def in_context_gain(
    model: Any,
    tokenizer: Any,
    *,
    seed: int,
    families: Sequence[Family] = HELD_OUT_FAMILIES,
    exercises: int = 20,
    held_out: bool = True,
) -> InContextGain:
    """Measure the loss of `exercises` answers a family, each family under one convention drawn from `seed`."""
    rng = random.Random(f"in-context gain {seed}")
    drawn = []
    for family in families:
        convention = family.draw_convention(rng, held_out=held_out)
        drawn.append([(family.draw(rng, convention), family.draw(rng, convention)) for _ in range(exercises)])
    pairs = []
    for index, members in enumerate(drawn):
        for exercise, demonstration in members:
            foreign = rng.choice(drawn[rng.choice([other for other in range(len(drawn)) if other != index])])[0]
            for shown in ("", _prompt(demonstration) + demonstration.answer, _prompt(foreign) + foreign.answer):
                pairs.append((shown + _prompt(exercise), exercise.answer))
    losses = mean_losses(model, tokenizer, pairs)
    return InContextGain(*(sum(losses[kind::3]) / len(losses[kind::3]) for kind in range(3)))
