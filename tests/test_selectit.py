"""SelectIT against the full next-token distribution after each rating prompt, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from interrupted_run import interrupted_then_continued
from one_by_one import OneByOne
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.methods.rating_prompts import default_prompts
from instsel.methods.selectit import peak_score

TOLERANCE = 1e-4  # relative
PROMPTS = [
    "rate it from 1 to 5\n{request}\n{response}\ngrade:\n",
    "{response}\nanswers\n{request}\nas 1 (bad) to 5 (good):\n",
    "the thing {request} the king {response} the sum is\n",
]


def shown(prompt: str, row: dict[str, str]) -> str:
    asked = row["instruction"] + ("\n" + row["input"] if row["input"].strip() else "")
    return prompt.replace("{request}", asked).replace("{response}", row["output"])


def digits(truth: OneByOne, text: str, levels: int = 5) -> np.ndarray:
    """The digits' probabilities in the whole vocabulary: they are far from summing to 1."""
    chances = truth.next_token(text)
    return np.array([chances[truth.tokenizer.convert_tokens_to_ids(str(d))] for d in range(1, levels + 1)])


def authors_token_level(chances: np.ndarray) -> float:
    """What their program does with the five probabilities, step by step."""
    total = sum(chances)
    raised = [np.exp(chance / total) for chance in chances]
    share = [one / sum(raised) for one in raised]
    top = int(np.argmax(share))
    return (top + 1) * sum(share[top] - one for one in share) / (len(share) - 1)


def sentence_level(scores: list[float], alpha: float) -> float:
    return float(np.average(scores) / (1 + alpha * np.std(scores)))


def token_levels(truth: OneByOne, row: dict[str, str], token_level: str, levels: int = 5) -> list[float]:
    found = [digits(truth, shown(prompt, row), levels) for prompt in PROMPTS]
    if token_level == "authors":
        return [authors_token_level(chances) for chances in found]
    return [float((chances * range(1, levels + 1)).sum() / chances.sum()) for chances in found]


@pytest.mark.parametrize("token_level", ["authors", "expected"])
def test_scores_are_those_of_the_full_distribution(scorer: instsel.Scorer, truth: OneByOne, token_level: str) -> None:
    rows = example_rows(16)
    found = instsel.selectit(scorer, rows, rating_prompts=PROMPTS, token_level=token_level)
    each = [token_levels(truth, row, token_level) for row in rows]
    np.testing.assert_allclose(found.token_score, each, rtol=TOLERANCE)
    np.testing.assert_allclose(found.score, [sentence_level(one, 0.2) for one in each], rtol=TOLERANCE)
    np.testing.assert_array_equal(found.sentence_score[:, 0], found.score)
    assert found.status.tolist() == ["ok"] * 16
    # The controls: neither the other formula, nor another row's rating, nor scores without the discount would pass.
    other = [token_levels(truth, row, "expected" if token_level == "authors" else "authors") for row in rows]
    plain = np.mean(each, 1)
    for wrong, got in ((other, found.token_score), (np.roll(each, 1, 0), found.token_score), (plain, found.score)):
        assert np.median(np.abs(got / wrong - 1)) > 5 * TOLERANCE
    assert found.stats.head_rows == 16 * 3, "the five digits of a prompt are read from one row"


def test_the_peak_is_worked_out_by_hand() -> None:
    chances = np.array([0.1, 0.2, 0.1, 0.0999, 0.0001]) / 2  # their sum does not matter
    share = np.exp(chances / 0.25)
    share /= share.sum()
    assert peak_score(np.log(chances)) == pytest.approx(2 * (5 * share[1] - 1) / 4)
    assert peak_score(np.log([0.2] * 5)) == 0, "no rating stands out"
    assert peak_score(np.log([0.3, 0.3, 0.1, 0.1, 0.1])) == pytest.approx(  # the first of two equal ones
        peak_score(np.log([0.3, 0.1, 0.1, 0.3, 0.1]))
    )


def test_levels_and_alpha(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows = example_rows(4)
    nine = instsel.selectit(scorer, rows, rating_prompts=PROMPTS, levels=9, token_level="expected", alpha=3.0)
    each = [token_levels(truth, row, "expected", 9) for row in rows]
    np.testing.assert_allclose(nine.token_score, each, rtol=TOLERANCE)
    np.testing.assert_allclose(nine.score, [sentence_level(one, 3.0) for one in each], rtol=TOLERANCE)
    five = instsel.selectit(scorer, rows, rating_prompts=PROMPTS, token_level="expected", alpha=3.0)
    assert np.median(np.abs(nine.token_score / five.token_score - 1)) > 100 * TOLERANCE
    flat = instsel.selectit(scorer, rows, rating_prompts=PROMPTS, alpha=0)
    np.testing.assert_allclose(flat.score, flat.token_score.mean(1))


def test_the_default_prompts_are_asked_in_full(scorer: instsel.Scorer, truth: OneByOne) -> None:
    row = {"instruction": "the", "input": "", "output": "a king"}
    found = instsel.selectit(scorer, [row], token_level="expected")
    prompts = default_prompts(5)
    assert len(set(prompts)) == 5
    for prompt, score in zip(prompts, found.token_score[0], strict=True):
        chances = digits(truth, shown(prompt, row))
        assert score == pytest.approx((chances * [1, 2, 3, 4, 5]).sum() / chances.sum(), rel=TOLERANCE)


@pytest.mark.long
def test_several_scorers_are_weighted_by_their_parameters(scorer: instsel.Scorer, truth: OneByOne) -> None:
    from transformers import AutoConfig, LlamaForCausalLM

    larger = LlamaForCausalLM(AutoConfig.from_pretrained(tiny_model_folder(), num_hidden_layers=6))
    second = instsel.Scorer(larger, tokenizer=truth.tokenizer, device="cpu", dtype="float32")
    rows = example_rows(6)
    found = instsel.selectit(scorer, rows, rating_prompts=PROMPTS, scorers=[second])
    first, alone = (instsel.selectit(one, rows, rating_prompts=PROMPTS) for one in (scorer, second))
    np.testing.assert_allclose(found.token_score, np.concatenate([first.token_score, alone.token_score], 1), rtol=1e-5)
    np.testing.assert_allclose(found.sentence_score, np.stack([first.score, alone.score], 1), rtol=1e-5)
    sizes = np.array([sum(p.numel() for p in model.parameters()) for model in (truth.model, larger)], float)
    assert sizes[1] > 1.5 * sizes[0]
    want = (first.score * sizes[0] + alone.score * sizes[1]) / sizes.sum()
    np.testing.assert_allclose(found.score, want, rtol=1e-5)
    equal = (first.score + alone.score) / 2
    assert np.median(np.abs(found.score / equal - 1)) > 100e-5, "the control: equal weights are not it"


def test_every_row_has_a_status_and_braces_in_examples_stay(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows: list[dict[str, Any]] = [
        *example_rows(2),
        {"instruction": "say a thing", "input": "", "output": " \n"},
        {"instruction": "the " * 400, "input": "", "output": "a thing"},
        {"instruction": "say {response}", "input": "", "output": "{request}"},
    ]
    found = instsel.selectit(scorer, rows, rating_prompts=PROMPTS)
    assert found.status.tolist() == ["ok", "ok", "empty_target", "too_long", "ok"]
    for values in (found.score, found.sentence_score[:, 0], *found.token_score.T):
        assert np.isfinite(values).tolist() == (found.status == "ok").tolist()
    text = "rate it from 1 to 5\nsay {response}\n{request}\ngrade:\n"
    assert found.token_score[4, 0] == pytest.approx(authors_token_level(digits(truth, text)), rel=TOLERANCE)
    assert len(instsel.selectit(scorer, []).score) == 0


def test_what_is_refused(scorer: instsel.Scorer) -> None:
    rows = example_rows(1)
    for prompts, message in (
        (["how good?"], r'rating_prompts\[0\] must contain "\{request\}" and "\{response\}", got \'how good\?\''),
        ([PROMPTS[0], "{request}?"], r'rating_prompts\[1\] must contain "\{response\}"'),
        ("{request} {response}", "rating_prompts must be a list of at least one text, got '{request} {response}'"),
        ([], r"rating_prompts must be a list of at least one text, got \[\]"),
    ):
        with pytest.raises(ValueError, match=message):
            instsel.selectit(scorer, rows, rating_prompts=prompts)
    for levels in (1, 10, 2.5, True):
        with pytest.raises(
            ValueError, match=f"levels must be a whole number of at least 2 and at most 9, got {levels}"
        ):
            instsel.selectit(scorer, rows, levels=levels)
    with pytest.raises(ValueError, match=r"alpha must be a number of at least 0, got -0\.1"):
        instsel.selectit(scorer, rows, alpha=-0.1)
    with pytest.raises(ValueError, match="token_level must be one of authors, expected, got 'mean'"):
        instsel.selectit(scorer, rows, token_level="mean")
    with pytest.raises(TypeError, match="scorers must be a list of scorers, got Scorer"):
        instsel.selectit(scorer, rows, scorers=scorer)


@pytest.mark.long
def test_the_command_gives_the_same_numbers_also_when_interrupted(
    scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 40)
    (tmp_path / "prompts.txt").write_text("".join(prompt.replace("\n", "\\n") + "\n" for prompt in PROMPTS))
    (tmp_path / "other").mkdir()
    make_tiny_model(tmp_path / "other", seed=3)
    arguments = ["selectit", str(rows), "--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", "8"]
    arguments += ["--rating-prompts", str(tmp_path / "prompts.txt"), "--scorers", str(tmp_path / "other")]
    interrupted_then_continued([*arguments, "--output", str(tmp_path / "run")])
    table = pq.read_table(tmp_path / "run/scores.parquet")
    records = [json.loads(line) for line in rows.read_text().splitlines()]
    other = instsel.Scorer(str(tmp_path / "other"), device="cpu")
    want = instsel.selectit(scorer, records, rating_prompts=PROMPTS, scorers=[other])
    assert table.column("status").to_pylist() == want.status.tolist()
    assert {"ok", "empty_target", "too_long"} == set(want.status)
    good = want.status == "ok"
    got = np.array(table.column("score").to_pylist(), dtype=float)
    np.testing.assert_allclose(got[good], want.score[good], rtol=1e-4)
    assert np.isnan(got[~good]).all()
    held = table.column("token_score").to_pylist()
    np.testing.assert_allclose([held[i] for i in np.flatnonzero(good)], want.token_score[good], rtol=1e-4)
    capsys.readouterr()
    assert main([*arguments, "--output", str(tmp_path / "run"), "--alpha", "0.3"]) == 2, "another alpha, another run"
    assert "alpha" in capsys.readouterr().err
    assert main([*arguments, "--dry-run"]) == 0
    assert f"{'sequences':<16}" in capsys.readouterr().out
