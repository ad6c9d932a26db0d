"""Checks made once at load: is the model causal, does its head as read give its own logits, may prefixes be shared?

A list of model families would be out of date on the day it is written, so a few random tokens are run both ways.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instsel.engine.inference_context import preserved_random_state
from instsel.engine.model import CausalModel, Head
from instsel.engine.model_session import ModelSession
from instsel.engine.sharing_checks import CheckedTree, hidden_tolerance, length_dependence, sharing_limit
from instsel.error_text import first_line
from instsel.kernels.backends import choose_backend
from instsel.layers.fused_layers import FusedLayers
from instsel.layers.replica import Replica
from instsel.layers.whole_layers import OTHER_ROWS

CHECK_TOKENS = 24
# Activations in int8 may have one scale for all rows, so that what follows moves what stands before by their rounding:
# by 0.02 to 0.17 in models of 3 to 12 layers, which is no less than what a small encoder's tokens do to each other.
_QUANTISED_TOLERANCE = 0.5
_VOCABULARY_PART = 8192  # rows of the head in float32 at once


class ScoringWarning(UserWarning):
    """Scores are right but something the user may want to know of makes them slower or limits them."""


def check_model(model: CausalModel) -> None:
    """Sets what is seen of the model's head and of sharing prefixes, with one warning where something is slower.

    Raises ValueError for a model that cannot be run on token ids alone or that is not causal.
    """
    before = torch.get_rng_state()
    with preserved_random_state(model.device):
        slower = _checked(model)
        model.draws = not torch.equal(before, torch.get_rng_state())
    if slower:
        name = type(model.model).__name__
        warnings.warn(f"{name} is scored exactly, but slower: {'; '.join(slower)}", ScoringWarning, stacklevel=2)


def _checked(model: CausalModel) -> list[str]:
    """Makes the checks; what is slower than it could be, in words."""
    session = ModelSession(model)
    model.signature, untouched = session.replica.signature, Replica(session.whole).signature
    slower = []
    why_own_logits = "its logits are not a function of its final hidden states that instsel knows"
    if model.head is None and (model.unwrapped.quantised or model.unwrapped.dispatched):
        where = "divided over processes" if model.unwrapped.divided else "quantised or kept outside memory"
        why_own_logits = f"its head is {where}"
    with session.inference_context():
        ids = check_ids(model, session)
    first, second = np.concatenate([ids[:8], ids[8:16]]), np.concatenate([ids[:8], ids[16:]])
    logits, others = _own_logits(model, session, first, second)
    with session.inference_context():
        moved = _moved(logits[:8], others[:8])
        if moved > hidden_tolerance(model.dtype):
            if not model.unwrapped.quantised or moved > _QUANTISED_TOLERANCE or _attends_both_ways(session):
                raise ValueError(
                    f"model: expected a causal language model, but what {type(model.model).__name__} predicts depends "
                    "on the tokens that follow (an encoder such as BERT needs is_decoder=True in its configuration)"
                )
            model.row_dependent = True
        model.vocabulary = logits.shape[-1]
        if session.head is not None and (model.row_dependent or not _head_agrees(session, session.head, first, logits)):
            model.head = session.head = None
        model.length_dependent, _ = length_dependence(model.config)
        tree = CheckedTree(model, session, ids)
        reason, model.shareable_length = sharing_limit(model, tree)
        if model.unwrapped.quantised and model.shareable_length == 0:
            # Rounding to integers makes large differences of small ones: only the same rows give the same numbers.
            model.row_dependent = True
            model.head = session.head = None
        if model.head is None:
            slower.append(
                f"{why_own_logits}: its own logits are computed, a whole row of the vocabulary for every token"
            )
        if not model.row_dependent:
            backend = layer_backend(model)
            if model.shareable_length == 0:  # no pack of it is ever run
                fused = FusedLayers(session.replica, backend=backend)
            else:
                with session.ready():
                    fused = FusedLayers(session.replica, partial(tree.run_first_pack, session), backend)
            differs = _fused_difference(model, tree, fused)
            if not differs:
                model.fused_layers = fused
            slower += _unfused(fused, differs)
            if backend == "triton":
                _choose_head(model)
    model.changing = untouched.changes(Replica(session.whole).signature)
    session.close()
    if reason:
        limit = model.shareable_length
        shared = "prefixes cannot be shared" if limit == 0 else f"only sequences of up to {limit} tokens share prefixes"
        others_run = "sequences" if limit == 0 else "longer ones"
        slower.insert(0, f"{shared} ({reason}): {others_run} are scored one at a time")
    return slower


def layer_backend(model: CausalModel) -> str:
    """Whose kernels run in a model's layers."""
    return "triton" if choose_backend(model.backend, model.device) == "triton" else "cpu"


def _choose_head(model: CausalModel) -> None:
    """Sets whether the head runs fused on a GPU."""
    from instsel.engine.head_timing import head_is_fused  # Triton is there, as its kernels run in the layers

    if model.head is not None:
        model.head = replace(model.head, fused=head_is_fused(model.head))


def _unfused(fused: FusedLayers, differs: str) -> list[str]:
    """What of a model runs its own code where kernels were to, and why: on a CPU, whose kernels also run the parts of a
    layer that is not whole, only what they compute otherwise, and experts."""
    if fused.backend == "triton":
        reasons = {"its layers": differs} if differs else fused.reasons
        return [f"what stands between the products of {layer} is not fused ({why})" for layer, why in reasons.items()]
    if differs:
        return [f"its layers run their own code ({differs})"]
    reasons = {layer: why for layer, why in fused.reasons.items() if why == OTHER_ROWS} | fused.own_experts
    return [f"{kind} runs its own code ({why})" for kind, why in reasons.items()]


def _own_logits(
    model: CausalModel, session: ModelSession, first: np.ndarray, second: np.ndarray
) -> tuple[Tensor, Tensor]:
    """The model's own logits of two sequences; without inference tensors where its code cannot do with them."""
    rows = np.arange(16)
    while True:
        try:
            with session.inference_context():
                return tuple(session.forward_alone(ids, rows, logits=True) for ids in (first, second))  # type: ignore[return-value]
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever its own code raises
            if model.inference_tensors:
                model.inference_tensors = False
                continue
            name = type(model.model).__name__
            reason = first_line(error)
            raise ValueError(f"model: {name} cannot be run on a sequence of token ids by itself: {reason}") from error


def check_ids(model: CausalModel, session: ModelSession) -> np.ndarray:
    """Random token ids with finite embeddings, without those that the configuration gives a meaning (an image, ...)."""
    config = model.config.to_dict() | model.model.config.to_dict()
    special = [v for k, v in config.items() if k.endswith(("_token_id", "_token_index")) and isinstance(v, int)]
    drawn = np.random.default_rng(0).integers(0, min(model.input_vocabulary, model.vocabulary), 8 * CHECK_TOKENS)
    embedding: Any = session.base.get_input_embeddings()
    try:
        finite = torch.isfinite(embedding(torch.from_numpy(drawn).to(model.device))).all(-1).cpu().numpy()
    except Exception:  # an embedding that takes more than ids
        finite = np.ones(len(drawn), bool)
    usable = finite & ~np.isin(drawn, special)
    return np.concatenate([drawn[usable], drawn])[:CHECK_TOKENS]


def _moved(one: Tensor, other: Tensor) -> float:
    """Relative difference of what two sequences that begin alike are predicted; that of the median row, since an expert
    that rounding chose in the one and not in the other moves only some."""
    one, other = one.float(), other.float()
    moved = (one - other).norm(dim=-1) / one.norm(dim=-1)
    return float(moved.nan_to_num(0.0).median())


def _attends_both_ways(session: ModelSession) -> bool:
    """Whether the attention layers say of themselves that they are not causal."""
    return {
        value for module in session.replica.modules if type(value := getattr(module, "is_causal", None)) is bool
    } == {False}


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """float32 logits, as the definition of `Head` says."""
    # In parts, as a float32 copy of a large vocabulary's weights would be half of a small model's memory.
    z = torch.cat([hidden.float() @ part.float().T for part in head.weight.split(_VOCABULARY_PART)], dim=1)
    if head.bias is not None:
        z = z + head.bias.float()
    z = z * head.scale
    return head.softcap * torch.tanh(z / head.softcap) if head.softcap else z


def _head_agrees(session: ModelSession, head: Head, ids: np.ndarray, own: Tensor) -> bool:
    try:
        hidden = session.forward_alone(ids, np.arange(len(ids))).to(head.weight.device)
    except Exception:
        return False  # the decoder by itself takes other arguments or gives other things than the whole model
    if hidden.shape[0] != len(ids) or hidden.shape[-1] != head.weight.shape[1] or own.shape[-1] != len(head.weight):
        return False
    ours = head_logits(hidden, head)
    own_float = own.float().to(ours.device)
    known = torch.isfinite(ours).all(-1)  # a row that is not finite will be found so when it is scored
    ours, own_float = ours[known], own_float[known]
    # A few roundings of the model's dtype for each, half a rounding on the average: a bias, a scale or a cap that
    # was overlooked is more, and so is a masked column (minus infinity).
    eps = torch.finfo(hidden.dtype).eps  # the logits themselves may have been made float32 after they were rounded
    each, average = (4 * eps, eps) if hidden.dtype.itemsize < 4 else (1e-4, 1e-5)
    difference = (ours - own_float).abs()
    close = (torch.isfinite(difference) & (difference <= each * (1 + own_float.abs()))).all()
    return bool(close and difference.norm() <= average * own_float.norm())


def _fused_difference(model: CausalModel, tree: CheckedTree, fused: FusedLayers) -> str:
    """How what fused layers give differs from the model's own rows of a sequence by itself, or of a tree where prefixes
    are shared; empty where it does not."""
    own = tree.own_rows[0]
    if not torch.isfinite(own).all():
        return "its hidden states are not finite"
    other = ModelSession(model, fused)
    try:
        moved = float((tree.rows_of(other, 0) - own).norm() / own.norm())
        if not moved <= hidden_tolerance(model.dtype):
            return f"the kernels move its rows by {moved:.1%}"
        differs = tree.difference(other, []) if model.shareable_length != 0 else ""
        return differs and f"with the kernels {differs}"
    except Exception as error:  # whatever its own code raises between them
        return first_line(error)
    finally:
        other.close()
