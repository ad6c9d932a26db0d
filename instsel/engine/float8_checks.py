"""Products in float8 taken into use: held against their definition, and by how much they move a model said."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from instsel.engine.model import CausalModel
from instsel.engine.model_checks import ScoringWarning, check_ids, head_logits
from instsel.engine.model_session import ModelSession
from instsel.engine.sharing_checks import CheckedTree
from instsel.error_text import first_line
from instsel.kernels.float8_products import Float8Product, Float8Rows, float8_refusal
from instsel.layers.float8_layers import Float8Layers, find_places
from instsel.layers.fused_modules import random_like

_REFUSED = 'layer_products: "float8" cannot be had'
_PROBED_ROWS = 300  # more than a tile, and no multiple of one
_TOLERANCE = 4 * torch.finfo(torch.bfloat16).eps  # of what a product gives, over all of it


def use_float8(model: CausalModel, *, keep: bool) -> None:
    """Has a checked model's layers multiply in float8, with one warning that says by how much that moves it.

    Raises ValueError where they cannot, or where what they give is not what rounding to 8 bits gives.
    """
    given = model.unwrapped
    kinds = {"quantised": given.quantised, "spread by a device_map": given.dispatched}
    kinds["in a wrapper that adds to its forward"] = given.opaque
    for kind, is_so in kinds.items():
        if is_so:
            raise ValueError(f"{_REFUSED}: the model is {kind}")
    if reason := float8_refusal(model.device, model.dtype):
        raise ValueError(f"{_REFUSED}: {reason}")
    if model.fused_layers is not None and model.fused_layers.backend != "triton":
        model.fused_layers = None  # a processor's kernels read weights themselves
    plain = ModelSession(model)
    try:
        layers = Float8Layers(find_places(plain.replica, plain.decoder, model.config), keep=keep)
        if not layers.places:
            raise ValueError(f"{_REFUSED}: the model's layers have no linear module that it is for")
        with plain.inference_context():
            ids = check_ids(model, plain)
            tree = CheckedTree(model, plain, ids)
            before = _log_softmax(tree, plain)
            model.float8 = layers
            rounded = ModelSession(model)
            try:
                _check_products(rounded.float8_products)
                moved = drift_of(before, _log_softmax(tree, rounded))
            finally:
                rounded.close()
    except BaseException:
        model.float8 = None
        raise
    finally:
        plain.close()
    layers.drift, layers.largest_row = float(moved.mean()), float(moved.max())
    warnings.warn(
        f"{type(model.model).__name__} is not scored exactly: its layers' products in float8 move a token's "
        f"log-probability by {layers.drift:.2g} nats in the mean, {layers.largest_row:.2g} where they move it most, "
        "measured on random tokens",
        ScoringWarning,
        stacklevel=3,
    )


def drift_of(before: Tensor, after: Tensor) -> Tensor:
    """`sum_v p(v) |log q(v) - log p(v)|` of rows of log-probabilities [R, V]: nats a token, over tokens as p has them.

    >>> p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    >>> drift_of(p, torch.tensor([[0.25, 0.75, 0.0]]).log())
    tensor([0.5493])
    """
    moved = torch.where(before > -torch.inf, (after - before).abs(), 0.0)
    return (before.exp() * moved).sum(-1)


def _log_softmax(tree: CheckedTree, session: ModelSession) -> Tensor:
    """Of all rows of a tree's paths, each path by itself."""
    rows = torch.cat([tree.rows_of(session, path) for path in range(len(tree.paths))])
    logits = rows if session.head is None else head_logits(rows.to(session.head.weight.dtype), session.head)
    return logits.float().log_softmax(-1)


def _check_products(products: list[Float8Product]) -> None:
    """ValueError where a product of any of the shapes is not that of the rounded numbers in float32."""
    for product in {product.weight.values.shape: product for product in products}.values():
        like = product.weight.values.new_empty(0, dtype=torch.bfloat16, device="cpu")
        x = random_like(_PROBED_ROWS, product.weight.values.shape[1], like=like).to(product.weight.values.device)
        x *= torch.linspace(0.1, 10, _PROBED_ROWS, device=x.device, dtype=x.dtype)[:, None]
        try:
            got = product.rows(x).float()
        except (RuntimeError, ValueError) as error:  # of a build of PyTorch without it
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(f"{_REFUSED}: {first_line(error)}") from error
        wanted = _float32(Float8Rows.of(x)) @ _float32(product.weight).T
        if product.bias is not None:
            wanted += product.bias.float()
        worst = ((got - wanted).norm(dim=1) / wanted.norm(dim=1)).max()
        if not worst <= _TOLERANCE:
            raise ValueError(f"{_REFUSED}: products of {tuple(product.weight.values.shape)} are off by {worst:.1%}")


def _float32(rows: Float8Rows) -> Tensor:
    return rows.values.float() * rows.scales
