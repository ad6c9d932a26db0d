"""Memory that one pack after another is computed in."""

from __future__ import annotations

import pytest
import torch

from instsel.kernels import TreeSegments
from instsel.kernels.layer_memory import LayerMemory, LayerShape, Storage


def test_storage_is_taken_once_and_grows() -> None:
    storage = Storage()
    first = storage.take("a", 4, 6, torch.float32)
    assert storage.take("a", 3, 8, torch.float32).data_ptr() == first.data_ptr()
    assert storage.take("b", 4, 6, torch.float32).data_ptr() != first.data_ptr()
    larger = storage.take("a", 5, 6, torch.float32)
    assert larger.shape == (5, 6) and storage.take("a", 4, 6, torch.float32).data_ptr() == larger.data_ptr()
    assert storage.take("a", 5, 6, torch.bfloat16).dtype == torch.bfloat16


def test_what_is_reserved_is_what_a_pack_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, shape = Storage(), LayerShape(hidden=64, queries=64, keys=32, gate=96, head_size=16, gates=1, slots=2)
    storage.take_all(shape, 7, 2, torch.bfloat16)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", None)  # nothing more is taken
        memory = LayerMemory(shape, TreeSegments.from_lists([0, 3, 7], [[], [(0, 2)]]), 2, torch.bfloat16, storage)
    assert [rows.array.shape for rows in memory.slots] == [(7, 64)] * 2
    assert memory.keys.all.array.shape == (9, 32) and memory.gated[0].array.shape == (7, 96)
