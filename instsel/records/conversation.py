"""A row of a known format as one conversation: the turns before the answer, and the answers.

Whatever the layout, the answer's turns follow the prompt's. The answer is the last assistant turn, after all turns
before it, of which the last must be the user's or a tool's; a turn after it changes nothing that is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from instsel.records.formats import Layout, listed
from instsel.records.json_types import Row
from instsel.records.turns import RowError, Turn, is_turns, said, text_of, turns_of


def read_conversation(row: Row, layout: Layout) -> tuple[list[Turn], str, list[Turn]]:
    """The turns before the answer, which end with the user's or a tool's; the input column's text; and the answers.

    The answers are one, or the chosen and the rejected one, or all candidates. RowError where they do not follow the
    same turns, or the row does not hold what its format says.
    """
    prompt = _prompt(row, layout)
    before: list[Turn] | None = None
    shared, answers = prompt, []
    for answer in _answers(row, layout):
        found, last = _joined(prompt if _is_whole(answer) else shared, answer)
        if before is None:
            # A text beside a whole conversation answers what that conversation asks.
            before, shared = found, found if _is_whole(answer) else prompt
        elif _compared(found) != _compared(before):
            what = "the chosen and the rejected conversation" if "chosen" in layout.answers else "the candidates"
            raise RowError(f"{what} have different prompts")
        answers.append(last)
    turns = prompt if before is None else before
    if layout.prompt == "chosen" and not any(turn.role == "user" for turn in turns):
        raise RowError("has no prompt: neither a column with it, nor turns of the user in the chosen conversation")
    if not turns and not _cell(row, layout, layout.prompt):
        turns = [said("user", "")]
    column = layout.columns[layout.prompt]
    if not turns or turns[-1].role not in ("user", "tool"):
        got = f"got one of role {turns[-1].role!r}" if turns else "found none"
        raise RowError(f"column {column!r}: the turn before the answer must be the user's, {got}")
    _check_tools(turns, column)
    context = "" if layout.prompt == "messages" else _optional_text(row, layout, "input")
    if context.strip() and _unlike(turns[-1], _prompt(row, layout)):
        raise RowError(f"column {layout.columns['input']!r}: an input cannot stand beside an answer of several turns")
    system = _optional_text(row, layout, "system")
    return ([said("system", system), *turns] if system and turns[0].role != "system" else turns), context, answers


def _check_tools(turns: Sequence[Turn], column: str) -> None:
    """RowError for a tool's turn that answers nobody, and for a conversation in which the user never speaks."""
    before = ""
    for turn in turns:
        if turn.role == "tool" and before not in ("assistant", "tool"):
            raise RowError(
                f"column {column!r}: a tool's turn must follow the assistant's, got one after {before or 'none'}"
            )
        before = turn.role
    if not any(turn.role == "user" for turn in turns):
        raise RowError(f"column {column!r}: no turn of the user stands before the answer")


def _prompt(row: Row, layout: Layout) -> list[Turn]:
    """The turns of the prompt's columns; none where the answers' column holds the prompt."""
    if layout.prompt in layout.answers:
        return []
    value, column = _cell(row, layout, layout.prompt), layout.columns[layout.prompt]
    if layout.prompt == "messages" or is_turns(value):
        return turns_of(value, column)
    return [*_history(row, layout), said("user", text_of(value, column))]


def _answers(row: Row, layout: Layout) -> list[list[Turn]]:
    """Each answer as turns: those of a conversation, or the assistant's one."""
    out = []
    for field in layout.answers:
        value, column = _cell(row, layout, field), layout.columns[field]
        if field == "candidates":
            if value is not None and not isinstance(value, (list, tuple)):
                raise RowError(f"column {column!r} must hold a list of candidates, got {type(value).__name__}")
            out += [_answer_turns(_candidate(candidate, column), column) for candidate in value or ()]
        else:
            out.append(turns_of(value, column) if field == "messages" else _answer_turns(value, column))
    return out


def _answer_turns(value: object, column: str) -> list[Turn]:
    if isinstance(value, Mapping) or is_turns(value):
        return turns_of(value, column)
    return [said("assistant", text_of(value, column))]


def _candidate(candidate: object, column: str) -> object:
    if not isinstance(candidate, Mapping) or is_turns(candidate):
        return candidate
    named = [candidate[name] for name in ("response", "output") if name in candidate]
    if not named:
        found = listed([str(key) for key in candidate], "")
        raise RowError(f"column {column!r}: a candidate needs 'response', or role and content; got {found}")
    return next((value for value in named if value is not None), None)


def _joined(prompt: Sequence[Turn], answer: Sequence[Turn]) -> tuple[list[Turn], Turn]:
    """The turns before an answer's last assistant turn, and that turn (without a text where there is none).

    An answer that begins with the user's turn is the whole conversation where it repeats the prompt.
    """
    last = next((at for at in range(len(answer) - 1, -1, -1) if answer[at].role == "assistant"), len(answer))
    before, told = list(answer[:last]), answer[last] if last < len(answer) else said("assistant", "")
    if not prompt or (_is_whole(answer) and _is_blank(prompt)):
        return before, told
    if _is_whole(answer):
        asked, body = _stripped(prompt), _stripped(before)
        if body[: len(asked)] == asked or body[-len(asked) :] == asked:
            own, system = _system(before), _system(prompt)
            if own and system and own != system:
                raise RowError("the prompt and the answer's conversation have different system turns")
            return [*([] if own else system), *before], told
        if prompt[-1].role == "user":
            raise RowError("the prompt ends with the user's turn, and the answer begins with another one")
    return [*prompt, *before], told


def _compared(turns: Sequence[Turn]) -> list[tuple[str, str, object]]:
    return [(turn.role, turn.text, turn.message.get("tool_calls")) for turn in turns]


def _is_whole(answer: Sequence[Turn]) -> bool:
    """Whether an answer's turns begin with the user's, a system turn left aside."""
    return next((turn.role for turn in answer if turn.role != "system"), "") == "user"


def _is_blank(prompt: Sequence[Turn]) -> bool:
    return not any(turn.text.strip() or not turn.is_plain for turn in prompt)


def _stripped(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """Turns to be compared: without a system turn at the beginning, and without blanks around their texts."""
    return [(turn.role, turn.text.strip()) for turn in turns[len(_system(turns)) :]]


def _system(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The system turn at the beginning, if there is one."""
    return [turn for turn in turns[:1] if turn.role == "system"]


def _unlike(last: Turn, prompt: Sequence[Turn]) -> bool:
    """Whether the turn before the answer is another than the prompt's own."""
    return bool(prompt) and _stripped([last]) != _stripped(prompt[-1:])


def _history(row: Row, layout: Layout) -> list[Turn]:
    """Earlier exchanges, each a pair (question, answer)."""
    column = layout.columns.get("history")
    pairs = row.get(column) if column else None
    if isinstance(pairs, (str, float, type(None))) and not text_of(pairs, str(column)).strip():
        return []  # an empty cell of a CSV file too
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise RowError(f"column {column!r} must hold a list of pairs (question, answer), got {type(pairs).__name__}")
    return [
        turn
        for question, answer in pairs
        for turn in (said("user", text_of(question, str(column))), said("assistant", text_of(answer, str(column))))
    ]


def _cell(row: Row, layout: Layout, field: str) -> object:
    column = layout.columns[field]
    if column not in row:
        raise RowError(f"has no column {column!r}, only {listed([str(name) for name in row])}")
    return row[column]


def _optional_text(row: Row, layout: Layout, field: str) -> str:
    column = layout.columns.get(field)
    return text_of(row.get(column), column) if column else ""
