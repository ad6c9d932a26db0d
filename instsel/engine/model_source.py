"""Which model to score with, and how: the parameters of `Scorer`, checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from instsel.engine.wrapped_models import UnwrappedModel, unwrap
from instsel.kernels import BACKENDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DeviceMap = str | Mapping[str, int | str | torch.device]
MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
LAYER_PRODUCTS = ("auto", "float8")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model to load and how."""

    model: str | nn.Module
    tokenizer: PreTrainedTokenizerBase | str | None
    device: str
    dtype: torch.dtype | None  # None: as the checkpoint is stored
    backend: str
    revision: str | None
    trust_remote_code: bool
    device_map: DeviceMap | None = None  # as transformers takes it; None: all of it on `device`
    context_length: int | None = None  # in place of what the configuration says
    allow_unused_weights: bool = False
    layer_products: str = "auto"
    divided: bool = False  # by tensor parallelism over the ranks of which this process is one

    @classmethod
    def checked(
        cls,
        *,
        model: Any,
        tokenizer: Any,
        device: object,
        dtype: object,
        backend: str,
        revision: str | None,
        trust_remote_code: bool,
        device_map: object,
        context_length: object,
        allow_unused_weights: bool,
        layer_products: str,
    ) -> ModelSource:
        """The source; ValueError or TypeError naming the parameter that is not what it should be."""
        if isinstance(model, (str, os.PathLike)):
            model = os.fspath(model)
            if not model:
                raise ValueError("model: expected a name or a folder, got an empty string")
        elif unwrap(model) is None:
            raise TypeError(
                "model: expected a name, a folder or a loaded transformers model (adapted by peft, compiled or "
                f"quantised as it may be), got {type(model).__name__}"
            )
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend: expected one of {', '.join(('auto', *BACKENDS))}, got {backend!r}")
        if dtype == "auto":
            resolved = None
        elif isinstance(dtype, str) and dtype in _DTYPES:
            resolved = _DTYPES[dtype]
        elif isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
            resolved = dtype
        else:
            raise ValueError(f"dtype: expected one of {', '.join(('auto', *_DTYPES))} or a torch dtype, got {dtype!r}")
        try:
            if device != "auto":
                torch.device(device)  # type: ignore[call-overload]
        except (RuntimeError, TypeError) as error:
            raise ValueError(f'device: expected "auto", "cpu", "cuda" or the like, got {device!r}') from error
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device: {device!r} was asked for, but PyTorch sees no GPU")
        if context_length is not None and (
            isinstance(context_length, bool) or not isinstance(context_length, int) or context_length < 1
        ):
            raise ValueError(f"context_length: expected a positive integer, got {context_length!r}")
        if layer_products not in LAYER_PRODUCTS:
            raise ValueError(f"layer_products: expected one of {', '.join(LAYER_PRODUCTS)}, got {layer_products!r}")
        return cls(
            model=model,
            tokenizer=tokenizer,
            device=str(device),
            dtype=resolved,
            backend=backend,
            revision=revision,
            trust_remote_code=bool(trust_remote_code),
            device_map=_checked_map(device_map, model, device),
            context_length=context_length,
            allow_unused_weights=bool(allow_unused_weights),
            layer_products=layer_products,
        )

    @property
    def unwrapped(self) -> UnwrappedModel | None:
        """The loaded model that was given; None where a name or folder was."""
        return None if isinstance(self.model, str) else unwrap(self.model)

    @property
    def name(self) -> str:
        """The model's name or folder."""
        unwrapped = self.unwrapped
        return str(self.model if unwrapped is None else unwrapped.base.name_or_path or type(unwrapped.base).__name__)

    @property
    def dtype_name(self) -> str:
        """The dtype asked for."""
        return "auto" if self.dtype is None else str(self.dtype).removeprefix("torch.")

    def resolved_device(self) -> torch.device:
        """The device to run on."""
        if self.device != "auto":
            return torch.device(self.device)
        if self.unwrapped is not None:
            return self.unwrapped.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _checked_map(device_map: Any, model: object, device: object) -> DeviceMap | None:
    """A device map; ValueError where it is none, or does not go with the model or the device."""
    if device_map is None:
        return None
    if not (device_map in MAPS if isinstance(device_map, str) else isinstance(device_map, Mapping) and device_map):
        raise ValueError(
            f"device_map: expected one of {', '.join(MAPS)} or the device of each part, got {device_map!r}"
        )
    if not isinstance(model, str):
        raise ValueError("device_map: expected none with a model that is loaded, which stays where it is")
    if device != "auto":
        raise ValueError(f'device: with a device_map expected "auto", got {device!r}')
    return device_map if isinstance(device_map, str) else dict(device_map)
