"""By which library workers multiply float32: as the driver would, whatever each of them would find faster by itself."""

from __future__ import annotations

import contextlib

from instsel.engine.scorer import Scorer
from instsel.kernels.float_products import Choices, choices_for


def choices_of(scorer: Scorer) -> Choices | None:
    """The choices for a model's products, its weights not loaded; None where it is not to be seen here."""
    with contextlib.suppress(Exception):  # the worker that cannot load it says why
        weights = [getattr(module, "weight", None) for module in scorer.outline.model.modules()]
        return choices_for({(w.shape[0], w.shape[1]) for w in weights if w is not None and w.ndim == 2})
    return None
