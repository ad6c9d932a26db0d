"""Exact, fast scoring of instruction-tuning data under a causal language model, and selection from it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer, score_batch

__version__ = "0.1.0"

# PyTorch and transformers take seconds to import: each name loads its module when first used.
_MODULES = {
    "Scorer": "instsel.engine.scorer",
    "score_batch": "instsel.engine.scorer",
    "plan_batch": "instsel.engine.scorer",
    "ScoreBatch": "instsel.engine.results",
    "ifd": "instsel.methods.ifd",
    "wici": "instsel.methods.wici",
    "perplexity": "instsel.methods.perplexity",
    "grape": "instsel.methods.grape",
    "nuggets": "instsel.methods.nuggets",
    "miwv": "instsel.methods.miwv",
    "select": "instsel.selection",
    "spearman_correlation": "instsel.methods.correlation",
}

__all__ = ["Scorer", "score_batch"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
