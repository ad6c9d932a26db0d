"""One conversation, however a row lays it out, is one example; what is ambiguous is refused."""

from __future__ import annotations

from typing import Any

import pytest

from instsel.records import Example, Group, to_examples, to_groups

TURNS = [("system", "be kind"), ("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
EXAMPLE = Example("three", "", "four", tuple(TURNS[:3]))


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


SYSTEM, ASK, TELL, AGAIN, LAST = (said(turn) for turn in TURNS)
FIVE = said(("assistant", "5"))
LAYOUTS: dict[str, dict[str, Any]] = {
    "messages": {"messages": said(*TURNS)},
    "sharegpt": {"conversations": [{"from": role, "value": text} for role, text in TURNS]},
    "dict of lists": {"messages": {"role": [r for r, _ in TURNS], "content": [t for _, t in TURNS]}},
    "answer of one turn": {"prompt": said(*TURNS[:4]), "completion": LAST},
    "answer as text": {"prompt": said(*TURNS[:4]), "completion": "four"},
    "answer as one dict": {"prompt": said(*TURNS[:4]), "completion": LAST[0]},
    "answer of two turns": {"prompt": said(*TURNS[:3]), "completion": AGAIN + LAST},
    "answer of three turns": {"prompt": said(*TURNS[:2]), "completion": TELL + AGAIN + LAST},
    "answer that repeats the prompt": {"prompt": said(*TURNS[:2]), "completion": said(*TURNS)},
    "a turn after the answer": {"messages": [*said(*TURNS), *ASK]},
    "a turn after the completion's answer": {"prompt": said(*TURNS[:2]), "completion": TELL + AGAIN + LAST + ASK},
    "alpaca": {"system": "be kind", "instruction": "one", "output": TELL + AGAIN + LAST},
    "alpaca with history": {"system": "be kind", "history": [["one", "two"]], "instruction": "three", "output": "four"},
    "pair": {"prompt": said(*TURNS[:2]), "chosen": TELL + AGAIN + LAST, "rejected": TELL + AGAIN + FIVE},
    "pair whole": {"prompt": "one", "chosen": said(*TURNS), "rejected": said(*TURNS[:4]) + FIVE},
    "pair alone": {"chosen": said(*TURNS), "rejected": said(*TURNS[:4]) + FIVE},
    "pair of dicts": {"prompt": said(*TURNS[:4]), "chosen": LAST[0], "rejected": FIVE[0]},
    "pair after the last question": {"prompt": "three", "chosen": said(*TURNS), "rejected": said(*TURNS[:4]) + FIVE},
    "pair with turns": {"messages": said(*TURNS[:2]), "chosen": TELL + AGAIN + LAST, "rejected": TELL + AGAIN + FIVE},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_example(name: str) -> None:
    assert to_examples([LAYOUTS[name]]) == [EXAMPLE]


@pytest.mark.parametrize("candidates", [["four", "5"], [LAST, FIVE], [LAST[0], {"response": "5"}]])
def test_candidates_may_be_turns(candidates: list[Any]) -> None:
    group = Group("three", "", ("four", "5"), tuple(TURNS[:3]))
    assert to_groups([{"messages": said(*TURNS[:4]), "candidates": candidates}]) == [group]
    longer = [[*AGAIN, *(said(("assistant", one)) if isinstance(one, str) else LAST)] for one in ("four", "5")]
    assert to_groups([{"messages": said(*TURNS[:3]), "candidates": longer}]) == [group]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two answers in a row": ({"messages": ASK + TELL + LAST}, "must be the user's, got one of role 'assistant'"),
    "two in the completion": ({"prompt": ASK, "completion": TELL + LAST}, "got one of role 'assistant'"),
    "a prompt that begins the answer": ({"prompt": ASK + TELL, "completion": "four"}, "got one of role 'assistant'"),
    "a system turn before the answer": ({"prompt": ASK, "completion": SYSTEM + LAST}, "got one of role 'system'"),
    "another question": ({"prompt": ASK, "completion": AGAIN + LAST}, "begins with another"),
    "another system turn": (
        {"prompt": said(("system", "be rude")) + ASK, "completion": SYSTEM + ASK + TELL}, "different system turns"
    ),
    "prompts that differ": (
        {"chosen": ASK + TELL, "rejected": AGAIN + LAST}, "different prompts"
    ),
    "answers after unlike turns": (
        {"prompt": ASK, "chosen": TELL + AGAIN + LAST, "rejected": LAST}, "different prompts"
    ),
    "an input": ({"instruction": "one", "input": "1", "output": TELL + AGAIN + LAST}, "input cannot stand beside"),
    "lists of unlike lengths": ({"messages": {"role": ["user", "assistant"], "content": ["one"]}}, "as many of each"),
    "a tool that answers nobody": ({"messages": ASK + said(("tool", "x")) + LAST}, "must follow the assistant's"),
    "an unknown role": ({"messages": ASK + said(("oracle", "x")) + LAST}, "role 'oracle' is not one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused(name: str) -> None:
    row, reason = REFUSED[name]
    with pytest.raises(ValueError, match=rf"row 0 \(counting from 0\): .*{reason}"):
        to_examples([row])


@pytest.mark.parametrize("cell", ["", None, float("nan"), []])
def test_an_empty_history_is_none(cell: Any) -> None:
    assert to_examples([{"instruction": "a", "output": "b", "history": cell}]) == [Example("a", "", "b")]
