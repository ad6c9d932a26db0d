"""Files that trainers load as they are: what is checked, warned of and written."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from instsel.export.conversations import Conversation, Messages, as_templates_take_it, read_conversations
from instsel.export.trainers import ANSWERS, DATASET_INFO, TRAINERS, TURNS, Row, known_data_sets
from instsel.export.written_files import check_writable, write_files
from instsel.records.unread_keys import UnreadKeys, holds


def export(
    rows: object,
    to: str,
    output: Path | str,
    *,
    name: str = "instsel",
    columns: Mapping[str, str] | None = None,
    best: str | None = "best",
    overwrite: bool = False,
) -> list[Path]:
    """Write rows as the files that a trainer loads as they are; gives their paths.

    rows    dicts in any known format, a `Dataset`, a table
    to      one of `TRAINERS`
    output  a folder, made if need be; a `dataset_info.json` that is there gains an entry
    name    of the data set, and of its file
    best    the column with the place of each group's answer, if rows have it

    Earlier turns and preference pairs are kept whole, with all keys of their turns, and tools, weight and other columns
    that go with them, tools and calls as chat templates take them ("messages" leaves them as they are); a warning names
    what "alpaca" cannot hold and what "llama-factory" does not read. Raises ValueError naming the parameter or the row:
    for an unknown trainer, a file that is there (or, to be overwritten, one that no export wrote), no rows, a row
    without an answer, and turns that the trainer would leave out.

    >>> export([{"instruction": "Add 1 and 2.", "output": "3"}], "trl", "out")  # doctest: +SKIP
    [PosixPath('out/instsel.jsonl')]
    """
    if to not in TRAINERS:
        raise ValueError(f"to: expected one of {', '.join(TRAINERS)}, got {to!r}")
    data, *beside = check_target(to, output, name, overwrite)
    conversations = read_conversations(rows, columns, best)
    _check(conversations, to)
    trainer = TRAINERS[to]
    if trainer.by_template:
        conversations = [as_templates_take_it(one) for one in conversations]
    made = [trainer.row(one) for one in conversations]
    texts = {data: json.dumps(made, ensure_ascii=False, indent=1) if trainer.listed else _lines(made)}
    if trainer.beside is not None:
        has_tools = any(one.columns.get("tools") for one in conversations)
        texts[beside[0]] = trainer.beside[1](data, conversations[0].rejected is not None, has_tools)
    _warn(conversations, to)
    data.parent.mkdir(parents=True, exist_ok=True)
    write_files({path: f"{text}\n" for path, text in texts.items()})
    return [data, *beside]


def check_target(to: str, output: Path | str, name: str, overwrite: bool) -> list[Path]:
    """The files that an export would write; ValueError for a name that is none, or a file there that must stay."""
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"name: expected a file's name without its ending, got {name!r}")
    files = files_of(to, output, name)
    if files[0].name == DATASET_INFO:
        raise ValueError(f"name: {DATASET_INFO} is where trainers look for a list of data sets; give another name")
    check_writable([path for path in files if path.name != DATASET_INFO], overwrite)
    if files[1:] and files[1].name == DATASET_INFO:
        known_data_sets(files[0])
    return files


def files_of(to: str, output: Path | str, name: str) -> list[Path]:
    """The files that an export writes: the data, and what tells the trainer how to read them."""
    trainer, folder = TRAINERS[to], Path(output)
    data = folder / f"{name}.{'json' if trainer.listed else 'jsonl'}"
    return [data] if trainer.beside is None else [data, folder / trainer.beside[0].replace("{name}", name)]


def _check(conversations: Sequence[Conversation], to: str) -> None:
    if not conversations:
        raise ValueError("rows: there are none")
    for number, one in enumerate(conversations):
        if not _has_answers(one):
            raise ValueError(f"row {number} (counting from 0) has no answer to train on")
        if reason := _refusal(one, to):
            raise ValueError(f"row {number} (counting from 0): {reason}")


def _refusal(one: Conversation, to: str) -> str:
    """Why a trainer cannot be given a row's turns; empty where it can."""
    trainer = TRAINERS[to]
    roles = [turn["role"] for turn in trainer.turns(one.turns)]
    in_turn = all(role in TURNS and (role in ANSWERS) == bool(i % 2) for i, role in enumerate(roles))
    if trainer.in_turn and (len(roles) % 2 or not in_turn):
        return f"{to} reads turns of user and assistant in turn, got {', '.join(roles)}"
    pair = (one.answer, one.rejected) if one.rejected is not None else ()
    if trainer.one_turn and any(len(turns) != 1 for turns in pair):
        return (
            f"{to} reads one turn as the chosen and one as the rejected answer, "
            f"got {' and '.join(str(len(turns)) for turns in pair)}"
        )
    return ""


def refusals(rows: Sequence[Mapping[str, object]], to: str, columns: Mapping[str, str] | None) -> list[str]:
    """Why `export` would refuse rows; of those without an answer, which are never selected, nothing is said."""
    found = []
    for number, row in enumerate(rows):
        try:
            (one,) = read_conversations([row], columns)
        except (ValueError, TypeError):
            continue
        if _has_answers(one) and (reason := _refusal(one, to)):
            found.append(f"row {number} (counting from 0): {reason}")
    return found


def _has_answers(one: Conversation) -> bool:
    return _says(one.answer) and (one.rejected is None or _says(one.rejected))


def _says(answer: Messages) -> bool:
    """Whether the last turn of the assistant says or calls something."""
    turns = [turn for turn in answer if turn["role"] == "assistant"]
    return bool(turns) and bool((turns[-1]["content"] or "").strip() or turns[-1].get("tool_calls"))


def _warn(conversations: Sequence[Conversation], to: str) -> None:
    """Say which keys a trainer's file cannot hold, or its reader passes over."""
    trainer = TRAINERS[to]
    if not trainer.unread:
        return
    counts: Counter[str] = Counter()
    for one in conversations:
        columns = {} if trainer.keeps_columns else one.columns
        items = (item for turn in trainer.turns(one.all_turns) for item in turn.items())
        keys = (key for key, value in items if key not in ("role", "content") and holds(value))
        counts.update({*keys, *(name for name, value in columns.items() if holds(value))})
    if told := UnreadKeys(counts).summary():
        warnings.warn(f"{to}: {trainer.unread}: {told}", stacklevel=3)


def _lines(rows: Sequence[Row]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
