"""IFD of a small real model against float64 forwards, one sequence at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from example_rows import example_rows
from one_by_one import OneByOne, plain
from slices import slice_of

import instsel
from instsel.methods import in_memory
from instsel.methods.ifd import difficulty_columns
from instsel.methods.influence import direct_columns
from instsel.methods.stages import first_failure
from instsel.records import Example

TOLERANCE = 1e-4  # relative, as the parity with the published program is held to


def test_both_kinds_are_what_they_say(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(12)
    alone = np.array([truth.token_logprobs("", row["output"]).mean() for row in examples])
    prompted = np.array([truth.token_logprobs(plain(row), row["output"]).mean() for row in examples])
    by_kind = {kind: instsel.ifd(scorer, examples, kind=kind) for kind in ("ppl", "loss")}
    for found in by_kind.values():
        assert found.status.tolist() == ["ok"] * 12
        np.testing.assert_allclose(found.direct, alone, rtol=TOLERANCE)
        np.testing.assert_allclose(found.conditional, prompted, rtol=TOLERANCE)
        assert found.num_tokens.tolist() == [len(truth.token_logprobs(plain(r), r["output"])) for r in examples]
    np.testing.assert_allclose(by_kind["ppl"].ifd, np.exp(-prompted) / np.exp(-alone), rtol=TOLERANCE)
    np.testing.assert_allclose(by_kind["loss"].ifd, prompted / alone, rtol=TOLERANCE)
    # The controls: the two kinds are far apart at this tolerance, and so are one answer's figures and another's.
    for other in (by_kind["loss"].ifd, np.roll(by_kind["ppl"].ifd, 1)):
        assert np.median(np.abs(by_kind["ppl"].ifd / other - 1)) > 100 * TOLERANCE


def test_order_and_company_do_not_matter_and_copies_are_equal(scorer: instsel.Scorer) -> None:
    examples = example_rows(10)
    examples[7] = dict(examples[2])
    whole = instsel.ifd(scorer, examples)
    assert whole.ifd[7] == whole.ifd[2]
    order = np.random.default_rng(0).permutation(10)
    moved = instsel.ifd(scorer, [examples[i] for i in order])
    np.testing.assert_allclose(moved.ifd, whole.ifd[order], rtol=1e-5)
    single = [instsel.ifd(scorer, [row]).ifd[0] for row in examples]
    np.testing.assert_allclose(single, whole.ifd, rtol=1e-5)


def test_every_row_has_a_status_and_no_number_without_ok(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples: list[dict[str, Any]] = [
        *example_rows(2),
        {"instruction": "say a thing", "input": "", "output": ""},
        {"instruction": "say a thing", "input": "", "output": " \n\t "},
        {"instruction": "say a thing", "input": "", "output": None},
        {"instruction": "say a thing", "input": "", "output": "the " * 400},
        {"instruction": "the " * 400, "input": "", "output": "a thing"},
        {"instruction": "", "input": "", "output": "a thing"},
    ]
    found = instsel.ifd(scorer, examples)
    assert found.status.tolist() == ["ok", "ok", *["empty_target"] * 3, "too_long", "too_long", "ok"]
    for values in (found.direct, found.conditional, found.ifd):
        assert np.isfinite(values).tolist() == (found.status == "ok").tolist()
    assert found.ifd[7] == pytest.approx(
        truth.perplexity("\n", "a thing") / truth.perplexity("", "a thing"), rel=TOLERANCE
    )


def test_max_length_counts_the_whole_sequence(scorer: instsel.Scorer, truth: OneByOne) -> None:
    row = example_rows(1)[0]
    tokens = truth.length(plain(row) + row["output"])
    assert instsel.ifd(scorer, [row], max_length=tokens).status.tolist() == ["ok"]
    assert instsel.ifd(scorer, [row], max_length=tokens - 1).status.tolist() == ["too_long"]
    with pytest.raises(ValueError, match="max_length: expected an integer of at least 2, got 0"):
        instsel.ifd(scorer, [row], max_length=0)


def test_slices_are_the_whole(scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = example_rows(11)
    whole = instsel.ifd(scorer, examples)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(in_memory, "rows_at_a_time", lambda stage, length, *rest: 4)
    chunked = instsel.ifd(scorer, examples, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(chunked.ifd, whole.ifd, rtol=1e-5)
    assert chunked.stats.sequences == whole.stats.sequences == 22
    assert seen[-1] == (chunked.stats.tokens_forwarded, chunked.stats.tokens_forwarded)
    assert all(before[0] < after[0] for before, after in itertools.pairwise(seen))
    # A slice's examples may come as a mapping that holds no others.
    records = {i: Example(**{"response" if k == "output" else k: v for k, v in examples[i].items()}) for i in (4, 5)}
    part = slice_of(scorer, records, range(4, 6))
    np.testing.assert_allclose(difficulty_columns(part)["ifd"], whole.ifd[4:6], rtol=1e-5)
    assert part.stats.sequences == 4
    alone = direct_columns(part)
    np.testing.assert_allclose(alone["direct"], whole.direct[4:6], rtol=1e-5)
    assert alone["direct_status"].tolist() == ["ok", "ok"]


def test_a_number_that_is_none_is_nonfinite(scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is certain alone has a loss of 0, and no ratio of losses."""
    real = instsel.score_batch

    def certain(*arguments: Any, **options: Any) -> Any:
        batch = real(*arguments, **options)
        batch.mean_logprob[0] = 0.0
        batch.mean_logprob[1] = 2000.0
        return batch

    monkeypatch.setattr("instsel.engine.scoring.score_batch", certain)
    assert instsel.ifd(scorer, example_rows(3), kind="loss").status.tolist() == ["nonfinite", "ok", "ok"]
    found = instsel.ifd(scorer, example_rows(3), kind="ppl")
    assert found.status.tolist() == ["ok", "nonfinite", "ok"]
    assert np.isnan(found.ifd[1])


def test_no_examples(scorer: instsel.Scorer) -> None:
    found = instsel.ifd(scorer, [])
    assert (len(found.ifd), len(found.status), found.stats.tokens_forwarded) == (0, 0, 0)


def test_what_is_refused(scorer: instsel.Scorer) -> None:
    with pytest.raises(ValueError, match="kind must be one of ppl, loss, got 'perplexity'"):
        instsel.ifd(scorer, example_rows(1), kind="perplexity")
    with pytest.raises(ValueError, match="template must be one of plain, alpaca, chat"):
        instsel.ifd(scorer, example_rows(1), template="other")
    with pytest.raises(ValueError, match="chat template"):
        instsel.ifd(scorer, example_rows(1), template="chat")


def test_first_failure() -> None:
    a, b = np.array(["ok", "ok", "too_long"]), np.array(["ok", "nonfinite", "nonfinite"])
    assert first_failure(a, b).tolist() == ["ok", "nonfinite", "too_long"]
