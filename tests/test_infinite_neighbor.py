"""A request beside one whose token has an infinite embedding: what does not see the token is scored as without it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import tiny_model_folder
from transformers import AutoModelForCausalLM

import instsel
from instsel.engine.model_session import ModelSession
from instsel.planning.layout import Layout

SHORT, LONG = ([3, 4, 5], [6, 7]), ([3, 4, 5], [6, 7, 8, 99, 10, 11])


OTHERS = [([40, 41, 42], [43, 44]), ([40, 41, 45], [46])]


@pytest.mark.parametrize("infinite", [True, False])
def test_what_is_not_finite_is_scored_again_where_layers_did_not_look(
    infinite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose attention would otherwise look in every layer: a pack with the infinite token is all NaN
    there, and its requests, and no others, run once more with every layer looking."""
    model = AutoModelForCausalLM.from_pretrained(Path(tiny_model_folder()))
    with torch.no_grad():
        model.get_input_embeddings().weight[99] = float("inf")
    scorer = instsel.Scorer(model, device="cpu", dtype="float32", max_batch_tokens=12)
    requests = [SHORT, LONG if infinite else SHORT, *OTHERS]
    expected = instsel.score_batch(scorer, requests, token_logprobs=True)
    own, looked = ModelSession.forward_pack, []

    def careless(session: ModelSession, layout: Layout, *given: Any, **named: Any) -> Any:
        rows, state = own(session, layout, *given, **named)
        looked.append(state.find_again)
        return (rows if state.find_again or 99 not in layout.ids else rows * float("nan")), state

    monkeypatch.setattr(ModelSession, "forward_pack", careless)
    monkeypatch.setattr(ModelSession, "rows_stay_nonfinite", True)
    batch = instsel.score_batch(scorer, requests, token_logprobs=True)
    assert batch.status.tolist() == expected.status.tolist() == ["ok", "nonfinite" if infinite else "ok", "ok", "ok"]
    assert np.allclose(batch.sum_logprob, expected.sum_logprob, rtol=1e-5, equal_nan=True)
    assert batch.is_greedy.tolist() == expected.is_greedy.tolist()
    assert [len(one) for one in batch.token_logprobs] == [len(one) for one in expected.token_logprobs]
    assert all(map(partial(np.allclose, rtol=1e-4), batch.token_logprobs, expected.token_logprobs))
    first = looked.index(True) if infinite else len(looked)
    assert first == expected.stats.packs and looked == [False] * first + [True] * (len(looked) - first)
    again = batch.stats.tokens_forwarded - expected.stats.tokens_forwarded
    assert again == (len(LONG[0]) + len(LONG[1]) - 1 if infinite else 0), "the others are not run again"


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
