"""Models as people hold them: with adapters, compiled, quantised, in a wrapper for training, spread over devices."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from instsel.layers.replica import PLAIN_TENSORS

# Wrappers whose forward is that of the module within, and the attribute that holds it.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DistributedDataParallel": "module",
    "DataParallel": "module",
}


@dataclass(frozen=True, slots=True)
class UnwrappedModel:
    """A model as it was given, unwrapped as far as its numbers allow.

    whole   what is called for logits: the transformers model, or a wrapper whose own forward adds to it
    base    the transformers model
    """

    whole: nn.Module
    base: PreTrainedModel

    @property
    def opaque(self) -> bool:
        """Whether the wrapper's own forward has to be called, as for prompts that were learned."""
        return self.whole is not self.base

    @property
    def quantised(self) -> bool:
        """Whether some weights are not plain floating-point tensors, and must be neither cast nor moved."""
        if getattr(self.base, "is_quantized", False) or getattr(self.base, "hf_quantizer", None) is not None:
            return True
        return any(
            type(module).__module__.startswith("torch.ao.nn.quantized")
            or any(p is not None and not _is_plain_float(p) for p in module._parameters.values())
            or hasattr(module, "weight_qtype")
            for module in self.base.modules()
        )

    @property
    def plain_tensors(self) -> bool:
        """Whether all parameters and buffers are plain tensors, of which inference tensors can be made."""
        tensors = (*self.whole.parameters(), *self.whole.buffers())
        return all(type(tensor) in PLAIN_TENSORS for tensor in tensors)

    @property
    def dispatched(self) -> bool:
        """Whether accelerate has placed the model's parts, on several devices or outside memory."""
        return getattr(self.base, "hf_device_map", None) is not None or any(
            hasattr(module, "_hf_hook") for module in self.base.modules()
        )

    @property
    def divided(self) -> bool:
        """Whether tensor parallelism has left a part of each weight to this process."""
        return any(type(parameter).__name__ == "DTensor" for parameter in self.base.parameters())

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        embedding: Any = self.base.get_input_embeddings()
        hook = getattr(embedding, "_hf_hook", None)
        execution = getattr(hook, "execution_device", None)
        if execution is not None:
            return torch.device("cuda", execution) if isinstance(execution, int) else torch.device(execution)
        parameter = next(iter([*embedding.parameters(), *self.base.parameters(), *self.base.buffers()]))
        return parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states: that of the embeddings where they are plain, else what the model says."""
        parameters = list(self.base.get_input_embeddings().parameters())
        plain = [p.dtype for p in parameters if _is_plain_float(p)]
        return plain[0] if plain else self.base.dtype


def unwrap(model: object) -> UnwrappedModel | None:
    """The model within its wrappers; None for what holds no transformers model."""
    while isinstance(model, nn.Module) and not isinstance(model, PreTrainedModel):
        inside = model._modules.get(_WRAPPERS.get(type(model).__name__, ""))
        if inside is not None:
            model = inside
            continue
        peft = sys.modules.get("peft")
        if peft is None or not isinstance(model, (peft.PeftModel, peft.PeftMixedModel)):
            return None
        return _adapted(model)
    return UnwrappedModel(model, model) if isinstance(model, PreTrainedModel) else None


def _adapted(model: Any) -> UnwrappedModel | None:
    """Adapters that sit in the layers are run with them; a forward that adds something around the model is called."""
    tuner = model.base_model
    if isinstance(tuner, nn.Module) and not isinstance(tuner, PreTrainedModel) and hasattr(tuner, "model"):
        inside = unwrap(tuner.model)
        if inside is None or type(tuner).forward is _plain_tuner_forward() or type(tuner).__name__ == "AdaLoraModel":
            return inside  # AdaLora's forward adds to the loss alone
        return UnwrappedModel(model, inside.base)
    inside = unwrap(tuner)
    return None if inside is None else UnwrappedModel(model, inside.base)


def _plain_tuner_forward() -> object:
    from peft.tuners.tuners_utils import BaseTuner

    return BaseTuner.forward


def _is_plain_float(tensor: torch.Tensor) -> bool:
    return type(tensor) in PLAIN_TENSORS and tensor.dtype.is_floating_point and tensor.dtype.itemsize > 1
