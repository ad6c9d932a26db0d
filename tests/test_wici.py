"""wICI where it finds the probes by itself, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from example_rows import example_rows
from test_probes import find_probes

import instsel
from instsel.neighbors.embeddings import unit_rows


@pytest.mark.long
def test_probes_are_found_where_none_are_given(scorer: instsel.Scorer) -> None:
    examples = example_rows(30)
    embeddings = np.random.default_rng(3).normal(size=(30, 8))
    complexity = np.random.default_rng(4).normal(size=30)
    options: dict[str, Any] = {"num_neighbors": 9, "num_probes": 3, "embedder": embeddings}
    found = instsel.wici(scorer, examples, complexity=complexity, **options)
    expected = find_probes(embeddings, complexity, num_neighbors=9, num_probes=3)
    assert found.probes.tolist() == expected.index.tolist()
    assert found.similarity.tolist() == expected.similarity.tolist()
    assert found.embeddings is not None
    assert found.embeddings.tolist() == unit_rows(embeddings).tolist()
    again = instsel.wici(scorer, examples, probes=found.probes, similarity=found.similarity)
    assert again.embeddings is None
    np.testing.assert_allclose(again.score, found.score, atol=1e-5)
    computed = instsel.wici(scorer, examples, probes=found.probes, embedder=embeddings)
    assert computed.similarity.tolist() == found.similarity.tolist()
    named = [{**row, "rank": value} for row, value in zip(examples, complexity, strict=True)]
    assert instsel.wici(scorer, iter(named), complexity="rank", **options).probes.tolist() == found.probes.tolist()


def test_order_of_rows_does_not_matter_and_copies_are_equal(scorer: instsel.Scorer) -> None:
    examples = example_rows(24)
    examples[20] = dict(examples[3])
    embeddings = np.random.default_rng(5).normal(size=(24, 6))
    embeddings[20] = embeddings[3]
    complexity = np.random.default_rng(6).permutation(24).astype(float)
    complexity[20] = complexity[3]
    order = np.random.default_rng(7).permutation(24)
    options: dict[str, Any] = {"num_neighbors": 8, "num_probes": 3}
    whole = instsel.wici(scorer, examples, embedder=embeddings, complexity=complexity, **options)
    moved = instsel.wici(
        scorer, [examples[i] for i in order], embedder=embeddings[order], complexity=complexity[order], **options
    )
    np.testing.assert_allclose(moved.score, whole.score[order], atol=1e-5)
    assert whole.score[20] == pytest.approx(whole.score[3], abs=1e-5)
    assert 3 in whole.probes[20] or 20 in whole.probes[3] or (whole.probes[20] == whole.probes[3]).all()


def test_the_scoring_model_embeds_by_itself(scorer: instsel.Scorer) -> None:
    found = instsel.wici(scorer, [*example_rows(11), example_rows(1)[0]], num_neighbors=5, num_probes=2)
    assert found.status.tolist() == ["ok"] * 12
    assert found.probes.min() >= 0
    assert (found.probes != np.arange(12)[:, None]).all()
    assert found.embeddings is not None
    assert found.embeddings[0].tolist() == found.embeddings[11].tolist()
    assert found.embeddings.shape == (12, scorer.model.config.hidden_size)


def test_few_rows(scorer: instsel.Scorer) -> None:
    assert instsel.wici(scorer, []).score.shape == (0,)
    one = instsel.wici(scorer, example_rows(1))
    assert (one.status.tolist(), one.probes.tolist()) == (["empty_target"], [[-1] * 5])
    assert np.isnan(one.score[0])
    assert np.isfinite(one.ifd[0])
    two = instsel.wici(scorer, example_rows(2))
    assert (two.status.tolist(), two.probes[:, 0].tolist()) == (["ok", "ok"], [1, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mean"}, "rule must be one of paper, release, gain, got 'mean'"),
        ({"probes": [[0.5], [1.0], [0.0]]}, r"probes must be whole numbers \[3, k\], .* got float64 of shape \[3, 1\]"),
        ({"probes": [[0, 1]]}, r"probes must be whole numbers \[3, k\]"),
        ({"probes": [[], [], []]}, r"probes must be whole numbers \[3, k\]"),
        ({"probes": [[1], [2], [3]]}, "probes must be rows from 0 to 2, or -1 for none, got 3"),
        ({"probes": [[1], [2], [-2]]}, "or -1 for none, got -2"),
        ({"probes": [[1, 2], [-1, 0], [1, 2]]}, "probes must be other rows, but row 2 is its own probe"),
        ({"similarity": [[0.5]] * 3}, "similarity was given without the probes"),
        ({"probes": [[1], [2], [0]], "similarity": [0.5] * 3}, r"the shape of probes, \[3, 1\], got \[3\]"),
        (
            {"probes": [[1], [2], [0]], "similarity": [[0.0], [1.5], [0.0]]},
            r"cosines from -1 to 1, got 1.5 at \[1, 0\]",
        ),
        ({"probes": [[1], [2], [0]], "similarity": [[np.nan]] * 3}, r"cosines from -1 to 1, got nan at \[0, 0\]"),
        (
            {"complexity": "size"},
            "one of length, ifd, deita, quality, compqual, numbers or a column, got 'size'; the columns are instr",
        ),
        ({"complexity": "instruction"}, r"complexity must be numbers \[3\]"),
        ({"complexity": [1.0]}, r"complexity must be numbers \[3\], one for each example, got shape \[1\]"),
        ({"num_probes": 0}, "num_probes must be a whole number of at least 1, got 0"),
        ({"num_neighbors": 3}, "num_probes must be at most num_neighbors, 3, got 5"),
        ({"template": "other"}, "template must be one of plain, alpaca, chat, .* got 'other'"),
        ({"embedder": np.ones((2, 4))}, r"embedder must have shape \[3, d\]"),
    ],
)
def test_what_is_refused(scorer: instsel.Scorer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instsel.wici(scorer, example_rows(3), **options)
