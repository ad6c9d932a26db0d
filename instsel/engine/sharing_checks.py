"""Up to which length a model's tokens depend on their own path alone, so that other paths may run beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from instsel.engine.kept_states import state_bytes
from instsel.engine.model import CausalModel, rotary_scalings
from instsel.engine.model_session import ModelSession
from instsel.error_text import first_line
from instsel.layers.attention import NodeCache
from instsel.layers.expert_choice import fixed_choice
from instsel.planning.layout import find_spans, lay_out
from instsel.planning.packing import plan_steps
from instsel.planning.prefix_tree import PrefixTree, build_prefix_tree, concatenate

_KNOWN_LAYER_TYPES = {
    "full_attention",
    "sliding_attention",
    "attention",
    "chunked_attention",
    "indexed_attention",
    "minimax_m3_sparse",
    "hybrid_sliding",
}
_WITHOUT_ATTENTION = {"linear_attention", "conv", "mamba", "mamba2", "mlp", "moe"}
_RECURRENT_LAYER_TYPES = {*_WITHOUT_ATTENTION, "hybrid"}
# Largest relative difference by which the two ways may differ: rounding of the dtype through many layers. A wrong
# mask moves hidden states by a tenth and more.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_HALF_TOLERANCE = 0.06
# What configurations call a number of tokens from which on attention changes (4096, 8192, ...): more than the few
# tokens run here would show. Counts of layers and the block sizes of state-space kernels bear similar names.
_LENGTH_NAMES = re.compile("window|chunk|local_attention|index_topk|scaling_n_floor")
_OTHER_INPUTS = re.compile("vision|audio|image|speech")
_OTHER_NAMES = re.compile("mamba|ssm|layers|pattern|feed_forward|num_")


def hidden_tolerance(dtype: torch.dtype) -> float:
    """Largest relative difference between hidden states computed in two ways that is still rounding."""
    return _TOLERANCE.get(dtype, _HALF_TOLERANCE)


def sharing_limit(model: CausalModel, tree: CheckedTree) -> tuple[str, int | None]:
    """Why paths are shared only up to a length (empty if they are shared whatever it is), and that length."""
    if model.unwrapped.opaque:
        return f"{type(model.unwrapped.whole).__name__} adds to the model's own forward", 0
    if model.row_dependent:
        return "the rounding of its quantised products depends on the tokens beside", 0
    own = getattr(model.model, "_can_set_attn_implementation", None)
    if own is not None and not own():
        return "its attention cannot be replaced", 0
    types = set(getattr(model.config, "layer_types", None) or ())
    known = _KNOWN_LAYER_TYPES | (_RECURRENT_LAYER_TYPES if tree.session.recurrences else set())
    if unknown := types - known:
        of_types = f"layers of type {', '.join(sorted(unknown))}"
        return (
            f"its {of_types} recur in their own code" if unknown <= _RECURRENT_LAYER_TYPES else f"it has {of_types}",
            0,
        )
    temperature = _temperature_length(model.config)
    model.largest_pack = temperature
    windows: list[int | None] = []
    try:
        reason = tree.difference(tree.session, windows)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever its own code raises where it meets what it does not expect
        reason = first_line(error)
    if reason:
        return reason, 0
    model.state_tokens = -(-tree.state_bytes // tree.row_bytes)
    reason, limit = _length_limit(model.config, types, windows, recurrent=tree.session.recurrences > 0)
    if temperature is not None and (limit is None or temperature < limit):
        reason, limit = "it scales attention by a token's place in the forward, not by its position", temperature
    beyond_context = limit is not None and model.max_length is not None and limit >= model.max_length
    return ("", None) if beyond_context else (reason, limit)


class CheckedTree:
    """A small tree of 24 random tokens and the model's own rows for it, against which a way to run it is held."""

    def __init__(self, model: CausalModel, session: ModelSession, ids: np.ndarray) -> None:
        self.session = session
        layers = range(model.config.num_hidden_layers)
        to_images = getattr(model.config, "cross_attention_layers", None) or ()  # passed over where there are none
        self._layers = len(layers) - len({*to_images} & {*layers})
        self._logits = model.head is None
        self._tolerance = hidden_tolerance(model.dtype)
        self._budget = len(ids)
        self.state_bytes = 0  # that a node was seen to keep, beside keys and values
        tails = [ids[8:16], ids[16:24], np.concatenate([ids[8:10], ids[20:23]]), ids[8:9]]
        self.paths = [np.concatenate([ids[:8], tail]) for tail in tails] + [ids[3:9]]
        self._tree = build_prefix_tree(*concatenate([np.append(path, ids[:1]) for path in self.paths]))

    @cached_property
    def own_rows(self) -> list[Tensor]:
        """Of each path, run by itself by the model's own layers."""
        return [self.rows_of(self.session, path) for path in range(len(self.paths))]

    def rows_of(self, session: ModelSession, path: int) -> Tensor:
        """Hidden states or logits of one path, run by itself."""
        ids = self.paths[path]
        with fixed_choice(session.replica.modules):
            return session.forward_alone(ids, np.arange(len(ids)), logits=self._logits).float()

    def run_first_pack(self, session: ModelSession) -> None:
        """Has a pack of several nodes, with none before it, run by a session that is ready for packs."""
        spans = find_spans(self._tree, np.ones(len(self.paths), np.int64))
        step = next(iter(plan_steps(self._tree, self._budget)))
        session.forward_pack(lay_out(self._tree, spans, step), logits=self._logits)

    @property
    def row_bytes(self) -> int:
        """Of a token's rows of all layers."""
        embeddings = self.session.base.get_input_embeddings()
        return self._layers * cast(Tensor, embeddings.weight).shape[1] * self.session.info.dtype.itemsize

    def difference(self, session: ModelSession, windows: list[int | None]) -> str:
        """How a tree run in packs that keep and reuse keys and values differs from its paths by themselves, if it does.

        Puts the sliding window that each layer asked for into `windows`.
        """
        tree = self._tree
        spans = find_spans(tree, np.ones(len(self.paths), np.int64))
        caches: dict[int, NodeCache] = {}
        outputs: dict[int, Tensor] = {}  # of each node
        with session.ready(), fixed_choice(session.replica.modules):
            for step in plan_steps(tree, self._budget):
                layout = lay_out(tree, spans, step)
                rows, state = session.forward_pack(layout, [caches[node] for node in step.cached], logits=self._logits)
                caches.update(state.keys_values)
                self.state_bytes = max(self.state_bytes, state_bytes(state.keys_values.values()))
                windows[:] = [call.window for call in state.calls]
                if state.layers == 0 or (state.layers % self._layers and not state.recurrences):
                    return f"{state.layers} attention calls for {self._layers} layers"
                outputs.update(zip(step.nodes.tolist(), rows.split(tree.lengths[step.nodes].tolist()), strict=True))
        together = torch.cat([_path_rows(tree, outputs, i) for i in range(len(self.paths))]).float()
        alone = torch.cat(self.own_rows)
        if not torch.isfinite(alone).all():
            return "its hidden states are not finite"
        difference = float((together - alone).norm() / alone.norm())
        return "" if difference <= self._tolerance else f"sharing moves its hidden states by {difference:.1%}"


def _path_rows(tree: PrefixTree, outputs: dict[int, Tensor], sequence: int) -> Tensor:
    last = int(tree.terminal[sequence])
    length = int(tree.offsets[sequence + 1] - tree.offsets[sequence]) - 1
    return torch.cat([outputs[node] for node in [*tree.ancestors(last), last]])[:length]


def length_dependence(config: object) -> tuple[str, int]:
    """The rotary scaling by which a token's state depends on the whole sequence's length, and from what length on; of
    several, where types of layers have their own, that of the smallest length."""
    found = []
    for scaling in rotary_scalings(config):
        kind = str(scaling.get("rope_type", ""))
        if kind == "longrope":
            original = scaling.get("original_max_position_embeddings")
            found.append((kind, int(original or getattr(config, "original_max_position_embeddings", None) or 0)))
        elif "dynamic" in kind:
            found.append((kind, int(getattr(config, "max_position_embeddings", None) or 0)))
    return min(found, key=itemgetter(1), default=("", 0))


def _length_limit(
    config: PreTrainedConfig, types: set[str], windows: Sequence[int | None], *, recurrent: bool
) -> tuple[str, int | None]:
    """Lengths beyond the few tokens run at load at which a model may compute a token by more than its path."""
    scaling, limit = length_dependence(config)
    if scaling:
        return f"its {scaling} rotary scaling depends on the length", limit
    found = dict(_lengths(config.to_dict()))
    if (types and "sliding_attention" not in types) or not getattr(config, "use_sliding_window", True):
        found.pop("sliding_window", None)
    if recurrent:
        found.pop("chunk_size", None)  # of a scan: how many tokens are computed at once, which no number depends on
    if found.get("local_attention", 0) // 2 in windows:  # of both sides, of which a causal model has one
        del found["local_attention"]
    unseen = {name: length for name, length in found.items() if length not in windows}
    # The model's own masks are made by its configuration, layer by layer where that has types of layers.
    window = getattr(config, "sliding_window", None)
    kinds = [kind for kind in getattr(config, "layer_types", None) or () if kind not in _WITHOUT_ATTENTION]
    stated = [window if kind == "sliding_attention" else None for kind in kinds]
    if len(stated) == len(windows):
        unlike = {w for pair in zip(stated, windows, strict=True) if pair[0] != pair[1] for w in pair if w is not None}
    else:
        unlike = {w for w in windows if w is not None} - set(found.values())
    if not unseen and not unlike:
        return "", None
    if unlike and min(unlike) <= min(unseen.values(), default=min(unlike)):
        return f"its layers ask for other windows than its configuration states, from {min(unlike)} on", min(unlike)
    name = min(unseen, key=unseen.__getitem__)
    return f"what its {name} of {unseen[name]} does is not stated by its layers", unseen[name]


def _temperature_length(config: object) -> int | None:
    """Tokens of a forward that attend as the first does, where attention's temperature is a step function of a token's
    place in the forward (Llama 4); None for other models."""
    if not getattr(config, "attn_temperature_tuning", False):
        return None
    return max(int(getattr(config, "floor_scale", 1)) - 1, 0)


def _lengths(settings: Mapping[str, Any]) -> list[tuple[str, int]]:
    found = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found += [] if _OTHER_INPUTS.search(name) else _lengths(value)
        elif (
            type(value) in (int, float) and value >= 1 and _LENGTH_NAMES.search(name) and not _OTHER_NAMES.search(name)
        ):
            block = settings.get("index_block_size") if name.endswith("_blocks") else None
            found.append((f"{name} * index_block_size", int(value * block)) if block else (name, int(value)))
    return found
