"""Rotary embeddings in place, by copies of transformers' own forwards that find another function under its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from instsel.engine.function_globals import named, renamed
from instsel.kernels.layer_operations import DTYPES, rotate_in_place

ROTARY = "apply_rotary_pos_emb"
Rotary = Callable[..., Any]  # turns queries and keys by cos and sin


def rotary_functions(kinds: Iterable[type]) -> set[Rotary]:
    """Those that the forwards of some classes of modules call and that turn halves of a head against each other."""
    functions = {named(cast(Any, kind).forward, ROTARY) for kind in kinds}
    return {function for function in functions if function is not None and _rotates_halves(function)}


def rotating_forward(kind: type, known: set[Rotary]) -> FunctionType | None:
    """A class's forward with the rotary function in one pass in place of its own; None where its own is not `known`."""
    forward: Any = cast(Any, kind).forward
    own = named(forward, ROTARY)
    return renamed(forward, ROTARY, partial(_rotate, own)) if own is not None and own in known else None


def _rotates_halves(own: Callable[..., Any]) -> bool:
    """Whether a rotary function turns the halves of the whole head against each other."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float32)
    q, k = (draw(1, 5, heads, 8).transpose(1, 2) for heads in (4, 2))
    cos, sin = (draw(1, 5, 8) for _ in range(2))
    try:
        expected = own(q.clone(), k.clone(), cos, sin)
        copies = [x.transpose(1, 2).clone() for x in (q, k)]
        return all(
            torch.allclose(want, rotate_in_place(x[0], cos[0], sin[0]).transpose(0, 1)[None], atol=1e-5)
            for want, x in zip(expected, copies, strict=True)
        )
    except Exception:  # whatever a part of another kind raises
        return False


def _rotate(own: Callable[..., Any], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **more: Any) -> Any:
    """Rotary embedding in place of fresh projections [1, heads, T, d]; the model's own where the layout is another."""
    in_order = [x.transpose(1, 2) for x in (q, k)]
    usable = all(x.is_contiguous() and x.shape[0] == 1 and x.dtype == cos.dtype for x in in_order)
    usable = usable and cos.dtype in DTYPES and not any(x.requires_grad for x in in_order)
    if rest or more or not usable or cos.shape[:1] != (1,) or cos.shape[-1] != q.shape[-1]:
        return own(q, k, cos, sin, *rest, **more)
    turn = cos[0].contiguous(), sin[0].contiguous()
    for x in in_order:
        rotate_in_place(x[0], *turn)
    return q, k
