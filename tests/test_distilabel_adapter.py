"""The distilabel step gives a method's numbers in a pipeline, and holds its model from load to unload."""

from __future__ import annotations

import pytest
from tiny_model import tiny_model_folder

import instsel

pytest.importorskip("distilabel")
from distilabel.pipeline import Pipeline

from instsel.integrations.distilabel import COLUMNS, InstselScores

ROWS = [{"instruction": f"say the thing {i}", "output": "the thing " * (i % 3), "status": i} for i in range(5)]


@pytest.mark.parametrize("method", ["perplexity", "ifd"])
def test_the_methods_numbers(method, scorer):
    step = InstselScores(
        name="scores", model=tiny_model_folder(), method=method, parameters={"template": "alpaca"},
        pipeline=Pipeline(name="unittest"),
    )  # fmt: skip
    step.load()
    [made] = list(step.process([dict(row) for row in ROWS]))
    expected = getattr(instsel, method)(scorer, ROWS, template="alpaca").to_dict()
    assert set(COLUMNS[method]) == set(expected) == set(step.outputs)
    for i, row in enumerate(made):
        assert row["status"] == i and row["instsel_status"] == expected["status"][i]
        name = "ifd" if method == "ifd" else "mean_logprob"
        assert row[name] == (None if expected[name][i] is None else pytest.approx(expected[name][i], rel=1e-5))
    step.unload()
    with pytest.raises(ValueError, match="the step is not loaded"):
        list(step.process(ROWS))


def test_an_unknown_method_is_refused():
    step = InstselScores(name="x", model=tiny_model_folder(), method="wici", pipeline=Pipeline(name="unittest"))
    with pytest.raises(ValueError, match="method: expected one of perplexity, ifd, grape, got 'wici'"):
        step.load()
