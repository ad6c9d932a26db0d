"""tree_attention on the CPU: whole packs, against torch's attention node by node.

make bench
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from environment import environment

from instsel.kernels import TreeSegments, tree_attention
from instsel.kernels.attention_kinds import AttentionOptions
from instsel.kernels.cpu_tree_attention import _by_nodes

# heads, key heads, head size, prefix, answer, answers
PACKS = {
    "SmolLM2-135M, 9 answers of 196 on 196": (9, 3, 64, 196, 196, 9),
    "SmolLM2-135M, 100 answers of 10 on 700": (9, 3, 64, 700, 10, 100),
    "Llama-3.1-8B, 8 answers of 128 on 512": (32, 8, 128, 512, 128, 8),
}


def pack(name: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], TreeSegments, float]:
    heads, key_heads, size, prefix, answer, answers = PACKS[name]
    offsets = [0, *range(prefix, prefix + answer * answers + 1, answer)]
    segments = TreeSegments.from_lists(offsets, [[], *[[(0, prefix)]] * answers])
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(count, offsets[-1], size, generator=generator).to(dtype).transpose(0, 1)
        for count in (heads, key_heads, key_heads)
    ]
    pairs = prefix**2 / 2 + answers * (answer * prefix + answer**2 / 2)
    return tensors, segments, 4 * heads * size * pairs / 1e9


@pytest.mark.parametrize("name", list(PACKS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("way", ["instsel", "torch node by node"])
def test_pack(name: str, dtype: torch.dtype, way: str, benchmark: Any) -> None:
    tensors, segments, gflop = pack(name, dtype)
    options = AttentionOptions(tensors[0].shape[2] ** -0.5)
    expected = _by_nodes(*tensors, segments, options)
    if way == "instsel":
        got = tree_attention(*tensors, segments, backend="cpu")
        assert float((got - expected).abs().max()) < 0.03
        call = lambda: tree_attention(*tensors, segments, backend="cpu")  # noqa: E731
    else:
        call = lambda: _by_nodes(*tensors, segments, options)  # noqa: E731
    benchmark.group = f"{name}, {dtype}".replace("torch.", "")
    benchmark.extra_info.update(environment(), gflop=gflop)
    benchmark.pedantic(call, rounds=7, warmup_rounds=2)
