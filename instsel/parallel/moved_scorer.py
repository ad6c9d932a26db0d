"""A scorer as another process loads it for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from instsel.engine.scorer import Scorer
from instsel.methods.stage_loop import SliceWorkers


def moved(scorer: Scorer, device: str | None = None) -> dict[str, Any]:
    """The arguments of a scorer with the same settings, on another device where one is named and none is mapped."""
    source = scorer.source if device is None or scorer.source.device_map else replace(scorer.source, device=device)
    options = {one.name: getattr(source, one.name) for one in fields(source) if one.name != "divided"}
    return {**options, "dtype": source.dtype or "auto", "max_batch_tokens": scorer.max_batch_tokens}


def check_can_move(scorers: Sequence[object], parameter: str = "scorer") -> None:
    """Raise ValueError or TypeError for what other processes cannot load for themselves."""
    for scorer in scorers:
        if isinstance(scorer, SliceWorkers):
            raise ValueError(f"{parameter}: expected a Scorer, got a pool of workers")
        if not isinstance(scorer, Scorer):
            raise TypeError(f"{parameter}: expected a Scorer, got {type(scorer).__name__}")
        if not isinstance(scorer.source.model, str):
            raise ValueError(
                f"{parameter}: expected one made from a folder or hub id, which other processes can load, got a model "
                "that is loaded in this one"
            )
