"""Influence and wICI of a small real model against float64 forwards, one sequence at a time, and against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from example_rows import drawn_probes, example_rows
from one_by_one import OneByOne, plain
from slices import slice_of
from tiny_model import CONTEXT, tiny_model_folder
from transformers import AutoTokenizer

import instsel
from instsel.methods import in_memory
from instsel.methods.influence import combine_influence, direct_columns, influence_columns
from instsel.records import Example, to_examples

TOLERANCE = 1e-4  # relative, as the parity with the published program is held to


def by_loop(
    direct: np.ndarray, ifd: np.ndarray, one_shot: np.ndarray, probes: np.ndarray, similarity: np.ndarray, rule: str
) -> list[float]:
    """The definitions of both rules, a row at a time; NaN where a pair is missing."""
    out = []
    for a in range(len(ifd)):
        terms = []
        for b, shown, cosine in zip(probes[a], one_shot[a], similarity[a], strict=True):
            gain = float("nan") if b < 0 else ifd[b] - np.exp(-shown) / np.exp(-direct[b])
            if not np.isnan(gain):
                terms.append((gain, (1 - cosine) * gain if rule == "release" else (1 - cosine) / 2 * gain))
        counted = [term for gain, term in terms if rule == "paper" or gain > 0]
        out.append(float(np.mean(counted)) if counted else 0.0 if terms else float("nan"))
    return out


def test_as_one_forward_a_pair(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(9)
    probes, similarity = drawn_probes(9, 3)
    probes[4, 1] = -1
    alone = np.array([truth.token_logprobs("", row["output"]).mean() for row in examples])
    prompted = np.array([truth.token_logprobs(plain(row), row["output"]).mean() for row in examples])
    shown = np.array(
        [
            [truth.token_logprobs(plain(examples[b], examples[a]), examples[b]["output"]).mean() for b in probes[a]]
            for a in range(9)
        ]
    )
    for rule in ("paper", "release"):
        found = instsel.wici(scorer, examples, probes=probes, similarity=similarity, rule=rule)
        assert found.status.tolist() == ["ok"] * 9
        np.testing.assert_allclose(found.ifd, np.exp(alone - prompted), rtol=TOLERANCE)
        want = np.where(probes >= 0, np.exp(alone[probes] - shown), np.nan)
        np.testing.assert_allclose(found.one_shot_ifd, want, rtol=TOLERANCE)
        score = by_loop(alone, np.exp(alone - prompted), shown, probes, similarity, rule)
        np.testing.assert_allclose(found.score, score, atol=TOLERANCE * np.abs(score).max())
        # The control: without the demonstration, the figures are others.
        assert np.nanmedian(np.abs(np.exp(alone - prompted)[probes] / found.one_shot_ifd - 1)) > 100 * TOLERANCE
    assert found.selectable.tolist() == (np.exp(alone - prompted) <= 1).tolist()
    assert not found.demonstration_cut.any()


def test_a_chat_template_shows_the_demonstration_as_the_earlier_turn(truth: OneByOne) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    scorer = instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer, device="cpu", dtype="float32")
    records = [Example(f"say {i}", "", "a thing, a king" if i else "the theory") for i in range(3)]
    probes = np.array([[1, 2], [0, 2], [0, 1]])
    found = instsel.wici(scorer, records, probes=probes, similarity=np.zeros((3, 2)), template="chat")
    assert found.template == "chat"
    for a, row in enumerate(probes):
        for k, b in enumerate(row):
            before = f"[user] say {a}\n[assistant] {records[a].response}\n[user] say {b}\n[assistant] "
            ratio = truth.perplexity(before, records[b].response) / truth.perplexity("", records[b].response)
            assert found.one_shot_ifd[a, k] == pytest.approx(ratio, rel=TOLERANCE)


@pytest.mark.parametrize("rule", ["paper", "release"])
def test_missing_pairs_are_left_out_of_the_mean(rule: str) -> None:
    """Any pattern of failures: a failed pair is no zero, and a row keeps its score as long as it has a pair."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        direct, conditional = rng.normal(-3, 0.5, (2, 30))
        one_shot = rng.normal(-3, 0.5, (30, 4))
        probes = rng.integers(-1, 30, (30, 4))
        statuses = {
            "direct_status": np.where(rng.random(30) < 0.1, "too_long", "ok"),
            "conditional_status": np.where(rng.random(30) < 0.1, "nonfinite", "ok"),
            "one_shot_status": np.where(rng.random((30, 4)) < 0.4, "out_of_memory", "ok"),
        }
        direct[statuses["direct_status"] != "ok"] = np.nan
        conditional[statuses["conditional_status"] != "ok"] = np.nan
        one_shot[statuses["one_shot_status"] != "ok"] = np.nan
        similarity = np.where(probes >= 0, rng.uniform(-1, 1, (30, 4)), np.nan)
        found = combine_influence(
            direct=direct, conditional=conditional, one_shot=one_shot, probes=probes, similarity=similarity,
            rule=rule, **statuses,
        )  # fmt: skip
        ifd = np.exp(direct - conditional)
        np.testing.assert_allclose(found["score"], by_loop(direct, ifd, one_shot, probes, similarity, rule), atol=1e-12)
        assert np.isfinite(found["score"]).tolist() == (found["status"] == "ok").tolist()
        assert (np.isfinite(found["influence"]).any(1) == (found["status"] == "ok")).all()
        assert not found["selectable"][found["status"] != "ok"].any()
        # The control: counting the missing pairs as zeros, as the published program does, gives other scores.
        zeros = np.nan_to_num(found["influence"] * (1 - similarity)).mean(1)
        assert np.nanmax(np.abs(zeros - found["score"])) > 1e-2


def test_the_release_rule_counts_gains_only() -> None:
    common = {
        "direct": np.log([0.5, 0.5, 0.5]), "conditional": np.log([0.5, 0.25, 0.8]), "probes": np.array([[1, 2]] * 3),
        "similarity": np.array([[0.5, 0.0]] * 3), "one_shot": np.log([[0.5, 0.5], [0.2, 0.4], [0.25, 0.4]]),
        "direct_status": np.full(3, "ok"), "conditional_status": np.full(3, "ok"),
        "one_shot_status": np.full((3, 2), "ok"),
    }  # fmt: skip
    # ifd = 1, 2, 0.625; influence = 2 - 1 and 0.625 - 1, then 2 - 2.5 and 0.625 - 1.25, then 2 - 2 and 0.625 - 1.25.
    release = combine_influence(**common, rule="release")
    np.testing.assert_allclose(release["score"], [0.5, 0.0, 0.0], atol=1e-12)
    assert release["selectable"].tolist() == [True, False, True]
    paper = combine_influence(**common, rule="paper")
    np.testing.assert_allclose(paper["score"], [(0.25 - 0.1875) / 2, (-0.125 - 0.3125) / 2, -0.15625], atol=1e-12)
    assert paper["selectable"].all()


def test_failures_of_real_rows(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(7)
    examples[1]["output"] = ""  # fails as a demonstration and as a probe
    room = CONTEXT - truth.length(plain(examples[2]))
    examples[2]["output"] = "the " * (
        room - 1
    )  # with the last blank a token: fits by itself, and after no demonstration or before no probe
    examples[3]["output"] = "the " * 400  # fits nowhere
    probes = np.array([[1, 2, 4], [4, 5, 6], [4, 5, 6], [4, 5, 6], [1, 3, -1], [-1, -1, -1], [2, 3, 4]])
    found = instsel.wici(scorer, examples, probes=probes, similarity=np.zeros((7, 3)))
    assert found.status.tolist() == [
        "ok", "empty_target", "too_long", "too_long", "empty_target", "empty_target", "ok",
    ]  # fmt: skip
    present = np.isfinite(found.influence)
    assert present.tolist() == [[False, False, True], *[[False] * 3] * 5, [False, False, True]]
    assert np.isfinite(found.ifd).tolist() == [True, False, True, False, True, True, True]
    single = instsel.wici(scorer, examples, probes=probes[:, 2:], similarity=np.zeros((7, 1)))
    np.testing.assert_allclose(found.score[[0, 6]], single.score[[0, 6]], rtol=1e-4)


def test_its_own_answer_costs_nothing_and_answers_alone_are_scored_once(
    scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = example_rows(8)
    probes = np.array([[(i + j) % 8 for j in (1, 2, 3)] for i in range(8)])
    calls: list[list[Any]] = []
    real = instsel.score_batch

    def recorded(scorer: Any, requests: Any, **options: Any) -> Any:
        calls.append(list(requests))
        return real(scorer, calls[-1], **options)

    monkeypatch.setattr("instsel.engine.scoring.score_batch", recorded)
    found = instsel.wici(scorer, examples, probes=probes, similarity=np.zeros((8, 3)))
    assert [len(call) for call in calls] == [8, 8 + 24], "all pairs of a chunk go in one call"
    assert sorted(calls[0]) == sorted(("", row["output"]) for row in examples)
    own, pairs = calls[1][:8], calls[1][8:]
    with_own = real(scorer, own + pairs).stats.tokens_forwarded
    # A row's own sequence ends where its probes' begin, except for tokens that merge across that place.
    assert with_own - real(scorer, pairs).stats.tokens_forwarded <= 8
    assert found.stats.tokens_forwarded == with_own + real(scorer, calls[0]).stats.tokens_forwarded
    assert found.stats.tokens_unshared > 1.5 * found.stats.tokens_forwarded


def test_slices_are_the_whole(scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = example_rows(10)
    probes, similarity = drawn_probes(10, 2, seed=2)
    whole = instsel.wici(scorer, examples, probes=probes, similarity=similarity)
    with monkeypatch.context() as patched:
        patched.setattr(in_memory, "rows_at_a_time", lambda stage, length, *rest: length if stage.whole else 3)
        chunked = instsel.wici(scorer, examples, probes=probes, similarity=similarity)
    np.testing.assert_allclose(chunked.score, whole.score, atol=1e-5)
    records = to_examples(examples)
    parts = []
    for part in (range(0, 4), range(4, 10)):
        needed = {int(row) for row in part} | set(probes[part.start : part.stop].ravel().tolist())
        shown = {row: records[row] for row in needed}
        parts.append(influence_columns(slice_of(scorer, shown, part, probes=probes)))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert set(joined) == {
        "conditional", "conditional_status", "num_tokens", "one_shot", "one_shot_status", "demonstration_cut",
    }  # fmt: skip
    del joined["num_tokens"], joined["demonstration_cut"]
    alone = direct_columns(slice_of(scorer, records))
    columns = combine_influence(**alone, **joined, probes=probes, similarity=similarity)
    np.testing.assert_allclose(columns["score"], whole.score, atol=1e-5)
