"""Tables of learned positions that count the places of a forward (BART and its kin): in a pack they go by positions.

RoBERTa's kind, which counts the tokens that are not padding, is left to its own code.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from instsel.layers.attention import current_pack
from instsel.layers.replica import Replica


def put_positions(replica: Replica) -> None:
    """Has the tables of a replica that count places by themselves give the rows of a pack's positions.

    Whether that makes a pack's rows right is held against the model's own at load.
    """
    for module in replica.modules:
        for name, table in module._modules.items():
            if not isinstance(table, nn.Embedding) or type(table) is nn.Embedding or "position" not in name:
                continue
            if "forward" not in vars(table):
                replica.put_forward(table, _rows_of_positions(table))


def _rows_of_positions(table: nn.Embedding) -> Callable[..., object]:
    own: Callable[..., object] = table.forward
    first = int(getattr(table, "offset", 0))

    def forward(*given: object, **named: object) -> object:
        pack = current_pack()
        if pack is None or pack.positions is None:
            return own(*given, **named)
        return nn.functional.embedding(pack.positions + first, table.weight)

    return forward
