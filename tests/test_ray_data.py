"""Scoring a Ray dataset: the columns of the method itself, on batches as Ray gives them."""

from __future__ import annotations

import numpy as np
import pytest
from example_rows import example_rows
from tiny_model import tiny_model_folder

import instsel
from instsel.integrations.ray_data import Score

OPTIONS = {"device": "cpu", "dtype": "float32"}


def batch_of(rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows], object) for name in rows[0]}


def test_a_batch_gets_the_columns_of_the_method(scorer: instsel.Scorer) -> None:
    rows = example_rows(12)
    batch = batch_of(rows)
    found = Score("ifd", tiny_model_folder(), scorer_options=OPTIONS, kind="loss", prefix="of_")(batch)
    expected = instsel.ifd(scorer, rows, kind="loss")
    assert set(found) > set(batch) and list(found)[: len(batch)] == list(batch)
    np.testing.assert_array_equal(found["of_ifd"], expected.ifd)
    np.testing.assert_array_equal(found["of_status"], expected.status)


def test_a_column_that_is_there_stays() -> None:
    batch = {**batch_of(example_rows(2)), "status": np.zeros(2), "instsel_status": np.ones(2)}
    found = Score("ifd", tiny_model_folder(), scorer_options=OPTIONS)(batch)
    assert all(found[name] is batch[name] for name in batch)
    assert found["instsel_status_2"].tolist() == ["ok", "ok"]


def test_requests_are_scored_as_score_batch_does(scorer: instsel.Scorer) -> None:
    batch = {"prompt": np.array(["a", "b"]), "completion": np.array([" c", " d"]), "id": np.arange(2)}
    found = Score("score_batch", tiny_model_folder(), scorer_options=OPTIONS)(batch)
    expected = instsel.score_batch(scorer, [("a", " c"), ("b", " d")])
    np.testing.assert_array_equal(found["sum_logprob"], expected.sum_logprob)
    assert found["id"].tolist() == [0, 1]


def test_what_cannot_be_done_in_batches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method: wici looks at all rows together \(its stage embeddings\)"):
        Score("wici", tiny_model_folder())
    with pytest.raises(ValueError, match="method: expected one of"):
        Score("nothing", tiny_model_folder())
    requests = Score("score_batch", tiny_model_folder(), scorer_options=OPTIONS)
    with pytest.raises(ValueError, match="columns: expected prompt and completion, got text"):
        requests({"text": np.array(["a"])})
