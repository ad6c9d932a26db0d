"""Checks made once at load: is the model causal, does its head as read give its own logits, may prefixes be shared?

A list of model families would be out of date on the day it is written, so a few random tokens are run both ways.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from instsel.engine.fused_layers import FusedLayers
from instsel.engine.model import CausalModel, Head
from instsel.engine.sharing_checks import hidden_tolerance, length_dependence, sharing_limit

CHECK_TOKENS = 24


class ScoringWarning(UserWarning):
    """Scores are right but something the user may want to know of makes them slower or limits them."""


@torch.inference_mode()
def check_model(model: CausalModel) -> None:
    """Sets what is seen of the model's head and of sharing prefixes, with one warning where something is slower.

    Raises ValueError for a model that cannot be run on token ids alone or that is not causal.
    """
    name = type(model.model).__name__
    slower = []
    try:
        ids = _check_ids(model)
        first, second = np.concatenate([ids[:8], ids[8:16]]), np.concatenate([ids[:8], ids[16:]])
        logits = model.forward_alone(first, np.arange(16), logits=True)
        others = model.forward_alone(second, np.arange(16), logits=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever its own code raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"model: {name} cannot be run on a sequence of token ids by itself: {reason}") from error
    if not _causal(logits[:8], others[:8], hidden_tolerance(model.dtype)):
        raise ValueError(
            f"model: expected a causal language model, but what {name} predicts depends on the tokens that follow "
            "(an encoder such as BERT needs is_decoder=True in its configuration)"
        )
    model.vocabulary = logits.shape[-1]
    if model.head is not None and not _head_agrees(model, model.head, first, logits):
        model.head = None
    if model.head is None:
        slower.append(
            "its logits are not a function of its final hidden states that instsel knows: its own logits are computed, "
            "a whole row of the vocabulary for every token scored"
        )
    model.length_dependent, _ = length_dependence(model.config)
    reason, model.shareable_length = sharing_limit(model, ids)
    fused = FusedLayers(model.model)
    if _fused_layers_agree(model, fused, first):
        model.fused_layers = fused
    if reason:
        limit = model.shareable_length
        shared = "prefixes cannot be shared" if limit == 0 else f"only sequences of up to {limit} tokens share prefixes"
        others_run = "sequences" if limit == 0 else "longer ones"
        slower.insert(0, f"{shared} ({reason}): {others_run} are scored one at a time")
    if slower:
        warnings.warn(f"{name} is scored exactly, but slower: {'; '.join(slower)}", ScoringWarning, stacklevel=2)


def _check_ids(model: CausalModel) -> np.ndarray:
    """Random token ids with finite embeddings, without those that the configuration gives a meaning (an image, ...)."""
    config = model.config.to_dict() | model.model.config.to_dict()
    special = [v for k, v in config.items() if k.endswith(("_token_id", "_token_index")) and isinstance(v, int)]
    drawn = np.random.default_rng(0).integers(0, min(model.input_vocabulary, model.vocabulary), 8 * CHECK_TOKENS)
    rows = model.model.get_input_embeddings().weight[torch.from_numpy(drawn).to(model.device)]
    usable = torch.isfinite(rows).all(-1).cpu().numpy() & ~np.isin(drawn, special)
    return np.concatenate([drawn[usable], drawn])[:CHECK_TOKENS]


def _causal(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two sequences that begin alike are predicted alike; by the median row, since an expert that rounding
    chose in the one and not in the other moves only some."""
    one, other = one.float(), other.float()
    moved = (one - other).norm(dim=-1) / one.norm(dim=-1)
    return not bool(moved.nan_to_num(0.0).median() > tolerance)


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """float32 logits, as the definition of `Head` says."""
    z = hidden.float() @ head.weight.float().T
    if head.bias is not None:
        z = z + head.bias.float()
    z = z * head.scale
    return head.softcap * torch.tanh(z / head.softcap) if head.softcap else z


def _head_agrees(model: CausalModel, head: Head, ids: np.ndarray, own: Tensor) -> bool:
    try:
        hidden = model.forward_alone(ids, np.arange(len(ids)))
    except Exception:
        return False  # the decoder by itself takes other arguments or gives other things than the whole model
    if hidden.shape[0] != len(ids) or hidden.shape[-1] != head.weight.shape[1] or own.shape[-1] != len(head.weight):
        return False
    ours, own_float = head_logits(hidden, head), own.float()
    known = torch.isfinite(ours).all(-1)  # a row that is not finite will be found so when it is scored
    ours, own_float = ours[known], own_float[known]
    # A few roundings of the model's dtype for each, half a rounding on the average: a bias, a scale or a cap that
    # was overlooked is more, and so is a masked column (minus infinity).
    eps = torch.finfo(hidden.dtype).eps  # the logits themselves may have been made float32 after they were rounded
    each, average = (4 * eps, eps) if hidden.dtype.itemsize < 4 else (1e-4, 1e-5)
    difference = (ours - own_float).abs()
    close = (torch.isfinite(difference) & (difference <= each * (1 + own_float.abs()))).all()
    return bool(close and difference.norm() <= average * own_float.norm())


def _fused_layers_agree(model: CausalModel, fused: FusedLayers, ids: np.ndarray) -> bool:
    rows = np.arange(len(ids))
    logits = model.head is None
    own = model.forward_alone(ids, rows, logits=logits).float()
    try:
        with fused.active():
            ours = model.forward_alone(ids, rows, logits=logits).float()
    except Exception:
        return False
    return bool((ours - own).norm() <= hidden_tolerance(model.dtype) * own.norm())
