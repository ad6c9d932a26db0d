"""Perplexity against float64 forwards, its older command word, and selection by it from either end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from interrupted_run import interrupted_then_continued
from one_by_one import OneByOne, plain
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main

TOLERANCE = 1e-4  # relative


def test_it_is_that_of_the_answer_after_its_prompt(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows = example_rows(12)
    each = [truth.token_logprobs(plain(row), row["output"]) for row in rows]
    found = instsel.perplexity(scorer, rows)
    np.testing.assert_allclose(found.perplexity, [np.exp(-one.mean()) for one in each], rtol=TOLERANCE)
    np.testing.assert_allclose(found.mean_logprob, [one.mean() for one in each], rtol=TOLERANCE)
    np.testing.assert_allclose(found.sum_logprob, [one.sum() for one in each], rtol=TOLERANCE)
    assert found.num_tokens.tolist() == [len(one) for one in each]
    alone = [truth.perplexity("", row["output"]) for row in rows]
    for wrong in (alone, np.roll(found.perplexity, 1)):
        assert np.median(np.abs(found.perplexity / wrong - 1)) > 100 * TOLERANCE


def test_greedy_answers_are_known(scorer: instsel.Scorer, truth: OneByOne) -> None:
    likeliest = {f"say {i}": truth.tokenizer.decode([int(truth.next_token(f"say {i}\n").argmax())]) for i in range(40)}
    instruction, best = next((asked, word) for asked, word in likeliest.items() if word.isalpha() and word.isascii())
    rows = [{"instruction": instruction, "output": answer} for answer in (best, best + "~~~~", "~")]
    assert instsel.perplexity(scorer, rows).is_greedy.tolist() == [True, False, False]


def test_every_row_has_a_status(scorer: instsel.Scorer) -> None:
    rows: list[dict[str, Any]] = [
        *example_rows(1),
        {"instruction": "say a thing", "input": "", "output": " \n"},
        {"instruction": "say a thing", "input": "", "output": "the " * 400},
    ]
    found = instsel.perplexity(scorer, rows)
    assert found.status.tolist() == ["ok", "empty_target", "too_long"]
    for values in (found.perplexity, found.mean_logprob, found.sum_logprob):
        assert np.isfinite(values).tolist() == [True, False, False]
    with pytest.raises(TypeError, match=r"perplexity\(\) has no keyword 'kind'"):
        instsel.perplexity(scorer, rows, kind="ppl")


@pytest.mark.parametrize("word", ["perplexity", "score"])
def test_the_command_under_both_its_names(
    scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 40)
    run = tmp_path / "run"
    interrupted_then_continued(
        [word, str(rows), "--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", "8", "--output", str(run)]
    )
    table = pq.read_table(run / "scores.parquet")
    want = instsel.perplexity(scorer, [json.loads(line) for line in rows.read_text().splitlines()])
    assert table.column("status").to_pylist() == want.status.tolist()
    got = np.array(table.column("perplexity").to_pylist(), dtype=float)
    np.testing.assert_allclose(got, want.perplexity, rtol=TOLERANCE, equal_nan=True)
    assert json.loads((run / "manifest.json").read_text())["method"] == "perplexity"
    # Selection takes the highest: of mean_logprob the least surprising answers, of perplexity the most surprising.
    order = np.argsort(np.where(want.status == "ok", want.perplexity, np.inf))[: int((want.status == "ok").sum())]
    for by, expected in (("mean_logprob", order[:5]), ("perplexity", order[::-1][:5])):
        out = tmp_path / by
        assert main(["select", str(run), "--budget", "5", "--by", by, "--output", str(out)]) == 0
        assert pq.read_table(out / "selected.parquet").column("row").to_pylist() == expected.tolist()
