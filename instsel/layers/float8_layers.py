"""The products of a model's layers in float8: which they are, and how a replica is given them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from instsel.kernels.float8_products import MULTIPLE, Float8Product
from instsel.layers.fused_modules import is_hooked
from instsel.layers.replica import PLAIN_TENSORS, Replica

SMALLEST = 64  # columns and rows: what is smaller, such as a gate of a head, is no work


class Float8Layers:
    """The linear modules of a decoder's layers, by their place among a replica's modules, and what float8 does to them.

    The head, the embeddings, norms, attention, routers and weights of experts that are no linear modules stay as they
    are. The weights given stay where they are too; what is made of them takes half of their memory.

    keep         whether weights are rounded once and kept, as they can be where nobody else has them; else whenever a
                 replica is made, which is once a call
    drift        mean over rows of by how much a token's log-probability moves, nats; over tokens as the model itself
                 predicts them
    largest_row  the same of the row where it is largest
    """

    def __init__(self, places: Sequence[int], *, keep: bool) -> None:
        self.places = tuple(places)
        self.drift = self.largest_row = float("nan")
        self._kept: dict[int, Float8Product] | None = {} if keep else None

    @torch.no_grad()
    def put_on(self, replica: Replica) -> list[Float8Product]:
        """Has the modules of a replica with the same signature multiply in float8; gives their products."""
        found: list[Float8Product] = []
        for place in self.places:
            module: Any = replica.modules[place]
            product = None if self._kept is None else self._kept.get(place)
            if product is None:
                product = Float8Product.of(module.weight, module.bias)
            if self._kept is not None:
                self._kept[place] = product
            replica.put_forward(module, product)
            found.append(product)
        return found


def find_places(replica: Replica, decoder: nn.Module, config: Any) -> list[int]:
    """The linear modules of a decoder's lists of layers that can be multiplied in float8 and are no routers."""
    settings = config.to_dict()
    experts = {value for name, value in settings.items() if "expert" in name and isinstance(value, int)}
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    within = {module for one in lists for module in one.modules()}
    return [
        place
        for place, module in enumerate(replica.modules)
        if module in within and type(module) is nn.Linear and _is_large(module) and module.out_features not in experts
    ]


def _is_large(module: nn.Linear) -> bool:
    weight, bias = module.weight, module.bias
    plain = type(weight) in PLAIN_TENSORS and (bias is None or type(bias) in PLAIN_TENSORS)
    sizes = all(size >= SMALLEST and size % MULTIPLE == 0 for size in weight.shape)
    as_it_came = not is_hooked(module) and "forward" not in vars(module)
    return plain and sizes and weight.dtype == torch.bfloat16 and as_it_came
