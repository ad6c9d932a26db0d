"""GRAPE's best answers: those that repeat themselves are told of, and left out where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import tiny_model_folder

import instsel
from instsel.cli import main
from instsel.methods.grape import best_of
from instsel.records import Group
from instsel.selection.group_winners import GroupWinners, run_winners, said_of_winners, winners_of

pytestmark = pytest.mark.usefixtures("one_loading")

WORDS = ["the", "thing", "in a", "king", "sing", "answering", "theory"]
PLAIN = "answering theory in a king"


def looping_groups(count: int) -> list[dict[str, Any]]:
    """Seven answers that loop before one that does not, so that the likeliest is one of them nearly always."""
    loops = [{"response": f"{word} " * 12} for word in WORDS]
    return [{"instruction": f"say {i}", "candidates": [*loops, {"response": PLAIN}]} for i in range(count)]


def test_what_repeats_itself_is_chosen_only_where_there_is_no_other() -> None:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    rows: list[Any] = looping_groups(6)
    rows += [Group("say", responses=("the " * 12, "king " * 12)), Group("say", responses=("", "the " * 12))]
    published, other = (instsel.grape(scorer, rows, max_repetition=limit) for limit in (1.0, 0.3))
    assert (published.best[:6] < 7).any(), "the control: likelihood takes loops"
    assert other.best[:6].tolist() == [7] * 6
    assert other.best[6:].tolist() == published.best[6:].tolist() and other.status.tolist() == ["ok"] * 8
    for one, same in zip(published.scores, other.scores, strict=True):
        np.testing.assert_array_equal(one, same)
    with pytest.raises(ValueError, match="max_repetition must be a number of at least 0 and at most 1, got 2"):
        instsel.grape(scorer, rows, max_repetition=2)


def test_the_best_is_the_first_of_the_highest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scores = np.where(rng.random(6) < 0.3, np.nan, rng.integers(-4, 0, 6).astype(float))
        repeated = (rng.random(6) < 0.5).tolist()
        places = [i for i in range(6) if np.isfinite(scores[i])]
        fit = [i for i in places if not repeated[i]] or places
        assert best_of(scores, repeated) == (max(fit, key=lambda i: (scores[i], -i)) if fit else -1)


def test_shares_are_of_groups_with_another_answer() -> None:
    groups = [Group("", responses=("a b c d " * 8, "no")), Group("", responses=("yes it is", "no"))]
    groups += [Group("", responses=("a b c d " * 8,)), Group("", responses=("a", "b"))]
    found = winners_of(groups, [0, 1, 0, -1])
    assert (found.groups, found.repeated, found.by_chance) == (2, 0.5, 0.25)
    assert found.length == np.median([32 / 16.5, 1 / 2])
    assert said_of_winners(winners_of([], [])) == []


@pytest.mark.parametrize(
    ("length", "repeated", "chance", "said"),
    [
        (1.0, 0.1, 0.0, []), (3.0, 0.1, 0.1, ["3.0 times as long"]), (0.4, 0.1, 0.0, ["0.4 times"]),
        (0.4, 0.1, 0.1, []), (1.0, 0.9, 0.1, ["90% of the best"]), (6.0, 0.9, 0.1, ["90% of the best", "6.0 times"]),
    ],
)  # fmt: skip
def test_lines_only_where_there_is_something_to_say(
    length: float, repeated: float, chance: float, said: list[str]
) -> None:
    lines = said_of_winners(GroupWinners(40, repeated, chance, length))
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))


def test_a_run_ends_with_what_its_winners_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = tmp_path / "groups.jsonl"
    groups.write_text("".join(json.dumps(row) + "\n" for row in looping_groups(12)))
    words = ["grape", str(groups), "--model", tiny_model_folder(), "--device", "cpu", "--output", str(tmp_path / "run")]
    assert main(words) == 0
    found = run_winners(tmp_path / "run")
    assert found is not None and found.groups == 12 and found.by_chance == 7 / 8
    assert f"{found.repeated:.0%} of the best answers repeat themselves (by chance 88%)" in capsys.readouterr().out
    assert main([*words, "--max-repetition", "0.3", "--overwrite"]) == 0
    assert "repeat themselves" not in capsys.readouterr().out
