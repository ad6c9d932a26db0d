"""Rows of any known format as examples (one answer each) or groups (several answers to one prompt).

Formats and the columns that tell them apart: :mod:`instsel.records.formats`; files: :mod:`instsel.records.files`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from instsel.records.chat import Chat, chat_of, holds_turns, text_of_message, turns_asked
from instsel.records.conversation import read_conversation
from instsel.records.formats import Layout, detect_layout, listed
from instsel.records.json_types import Row
from instsel.records.row_sources import open_rows, plain
from instsel.records.turns import RowError
from instsel.records.unread_keys import UnreadKeys

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and the answer to be scored.

    ``instruction`` is the last user turn, ``input`` the material that Alpaca keeps apart from it ("" if none),
    ``response`` the answer ("" if missing), ``history`` the turns before the last user turn as ``(role, text)``, the
    role being "system", "user", "assistant" or "tool". ``chat`` is the whole conversation as a chat template is given
    it; None where the other fields say all of it. A call of a tool is its JSON text in ``response``. ``asked`` is the
    number of turns of a prompt that stands apart, on which nobody trains; ``in_turns`` whether the row holds turns.
    """

    instruction: str
    input: str = ""
    response: str = ""
    history: Turns = ()
    chat: Chat | None = field(default=None, repr=False, hash=False)
    asked: int = field(default=0, repr=False, compare=False)
    in_turns: bool = field(default=False, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt and its candidate answers; the fields are those of :class:`Example`, ``chats`` one for each answer."""

    instruction: str
    input: str = ""
    responses: tuple[str, ...] = ()
    history: Turns = ()
    chats: tuple[Chat | None, ...] = field(default=(), repr=False, hash=False)
    asked: int = field(default=0, repr=False, compare=False)
    in_turns: bool = field(default=False, repr=False, compare=False)

    @property
    def examples(self) -> list[Example]:
        """Each answer with the prompt."""
        chats = self.chats or (None,) * len(self.responses)
        return [
            Example(self.instruction, self.input, response, self.history, chat, self.asked, self.in_turns)
            for response, chat in zip(self.responses, chats, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a row that cannot be read: why, and no text, so that there is nothing to score or to show."""

    reason: str

    instruction: ClassVar[str] = ""
    input: ClassVar[str] = ""
    response: ClassVar[str] = ""
    responses: ClassVar[tuple[str, ...]] = ()
    history: ClassVar[Turns] = ()
    chat: ClassVar[Chat | None] = None
    in_turns: ClassVar[bool] = False


ReadRow = Example | Group | Unreadable
OnError = Literal["raise", "status"]


def to_examples(
    rows: Iterable[object],
    *,
    columns: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    first_row: int = 0,
    unread: UnreadKeys | None = None,
    on_error: OnError = "raise",
) -> list[Example]:
    """Read rows as examples, in order, one each.

    rows: dicts, or any table that :func:`instsel.records.open_rows` reads; an :class:`Example` passes through.
    columns: field to column, e.g. ``{"instruction": "question", "response": "answer"}``.
    layout: what :mod:`instsel.records.formats` says of an earlier batch; decided from these rows if None.
    first_row: number of the first row, for error messages.
    unread: gathers the keys that are not part of the prompt, over several calls; without it they are warned of.
    on_error: "raise" for a row that cannot be read, or "status" for an :class:`Unreadable` in its place.

    Raises ValueError for an unknown or ambiguous format (naming the columns present) and for a row that cannot be read
    as the format says (naming the row, counted from 0); TypeError where rows are not rows.

    >>> to_examples([{"instruction": "Add 1 and 2.", "output": "3"}])
    [Example(instruction='Add 1 and 2.', input='', response='3', history=())]
    """

    def build(row: Row, layout: Layout, clean: Callable[[str], str]) -> Example:
        return _cleaned(row, layout, clean).examples[0]

    return _convert(rows, "example", Example, build, columns, layout, first_row, unread, on_error)


def to_groups(
    rows: Iterable[object],
    *,
    columns: Mapping[str, str] | None = None,
    layout: Layout | None = None,
    first_row: int = 0,
    unread: UnreadKeys | None = None,
    on_error: OnError = "raise",
) -> list[Group]:
    """Read rows as groups of candidate answers, in order, one each; arguments and errors as :func:`to_examples`.

    >>> to_groups([{"instruction": "Add 1 and 2.", "candidates": [{"response": "3"}, "four"]}])
    [Group(instruction='Add 1 and 2.', input='', responses=('3', 'four'), history=())]
    """
    return _convert(rows, "group", Group, _cleaned, columns, layout, first_row, unread, on_error)


Record = TypeVar("Record", Example, Group)


def _convert(
    rows: Iterable[object],
    kind: str,
    record_type: type[Record],
    build: Callable[[Row, Layout, Callable[[str], str]], Record],
    columns: Mapping[str, str] | None,
    layout: Layout | None,
    first_row: int,
    unread: UnreadKeys | None,
    on_error: OnError,
) -> list[Record]:
    if on_error not in ("raise", "status"):
        raise ValueError(f"on_error must be raise or status, got {on_error!r}")
    names, batches = open_rows(rows)
    clean = SurrogateFilter()
    keys = UnreadKeys() if unread is None else unread
    out: list[Any] = []
    for batch in batches:
        for row in batch:
            number = first_row + len(out)
            if isinstance(row, (record_type, Unreadable)):
                out.append(row)
                continue
            if not isinstance(row, Mapping):
                what = f"must be a mapping, got {type(row).__name__}"
                if on_error == "raise":
                    raise TypeError(f"rows: row {number} (counting from 0) {what}")
                out.append(Unreadable(what))
                continue
            if layout is None:
                layout = _layout_of(names, columns, kind, batch)
            try:
                out.append(_built(row, layout, clean, build))
                keys.add(row, layout)
            except RowError as error:
                if on_error == "raise":
                    raise ValueError(f"row {number} (counting from 0): {error}") from None
                out.append(Unreadable(str(error)))
    clean.warn()
    if unread is None:
        keys.warn()
    return out


def _built(row: Row, layout: Layout, clean: SurrogateFilter, build: Callable[..., Record]) -> Record:
    """A row's record; cells of libraries of tables (arrays, NA) become Python's own only where they are in the way."""
    try:
        return build(row, layout, clean)
    except RowError:
        return build(plain(row), layout, clean)


def _layout_of(names: list[str], columns: Mapping[str, str] | None, kind: str, rows: Sequence[object]) -> Layout:
    try:
        return detect_layout(names, columns, kind=kind)
    except ValueError as error:
        keys = [row.keys() for row in rows if isinstance(row, Mapping)]
        other = next((number for number, key in enumerate(keys) if key != keys[0]), None)
        if other is None:
            raise
        of_rows = "; ".join(f"row {number} has {listed([str(key) for key in keys[number]])}" for number in (0, other))
        raise ValueError(f"{error}. The rows differ (counting from 0): {of_rows}") from None


def _cleaned(row: Row, layout: Layout, clean: Callable[[str], str]) -> Group:
    turns, context, answers = read_conversation(row, layout)
    asked = max(place for place, turn in enumerate(turns) if turn.role == "user")
    history = tuple((turn.role, clean(turn.text)) for turn in turns[:asked])
    quiet = SurrogateFilter()  # the texts are counted below
    chats = tuple(chat_of(row, layout, turns, context, answer, quiet) for answer in answers)
    texts = tuple(clean(text_of_message(answer.message)) for answer in answers)
    chats = chats if any(chats) else ()
    return Group(
        clean(turns[asked].text),
        clean(context),
        texts,
        history,
        chats,
        turns_asked(row, layout),
        holds_turns(row, layout),
    )


class SurrogateFilter:
    """Replaces lone surrogates, which neither tokenizers nor Parquet can hold, by U+FFFD and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, text: str) -> str:
        if text.isascii():
            return text
        try:
            text.encode()
            return text
        except UnicodeEncodeError:
            cleaned = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            self.count += cleaned.count("\ufffd") - text.count("\ufffd")
            return cleaned

    def warn(self) -> None:
        """Say once how many were replaced."""
        if self.count:
            warnings.warn(f"{self.count} lone surrogates in the text were replaced by U+FFFD", stacklevel=4)
