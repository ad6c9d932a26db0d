"""A causal language model as the engine sees it: packed forwards to hidden states, and the head's parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from instsel.engine.arithmetic import Arithmetic, arithmetic_of
from instsel.engine.attention import PackState, running, tree_attention_of
from instsel.engine.fused_layers import FusedLayers
from instsel.engine.layout import Layout

KeysValues = list[tuple[Tensor, Tensor]]  # one (key, value) [tokens, kv_heads, d] per layer


@dataclass(frozen=True, slots=True)
class Head:
    """`z = scale * (h @ weight.T + bias)`, then `softcap * tanh(z / softcap)` where the model caps its logits."""

    weight: Tensor  # [V, H]
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


class CausalModel:
    """A loaded model, its head, and how long a path may be for its prefixes to be shared."""

    def __init__(self, model: PreTrainedModel, *, backend: str = "auto") -> None:
        self.model = model.eval()
        self.decoder = _decoder(model)
        self.backend = backend
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.config = model.config.get_text_config()
        self.input_vocabulary = _rows(model.get_input_embeddings())
        self.head: Head | None = read_head(model)
        self.vocabulary = self.head.weight.shape[0] if self.head else self.input_vocabulary
        self.max_length = context_length(self.config)
        # Longest path whose tokens may run beside other paths: set by `model_checks`, 0 where none may.
        self.shareable_length: int | None = None
        self.fused_layers: FusedLayers | None = None  # set by `model_checks`
        self.length_dependent = ""  # rotary scaling by which the whole sequence's length matters: set by `model_checks`
        self._keeps_rows = "logits_to_keep" in inspect.signature(model.forward).parameters

    @contextmanager
    def ready(self, *, alone: bool = False) -> Iterator[None]:
        """Within this block packs may be run, or single sequences with `alone`; after it the model is as it came."""
        with ExitStack() as stack:
            if self.fused_layers is not None:
                stack.enter_context(self.fused_layers.active())
            if not alone:
                stack.enter_context(tree_attention_of(self.model))
            if self.length_dependent:
                stack.callback(_forget_lengths, self.model)
            yield

    def forward_pack(
        self, layout: Layout, cached: Sequence[KeysValues] = (), *, logits: bool = False
    ) -> tuple[Tensor, PackState]:
        """Hidden states [R, H] (or the model's own logits [R, V]) of a pack's rows; the state holds what it kept."""
        state = PackState(layout.segments, backend=self.backend, cached=list(cached), kept=layout.kept)
        with running(state):
            return self._forward(layout.ids, layout.positions, layout.rows, logits), state

    def forward_alone(self, ids: np.ndarray, rows: np.ndarray, *, logits: bool = False) -> Tensor:
        """The same for one sequence, by the model's own attention."""
        if self.length_dependent:
            # The sequence's last token is not among the ids, but its place counts; what token stands there does not.
            ids = np.append(ids, ids[-1:])
            _forget_lengths(self.model)
        return self._forward(ids, None, rows, logits)

    def _forward(self, ids: np.ndarray, positions: np.ndarray | None, rows: np.ndarray, logits: bool) -> Tensor:
        arguments: dict[str, Any] = {"input_ids": self._to_device(ids)[None], "use_cache": False}
        if positions is not None:
            arguments["position_ids"] = self._to_device(positions)[None]
        if logits:
            if self._keeps_rows:
                arguments["logits_to_keep"] = self._to_device(rows)
            out = self.model(**arguments).logits[0]
        else:
            out = self.decoder(**arguments).last_hidden_state[0]
        return out if len(out) == len(rows) else out[self._to_device(rows)]

    def _to_device(self, index: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(index, np.int64))
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def first_token(self) -> int | None:
        """What stands before a sequence without context where no tokenizer says: BOS, or EOS where there is none."""
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(self.config, name, None)
            if token is not None:
                return int(token[0] if isinstance(token, list) else token)
        return None

    def arithmetic(self) -> Arithmetic:
        """Counts to judge a run's time by."""
        return arithmetic_of(self.model, self.vocabulary)


def _decoder(model: PreTrainedModel) -> Any:
    """The part that gives the final hidden states; some classes call themselves their decoder."""
    candidates = [
        model.get_decoder(),
        model.base_model,
        *(getattr(model, name, None) for name in ("model", "transformer")),
    ]
    return next((part for part in candidates if isinstance(part, torch.nn.Module) and part is not model), model)


def _forget_lengths(model: torch.nn.Module) -> None:
    """Dynamic rotary scaling keeps the longest length that it has seen; every sequence is to be as if it were alone."""
    for module in model.modules():
        if not hasattr(module, "original_max_seq_len"):
            continue
        for name, own in list(module.named_buffers(recurse=False)):
            if name.endswith("original_inv_freq"):
                setattr(module, name.replace("original_", ""), own.clone())
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            setattr(module, name, module.original_max_seq_len)


def _rows(embedding: Any) -> int:
    return int(embedding.weight.shape[0])


def read_head(model: PreTrainedModel) -> Head | None:
    """The head as the configuration describes it; None where the model has no plain linear one."""
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear):
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


def context_length(config: Any) -> int | None:
    """The longest sequence that the model is made for; None where its configuration states none."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            rope = getattr(config, "rope_parameters", None) or {}
            stretched = "dynamic" in str(
                rope.get("rope_type", "")
            )  # its configuration states the length before scaling
            return int(value * rope.get("factor", 1.0)) if stretched else value
    return None
