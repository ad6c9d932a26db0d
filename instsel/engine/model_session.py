"""A model for the length of one call: forwards of packs and of single sequences on a replica of its modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from instsel.engine.inference_context import inference_context, preserved_random_state
from instsel.engine.model import CausalModel, Head, find_decoder, read_head
from instsel.kernels.devices import to_device
from instsel.layers.attention import NodeCache, PackState, Workspace, running, tree_attention_of
from instsel.layers.fused_layers import FusedLayers
from instsel.layers.indexed_attention import pass_over_indexers
from instsel.layers.position_tables import put_positions
from instsel.layers.recurrences import put_recurrences
from instsel.layers.replica import Replica
from instsel.planning.layout import Layout
from instsel.planning.pack_tree import PackTree


class ModelSession:
    """The model of a `CausalModel` as it is when this is made, in evaluation mode, with the fused layers found for it.

    fused       the fused layers to use, by default those of the model
    as_checked  whether the modules are still as they were checked; what is known of them holds only then
    """

    def __init__(self, model: CausalModel, fused: FusedLayers | None = None) -> None:
        self.info = model
        self.replica = Replica(model.unwrapped.whole)
        self.whole: Any = self.replica.root
        self.base: PreTrainedModel = self.replica.of(model.unwrapped.base)
        self.decoder = find_decoder(self.base)
        self.head: Head | None = None
        if model.head is not None and (head := read_head(self.base)) is not None:
            self.head = replace(head, fused=model.head.fused)
        self.device = model.device
        self.backend = model.backend
        fused = fused or model.fused_layers
        self.as_checked = model.describes(self.replica)
        self.recurrences = put_recurrences(self.replica)  # mixers with a convolution or a recurrence
        pass_over_indexers(self.replica)
        put_positions(self.replica)
        # Before whole layers, which take their products from their modules.
        self.float8_products = model.float8.put_on(self.replica) if model.float8 is not None and self.as_checked else []
        # Layers that one run of kernels computes.
        self.whole_layers = fused.put_on(self.replica) if fused is not None and self.as_checked else []
        self.find_again = True  # as it is for a `PackState`
        self._layers_on_gpu = (
            len(fused.whole) if fused is not None and self.as_checked and fused.backend == "triton" else 0
        )

    def close(self) -> None:
        """Lets go of the model."""
        self.replica.close()

    @property
    def rows_stay_nonfinite(self) -> bool:
        """Whether a row that is not finite anywhere in the layers is not finite in the end, so that `find_again` can
        wait for the results: known where all layers are our own, which add everything to their rows."""
        return self._layers_on_gpu == self.info.config.num_hidden_layers

    def inference_context(self) -> AbstractContextManager[None]:
        """Forwards are run within this block."""
        return inference_context(self.device, inference=self.info.inference_tensors)

    @contextmanager
    def ready(self, *, alone: bool = False) -> Iterator[None]:
        """Within this block packs may be run, or single sequences with `alone`."""
        random = preserved_random_state(self.device) if self.info.draws else nullcontext()
        with random, nullcontext() if alone else tree_attention_of(self.base):
            yield

    def reserve(self, workspace: Workspace, tokens: int, cached: int) -> None:
        """Takes memory for a pack that will run in a workspace, in the thread that calls."""
        for shape in {layer.shape for layer in self.whole_layers}:
            workspace.storage.take_all(shape, tokens, cached, self.info.dtype)

    def forward_pack(
        self,
        layout: Layout,
        cached: Sequence[NodeCache] = (),
        *,
        logits: bool = False,
        workspace: Workspace | None = None,
    ) -> tuple[Tensor, PackState]:
        """Hidden states [R, H] (or the model's own logits [R, V]) of a pack's rows; the state holds what it kept."""
        state = PackState(
            layout.segments,
            backend=self.backend,
            find_again=self.find_again,
            cached=list(cached),
            kept=layout.kept,
            workspace=workspace or Workspace(),
        )
        state.positions = self._to_device(layout.positions)[None]
        if self.recurrences:
            offsets = layout.segments.query_offsets.numpy().astype(np.int64)
            state.tree = PackTree.of(offsets, layout.parents, self.device)
            state.places = layout.continued
        with running(state):
            rows = self._forward(layout.ids, layout.positions, layout.rows, logits)
            state.leave(rows, None)  # nothing may be left to be added
        state.tables.clear()
        state.memories.clear()  # views, which would hold on to what the next pack may outgrow
        return rows, state

    def forward_alone(
        self, ids: np.ndarray, rows: np.ndarray, *, logits: bool = False, following: int | None = None
    ) -> Tensor:
        """The same for one sequence, by the model's own attention.

        following  the sequence's last token, which is not among the ids; models for which the sequence's length or
                   company matters run it too
        """
        if self.info.length_dependent:
            forget_lengths(self.replica)
        if self.info.whole_sequences:
            ids = np.append(ids, ids[-1] if following is None else following)
        return self._forward(ids, None, rows, logits)

    def _forward(self, ids: np.ndarray, positions: np.ndarray | None, rows: np.ndarray, logits: bool) -> Tensor:
        arguments: dict[str, Any] = {"input_ids": self._to_device(ids)[None], "use_cache": False}
        if positions is not None:
            arguments["position_ids"] = self._to_device(positions)[None]
        if logits:
            if self.info.keeps_rows:
                arguments["logits_to_keep"] = self._to_device(rows)
            out = self.whole(**arguments).logits[0]
            if self.info.unwrapped.opaque:
                out = out[-len(ids) :]  # what a learned prompt puts before the sequence is not asked for
        else:
            out = self.decoder(**arguments).last_hidden_state[0]
        return out if len(out) == len(rows) else out[to_device(torch.from_numpy(rows), out.device)]

    def _to_device(self, index: np.ndarray) -> Tensor:
        return to_device(torch.from_numpy(np.ascontiguousarray(index, np.int64)), self.device)


def forget_lengths(replica: Replica) -> None:
    """Dynamic rotary scaling keeps the longest length that it has seen; every sequence is to be as if it were alone."""
    for module in replica.modules:
        if not hasattr(module, "original_max_seq_len"):
            continue
        for name, own in list(module.named_buffers(recurse=False)):
            if name.endswith("original_inv_freq"):
                setattr(module, name.replace("original_", ""), own.clone())
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            setattr(module, name, module.original_max_seq_len)
