"""Where a model comes from, and loading it: weights from safetensors only, every tensor accounted for."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from instsel.engine.model import CausalModel
from instsel.engine.model_checks import ScoringWarning, check_model
from instsel.engine.model_source import ModelSource
from instsel.engine.process_memory import available_bytes, keep_freed_memory
from instsel.engine.surroundings import kept_random_state
from instsel.engine.tokenizer_checks import check_tokenizer, missing_files
from instsel.engine.turns import turn
from instsel.engine.wrapped_models import HeldModel, hold
from instsel.hub import cache_alone_if_out_of_reach
from instsel.kernels.layer_operations import has_bfloat16_products

_SPARE_BYTES = 1 << 30  # for activations, beside the weights


def load_model(source: ModelSource) -> CausalModel:
    """The model on its device, with its head and its prefix sharing checked."""
    with turn(), kept_random_state():
        held = source.held or hold(_from_pretrained(source))
        assert held is not None
        _place(held, source)
        loaded = _as_causal(held, source)
        if loaded.device.type == "cpu":
            keep_freed_memory()
        check_model(loaded)
    return loaded


def outline_model(source: ModelSource) -> CausalModel:
    """The model's shapes without its weights, for planning."""
    held = source.held
    if held is None:
        with turn(), kept_random_state(), _readable_errors(source), torch.device("meta"):
            config = AutoConfig.from_pretrained(
                source.model, revision=source.revision, trust_remote_code=source.trust_remote_code
            )
            held = hold(AutoModelForCausalLM.from_config(config, trust_remote_code=source.trust_remote_code))
    assert held is not None
    return _as_causal(held, source)


def _place(held: HeldModel, source: ModelSource) -> None:
    """Moves and casts a model, in place, where it is not yet what was asked for."""
    stays = (source.device == "auto" and source.held) or (source.device_map is not None and held.dispatched)
    stays = stays or source.divided
    dtype, device = source.dtype, None if stays else source.resolved_device()
    if source.held is None and dtype is None and device == torch.device("cpu"):
        dtype = _faster_dtype(held, source.name)
    if device is not None and device.type == "cuda" and device.index is None and held.device.type == "cuda":
        device = None
    moved = device is not None and device != held.device
    other_dtype = dtype is not None and any(
        p.dtype != dtype for p in held.base.parameters() if p.dtype.is_floating_point or held.quantised
    )
    if not moved and not other_dtype:
        return
    reason = "quantised" if held.quantised else "spread by a device_map" if held.dispatched else None
    if reason is not None:
        name = "device" if moved else "dtype"
        raise ValueError(
            f"{name}: the model is {reason} and stays as it is, with {str(held.dtype).removeprefix('torch.')} on "
            f'{held.device}; expected "auto", got {source.device if moved else source.dtype_name!r}'
        )
    cast(Any, held.whole).to(device=device, dtype=dtype)


def _faster_dtype(held: HeldModel, name: str) -> torch.dtype | None:
    """float32, which holds every number of float16 and bfloat16, for weights of those that this CPU cannot multiply."""
    if held.dtype == torch.float16:
        return torch.float32
    if (
        held.dtype != torch.bfloat16
        or held.quantised
        or platform.machine() not in ("x86_64", "AMD64")
        or has_bfloat16_products()
    ):
        return None
    size = sum(p.numel() * 4 for p in held.base.parameters())
    available = available_bytes()
    reason = f"{name} is stored in bfloat16, in which this processor has no arithmetic"
    if available is not None and available < size + _SPARE_BYTES:
        warnings.warn(
            f"{reason}; as float32, several times as fast, it would take {size / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are there",
            ScoringWarning,
            stacklevel=3,
        )
        return None
    warnings.warn(
        f'{reason}: it is held as float32, which takes twice the memory and a fraction of the time; dtype="bfloat16" '
        "keeps it as stored",
        ScoringWarning,
        stacklevel=3,
    )
    return torch.float32


def _as_causal(held: HeldModel, source: ModelSource) -> CausalModel:
    """ValueError for what is not a causal language model, such as an encoder-decoder or a model without a head."""
    model = held.base
    expected = f"model: expected a causal (decoder-only) language model, got {type(model).__name__}"
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{expected}, an encoder-decoder")
    if model.get_output_embeddings() is None and not hasattr(model, "lm_head"):
        raise ValueError(f"{expected}, which has no language modelling head")
    try:
        return CausalModel(held, backend=source.backend, context=source.context_length)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{expected}, which lacks what scoring needs: {reason}") from error


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer given, or the model's own; None for a loaded model that comes without one."""
    if source.tokenizer is not None and not isinstance(source.tokenizer, (str, os.PathLike)):
        return source.tokenizer
    held = source.held
    name = source.tokenizer or (source.model if held is None else held.base.name_or_path)
    if not name:
        return None
    with turn(), _readable_errors(source, "tokenizer"):
        options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
        except Exception as error:
            if held is not None and source.tokenizer is None:  # where it came from there may be none
                return None
            said = str(error).strip().partition("\n")[0].rstrip()
            if said.endswith(":"):  # a list of what it could have been follows
                raise ValueError(missing_files(None, str(name))) from error
            raise
        config = AutoConfig.from_pretrained(source.model, **options) if held is None else held.base.config
        check_tokenizer(tokenizer, getattr(config.get_text_config(), "vocab_size", None), str(name))
        return tokenizer


def _from_pretrained(source: ModelSource) -> PreTrainedModel:
    with _readable_errors(source):
        config = AutoConfig.from_pretrained(
            source.model, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
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
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.model,
            config=config,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            dtype=source.dtype or "auto",
            use_safetensors=True,
            output_loading_info=True,
            **placed,
        )
        model, info = loaded
        # transformers would go on with random numbers in their place.
        if absent := sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"]):
            raise ValueError(f"its weights lack {len(absent)} tensors, the first of them {absent[0]}")
        if unused := sorted(info["unexpected_keys"]):
            _refuse_unused(unused, source)
        if source.divided and not model.supports_tp_plan:
            raise ValueError(f"transformers has no plan of tensor parallelism for {type(model).__name__}")
    return model.eval()


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


@contextmanager
def without_remarks() -> Iterator[None]:
    """Without transformers' progress bars and remarks while it loads something."""
    bars = transformers.utils.logging.is_progress_bar_enabled()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


@contextmanager
def _readable_errors(source: ModelSource, parameter: str = "model") -> Iterator[None]:
    """What transformers raises for a folder or name it cannot use, as one line that says what was wrong."""
    name = source.name
    if parameter == "model" and ("/" in name or "\\" in name or name.startswith(".")) and not Path(name).exists():
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        if looks_local:
            raise ValueError(f"model: expected a folder or a hub id, got {name!r}, which does not exist")
    asked = source.tokenizer if parameter == "tokenizer" and source.tokenizer is not None else name
    try:
        with without_remarks(), cache_alone_if_out_of_reach(str(asked)):
            yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{parameter}: cannot load {name!r}: {lines[0] if lines else type(error).__name__}") from error
