"""The least floating-point work that a scoring run takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Operations of one model: a multiplication and an addition are two."""

    body_parameters: float  # outside embeddings and head; of a mixture of experts, those that a token uses
    attention_width: int  # layers * heads * head size
    hidden_size: int
    vocabulary: int

    def flops(self, *, tokens: int, contexts: int, rows: int, pairs: int) -> float:
        """`2 B tokens + 4 layers heads d contexts + 2 H V rows + 2 H pairs`.

        `contexts` is the sum over the tokens of the number of tokens that each attends to.
        """
        body = 2.0 * self.body_parameters * tokens
        attention = 4.0 * self.attention_width * contexts
        return body + attention + 2.0 * self.hidden_size * (self.vocabulary * rows + pairs)


def arithmetic_of(model: PreTrainedModel, vocabulary: int) -> Arithmetic:
    """Counts of a transformers causal language model."""
    config = model.config.get_text_config()
    embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    outside = {id(module.weight) for module in [*embeddings, model.get_output_embeddings()] if module is not None}
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    used = getattr(config, "num_experts_per_tok", None)
    fraction = used / experts if experts and used else 1.0
    body = sum(
        parameter.numel() * (fraction if ".experts." in name else 1.0)
        for name, parameter in model.named_parameters()
        if id(parameter) not in outside
    )
    heads = getattr(config, "num_attention_heads", 0)
    head_size = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0)
    layers = config.num_hidden_layers
    return Arithmetic(body, layers * heads * head_size, config.hidden_size, vocabulary)
