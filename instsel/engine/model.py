"""What is known of a causal language model: its parts, its head's parameters, its context and its vocabulary."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from instsel.engine.arithmetic import Arithmetic, arithmetic_of
from instsel.engine.wrapped_models import UnwrappedModel
from instsel.kernels.float_products import float_product
from instsel.kernels.native_arrays import chosen_instruction_set
from instsel.layers.float8_layers import Float8Layers
from instsel.layers.fused_layers import FusedLayers
from instsel.layers.replica import PLAIN_TENSORS, Replica
from instsel.layers.signature import Changes, Signature

_TABLE_OFFSET = 8  # entries that a table of positions has beside those for positions


@dataclass(frozen=True, slots=True)
class Head:
    """`z = scale * (h @ weight.T + bias)`, then `softcap * tanh(z / softcap)` where the model caps its logits."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    fused: bool | str = "auto"  # for `linear_logprob`, by `head_timing`


class CausalModel:
    """A loaded model and what is known of it: its head, and how long a path may be for its prefixes to be shared.

    The model itself is left as it is: `ModelSession` runs a replica of it.
    """

    def __init__(self, unwrapped: UnwrappedModel, *, backend: str = "auto", context: int | None = None) -> None:
        model = unwrapped.base
        self.unwrapped = unwrapped
        self.model = model
        self.backend = backend
        self.device = unwrapped.device
        self.dtype = unwrapped.dtype
        self.config = model.config.get_text_config()
        find_decoder(model)
        self.input_vocabulary = _rows(model.get_input_embeddings(), self.config)
        self.head: Head | None = None if unwrapped.opaque else read_head(model)
        self.vocabulary = self.head.weight.shape[0] if self.head else self.input_vocabulary
        self.max_length = context_length(self.config)
        if context is not None:
            self.max_length = self._lengthened(context)
        self.inference_tensors = unwrapped.plain_tensors and not unwrapped.dispatched
        # What follows is set by `model_checks`.
        # Longest path whose tokens may run beside other paths: 0 where none may.
        self.shareable_length: int | None = None
        self.largest_pack: int | None = None  # tokens of a forward, where its own code does not go by positions
        self.state_tokens = 0  # what a node's recurrent states are worth, in tokens' rows of all layers
        self.fused_layers: FusedLayers | None = None
        self.float8: Float8Layers | None = None  # where its layers multiply in float8
        self.length_dependent = ""  # rotary scaling by which the whole sequence's length matters
        self.row_dependent = False  # whether rounding of a row depends on its company, as of int8 activations
        self.draws = False  # whether a forward draws random numbers
        self.signature = Signature()  # of the replica that was checked
        self.changing: Changes = frozenset()  # what of it forwards change themselves
        self._keeps_rows = "logits_to_keep" in inspect.signature(unwrapped.whole.forward).parameters

    def _lengthened(self, context: int) -> int:
        """A context in place of that of the configuration; ValueError beyond a table that has an entry a position."""
        stated = self.max_length
        if stated is None or context <= stated:
            return context
        words = self.model.get_input_embeddings()
        sizes = [m.num_embeddings for m in self.model.modules() if isinstance(m, torch.nn.Embedding) and m is not words]
        sizes += [size for buffer in self.model.buffers() for size in buffer.shape]
        if any(stated <= size <= stated + _TABLE_OFFSET for size in sizes):
            raise ValueError(
                f"context_length: {type(self.model).__name__} has a table of {stated} positions, which no setting "
                f"makes longer; expected at most {stated}, got {context}"
            )
        return context

    def describes(self, replica: Replica) -> bool:
        """Whether what is known holds of a replica made now."""
        return replica.signature.agrees(self.signature, self.changing)

    @property
    def keeps_rows(self) -> bool:
        """Whether the model can be told which rows' logits are wanted, without moving them."""
        return self._keeps_rows and not self.unwrapped.opaque and not self.row_dependent

    @property
    def whole_sequences(self) -> bool:
        """Whether a sequence's last token, which nothing is predicted from, has to be run all the same."""
        return bool(self.length_dependent) or self.row_dependent

    def first_token(self) -> int | None:
        """What stands before a sequence without context where no tokenizer says: BOS, or EOS where there is none."""
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(self.config, name, None)
            if token is not None:
                return int(token[0] if isinstance(token, list) else token)
        return None

    def arithmetic_by(self) -> str:
        """By what products and sums are computed, where last digits depend on it: the kind of GPU, or the instructions
        and the library of float32 products that a CPU uses."""
        off = None if self.float8 is None else f"{self.float8.drift:.2g} nats a token off"
        rounded = "" if off is None else f", layer products in float8 ({off})"
        if self.device.type != "cpu":
            library = ", head by the library" if self.head is not None and self.head.fused is False else ""
            name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
            return name + library + rounded
        weights = [m.weight for m in self.model.modules() if type(m) is torch.nn.Linear]
        by_library = any(type(w) in PLAIN_TENSORS and w.dtype == torch.float32 for w in weights)
        products = f", float32 products by {float_product()}" if by_library else ""
        return chosen_instruction_set() + products + rounded

    def arithmetic(self) -> Arithmetic:
        """Counts to judge a run's time by."""
        return arithmetic_of(self.model, self.vocabulary)


def find_decoder(model: PreTrainedModel) -> torch.nn.Module:
    """The part that gives the final hidden states; some classes call themselves their decoder."""
    candidates = [
        model.get_decoder(),
        model.base_model,
        *(getattr(model, name, None) for name in ("model", "transformer")),
    ]
    return next((part for part in candidates if isinstance(part, torch.nn.Module) and part is not model), model)


def _rows(embedding: torch.nn.Module, config: PreTrainedConfig) -> int:
    count = getattr(embedding, "num_embeddings", None)
    if not isinstance(count, int):
        weight = getattr(embedding, "weight", None)
        count = weight.shape[0] if isinstance(weight, Tensor) else config.vocab_size
    return int(count)


def read_head(model: PreTrainedModel) -> Head | None:
    """The head as the configuration describes it; None where the model has no plain linear one."""
    layer = model.get_output_embeddings()
    # A weight of another type is quantised, and one on no device is kept outside memory.
    if not isinstance(layer, torch.nn.Linear) or type(layer.weight) not in PLAIN_TENSORS or layer.weight.is_meta:
        return None
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None)  # Cohere multiplies, Granite divides
    divisor = getattr(config, "logits_scaling", None)
    softcap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    return Head(
        layer.weight,
        layer.bias,
        float(scale or 1.0) / float(divisor or 1.0),
        float(softcap) if softcap else None,
    )


def context_length(config: PreTrainedConfig) -> int | None:
    """The longest sequence that the model is made for; None where its configuration states none."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            # The configuration of a dynamic scaling states the length before it.
            dynamic = [s for s in rotary_scalings(config) if "dynamic" in str(s.get("rope_type", ""))]
            return max((int(value * s.get("factor", 1.0)) for s in dynamic), default=value)
    return None


def rotary_scalings(config: object) -> list[Mapping[str, Any]]:
    """The rotary embedding's parameters, one for each type of layers where these have their own."""
    rope = getattr(config, "rope_parameters", None) or {}
    by_type = [value for value in rope.values() if isinstance(value, Mapping)]
    return by_type if by_type and len(by_type) == len(rope) else [rope]
