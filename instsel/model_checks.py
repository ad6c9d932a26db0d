"""Checks made once at load: does the head as read give the model's own logits, and may prefixes be shared?

A list of model families would be out of date on the day it is written, so a few random tokens are run both ways.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from instsel.attention import UnsupportedAttentionError
from instsel.fused_layers import FusedLayers
from instsel.layout import find_spans, lay_out
from instsel.model import CausalModel, Head
from instsel.packing import plan_steps
from instsel.prefix_tree import PrefixTree, build_prefix_tree, concatenate

_SHARING_LIMITED_TYPES = {"full_attention", "sliding_attention", "attention"}
# Largest relative difference by which the two ways may differ: rounding of the dtype through many layers. A wrong
# mask moves hidden states by a tenth and more.
_HIDDEN_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_HALF_HIDDEN_TOLERANCE = 0.06


class ScoringWarning(UserWarning):
    """Scores are right but something the user may want to know of makes them slower or limits them."""


@torch.inference_mode()
def check_model(model: CausalModel) -> None:
    """Sets `model.head` and `model.shareable_length` by what is seen, with one warning where something is slower."""
    ids = np.random.default_rng(0).integers(0, min(model.input_vocabulary, model.vocabulary), 24)
    name = type(model.model).__name__
    if model.head is not None and not _head_agrees(model, model.head, ids):
        model.head = None
    if model.head is None:
        warnings.warn(
            f"{name}: its logits are not a linear function of its final hidden states that instsel knows; "
            "the model's own logits are used, in memory",
            ScoringWarning,
            stacklevel=2,
        )
    reason, model.shareable_length = _sharing(model, ids)
    fused = FusedLayers(model.model)
    if _fused_layers_agree(model, fused, ids):
        model.fused_layers = fused
    if reason:
        extent = "shared" if model.shareable_length == 0 else f"shared beyond {model.shareable_length} tokens"
        warnings.warn(
            f"{name}: prefixes cannot be {extent} ({reason}); sequences are scored one at a time",
            ScoringWarning,
            stacklevel=2,
        )


def head_logits(hidden: Tensor, head: Head) -> Tensor:
    """float32 logits, as the definition of `Head` says."""
    z = hidden.float() @ head.weight.float().T
    if head.bias is not None:
        z = z + head.bias.float()
    z = z * head.scale
    return head.softcap * torch.tanh(z / head.softcap) if head.softcap else z


def _head_agrees(model: CausalModel, head: Head, ids: np.ndarray) -> bool:
    rows = np.arange(len(ids))
    hidden = model.forward_alone(ids, rows)
    own = model.forward_alone(ids, rows, logits=True)
    if own.shape[-1] != head.weight.shape[0] or hidden.shape[-1] != head.weight.shape[1]:
        return False
    ours = head_logits(hidden, head)
    if not torch.isfinite(own).all():
        return True  # nothing can be concluded; the rows themselves will be found not finite
    few_roundings = 4 * torch.finfo(own.dtype).eps if own.dtype.itemsize < 4 else 1e-4
    return bool(((ours - own.float()).abs() <= few_roundings * (1 + own.float().abs())).all())


def _fused_layers_agree(model: CausalModel, fused: FusedLayers, ids: np.ndarray) -> bool:
    rows = np.arange(len(ids))
    own = model.forward_alone(ids, rows).float()
    try:
        with fused.active():
            ours = model.forward_alone(ids, rows).float()
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return False
    return bool((ours - own).norm() <= _HIDDEN_TOLERANCE.get(model.dtype, _HALF_HIDDEN_TOLERANCE) * own.norm())


def _sharing(model: CausalModel, ids: np.ndarray) -> tuple[str, int | None]:
    """Why paths are shared only up to a length (empty if they are shared whatever it is), and that length."""
    own = getattr(model.model, "_can_set_attn_implementation", None)
    if own is not None and not own():
        return "its attention cannot be replaced", 0
    config = model.config
    types = set(getattr(config, "layer_types", None) or ())
    if types - _SHARING_LIMITED_TYPES:
        return f"layers of type {', '.join(sorted(types - _SHARING_LIMITED_TYPES))}", 0
    tails = [ids[8:14], ids[12:21], ids[8:10], np.concatenate([ids[8:10], ids[20:24]])]
    sequences = [np.concatenate([ids[:8], tail]) for tail in tails] + [ids[3:9]]
    tree = build_prefix_tree(*concatenate(sequences))
    (step,) = plan_steps(tree, 1 << 20)
    layout = lay_out(tree, find_spans(tree, np.ones(len(sequences), np.int64)), step)
    try:
        with model.ready():
            hidden, state = model.forward_pack(layout)
    except (UnsupportedAttentionError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        return str(error).split("\n")[0], 0
    if state.layers != config.num_hidden_layers:
        return f"{state.layers} of {config.num_hidden_layers} layers attend through the attention interface", 0
    alone = [model.forward_alone(sequence[:-1], np.arange(len(sequence) - 1)) for sequence in sequences]
    want = torch.cat(alone).float()
    got = torch.cat([hidden[_path_rows(tree, step.nodes, i)] for i in range(len(sequences))]).float()
    difference = (got - want).norm() / want.norm()
    if difference > _HIDDEN_TOLERANCE.get(model.dtype, _HALF_HIDDEN_TOLERANCE):
        return f"sharing moved its hidden states by {float(difference):.1%}", 0
    return _length_limit(model, state.windows)


def _path_rows(tree: PrefixTree, nodes: np.ndarray, sequence: int) -> np.ndarray:
    """Rows of the pack that hold the path of one sequence."""
    begin = np.concatenate([[0], np.cumsum(tree.lengths[nodes])])
    path = [*tree.ancestors(int(tree.terminal[sequence])), int(tree.terminal[sequence])]
    rows = np.concatenate([np.arange(begin[n], begin[n + 1]) for n in path])
    return rows[: int(tree.offsets[sequence + 1] - tree.offsets[sequence]) - 1]


def _length_limit(model: CausalModel, windows: set[int]) -> tuple[str, int | None]:
    """Lengths above which the model computes a token differently than by its path alone, or by a window unseen."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    scalings = rope.values() if rope and all(isinstance(v, dict) for v in rope.values()) else [rope]
    for scaling in scalings:
        if scaling.get("rope_type") in ("dynamic", "longrope"):
            original = scaling.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            return f"{scaling['rope_type']} rotary scaling depends on the length", int(original or 0)
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window not in windows:
        return "a sliding window that its layers do not state", int(window)
    return "", None
