"""The GGUF files that the comparison with llama.cpp writes: transformers, and llama.cpp itself, read the same model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from architectures import VOCABULARY, build_model
from random_models import means_one_by_one

gguf = pytest.importorskip("gguf")
FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        "query_pre_attn_scalar": 16,
    },
    "lfm2": {},
    "llama": {},
    "olmoe": {"num_key_value_heads": 4},
    "qwen2": {},
    "qwen3_5_text": {"linear_num_key_heads": 4, "head_dim": 256},
}
READ_BY_TRANSFORMERS = ("gemma3_text", "llama", "qwen2")  # the others only with a vocabulary, or not at all
GENERATOR = np.random.default_rng(0)
PAIRS = [(GENERATOR.integers(3, VOCABULARY, n).tolist(), [5, 6, 7, 8]) for n in (3, 60, 90)]


def write_gguf(model: Any, path: Path) -> None:
    importlib.import_module("competitors.gguf_weights").write_gguf(model, path)


@pytest.mark.parametrize("family", READ_BY_TRANSFORMERS)
def test_transformers_reads_the_model_that_was_written(family: str, tmp_path: Path) -> None:
    model = build_model(family, SETTINGS[family])
    write_gguf(model, tmp_path / "model.gguf")
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(read.state_dict()[name], weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", SETTINGS)
def test_every_weight_is_written_once_and_products_in_their_own_dtype(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = build_model(family, SETTINGS[family]).to(dtype)
    write_gguf(model, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    assert sum(tensor.n_elements for tensor in reader.tensors) == sum(p.numel() for p in model.parameters())
    kinds = {tensor.name.split(".", 2)[-1]: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["ffn_down.weight" if "ffn_down.weight" in kinds else "ffn_down_exps.weight"] == (
        "F32" if dtype == torch.float32 else "BF16"
    )
    assert {kinds[name] for name in kinds if name.endswith(("norm.weight", ".bias"))} == {"F32"}


@pytest.mark.parametrize("family", SETTINGS)
def test_llama_cpp_gives_the_same_scores(family: str) -> None:
    pytest.importorskip("llama_cpp")
    import workloads

    competitor = importlib.import_module("competitors.llama_cpp")
    model = build_model(family, SETTINGS[family])
    work = workloads.Workload("pairs", len(PAIRS), PAIRS, [0, 20, 20], [False] * len(PAIRS))
    work.requests[2] = (PAIRS[1][0][:20] + PAIRS[2][0][20:], PAIRS[2][1])
    model.set_experts_implementation("eager")  # the others have no float64
    truth = means_one_by_one(model, work.requests)
    atol = 1e-3 if family == "gemma3_text" else 2e-5  # its GELU is a table in float16
    np.testing.assert_allclose(competitor.prepare(model, work, 512)(), truth, atol=atol)


def test_another_family_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: expected one of gemma3_text, .*, got gpt2"):
        write_gguf(build_model("gpt2"), tmp_path / "model.gguf")
