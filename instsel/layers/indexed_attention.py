"""Attention over the keys that an indexer chooses, where it chooses all of them (DeepSeek V3.2, GLM-5, MiniMax M3).

An indexer gives each token the `index_topk` keys, or the `topk_blocks` blocks of them, that it attends to. While a path
has no more tokens than these are, they are all of its keys whatever the indexer computes, so that in a pack it is not
run. Longer sequences run alone, by the model's own code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from instsel.layers.attention import AbsentMask, current_pack
from instsel.layers.replica import Replica


def pass_over_indexers(replica: Replica) -> None:
    """Has the attention layers of a replica that have an indexer go without it in a pack."""
    for module in replica.modules:
        indexer = getattr(module, "indexer", None)
        chosen = [getattr(indexer, name, None) for name in ("index_topk", "topk_blocks")]
        if not isinstance(indexer, nn.Module) or not any(isinstance(count, int) for count in chosen):
            continue
        if "forward" not in vars(module) and "forward" not in vars(indexer):
            replica.put_forward(module, _with_absent_mask(module))
            replica.put_forward(indexer, _choosing_all(indexer))


def _with_absent_mask(layer: nn.Module) -> Callable[..., object]:
    own = layer.forward

    def forward(*given: object, **named: object) -> object:
        if current_pack() is not None and named.get("attention_mask", ...) is None:
            named["attention_mask"] = AbsentMask()
        return own(*given, **named)

    return forward


def _choosing_all(indexer: nn.Module) -> Callable[..., object]:
    own = indexer.forward

    def forward(*given: object, **named: object) -> object:
        # Nothing looks at the choice, but that there is one: layers without an indexer go by that of the layer before.
        return own(*given, **named) if current_pack() is None else torch.empty(0, dtype=torch.int64)

    return forward
