"""Real models' shapes on a GPU end to end, sharing asserted: a step of `gpu_run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu_checks import model_checks, results

SHAPES = ("qwen3-0.6b", "lfm2-350m", "qwen3.5-0.8b")


def calls(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Attention alone first, then models with convolutions and recurrences."""
    return results(model_checks(device, ("tiny",) if tiny else SHAPES))
