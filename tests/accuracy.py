"""The error budget of a kernel, drawn from the data."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_within_budget(got: Tensor, exact: Tensor, low: Tensor) -> None:
    """|got - exact| <= 2 |low - exact| + eps, with eps what float32 resolves there; finite exactly where `exact` is."""
    finite = torch.isfinite(exact)
    assert torch.equal(torch.isfinite(got), finite)
    resolution = 4e-7 * (1.0 + exact[finite].abs()) + 1e-6
    error = (got.double() - exact)[finite].abs()
    budget = 2.0 * (low - exact)[finite].abs() + resolution
    assert bool((error <= budget).all()), f"error {error.max():.2e}, budget {budget[error.argmax()]:.2e}"
