"""What is found of a model's layers, as the checks at load find it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from instsel.engine.model import CausalModel
from instsel.engine.model_session import ModelSession
from instsel.engine.sharing_checks import CheckedTree
from instsel.engine.wrapped_models import unwrap
from instsel.layers.fused_layers import FusedLayers


def find_layers(model: Any) -> FusedLayers:
    """Without holding the whole model against its own forward."""
    session = ModelSession(CausalModel(unwrap(model)))
    try:
        tree = CheckedTree(session.info, session, np.arange(3, 27))
        with session.inference_context(), session.ready():
            return FusedLayers(session.replica, partial(tree.run_first_pack, session))
    finally:
        session.close()
