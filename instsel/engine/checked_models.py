"""A loaded model as it was each time that it was checked of late: adapters are switched to and fro."""

from __future__ import annotations

from dataclasses import replace

from instsel.engine.inference_lock import inference_lock
from instsel.engine.loading import load_model
from instsel.engine.model import CausalModel
from instsel.engine.model_source import ModelSource
from instsel.layers.replica import Replica

_KEPT = 4


class CheckedModels:
    """What was found out about a model by each of the last checks of it."""

    def __init__(self) -> None:
        self._known: list[CausalModel] = []

    def as_now(self, model: CausalModel, replica: Replica, source: ModelSource) -> CausalModel:
        """What holds for a model as it is now, of which this is a replica: known, or found out by another check."""
        known = next((one for one in self._known if one.describes(replica)), None)
        if known is not None:
            return known
        with inference_lock():
            found = load_model(replace(source, model=model.unwrapped.whole, device="auto", dtype=None, device_map=None))
        self._known = [found, model, *(one for one in self._known if one is not model)][:_KEPT]
        return found
