"""The layers' elementwise operations: plain code against the models' own, kernels interpreted and compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from own_process import INTERPRETED, assert_passes
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as rotary_of_neighbours
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from instsel.kernels.layer_elementwise import DTYPES, LARGEST_ROW, add_norm, gate_rows, rotate_heads

HERE = Path(__file__).parent


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_have_the_bits_of_the_models_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, added, weight = torch.randn(5, 60).to(dtype), torch.randn(5, 60).to(dtype), torch.randn(60).to(dtype)
    llama, gemma = LlamaRMSNorm(60, eps=1e-5).to(dtype), GemmaRMSNorm(60, eps=1e-5).to(dtype)
    llama.weight.data, gemma.weight.data = weight, weight
    layer = torch.nn.LayerNorm(60, eps=1e-5, dtype=dtype)
    with torch.no_grad():
        total = hidden + added
        assert torch.equal(add_norm(hidden.clone(), weight, 1e-5, added=added), llama(total))
        got = add_norm(total, weight, 1e-5, weight_offset=1.0, rounds_first=False)
        assert torch.equal(got, gemma(total))
        if dtype == torch.bfloat16:
            assert not torch.equal(got, add_norm(total, weight, 1e-5, weight_offset=1.0))
        own = add_norm(total, layer.weight, 1e-5, bias=layer.bias, centred=True, rounds_first=False)
        torch.testing.assert_close(own, layer(total), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rotary_has_the_bits_of_the_models_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, angles = torch.randn(5, 3, 16).to(dtype), torch.randn(5, 8)
    for interleaved, rotary in ((False, apply_rotary_pos_emb), (True, rotary_of_neighbours)):
        wide = torch.cat([angles, angles], dim=-1)
        cos, sin = wide.cos().to(dtype), wide.sin().to(dtype)
        heads = x.transpose(0, 1)[None]
        own = rotary(heads, heads, cos[None], sin[None])[0][0].transpose(0, 1)
        if interleaved:  # whose code repeats the first half of a table for neighbours
            cos, sin = (table[:, :8].repeat_interleave(2, dim=-1) for table in (cos, sin))
        assert torch.equal(rotate_heads(x.clone(), cos, sin, interleaved=interleaved), own)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: add_norm(torch.zeros(2, 4), torch.ones(3), 1e-6), "weight"),
        (lambda: add_norm(torch.zeros(2, 4), torch.ones(4), 1e-6, added=torch.zeros(3, 4)), "added"),
        (lambda: add_norm(torch.zeros(4, 2).T, torch.ones(4), 1e-6), "hidden"),
        (lambda: add_norm(torch.zeros(1, LARGEST_ROW + 1), torch.ones(LARGEST_ROW + 1), 1e-6), "hidden"),
        (lambda: add_norm(torch.zeros(2, 4), torch.ones(4), 1e-6, backend="cuda"), "backend"),
        (lambda: rotate_heads(torch.zeros(2, 1, 4), torch.zeros(2, 3), torch.zeros(2, 3)), "cos"),
        (lambda: rotate_heads(torch.zeros(2, 1, 4), torch.zeros(2, 4), torch.zeros(1, 4)), "sin"),
        (lambda: gate_rows(torch.zeros(2, 4), torch.zeros(2, 5), "silu"), "up"),
        (lambda: gate_rows(torch.zeros(2, 4), torch.zeros(2, 4), "relu"), "activation"),
    ],
)
def test_errors_name_the_parameter(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        call()


@pytest.mark.long
def test_interpreted() -> None:
    """In a process of its own: the interpreter stays on once it is on."""
    pytest.importorskip("triton")
    assert_passes("interpreted_layers.py", INTERPRETED)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_90", "sm_120", "gfx942"])
def test_compiled_without_spills(architecture: str) -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "compiled_layers.py"), architecture]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 8
    assert architecture == "gfx942" or all(row["spill_bytes"] == 0 for row in rows), rows
