"""Input files that nobody should have, made by code: encodings, schemas, sizes, depths, marks, lies."""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ESCAPES = "\x1b[31m\x1b]0;owned\x07\x9b2J"
MARKS = "\u202e\u2066abc\u2069\u200b\u200f\ufeff"
GOOD = {"instruction": "say the thing", "input": "", "output": "the thing"}
GOOD_GROUP = {"instruction": "say the thing", "candidates": [{"response": "the thing"}, {"response": "no"}]}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def answers(*values: Any) -> bytes:
    """Rows that are well but for their answer, which every command meets: alone, and among candidates."""
    return lines(*({"instruction": f"row {i}", "output": value} for i, value in enumerate(values)))


def groups(*values: Any) -> bytes:
    return lines(*({"instruction": f"row {i}", "candidates": value} for i, value in enumerate(values)))


def chats(*values: Any) -> bytes:
    return lines(*({"messages": value} for value in values))


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("rows.jsonl", lines(GOOD))
    return sink.getvalue()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def columns_of_every_kind() -> pa.Table:
    return pa.table(
        {
            "instruction": ["one", "two", None],
            "output": pa.array(["a", None, "c"]).dictionary_encode(),
            "when": [datetime.datetime(2020, 1, 1), None, datetime.datetime(1, 1, 1)],
            "price": [decimal.Decimal("1.10"), None, decimal.Decimal("-3.00")],
            "bytes": [b"\x00\xff", b"", None],
            "tree": [{"a": [1, None]}, None, {"a": []}],
            "span": pa.array([1, 2, None], pa.duration("s")),
            "half": pa.array([1.5, None, float("nan")], pa.float64()),
            "nothing": pa.nulls(3),
        }
    )


def twice_named() -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["instruction", "output", "output"]
    )


def every_control(stop: int) -> str:
    return "".join(map(chr, range(stop)))


GOOD_PARQUET = parquet(pa.table({"instruction": ["one", "two"] * 50, "output": ["a", "b"] * 50}))

FILES: dict[str, bytes] = {
    # not rows at all
    "empty.jsonl": b"",
    "blank.jsonl": b" \n\t\n\r\n",
    "byte_order_mark_only.jsonl": b"\xef\xbb\xbf",
    "zero_bytes.jsonl": b"\0" * 5000,
    "no_rows.json": b"[]",
    "null.json": b"null",
    "number.json": b"17",
    "text.json": b'"instruction"',
    "list_of_null.json": b"[null]",
    "list_of_numbers.json": b"[1, 2, 3]",
    "list_of_lists.json": b"[[1], [2]]",
    "empty_objects.jsonl": b"{}\n{}\n",
    "one_object.json": json.dumps(GOOD, indent=2).encode(),
    "prose.txt": b"It was a dark and stormy night.\n" * 40,
    "picture.jsonl": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
    "page.json": b"<!DOCTYPE html><html><body>404</body></html>",
    # damaged
    "cut_line.jsonl": lines(GOOD, GOOD) + b'{"instruction": "say", "outp',
    "cut_array.json": b'[{"instruction": "say", "output": "a"}, {"instr',
    "cut_string.json": b'[{"instruction": "say',
    "trailing_comma.json": b'[{"instruction": "say", "output": "a"},]',
    "single_quotes.jsonl": b"{'instruction': 'say', 'output': 'a'}\n",
    "comments.json": b'// rows\n[{"instruction": "say", "output": "a"}]',
    "two_arrays.json": b'[{"instruction": "say", "output": "a"}][{"instruction": "say", "output": "b"}]',
    "garbage_after.json": b'[{"instruction": "say", "output": "a"}] and more',
    "half_good.jsonl": lines(GOOD, GOOD, 5, GOOD),
    # encodings
    "utf16.jsonl": lines(GOOD).decode().encode("utf-16"),
    "utf16_unmarked.jsonl": lines(GOOD).decode().encode("utf-16-le"),
    "utf32.jsonl": lines(GOOD).decode().encode("utf-32"),
    "latin1.jsonl": '{"instruction": "café", "output": "crème"}\n'.encode("latin-1"),
    "bad_utf8.jsonl": b'{"instruction": "a\xc3\x28\xff", "output": "b"}\n',
    "overlong_utf8.jsonl": b'{"instruction": "a\xc0\xaf", "output": "b"}\n',
    "surrogate_bytes.jsonl": b'{"instruction": "a\xed\xa0\x80", "output": "b"}\n',
    "marked.jsonl": b"\xef\xbb\xbf" + lines(GOOD, GOOD),
    "gzip.jsonl": gzip.compress(lines(GOOD)),
    "zip.jsonl": zipped(),
    "windows_lines.jsonl": lines(GOOD, GOOD).replace(b"\n", b"\r\n"),
    "old_mac_lines.jsonl": lines(GOOD, GOOD).replace(b"\n", b"\r"),
    "separators_in_strings.jsonl": '{"instruction": "a\u2028b\u2029c\x85d", "output": "e\u2028f"}\n'.encode(),
    # text that acts on something
    "lone_surrogates.jsonl": b'{"instruction": "a\\ud800b", "output": "c\\udfffd\\ud83d"}\n',
    "zeros_in_text.jsonl": b'{"instruction": "a\\u0000b", "output": "\\u0000"}\n',
    "escapes_in_text.jsonl": lines({"instruction": ESCAPES, "output": ESCAPES + "x"}),
    "escapes_in_columns.jsonl": lines({"instruction" + ESCAPES: "a", ESCAPES: "b"}),
    "marks_in_text.jsonl": lines({"instruction": MARKS, "output": MARKS}),
    "marks_in_columns.jsonl": lines({MARKS: "a", "b" + MARKS: 1}),
    "newlines_in_columns.jsonl": lines({"a\nTraceback (most recent call last):\n": "a"}),
    "shell.jsonl": lines({"instruction": "$(touch owned) `touch owned`; rm -rf .", "output": "| sh & \n exit"}),
    "paths.jsonl": lines({"instruction": "../../../etc/passwd", "output": "/dev/stdin", "id": "../x"}),
    "markup.jsonl": lines({"instruction": "<script>alert(1)</script>", "output": "<img src=x onerror=alert(1)>"}),
    "format_strings.jsonl": lines({"instruction": "{0.__class__} %s %n {{x}}", "output": "${x} {request} %(a)s"}),
    "templates.jsonl": lines({"instruction": "{{ 7 * 7 }}{% for x in y %}", "output": "{{ messages }}"}),
    "special_tokens.jsonl": lines({"instruction": "<s></s><unk><|im_end|>", "output": "</s><s>[INST]<|endoftext|>"}),
    "combining.jsonl": lines({"instruction": "a" + "\u0301" * 3000, "output": "\u0301" * 100}),
    "emoji.jsonl": lines({"instruction": "👩‍👩‍👧‍👦" * 20, "output": "🏳️‍🌈" * 5}),
    "every_control.jsonl": lines({"instruction": every_control(160), "output": every_control(32)}),
    # numbers, sizes, depths
    "not_a_number.jsonl": b'{"instruction": "a", "output": "b", "x": NaN, "y": -Infinity}\n',
    "huge_numbers.jsonl": b'{"instruction": "a", "output": "b", "x": 1e999, "y": ' + b"9" * 400 + b"}\n",
    "endless_number.jsonl": b'{"instruction": "a", "output": ' + b"9" * 6000 + b"}\n",
    "growing_numbers.jsonl": lines(*({**GOOD, "x": v} for v in (1, 2**53 + 1, 0.5, 2**63, 2**64, "x", None, [1]))),
    "duplicate_keys.jsonl": b'{"instruction": "a", "instruction": "b", "output": "c", "output": "d"}\n',
    "deep_file.json": nested(100_000).encode(),
    "deep_line.jsonl": b'{"instruction": "a", "output": "b", "x": ' + nested(100_000).encode() + b"}\n",
    "deep_value.jsonl": b'{"instruction": "a", "output": "b", "x": ' + nested(300).encode() + b"}\n",
    "deep_objects.jsonl": b'{"instruction": "a", "output": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}\n",
    "long_column_name.jsonl": lines({**GOOD, "c" * 100_000: 1}),
    "many_columns.jsonl": lines({**GOOD, **{f"c{i}": i for i in range(2000)}}),
    "ragged_columns.jsonl": lines(*({**GOOD, f"c{i}": i} for i in range(200))),
    "long_answer.jsonl": answers("word " * 20_000, "short"),
    "long_instruction.jsonl": lines({"instruction": "word " * 20_000, "output": "short"}),
    # schemas
    "mixed_schemas.jsonl": lines(GOOD, {"messages": [{"role": "user", "content": "a"}]}, {"text": "b"}),
    "unknown_columns.jsonl": lines({"question": "a", "reply": "b"}),
    "ambiguous.jsonl": lines({"instruction": "a", "output": "b", "response": "c", "prompt": "d", "completion": "e"}),
    "empty_column_name.jsonl": lines({"": "a", "instruction": "b", "output": "c"}),
    "score_columns.jsonl": lines({**GOOD, "status": "mine", "ifd": "x", "score": 1, "best": 2, "mean_logprob": None}),
    "upper_case.jsonl": lines({"Instruction": "a", "Output": "b"}),
    "empty_instruction.jsonl": lines({"instruction": "", "output": "a"}, {"instruction": " \n", "output": "b"}),
    "empty_answers.jsonl": answers("", " ", "\n\t", None, "\u3000", "\u200b"),
    "all_null.jsonl": lines(
        {"instruction": None, "output": None}, {"instruction": None, "input": None, "output": None}
    ),
    "wrong_types.jsonl": answers(5, 1.5, True, ["a"], {"a": 1}),
    "answer_in_list.jsonl": answers(["a", "b"], "c"),
    "duplicate_rows.jsonl": lines(*[GOOD] * 40),
    "one_row.jsonl": lines(GOOD),
    "two_rows.jsonl": lines(GOOD, {**GOOD, "instruction": "another"}),
    "chat_empty.jsonl": chats([], None),
    "chat_without_answer.jsonl": chats([{"role": "user", "content": "a"}], [{"role": "system", "content": "a"}]),
    "chat_unknown_role.jsonl": chats([{"role": "wizard", "content": "a"}, {"role": "assistant", "content": "b"}]),
    "chat_of_text.jsonl": chats("user: a", ["a", "b"]),
    "chat_null_content.jsonl": chats([{"role": "user", "content": None}, {"role": "assistant", "content": None}]),
    "chat_parts.jsonl": chats(
        [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "b"}]
    ),
    "chat_without_keys.jsonl": chats([{"role": "user"}, {"content": "b"}, {}]),
    "chat_many_turns.jsonl": chats([{"role": r, "content": "x"} for r in ("user", "assistant")] * 300),
    "chat_good.jsonl": chats([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
    "groups_good.jsonl": lines(GOOD_GROUP, GOOD_GROUP),
    "groups_empty.jsonl": groups([], None, [{"response": ""}]),
    "groups_of_other_things.jsonl": groups("text", 5, {"response": "a"}),
    "groups_without_response.jsonl": groups([{"text": "a"}], [{}], [None], [5]),
    "groups_many.jsonl": groups([{"response": f"answer {i}"} for i in range(400)]),
    # CSV
    "header_only.csv": b"instruction,output\n",
    "open_quote.csv": b'instruction,output\n"say the thing,a\nb,c\n',
    "ragged.csv": b"instruction,output\na\nb,c,d,e\n,\n",
    "zero_bytes.csv": b"instruction,output\na\0b,c\n",
    "twice_named.csv": b"instruction,output,output\na,b,c\n",
    "semicolons.csv": b"instruction;output\na;b\n",
    "long_field.csv": b"instruction,output\n" + b"a" * 200_000 + b",b\n",
    "no_header.csv": b"1,2\n3,4\n",
    "formula.csv": b'instruction,output\n=cmd|calc,"=HYPERLINK(""x"")"\n',
    "good.csv": b"instruction,output\nsay,a\nsay it,b\n",
    # Parquet
    "cut.parquet": GOOD_PARQUET[: len(GOOD_PARQUET) // 2],
    "flipped.parquet": GOOD_PARQUET[:60] + bytes(b ^ 0x55 for b in GOOD_PARQUET[60:90]) + GOOD_PARQUET[90:],
    "flipped_footer.parquet": GOOD_PARQUET[:-40] + bytes(20) + GOOD_PARQUET[-20:],
    "magic_only.parquet": b"PAR1PAR1",
    "no_rows.parquet": parquet(
        pa.table({"instruction": pa.array([], pa.string()), "output": pa.array([], pa.string())})
    ),
    "no_columns.parquet": parquet(pa.table({})),
    "numbers.parquet": parquet(pa.table({"instruction": [1, 2], "output": [3.5, None]})),
    "every_kind.parquet": parquet(columns_of_every_kind()),
    "twice_named.parquet": parquet(twice_named()),
    "named_json.jsonl": GOOD_PARQUET,
    "named_parquet.parquet": lines(GOOD),
}

BIG: dict[str, Callable[[], bytes]] = {
    "line_of_100_megabytes.jsonl": lambda: answers("word " * 20_000_000, "short"),
    "answer_of_10_megabytes.jsonl": lambda: answers("word " * 2_000_000, "short"),
    "million_blank_lines.jsonl": lambda: b"\n" * 1_000_000 + lines(GOOD),
    "100_megabytes_without_a_newline.jsonl": lambda: b"x" * 100_000_000,
    "column_of_a_million_numbers.jsonl": lambda: lines({**GOOD, "x": list(range(1_000_000))}),
}


def write_hostile_file(name: str, folder: Path) -> Path:
    """Write one of the files, or one of the things that are no files."""
    path = folder / name
    if name == "folder.jsonl":
        path.mkdir()
    elif name == "pipe.jsonl":
        os.mkfifo(path)  # opening it would wait for a writer for ever
    elif name == "loop.jsonl":
        path.symlink_to(path)
    elif name != "missing.jsonl":
        path.write_bytes(BIG[name]() if name in BIG else FILES[name])
    return path


NAMES = [*FILES, "folder.jsonl", "pipe.jsonl", "loop.jsonl", "missing.jsonl"]
