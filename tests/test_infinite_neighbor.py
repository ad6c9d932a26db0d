"""A request beside one whose token has an infinite embedding: what does not see the token is scored as without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import tiny_model_folder
from transformers import AutoModelForCausalLM

import instsel

SHORT, LONG = ([3, 4, 5], [6, 7]), ([3, 4, 5], [6, 7, 8, 99, 10, 11])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_request_that_ends_before_an_infinite_token(dtype: str, backend: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(Path(tiny_model_folder()))
    with torch.no_grad():
        model.get_input_embeddings().weight[99] = float("inf")
    scorer = instsel.Scorer(model, device="cpu", dtype=dtype, backend=backend)
    alone = instsel.score_batch(scorer, [SHORT])
    beside = instsel.score_batch(scorer, [SHORT, LONG])
    assert beside.status.tolist() == ["ok", "nonfinite"]
    assert np.allclose(beside.mean_logprob[0], alone.mean_logprob[0], rtol=1e-5 if dtype == "float32" else 2e-2)
