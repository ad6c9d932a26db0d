"""Rows of JSON files, a row at a time: lines of objects, an array of objects, or one object that wraps the list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from instsel.records.compression import data_suffix, open_bytes, open_text
from instsel.records.formats import DEFAULT_COLUMNS, FIELD_ALIASES, FIELDS, listed, shortened
from instsel.records.json_types import JsonObject, JsonValue

CHUNK = 1 << 20
MAX_DEPTH = 200
LITERAL = 12  # characters of the longest literal or escape that a cut may leave incomplete
ROW_KEYS = {*FIELDS, *FIELD_ALIASES, *(name for names in DEFAULT_COLUMNS.values() for name in names)}

Sized = tuple[JsonObject, int]


def json_rows(path: Path) -> Iterator[Sized]:
    """The rows of a JSON file, each with its length in characters; ValueError naming the line where it is damaged."""
    try:
        with open_text(path, newline="\n") as file:
            first = _first_character(file)
        if not first:
            return
        read = _array_rows if first == "[" else _line_rows if is_json_lines(path) else _wrapped_rows
        with open_text(path, newline="\n") as file:
            yield from read(path, file)
    except UnicodeDecodeError:
        raise ValueError(f"{path}, line {_undecodable_line(path)}: not UTF-8 text") from None


def is_json_lines(path: Path) -> bool:
    """Whether a JSON file holds a row on each line, rather than an array or one object over several lines."""
    with open_text(path, newline="\n") as file:
        if _first_character(file) == "[":
            return False
    with open_text(path, newline="\n") as file:  # opened again: a compressed file cannot go back
        return _is_whole_object(next((line for line in file if line.strip()), ""))


def _first_character(file: TextIO) -> str:
    while chunk := file.read(4096):  # not a line: the whole file may be one
        if start := chunk.lstrip():
            return start[0]
    return ""


def _is_whole_object(line: str) -> bool:
    """Whether a line is a row by itself, even a damaged one: all but the beginning of an object over several lines."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return not _is_cut_off(error, line)
    except (ValueError, RecursionError):
        return True
    return True


def _line_rows(path: Path, file: TextIO) -> Iterator[Sized]:
    only: tuple[Sized, int] | None = None
    number = count = 0
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = DECODER.decode(line)
            _check_depth(row, line)
        except json.JSONDecodeError as error:
            cut = " (the file may be truncated)" if not line.endswith("\n") and _is_cut_off(error, line) else ""
            raise ValueError(f"{path}, line {number}, column {error.colno}: not JSON: {error.msg}{cut}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: {_reason(error)}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: a row must be a JSON object, got {_kind(row)}")
        count += 1
        if count == 1:
            only = (row, len(line)), number  # a file of one line may be an object that wraps the rows
            continue
        if only is not None:
            yield only[0]
            only = None
        yield row, len(line)
    if only is not None and data_suffix(path) in (".jsonl", ".ndjson"):
        yield only[0]  # by its name each line is a row, whatever lists it holds
    elif only is not None:
        yield from _unwrapped(path, only[0][0], only[0][1])


def _array_rows(path: Path, file: TextIO) -> Iterator[Sized]:
    text = _Window(path, file)
    text.skip_blanks()
    text.position += 1  # the bracket
    text.skip_blanks()
    if text.peek() == "]":
        text.position += 1
    else:
        while True:
            before = text.position, text.taken
            row = text.value()
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {text.line()}: a row must be a JSON object, got {_kind(row)}")
            yield row, text.position + text.taken - sum(before)
            text.skip_blanks()
            mark = text.peek()
            if mark not in (",", "]"):
                text.fail(
                    "expected ',' or ']' after a row" if mark else "the array does not end; the file is truncated"
                )
            text.position += 1
            if mark == "]":
                break
            text.skip_blanks()
    text.skip_blanks()
    if text.peek():
        text.fail("text after the end of the array")


def _wrapped_rows(path: Path, file: TextIO) -> Iterator[Sized]:
    text = file.read()
    try:
        value = DECODER.decode(text)
        _check_depth(value, text)
    except json.JSONDecodeError as error:
        cut = " (the file may be truncated)" if _is_cut_off(error, text) else ""
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}{cut}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold JSON objects, got {_kind(value)}")
    size, text = len(text), ""
    yield from _unwrapped(path, value, size)


def _unwrapped(path: Path, value: JsonObject, size: int) -> Iterator[Sized]:
    """The rows of the one list of objects under a key that no column has; without one, the object is a row."""
    lists = {key: v for key, v in value.items() if isinstance(v, list) and v and all(isinstance(x, dict) for x in v)}
    if not lists or ROW_KEYS & value.keys():
        if len(value) == 1 and next(iter(value.values())) == []:
            return
        yield value, size
        return
    if len(lists) > 1:
        raise ValueError(
            f"{path}: one object with several lists of rows, {listed(list(lists), '')}; save one of them as a file"
        )
    rows = next(iter(lists.values()))
    for row in rows:
        yield row, size // len(rows)


class _Window:
    """A moving part of a text file that grows until it holds the next value."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self.file = file
        self.text = ""
        self.position = 0
        self.taken = 0  # characters before the window
        self.lines = 0  # line ends before the window
        self.ended = False

    def more(self) -> None:
        self.lines += self.text.count("\n", 0, self.position)
        self.taken += self.position
        rest = self.text[self.position :]
        chunk = self.file.read(max(CHUNK, len(rest)))  # doubling keeps a long value linear
        self.ended = not chunk
        self.text, self.position = rest + chunk, 0

    def skip_blanks(self) -> None:
        while True:
            while self.position < len(self.text) and self.text[self.position] in " \t\r\n":
                self.position += 1
            if self.position < len(self.text) or self.ended:
                return
            self.more()

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def line(self, position: int | None = None) -> int:
        return self.lines + self.text.count("\n", 0, self.position if position is None else position) + 1

    def fail(self, what: str, position: int | None = None) -> None:
        raise ValueError(f"{self.path}, line {self.line(position)}: not JSON: {what}")

    def value(self) -> JsonValue:
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.position)
                _check_depth(value, self.text[self.position : end])
                self.position = end
                return value
            except json.JSONDecodeError as error:
                cut = _is_cut_off(error, self.text)
                if self.ended or not cut:
                    self.fail(error.msg + (" (the file may be truncated)" if cut else ""), error.pos)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self.path}, line {self.line()}: {_reason(error)}") from None
            self.more()


def _is_cut_off(error: json.JSONDecodeError, text: str) -> bool:
    """Whether more text could mend the error: it stands at the end, or is a string without one."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()) - LITERAL


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {shortened(twice)} twice")
    return found


def _check_depth(value: object, text: str) -> None:
    """What the C parser can just read, writers that recurse could not write again."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise RecursionError
        inner = [item for item in level if isinstance(item, (dict, list))]
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
        depth += 1


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _reason(error: Exception) -> str:
    return (
        f"nested more than {MAX_DEPTH} levels deep" if isinstance(error, RecursionError) else str(error).splitlines()[0]
    )


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else "an object")


def _undecodable_line(path: Path) -> int:
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1
