"""Rows of any known format as conversations to train on: turns before the answer, one answer or a preferred pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from instsel.records import open_rows, to_examples, to_groups
from instsel.records.examples import Example, Group
from instsel.records.formats import Layout, detect_layout
from instsel.records.json_rows import DECODER
from instsel.records.json_types import Row
from instsel.records.row_sources import plain
from instsel.records.tool_calls import calls_of, tools_of
from instsel.records.turns import one_by_one, turns_of, with_calls_together
from instsel.records.unread_keys import COLUMNS, UnreadKeys, holds, turn_keys, turns_in

Message = dict[str, Any]
Messages = tuple[Message, ...]
SYSTEM = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row: its turns with all their keys, the columns that go with them, and what was read for scoring.

    prompt    the turns before the answer; material apart from the instruction is not in the last
    input     that material
    answer    the answer's turns, mostly one
    rejected  None unless the row is a preference pair
    columns   tools, weight and others of `instsel.records.unread_keys.COLUMNS` that the row has
    """

    prompt: Messages
    input: str
    answer: Messages
    rejected: Messages | None = None
    columns: Row = field(default_factory=dict)

    @property
    def system(self) -> str:
        """The text of a first system turn; empty where there is none."""
        return _text(self.prompt[0]) if self.prompt and self.prompt[0]["role"] in SYSTEM else ""

    @property
    def turns(self) -> Messages:
        """All turns but the system's."""
        return (*self.prompt[1 if self.prompt and self.prompt[0]["role"] in SYSTEM else 0 :], *self.answer)

    @property
    def asked(self) -> list[Message]:
        """All turns before the answer; material apart from the instruction follows it in a new line, as when scored."""
        if not self.input.strip():
            return list(self.prompt)
        last = self.prompt[-1]
        return [*self.prompt[:-1], {**last, "content": f"{_text(last)}\n{self.input}"}]

    @property
    def all_turns(self) -> Messages:
        """All turns, a rejected answer's too."""
        return (*self.prompt, *self.answer, *(self.rejected or ()))


def as_templates_take_it(one: Conversation) -> Conversation:
    """The same with tools and calls as a chat template takes them, for trainers that hand them on as they are.

    Tools are JSON schemas in the column `tools` (JSON text stays JSON text), calls `tool_calls` with arguments as
    dicts. What is so already stays as it is, key by key.
    """
    columns = one.columns
    name = next((name for name in ("tools", "functions") if holds(columns.get(name))), None)
    if name is not None:
        given = columns[name]
        tools: object = tools_of(columns)
        if tools == (DECODER.decode(given) if isinstance(given, str) else given):
            tools = given
        elif isinstance(given, str):
            tools = json.dumps(tools, ensure_ascii=False)
        columns = {("tools" if key == name else key): value for key, value in columns.items()} | {"tools": tools}
    rejected = None if one.rejected is None else tuple(map(_with_calls, one.rejected))
    prompt, answer = (tuple(map(_with_calls, turns)) for turns in (one.prompt, one.answer))
    return replace(one, prompt=prompt, answer=answer, rejected=rejected, columns=columns)


def _with_calls(turn: Message) -> Message:
    given = turn.get("tool_calls")
    functions = [call.get("function") for call in given or () if isinstance(call, Mapping)]
    taken = [one for one in functions if isinstance(one, Mapping) and isinstance(one.get("arguments"), Mapping)]
    if isinstance(given, list) and len(given) == len(taken):
        return turn
    calls = calls_of(turn, "tool_calls")
    if not calls:
        return turn
    named = {("tool_calls" if key == "function_call" else key): value for key, value in turn.items()}
    return {**named, "tool_calls": calls}


def read_conversations(
    rows: object, columns: Mapping[str, str] | None = None, best: str | None = "best"
) -> list[Conversation]:
    """Every row as a conversation; a group scored by GRAPE gives its best answer, whose place is in the column `best`.

    Raises ValueError as `to_examples` does, for candidate groups without that column, and for rows of which some
    are pairs and others not.
    """
    names, batches = open_rows(rows)
    listed = [row for batch in batches for row in batch]
    unread = UnreadKeys()  # they are kept, or said to be left out, by who writes them
    if best is not None and best in names:
        groups = to_groups(listed, columns=columns, unread=unread)
        layout = detect_layout(names, columns, kind="group")
        return [
            _best_of(number, row, group, layout, best)
            for number, (row, group) in enumerate(zip(listed, groups, strict=True))
        ]
    layout = detect_layout(names, columns)
    if layout.answers == ("chosen", "rejected"):
        pairs = to_groups(listed, columns=columns, unread=unread)
        return [_conversation(row, pair, layout, pair.responses) for row, pair in zip(listed, pairs, strict=True)]
    examples = to_examples(listed, columns=columns, layout=layout, unread=unread)
    return [_conversation(row, one, layout, [one.response]) for row, one in zip(listed, examples, strict=True)]


def _best_of(number: int, row: Mapping[str, Any], group: Group, layout: Layout, column: str) -> Conversation:
    best = row[column]
    if best is None or not 0 <= int(best) < len(group.responses):
        raise ValueError(f"row {number} (counting from 0): column {column!r} names no candidate, got {best!r}")
    if layout.answers == ("candidates",):
        name = layout.columns["candidates"]
        turns = _messages({name: plain(row[name])[int(best)]}, name)
        return _conversation(row, group, layout, [group.responses[int(best)]], turns)
    pair = _conversation(row, group, layout, group.responses)
    return replace(pair, answer=pair.rejected if best and pair.rejected is not None else pair.answer, rejected=None)


def _conversation(
    row: Row, read: Example | Group, layout: Layout, answers: Sequence[str], candidate: Messages = ()
) -> Conversation:
    """A row's turns as they stand in it, of a candidate too; where it holds texts, as they were read."""
    as_read: Messages = tuple(
        {"role": role, "content": text} for role, text in (*read.history, ("user", read.instruction))
    )
    given = _messages(row, layout.columns.get(layout.prompt))
    prompt = given or as_read
    if layout.answers == ("messages",):
        prompt, answer = _split(given)
        found = [answer]
    else:
        columns = [layout.columns.get(name) for name in layout.answers]
        held = [candidate if name == "candidates" else _messages(row, column)
                for name, column in zip(layout.answers, columns, strict=True)]  # fmt: skip
        if _is_whole(held[0]) and held[0][: len(given)] == given:  # with the prompt, which the row may hold apart too
            prompt = _split(held[0])[0]
            held = [turns[len(prompt) :] if _is_whole(turns) else turns for turns in held]
        found = [turns or ({"role": "assistant", "content": text},) for turns, text in zip(held, answers, strict=True)]
    if as_read[0]["role"] == "system" and prompt[0]["role"] not in SYSTEM:
        prompt = (as_read[0], *prompt)
    kept = {name: row[name] for name in COLUMNS if name in row and name not in layout.columns.values()}
    return Conversation(prompt, read.input, found[0], found[1] if len(found) > 1 else None, kept)


def _messages(row: Row, column: str | None) -> Messages:
    """A cell's turns with role, content and all other keys in their order; none where it holds text."""
    value = row.get(column) if column else None
    raw = with_calls_together(turns_in(one_by_one(value, str(column)) if isinstance(value, Mapping) else value))
    found = []
    for turn, read in zip(raw, turns_of(raw, str(column)), strict=True):
        role_key, text_key = turn_keys(turn)
        named = {role_key: ("role", read.message["role"]), text_key: ("content", read.message["content"])}
        extra = {key: (key, value) for key, value in turn.items() if key not in ("role", "content")}
        message = dict((extra | named)[key] for key in turn if key in extra or key in named)
        if "tool_calls" in read.message and not extra.keys() & {"tool_calls", "function_call"}:
            message |= {"content": None, "tool_calls": read.message["tool_calls"]}  # the text was the call
        found.append({"content": None, **message} if "content" not in message else message)
    return tuple(found)


def _is_whole(turns: Messages) -> bool:
    return any(turn["role"] == "user" for turn in turns)


def _split(turns: Messages) -> tuple[Messages, Messages]:
    """The turns before the last of the assistant, and the rest."""
    at = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=len(turns))
    return turns[:at], turns[at:]


def _text(turn: Message) -> str:
    return turn["content"] or ""
