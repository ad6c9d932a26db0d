"""A misspelt command, flag or choice names the nearest one."""

from __future__ import annotations

import pytest

import instsel
from instsel.cli import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["wcii"], "did you mean wici?"),
        (["GRAPE", "x"], "did you mean grape?"),
        (["wici", "x.jsonl", "--modle", "m", "--output", "o"], "--modle: did you mean --model?"),
        (["wici", "x.jsonl", "--model", "m", "--num_probes=3"], "--num_probes: did you mean --num-probes?"),
        (["wici", "x.jsonl", "--model", "m", "--rule", "papper"], "did you mean paper?"),
        (["select", "run", "--buget", "3", "--output", "o"], "--buget: did you mean --budget?"),
    ],
)
def test_the_nearest_word_is_named(capfd: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(arguments) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err, said.err


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], [], ["wici", "x", "--model", "m", "--zzzzzz"], ["wici", "x", "--mod", "m", "--output"], ["wici"]],
)
def test_what_is_near_to_nothing_or_no_mistake_gets_no_advice(
    capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    assert "did you mean" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["perplexity", "ifd", "wici", "miwv", "nuggets", "rico", "deita", "selectit", "grape"])
def test_a_misspelt_keyword_names_the_nearest(name: str) -> None:
    method = getattr(instsel, name)
    with pytest.raises(TypeError, match=rf"{name}\(\) has no keyword 'templte' \(did you mean template\?\); it has "):
        method(None, [], templte="chat")
    with pytest.raises(TypeError, match=r"has no keyword 'frobnicate'; it has "):
        method(None, [], frobnicate=1)
