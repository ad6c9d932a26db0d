"""Probes ordered by quality, and by the sum of complexity and quality, as wICI's released program offers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from one_by_one import OneByOne
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main

COMPLEXITY, QUALITY = "hard? {request}\n", "{request}\nis answered\n{response}\ngood?\n"
PROMPTS = {"rating_prompt": COMPLEXITY, "quality_prompt": QUALITY, "num_neighbors": 12, "num_probes": 3}


@pytest.mark.long
def test_probes_are_the_best_rated_of_their_clusters(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows = example_rows(20)
    quality = np.array([truth.expected_rating(QUALITY, row) for row in rows])
    total = quality + [truth.expected_rating(COMPLEXITY, row) for row in rows]
    found = {}
    for word, numbers in (("quality", quality), ("compqual", total)):
        found[word] = instsel.wici(scorer, rows, complexity=word, **PROMPTS)
        want = instsel.wici(scorer, rows, complexity=numbers, **PROMPTS)
        assert found[word].probes.tolist() == want.probes.tolist()
        np.testing.assert_allclose(found[word].score, want.score, rtol=1e-4)
    found["deita"] = instsel.wici(scorer, rows, complexity="deita", **PROMPTS)
    words = ("deita", "quality", "compqual")
    chosen = {word: found[word].probes for word in words}
    assert len({str(chosen[word].tolist()) for word in words}) == 3, "the control: the three orders differ"


def test_each_kind_of_rating_has_its_model(scorer: instsel.Scorer, tmp_path: Path) -> None:
    make_tiny_model(tmp_path, seed=4)
    other = instsel.Scorer(str(tmp_path), device="cpu", dtype="float32")
    rows = example_rows(16)
    rated = instsel.deita(scorer, rows, complexity_scorer=other, complexity_prompt=COMPLEXITY, quality_prompt=QUALITY)
    by_sum = rated.complexity + rated.quality
    found = instsel.wici(scorer, rows, complexity="compqual", complexity_scorer=other, **PROMPTS)
    assert found.probes.tolist() == instsel.wici(scorer, rows, complexity=by_sum, **PROMPTS).probes.tolist()
    judged = instsel.wici(scorer, rows, complexity="quality", quality_scorer=other, **PROMPTS)
    assert judged.probes.tolist() != instsel.wici(scorer, rows, complexity="quality", **PROMPTS).probes.tolist()


def test_the_command_takes_a_rating_models_own_prompt(
    scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 30)
    arguments = [
        "wici",
        str(rows),
        "--model",
        tiny_model_folder(),
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "run"),
    ]
    arguments += ["--complexity", "compqual", "--rating-prompt", COMPLEXITY, "--quality-prompt", QUALITY]
    assert main([*arguments, "--num-neighbors", "12", "--num-probes", "3"]) == 0
    records = [json.loads(line) for line in rows.read_text().splitlines()]
    want = instsel.wici(scorer, records, complexity="compqual", **PROMPTS)
    assert pq.read_table(tmp_path / "run/scores.parquet").column("probes").to_pylist() == want.probes.tolist()
    other = instsel.wici(scorer, records, complexity="compqual", num_neighbors=12, num_probes=3)
    assert other.probes.tolist() != want.probes.tolist(), "the control: the prompts count"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"complexity": "goodness"}, "one of length, ifd, deita, quality, compqual, numbers or a column"),
        (
            {"complexity": "deita", "quality_scorer": 1},
            "--quality-model, or quality_scorer, is for complexity by quality and compqual only",
        ),
        (
            {"complexity": "quality", "complexity_scorer": 1},
            "--complexity-model, or complexity_scorer, is for complexity by deita and compqual",
        ),
        ({"quality_prompt": "{request}"}, r'quality_prompt must contain "\{response\}"'),
        ({"rating_prompt": "how hard?"}, r'rating_prompt must contain "\{request\}", got \'how hard\?\''),
    ],
)
def test_what_is_refused(scorer: instsel.Scorer, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instsel.wici(scorer, example_rows(3), **given)
