"""A model and its tokenizer as a scorer needs them: in place, in its dtype, checked, with errors that can be read."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from instsel.checkpoints import check_name, find_checkpoint, gguf_parts
from instsel.engine.float8_checks import use_float8
from instsel.engine.inference_context import preserved_random_state
from instsel.engine.inference_lock import inference_lock
from instsel.engine.model import CausalModel
from instsel.engine.model_checks import ScoringWarning, check_model
from instsel.engine.model_source import ModelSource
from instsel.engine.pretrained import load_pretrained, load_text_config, outline_pretrained, with_merged_adapter
from instsel.engine.process_memory import available_bytes, keep_freed_memory
from instsel.engine.tokenizer_checks import check_tokenizer, missing_files
from instsel.engine.wrapped_models import UnwrappedModel, unwrap
from instsel.error_text import first_line
from instsel.hub import cache_alone_if_out_of_reach
from instsel.kernels.native_arrays import has_bfloat16_products

_SPARE_BYTES = 1 << 30  # for activations, beside the weights


def load_model(source: ModelSource) -> CausalModel:
    """The model on its device, with its head and its prefix sharing checked."""
    with inference_lock(), preserved_random_state():
        unwrapped = source.unwrapped
        if unwrapped is not None:
            _place(unwrapped, source)
        else:
            with _readable_errors(source):
                whole = load_pretrained(source)
            unwrapped = unwrap(whole)
            assert unwrapped is not None
            _place(unwrapped, source)
            unwrapped = unwrap(with_merged_adapter(whole, unwrapped))
            assert unwrapped is not None
        loaded = _as_causal(unwrapped, source)
        if loaded.device.type == "cpu":
            keep_freed_memory()
        check_model(loaded)
        if source.layer_products == "float8":
            use_float8(loaded, keep=source.unwrapped is None)
    return loaded


def outline_model(source: ModelSource) -> CausalModel:
    """The model's shapes without its weights, for planning."""
    unwrapped = source.unwrapped
    if unwrapped is None:
        with inference_lock(), preserved_random_state(), _readable_errors(source), torch.device("meta"):
            unwrapped = unwrap(outline_pretrained(source))
    assert unwrapped is not None
    return _as_causal(unwrapped, source)


def _place(unwrapped: UnwrappedModel, source: ModelSource) -> None:
    """Moves and casts a model, in place, where it is not yet what was asked for."""
    stays = (source.device == "auto" and source.unwrapped) or (source.device_map is not None and unwrapped.dispatched)
    stays = stays or source.divided
    dtype, device = source.dtype, None if stays else source.resolved_device()
    if source.unwrapped is None and dtype is None and device == torch.device("cpu"):
        dtype = _faster_dtype(unwrapped, source.name)
    if device is not None and device.type == "cuda" and device.index is None and unwrapped.device.type == "cuda":
        device = None
    moved = device is not None and device != unwrapped.device
    other_dtype = dtype is not None and any(
        p.dtype != dtype for p in unwrapped.base.parameters() if p.dtype.is_floating_point or unwrapped.quantised
    )
    if not moved and not other_dtype:
        return
    reason = "quantised" if unwrapped.quantised else "spread by a device_map" if unwrapped.dispatched else None
    if reason is not None:
        name = "device" if moved else "dtype"
        raise ValueError(
            f"{name}: the model is {reason} and stays as it is, with {str(unwrapped.dtype).removeprefix('torch.')} on "
            f'{unwrapped.device}; expected "auto", got {source.device if moved else source.dtype_name!r}'
        )
    cast(Any, unwrapped.whole).to(device=device, dtype=dtype)


def _faster_dtype(unwrapped: UnwrappedModel, name: str) -> torch.dtype | None:
    """float32, which holds every number of float16 and bfloat16, for weights of those that this CPU cannot multiply."""
    if unwrapped.dtype == torch.float16:
        return torch.float32
    if (
        unwrapped.dtype != torch.bfloat16
        or unwrapped.quantised
        or platform.machine() not in ("x86_64", "AMD64")
        or has_bfloat16_products()
    ):
        return None
    size = sum(p.numel() * 4 for p in unwrapped.base.parameters())
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
        f"{reason}: it is held as float32, which takes twice the memory and a fraction of the time; dtype bfloat16 "
        "keeps it as stored",
        ScoringWarning,
        stacklevel=3,
    )
    return torch.float32


def _as_causal(unwrapped: UnwrappedModel, source: ModelSource) -> CausalModel:
    """ValueError for what is not a causal language model, such as an encoder-decoder or a model without a head."""
    model = unwrapped.base
    expected = f"model: expected a causal (decoder-only) language model, got {type(model).__name__}"
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{expected}, an encoder-decoder")
    if model.get_output_embeddings() is None and not hasattr(model, "lm_head"):
        raise ValueError(f"{expected}, which has no language modelling head")
    try:
        return CausalModel(unwrapped, backend=source.backend, context=source.context_length)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise ValueError(f"{expected}, which lacks what scoring needs: {reason}") from error


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase | None:
    """The tokenizer given, or the model's own; None for a loaded model that comes without one."""
    if source.tokenizer is not None and not isinstance(source.tokenizer, (str, os.PathLike)):
        return source.tokenizer
    unwrapped = source.unwrapped
    name = source.tokenizer or (source.model if unwrapped is None else unwrapped.base.name_or_path)
    if not name:
        return None
    with inference_lock(), _readable_errors(source, "tokenizer"):
        found = find_checkpoint(str(name), source.revision).tokenizer
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                found.name, **found.options, trust_remote_code=source.trust_remote_code
            )
        except Exception as error:
            if unwrapped is not None and source.tokenizer is None:  # where it came from there may be none
                return None
            said = str(error).strip().partition("\n")[0].rstrip()
            if said.endswith(":"):  # a list of what it could have been follows
                raise ValueError(missing_files(None, str(name))) from error
            raise
        config = load_text_config(source) if unwrapped is None else unwrapped.base.config.get_text_config()
        check_tokenizer(tokenizer, getattr(config, "vocab_size", None), str(name))
        return tokenizer


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
    is_own = parameter == "model" or source.tokenizer is None
    given = source.model if is_own else source.tokenizer
    asked = str(given) if isinstance(given, (str, os.PathLike)) else source.name
    if asked == str(given):  # else a loaded model's, which may be gone
        check_name(asked, "model" if is_own else parameter)
    try:
        with without_remarks(), cache_alone_if_out_of_reach(gguf_parts(asked)[0]):
            yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{parameter}: cannot load {asked!r}: {first_line(error)}") from error
