"""Where a model comes from, and loading it: weights from safetensors only, every tensor accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from instsel.engine.model import CausalModel
from instsel.engine.model_checks import check_model
from instsel.engine.process_memory import keep_freed_memory
from instsel.hub import cache_alone_if_out_of_reach
from instsel.kernels import BACKENDS

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model to load and how."""

    model: Any
    tokenizer: Any
    device: str
    dtype: torch.dtype | None  # None: as the checkpoint is stored
    backend: str
    revision: str | None
    trust_remote_code: bool

    @classmethod
    def checked(
        cls,
        model: Any,
        tokenizer: Any,
        device: Any,
        dtype: Any,
        backend: str,
        revision: str | None,
        trust_remote_code: bool,
    ) -> ModelSource:
        """The source; ValueError or TypeError naming the parameter that is not what it should be."""
        if not isinstance(model, (str, os.PathLike, PreTrainedModel)):
            raise TypeError(f"model: expected a name, a folder or a loaded transformers model, got {_type(model)}")
        if not isinstance(model, PreTrainedModel):
            model = os.fspath(model)
            if not model:
                raise ValueError("model: expected a name or a folder, got an empty string")
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend: expected one of {', '.join(('auto', *BACKENDS))}, got {backend!r}")
        if dtype == "auto":
            resolved = None
        elif dtype in _DTYPES:
            resolved = _DTYPES[dtype]
        elif dtype in _DTYPES.values():
            resolved = dtype
        else:
            raise ValueError(f"dtype: expected one of {', '.join(('auto', *_DTYPES))} or a torch dtype, got {dtype!r}")
        try:
            if device != "auto":
                torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f'device: expected "auto", "cpu", "cuda" or the like, got {device!r}') from error
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device: {device!r} was asked for, but PyTorch sees no GPU")
        return cls(model, tokenizer, str(device), resolved, backend, revision, bool(trust_remote_code))

    @property
    def name(self) -> str:
        """The model's name or folder."""
        return self.model if isinstance(self.model, str) else str(self.model.name_or_path or type(self.model).__name__)

    @property
    def dtype_name(self) -> str:
        """The dtype asked for."""
        return "auto" if self.dtype is None else str(self.dtype).removeprefix("torch.")

    def resolved_device(self) -> torch.device:
        """The device to run on."""
        if self.device != "auto":
            return torch.device(self.device)
        if isinstance(self.model, PreTrainedModel):
            return next(self.model.parameters()).device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(source: ModelSource) -> CausalModel:
    """The model on its device, with its head and its prefix sharing checked."""
    model = source.model if isinstance(source.model, PreTrainedModel) else _from_pretrained(source)
    device, dtype = source.resolved_device(), source.dtype
    if dtype is None and device.type == "cpu" and model.dtype == torch.float16:
        dtype = torch.float32  # a CPU has no fast float16 products, and float32 holds every float16 number
    model = cast(Any, model).to(device=device, dtype=dtype or model.dtype)
    if device.type == "cpu":
        keep_freed_memory()
    loaded = _as_causal(model, source)
    check_model(loaded)
    return loaded


def outline_model(source: ModelSource) -> CausalModel:
    """The model's shapes without its weights, for planning."""
    if isinstance(source.model, PreTrainedModel):
        return _as_causal(source.model, source)
    with _readable_errors(source), torch.device("meta"):
        config = AutoConfig.from_pretrained(
            source.model, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=source.trust_remote_code)
    return _as_causal(model, source)


def _as_causal(model: PreTrainedModel, source: ModelSource) -> CausalModel:
    """ValueError for what is not a causal language model, such as an encoder-decoder or a model without a head."""
    expected = f"model: expected a causal (decoder-only) language model, got {type(model).__name__}"
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"{expected}, an encoder-decoder")
    if model.get_output_embeddings() is None and not hasattr(model, "lm_head"):
        raise ValueError(f"{expected}, which has no language modelling head")
    try:
        return CausalModel(model, backend=source.backend)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{expected}, which lacks what scoring needs: {reason}") from error


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer given, or the model's own; None for a loaded model that names no folder or hub id."""
    if source.tokenizer is not None and not isinstance(source.tokenizer, (str, os.PathLike)):
        return source.tokenizer
    name = source.tokenizer if source.tokenizer is not None else source.model
    if isinstance(name, PreTrainedModel):
        name = name.name_or_path
        if not name:
            return None
    with _readable_errors(source, "tokenizer"):
        return AutoTokenizer.from_pretrained(name, revision=source.revision, trust_remote_code=source.trust_remote_code)


def _from_pretrained(source: ModelSource) -> PreTrainedModel:
    with _readable_errors(source):
        config = AutoConfig.from_pretrained(
            source.model, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
        if config.is_encoder_decoder:
            raise ValueError("expected a causal (decoder-only) language model, got an encoder-decoder")
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.model,
            config=config,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            dtype=source.dtype or "auto",
            use_safetensors=True,
            output_loading_info=True,
        )
        model, info = loaded
        # transformers would go on with random numbers in their place.
        if absent := sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"]):
            raise ValueError(f"its weights lack {len(absent)} tensors, the first of them {absent[0]}")
    return model


@contextmanager
def _readable_errors(source: ModelSource, parameter: str = "model") -> Iterator[None]:
    """What transformers raises for a folder or name it cannot use, as one line that says what was wrong."""
    name = source.name
    if parameter == "model" and ("/" in name or "\\" in name or name.startswith(".")) and not Path(name).exists():
        looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
        if looks_local:
            raise ValueError(f"model: expected a folder or a hub id, got {name!r}, which does not exist")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    level = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    asked = source.tokenizer if parameter == "tokenizer" and source.tokenizer is not None else name
    try:
        with cache_alone_if_out_of_reach(str(asked)):
            yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(f"{parameter}: cannot load {name!r}: {lines[0] if lines else type(error).__name__}") from error
    finally:
        transformers.utils.logging.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _type(value: Any) -> str:
    return type(value).__name__
