"""Models from checkpoints: the class that transformers has for one, its weights, every tensor accounted for."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from instsel.checkpoints import Checkpoint, find_checkpoint
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.model_source import ModelSource
from instsel.engine.wrapped_models import UnwrappedModel
from instsel.error_text import first_line
from instsel.hub import cache_alone_if_out_of_reach

# In the order in which they are asked: a model whose text part is causal may be known to the later ones alone.
_KINDS = ("CausalLM", "ImageTextToText", "MultimodalLM")


def load_pretrained(source: ModelSource) -> nn.Module:
    """The model that a source names, in evaluation mode: one of transformers, or of peft where it is adapted."""
    checkpoint = find_checkpoint(source.name, source.revision)
    with _reached(checkpoint):
        config = _config(checkpoint, source)
        if config.is_encoder_decoder:
            raise ValueError("expected a causal (decoder-only) language model, got an encoder-decoder")
        # What is quantised cannot be moved later.
        quantised = getattr(config, "quantization_config", None) is not None
        device = source.resolved_device()
        placed: dict[str, Any] = {} if source.device_map is None else {"device_map": source.device_map}
        if source.divided:
            placed = _tensor_parallel()
        elif not placed and quantised and device.type != "cpu":
            placed = {"device_map": {"": device}}
        dtype: Any = source.dtype or "auto"
        if checkpoint.gguf_file is not None:
            placed |= _unpacking()
            dtype = source.dtype or torch.float32
        loaded: Any = _auto_class(config, source).from_pretrained(
            checkpoint.name,
            config=config,
            **checkpoint.options,
            trust_remote_code=source.trust_remote_code,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **placed,
        )
        model, info = loaded
        # transformers would go on with random numbers in their place.
        if absent := sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"]):
            raise ValueError(f"its weights lack {len(absent)} tensors, the first of them {absent[0]}")
        if unused := sorted(info["unexpected_keys"] and _unread_text(info["unexpected_keys"], model, config)):
            _refuse_unused(unused, source)
        if source.divided and not model.supports_tp_plan:
            raise ValueError(f"transformers has no plan of tensor parallelism for {type(model).__name__}")
    # Of a model with an adapter beside its weights transformers loads both.
    if checkpoint.adapter is not None and not getattr(model, "_hf_peft_config_loaded", False):
        model = _adapted(model, checkpoint.adapter.name, source)
    return model.eval()


def outline_pretrained(source: ModelSource) -> nn.Module:
    """The shapes of the model that a source names, without those of an adapter and without weights."""
    checkpoint = find_checkpoint(source.name, source.revision)
    with _reached(checkpoint):
        config = _config(checkpoint, source)
        return _auto_class(config, source).from_config(config, trust_remote_code=source.trust_remote_code)


def with_merged_adapter(model: Any, held: UnwrappedModel) -> nn.Module:
    """A model loaded with an adapter, its weights changed by it, where that is exact to a rounding of float32.

    In bfloat16 a changed weight would keep three digits of the sum, often fewer than the adapter changes.
    """
    plain = not held.quantised and not held.dispatched and held.dtype in (torch.float32, torch.float64)
    return model.merge_and_unload() if plain and hasattr(model, "merge_and_unload") else model


def load_text_config(source: ModelSource) -> PretrainedConfig:
    """The configuration of a source's text part."""
    checkpoint = find_checkpoint(source.name, source.revision)
    with _reached(checkpoint):
        return _config(checkpoint, source).get_text_config()


def _config(checkpoint: Checkpoint, source: ModelSource) -> PretrainedConfig:
    return AutoConfig.from_pretrained(checkpoint.name, **checkpoint.options, trust_remote_code=source.trust_remote_code)


@contextmanager
def _reached(checkpoint: Checkpoint) -> Iterator[None]:
    """A block that loads a checkpoint: from the cache alone where the hub is out of reach, its base model by name."""
    try:
        with cache_alone_if_out_of_reach(checkpoint.name):
            yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        if checkpoint.adapter is None:
            raise
        raise ValueError(f"its base model {checkpoint.name!r}: {first_line(error)}") from error


def _auto_class(config: PretrainedConfig, source: ModelSource) -> Any:
    """The first class of transformers that has a model for a configuration; `AutoModelForCausalLM` where none has."""
    if source.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return transformers.AutoModelForCausalLM
    return next(iter(_classes(config)), transformers.AutoModelForCausalLM)


def _classes(config: PretrainedConfig) -> list[Any]:
    kinds = [getattr(transformers, f"AutoModelFor{name}", None) for name in _KINDS]
    return [kind for kind in kinds if kind is not None and type(config) in kind._model_mapping]


def _unread_text(names: Collection[str], model: PreTrainedModel, config: PretrainedConfig) -> list[str]:
    """Those of a checkpoint's weights that a text model leaves unread and that belong to no other part, as for images,
    of the model that the checkpoint holds whole."""
    other_parts: set[str] = set()
    for kind in _classes(config)[1:]:
        with torch.device("meta"):
            whole: Any = kind.from_config(config)
        if type(whole) is not type(model):
            text = {
                id(tensor)
                for part in (whole.get_decoder(), whole.get_output_embeddings())
                for tensor in part.parameters()
            }
            other_parts |= {_stem(name) for name, tensor in whole.named_parameters() if id(tensor) not in text}
            other_parts |= {_stem(name) for name, _ in whole.named_buffers()}
    return [name for name in names if _stem(name) not in other_parts]


def _stem(name: str) -> str:
    return name.removeprefix("model.")  # which older checkpoints leave out


def _unpacking() -> dict[str, Any]:
    """What has transformers unpack the weights of a GGUF file, also where it could compute with packed ones."""
    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _adapted(model: Any, folder: str, source: ModelSource) -> nn.Module:
    """The model with the adapter of a folder on it."""
    import peft

    config = peft.PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    adapted: Any = peft.get_peft_model(model, config)
    found = adapted.load_adapter(folder, "default", is_trainable=False)
    if config.is_prompt_learning:  # its prompt is loaded, and found among what is missing and unread
        return adapted
    if absent := sorted(found.missing_keys):
        raise ValueError(f"the adapter's weights lack {len(absent)} tensors, the first of them {absent[0]}")
    if unused := sorted(found.unexpected_keys):
        _refuse_unused(unused, source)
    return adapted


def _refuse_unused(names: list[str], source: ModelSource) -> None:
    """Weights that the model does not read, but for those that its class declares to be of no concern to it."""
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    said = f"{len(names)} of its weights are not read by the model that its configuration describes ({some})"
    if not source.allow_unused_weights:
        raise ValueError(f"{said}; its scores would be those of another model: --allow-unused-weights goes on")
    warnings.warn(f"{source.name}: {said}", ScoringWarning, stacklevel=2)


def _tensor_parallel() -> dict[str, Any]:
    """What asks transformers for the part of the model that belongs to this rank."""
    from transformers.distributed import DistributedConfig

    if "tp_plan" in DistributedConfig.__dataclass_fields__:
        return {"distributed_config": DistributedConfig(tp_plan="auto")}
    return {"tp_plan": "auto"}
