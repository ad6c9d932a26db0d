"""A GPU's fused layers under Triton's interpreter; test_gpu_layers.py runs this file by itself.

Attention is the reference's: its kernel has tests of its own, and takes the interpreter seconds.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from gpu_layers import build, checked, find_gpu_layers, packed_rows
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from triton.runtime import interpreter

from instsel.kernels.layer_elementwise import add_norm, gate_rows, rotate_heads
from instsel.layers.fused_modules import nearly_equal


@pytest.fixture(autouse=True)
def rounded_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts bfloat16 off where a GPU rounds it to the nearest."""
    own = interpreter.InterpreterBuilder.cast_impl

    def cast(builder: Any, source: Any, kind: Any) -> Any:
        if kind.scalar != tl.bfloat16 or source.get_element_ty() != tl.float32:
            return own(builder, source, kind)
        rounded = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(rounded, tl.bfloat16)

    for name in ("cast_impl", "create_fp_trunc"):
        monkeypatch.setattr(interpreter.InterpreterBuilder, name, cast)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["Llama", "Gemma3", "Olmo2", "Cohere"])
def test_packs_are_those_of_the_models_own_layers(name: str, dtype: torch.dtype) -> None:
    info, tree = checked(build(name, dtype, num_hidden_layers=1))
    fused = find_gpu_layers(info, tree)
    assert len(fused.whole) == 1 and fused.reasons == {}
    ours, own = packed_rows(info, tree, fused), packed_rows(info, tree, None)
    assert nearly_equal(own, ours)
    # But for last digits of exp and of sums, which the next rounding mostly takes away.
    assert dtype == torch.float32 or float((ours != own).float().mean()) <= 0.1


def test_bfloat16_has_the_bits_of_the_models_own() -> None:
    torch.manual_seed(0)
    hidden, added, weight = (torch.randn(5, 60).bfloat16(), torch.randn(5, 60).bfloat16(), torch.randn(60).bfloat16())
    llama, gemma = LlamaRMSNorm(60, eps=1e-5).bfloat16(), GemmaRMSNorm(60, eps=1e-5).bfloat16()
    llama.weight.data, gemma.weight.data = weight, weight
    heads, angles = torch.randn(5, 3, 16).bfloat16(), torch.randn(5, 8)
    with torch.no_grad():
        total = hidden + added
        gemma_kind: dict[str, Any] = {"weight_offset": 1.0, "rounds_first": False, "backend": "triton"}
        got = add_norm(hidden.clone(), weight, 1e-5, added=added, backend="triton")
        assert float((got != llama(total)).float().mean()) <= 0.01
        other = add_norm(hidden.clone(), weight, 1e-5, added=added, **gemma_kind)
        assert float((other != gemma(total)).float().mean()) <= 0.01
        assert float((add_norm(total, weight, 1e-5, rounds_first=False, backend="triton") != got).float().mean()) > 0.1
        cos, sin = (torch.cat([t, t], dim=-1).bfloat16() for t in (angles.cos(), angles.sin()))
        own = apply_rotary_pos_emb(
            heads.transpose(0, 1)[None], heads[:, :1].transpose(0, 1)[None], cos[None], sin[None]
        )
        query, key = heads.clone(), heads[:, :1].clone()
        rotate_heads(query, cos, sin, more=key, backend="triton")
        assert torch.equal(query, own[0][0].transpose(0, 1)) and torch.equal(key, own[1][0].transpose(0, 1))
        wide = rotate_heads(heads.clone(), cos.float(), sin.float(), backend="triton")
        assert torch.equal(wide, rotate_heads(heads.clone(), cos.float(), sin.float())) and not torch.equal(wide, query)
        gated = gate_rows(hidden.clone(), added, "silu", backend="triton")
        assert float((gated != torch.nn.functional.silu(hidden) * added).float().mean()) <= 0.01
