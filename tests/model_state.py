"""All that a program may rely on in its model, as something that can be compared before and after a call."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def state_of(model: torch.nn.Module) -> dict[str, Any]:
    """Modes, hooks, attributes, configurations, gradients and tensors of every module."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                found[name, key] = {part: id(item) for part, item in value.items()}
            elif "hooks" in key and hasattr(value, "items"):
                found[name, key] = list(value.items())
            elif key == "config":
                found[name, key] = (id(value), value.to_json_string(), value._attn_implementation)
            else:
                found[name, key] = (id(value), value if isinstance(value, (bool, int, float, str)) else None)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        plain = not tensor.is_meta and not getattr(tensor, "is_quantized", False)
        content = tensor.detach().clone() if plain else None
        gradient = None if tensor.grad is None else id(tensor.grad)
        found[name] = (tensor.requires_grad, tensor.dtype, tensor.device, tensor._version, gradient, _Tensor(content))
    return found


class _Tensor:
    def __init__(self, value: torch.Tensor | None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, _Tensor)
        if self.value is None or other.value is None:
            return self.value is other.value
        return torch.equal(torch.as_tensor(self.value), torch.as_tensor(other.value))


def random_states() -> tuple[Any, ...]:
    """Where the global generators stand."""
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()


def global_settings() -> tuple[Any, ...]:
    """What PyTorch has set for the whole process or thread."""
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_device(),
    )
