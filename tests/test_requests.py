"""Requests in any form that is one, and input that is none: an error that names the request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from random_models import VOCABULARY, shared_llama
from row_tables import table_of

import instsel


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return instsel.Scorer(shared_llama(), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("requests", "error", "says"),
    [
        ([([5], [-1])], ValueError, r"requests\[0\].*0 to 210.*-1"),
        ([([5], [6]), ([VOCABULARY], [6])], ValueError, r"requests\[1\].*211"),
        ([([5], [2**40])], ValueError, r"requests\[0\]"),
        ([[5, 6, 7]], TypeError, r"requests\[0\]"),
        ([([5], [6]), {5, 6}], TypeError, r"requests\[1\].*pair.*set"),
        ([([5], [6], [7])], TypeError, r"requests\[0\].*pair.*tuple"),
        ([b"ab"], TypeError, r"requests\[0\].*bytes"),
        ([{}], TypeError, r"requests\[0\].*dict"),
        ([([5], [6]), {"prompt": [5]}], TypeError, r"requests\[1\].*'prompt'"),
        ([{"instruction": [5], "output": [6]}], TypeError, r"requests\[0\].*'instruction', 'output'"),
        ([{"prompt": [5], "chosen": [6], "rejected": [7]}], TypeError, r"requests\[0\].*'rejected'"),
        ([{"prompt": [5], "completion": [6], "label": True}], TypeError, r"requests\[0\].*'label'"),
        ([{"prompt": [5], "context": [6]}], TypeError, r"requests\[0\].*'context'"),
        ([{"prompt": [5], "completion": None}], TypeError, r"requests\[0\].*None"),
        ([{"prompt": [5], "completion": float("nan")}], TypeError, r"requests\[0\].*nan"),
        ([([5], {})], TypeError, r"requests\[0\].*dict"),
        ([(set(), [5])], TypeError, r"requests\[0\].*set"),
        ({"prompt": "a", "completion": "b"}, TypeError, "requests.*dict"),
        ({5, 6}, TypeError, "requests.*set"),
        ("some text", TypeError, "requests"),
        (17, TypeError, "requests"),
        (None, TypeError, "requests"),
        ([("text", "more")], ValueError, "tokenizer"),
    ],
)
def test_wrong_requests_are_named(scorer: instsel.Scorer, requests: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        instsel.score_batch(scorer, requests)


@pytest.mark.parametrize("max_length", [0, 1, -5, 2.5, "10", True])
def test_wrong_max_length_is_named(scorer: instsel.Scorer, max_length: Any) -> None:
    with pytest.raises(ValueError, match="max_length"):
        instsel.score_batch(scorer, [([5], [6])], max_length=max_length)


@pytest.mark.parametrize("kind", [np.array, tuple, lambda ids: torch.tensor(ids), lambda ids: np.array(ids, np.uint16)])
def test_ids_may_come_in_any_flat_form(scorer: instsel.Scorer, kind: Any) -> None:
    plain = instsel.score_batch(scorer, [([5, 6], [7, 8])]).mean_logprob
    assert instsel.score_batch(scorer, [(kind([5, 6]), kind([7, 8]))]).mean_logprob.tolist() == plain.tolist()


@pytest.mark.parametrize("keys", [("prompt", "completion"), ("context", "continuation"), ("prompt", "response")])
def test_a_dict_is_the_pair_of_its_values(scorer: instsel.Scorer, keys: tuple[str, str]) -> None:
    plain = instsel.score_batch(scorer, [([5, 6], [7, 8]), ([9], [7])])
    dicts = [dict(zip(keys, pair, strict=True)) for pair in (([5, 6], [7, 8]), ([9], [7]))]
    turned = [dict(reversed(pair.items())) for pair in dicts]
    for requests in (dicts, turned, iter(dicts)):
        assert instsel.score_batch(scorer, requests).mean_logprob.tolist() == plain.mean_logprob.tolist()


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "dataset", "columns"])
def test_a_table_of_two_columns_is_its_rows(scorer: instsel.Scorer, kind: str) -> None:
    plain = instsel.score_batch(scorer, [([5, 6], [7, 8]), ([9], [7])])
    columns = {"completion": [[7, 8], [7]], "prompt": [[5, 6], [9]]}
    assert instsel.score_batch(scorer, table_of(kind, columns)).mean_logprob.tolist() == plain.mean_logprob.tolist()
    with pytest.raises(TypeError, match=r"requests\[0\].*'id'"):
        instsel.score_batch(scorer, table_of(kind, {**columns, "id": [1, 2]}))
    with pytest.raises(TypeError, match=r"requests\[1\].*None"):
        instsel.score_batch(scorer, table_of(kind, {"prompt": [[5], [6]], "completion": [[7], None]}))


def test_a_generator_of_requests_is_read_once(scorer: instsel.Scorer) -> None:
    assert instsel.score_batch(scorer, (([5], [n]) for n in range(6, 9))).num_tokens.tolist() == [1, 1, 1]
