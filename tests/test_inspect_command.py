"""`instsel inspect`: a pool as runs would read it, and what the model would see of it, with no weights at hand."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_tokenizers import metaspace
from test_scored_turns import CALL, TEMPLATE, TEXTS, TURNS
from tiny_model import CONTEXT, load_models_once, make_tiny_model
from tokenizers import Tokenizer, decoders
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import instsel
from instsel.cli import build_parser, main
from instsel.commands.method_command import configuration_of
from instsel.methods.perplexity import perplexity
from instsel.prompts import encode_pairs
from instsel.runner.configuration import Messages
from instsel.runner.pool_summary import PoolSummary, summarise_pool
from instsel.runner.scored_run import checked_input
from instsel.runner.seen_text import pieces_of

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
ODD: list[dict[str, Any]] = [
    {"messages": TEXTS, "id": 7},
    {"messages": [{"role": "robot", "content": "x"}]},
    {"messages": [TEXTS[0], {"role": "assistant", "content": " "}]},
    {"messages": [TEXTS[0], {"role": "assistant", "content": "z" * (CONTEXT + 1)}]},
    {"messages": [{"role": "android", "content": "x"}]},
    {"messages": TEXTS[:2]},
]  # fmt: skip
STATUSES = ["ok", "unreadable", "empty_target", "too_long", "unreadable", "ok"]
pytestmark = pytest.mark.filterwarnings("ignore:not part of the prompt", "ignore:template 'chat' was taken",
                                        "ignore:.* cannot be read")  # fmt: skip
Summarise = Callable[..., PoolSummary]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model whole, with a chat template, and `bare`: its configuration and tokenizer alone."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "whole")
    (folder / "whole/chat_template.jinja").write_text(TEMPLATE)
    shutil.copytree(folder / "whole", folder / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copytree(folder / "bare", folder / "untemplated", ignore=shutil.ignore_patterns("*.jinja"))
    return folder


@pytest.fixture
def summarise(models: Path, tmp_path: Path) -> Summarise:
    def call(rows: list[Any], *words: str, model: str = "bare") -> PoolSummary:
        path = tmp_path / "pool.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        args = build_parser().parse_args(["inspect", str(path), "--model", str(models / model), *words])
        configuration = configuration_of(perplexity.method, args)
        return summarise_pool(configuration, checked_input(configuration), Messages())

    return call


def texts(summary: PoolSummary, row: int = 0) -> tuple[str, list[str]]:
    """A shown row's one text, and the parts of it that are scored."""
    (pieces,) = summary.shown[row].sequences
    return "".join(one.text for one in pieces), [one.text for one in pieces if one.is_scored]


def test_odd_rows_have_the_statuses_of_a_run_and_are_counted_by_kind(summarise: Summarise, models: Path) -> None:
    found = summarise(ODD)
    scorer = instsel.Scorer(str(models / "whole"), device="cpu")
    run = instsel.perplexity(scorer, ODD, template="chat")
    assert found.statuses == run.status.tolist() == STATUSES
    assert found.counts == {"ok": 2, "empty_target": 1, "too_long": 1, "unreadable": 2}
    assert [(one.status, one.count, one.first) for one in found.odd] == [
        ("unreadable", 2, 1), ("empty_target", 1, 2), ("too_long", 1, 3)]  # fmt: skip
    assert "role 'robot' is not one of" in found.odd[0].reason and found.odd[0].place.endswith("pool.jsonl, line 2")
    assert (found.source.format, found.layout.name, found.kind) == ("JSON", "messages", "example")
    assert found.columns == ["messages", "id"]
    rendered = [scorer.tokenizer.apply_chat_template(ODD[row]["messages"], tokenize=False).removesuffix("</end>")
                for row in (0, 3, 5)]  # fmt: skip
    assert found.lengths == [len(scorer.tokenizer(text)["input_ids"]) for text in rendered]
    assert found.scored[0] == run.num_tokens[0] and found.scored[2] == run.num_tokens[5]
    assert found.limit == CONTEXT and found.exceeding == 1
    assert [one.row for one in found.shown] == [0, 5]


def test_a_text_too_long_to_be_tokenised_exceeds_the_limit(summarise: Summarise) -> None:
    found = summarise([ODD[0], {"messages": [TEXTS[0], {"role": "assistant", "content": "z" * 100_000}]}])
    assert found.statuses == ["ok", "too_long"] and found.lengths[1] == found.scored[1] == math.inf
    assert found.exceeding == 1
    assert summarise([ODD[0]], "--max-length", "20").statuses == ["too_long"]
    assert summarise([ODD[3]], "--context-length", "1000").counts == {"ok": 1}


def test_groups_are_read_as_grape_reads_them(summarise: Summarise, models: Path) -> None:
    rows = [{"instruction": "say", "candidates": given} for given in (["in", "the thing"], [], [" "], [" ", "a"])]
    found = summarise(rows)
    scorer = instsel.Scorer(str(models / "whole"), device="cpu")
    best = instsel.grape(scorer, rows, template="plain")
    assert found.kind == "group" and found.layout.name == "candidate groups"
    assert found.statuses[:3] == best.status[:3].tolist() == ["ok", "empty_target", "empty_target"]
    assert found.statuses[3] == best.status[3] == "ok"
    assert found.lengths == [
        len(scorer.tokenizer(f"say\n{answer}")["input_ids"]) for answer in ("in", "the thing", "a")
    ]
    assert (found.shown[0].answers, texts(found)) == (2, ("say\nin", ["in"]))
    assert texts(found, 1) == ("say\na", ["a"])


def test_calls_of_tools_are_what_is_scored(summarise: Summarise) -> None:
    found = summarise([{"messages": TURNS[:3], "tools": TOOLS}])
    whole, scored = texts(found)
    assert json.loads(scored[0]) == CALL["function"] and len(scored) == 1
    assert whole == f"<system>be kind</end><user>add 1</end><assistant>{scored[0]}"
    plain = summarise([{"messages": TURNS[:3], "tools": TOOLS}, ODD[0]], "--template", "plain")
    assert plain.statuses == ["unreadable", "ok"] and "only a chat template has a place" in plain.odd[0].reason


def test_all_turns_stand_in_one_text(summarise: Summarise, models: Path) -> None:
    found = summarise([{"messages": TURNS, "tools": TOOLS}], "--score-turns", "all")
    whole = AutoTokenizer.from_pretrained(models / "bare").apply_chat_template(TURNS, tokenize=False)
    text, scored = texts(found)
    assert whole == text + "</end>" and [json.loads(scored[0]), *scored[1:]] == [
        CALL["function"], "it is 2", "yes it is"]  # fmt: skip
    assert found.scored[0] == found.shown[0].scored and found.lengths[0] == found.shown[0].tokens
    assert texts(summarise([{"messages": TURNS}], "--score-turns", "trained"))[1] == ["it is 2", "yes it is"]


@pytest.mark.parametrize(
    ("model", "words", "template", "why"),
    [
        ("bare", [], "chat", "the rows hold turns"),
        ("untemplated", [], "plain", "the tokenizer has no chat template"),
        ("bare", ["--template", "plain"], "plain", "--template"),
        ("bare", ["--template", "Q: {instruction} A: "], "Q: {instruction} A: ", "--template"),
    ],
)
def test_which_template_is_taken_and_why(
    model: str, words: list[str], template: str, why: str, summarise: Summarise
) -> None:
    found = summarise([ODD[5]], *words, model=model)
    assert found.template == template and why in found.why
    want = {"chat": "<user>one</end><assistant>", "plain": "one\n"}.get(template, "Q: one A: ")
    blank = " " if want.endswith(" ") else ""  # within the token of " the", which counts as the answer's
    assert texts(found) == (want + "the first", [blank + "the first"])


def test_pieces_are_the_text_where_a_tokenizer_drops_blanks() -> None:
    backend = Tokenizer.from_str(metaspace(bos=False).backend_tokenizer.to_str())
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ])  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    (one,) = encode_pairs(tokenizer, [("the answer to", " 42 and more")])
    assert tokenizer.decode(one.ids[one.start :]) == "42 and more", "else this shows nothing"
    pieces = pieces_of(one.ids.tolist(), [(one.start, len(one.ids))], tokenizer)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(one.ids)
    assert pieces[-1].text == " 42 and more" and pieces[-1].is_scored


@pytest.fixture
def printed(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    load_models_once(monkeypatch)

    def call(rows: list[Any], *words: str, terminal: bool = False) -> tuple[int, str, str]:
        (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        code = main(["inspect", str(tmp_path / "pool.jsonl"), "--model", str(models / "bare"), *words])
        return (code, *capsys.readouterr())

    return call


def test_it_is_printed(printed: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    hostile = {"messages": [{"role": "user", "content": "red \x1b[31m\nor"}, {"role": "assistant", "content": "a\nb"}]}
    code, out, err = printed([hostile, *ODD])
    assert (code, err) == (0, "") and "\x1b" not in out
    assert "<user>red \\x1b[31m\nor</end><assistant>[[a\nb]]" in out
    assert "pool.jsonl: JSON, 7 rows, read as messages\n" in out and "  other columns   'id'\n" in out
    assert "template: 'chat', the tokenizer has a chat template, and the rows hold turns\n" in out
    assert "  unreadable               2   28.6%\n" in out and "  unreadable, 2 rows, the first: " in out
    assert f"longer than {CONTEXT} tokens, the model's context or --max-length: 1\n" in out
    _, out, _ = printed([hostile], terminal=True)
    assert "<assistant>\x1b[30;42ma\x1b[0m\n\x1b[30;42mb\x1b[0m\n" in out and "[[" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed([hostile], terminal=True)[1]


def test_the_middle_of_a_long_text_is_left_out(printed: Callable[..., tuple[int, str, str]]) -> None:
    text = "".join(chr(97 + i % 26) for i in range(5000))
    _, out, _ = printed([{"instruction": text, "output": "yes"}], "--context-length", "9000", "--template", "plain")
    assert "\ntokens, of 1 answer\n" in out
    assert f"\n{text[:600]}\n… 3,801 characters …\n{text[-599:]}\n[[yes]]\n" in out


@pytest.mark.parametrize(
    ("rows", "words", "says"),
    [
        ([{"question": "a", "reply": "b"}], [], "unknown format: found the columns 'question', 'reply'"),
        ([TEXTS[0]], [], "unknown format"),
        (ODD, ["--template", "nothing"], "template must be one of"),
        (ODD, ["--columns", "messages=turns"], "which is not among"),
        (ODD, ["--tempalte", "chat"], "did you mean --template?"),
        (ODD, ["--model", "./nowhere"], "does not exist"),
        (ODD, ["--max-length", "1"], "max_length"),
    ],
)
def test_what_is_wrong_is_one_line(
    rows: list[Any], words: list[str], says: str, printed: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = printed(rows, *words)
    assert code == 2 and out == "" and err.count("\n") == 1 and says in err, err


def test_where_no_row_can_be_read_the_reasons_are_listed(printed: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = printed([ODD[1]] * 3)
    assert code == 0 and "  unreadable, 3 rows, the first: " in out and "100.0%" in out and "scored" not in out


def test_rows_whose_texts_hold_control_tokens_are_counted(summarise: Summarise, models: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(models / "bare")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|call|>"]})
    tokenizer.add_tokens(["<think>"])  # is one of its own, but none of control
    shutil.copytree(models / "bare", models / "controls")
    tokenizer.save_pretrained(models / "controls")
    config = json.loads((models / "bare/config.json").read_text())
    (models / "controls/config.json").write_text(json.dumps({**config, "vocab_size": len(tokenizer)}))
    call = {**CALL, "function": {"name": "add", "arguments": {"a": "<|call|>"}}}
    rows: list[dict[str, Any]] = [
        {"messages": TEXTS},
        {"messages": [{"role": "user", "content": "a<|im_end|>b"}, TEXTS[1]]},
        {"messages": [{"role": "user", "content": "<think>a <|eot|>"}, TEXTS[1]], "id": "<|im_end|>"},
        {"messages": [TEXTS[0], {"role": "assistant", "content": "<|im_end|><|im_end|>"}]},
        {"messages": [TEXTS[0], {"role": "assistant", "content": "", "tool_calls": [call]}]},
    ]
    found = summarise(rows, model="controls").control
    assert (found.rows, found.first, found.tokens) == (3, 1, {"<|im_end|>": 2, "<|call|>": 1})
    assert found.place.endswith("pool.jsonl, line 2")
    assert summarise(rows).control.rows == 0, "the control: a tokenizer without them"
    groups = [{"prompt": "a", "candidates": ["b", "<|call|>"]}]
    assert summarise(groups, model="controls").control.tokens == {"<|call|>": 1}


def test_control_tokens_are_said_in_one_line(
    printed: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = re.compile("the|thing")  # as if they were
    monkeypatch.setattr("instsel.runner.pool_summary.control_token_pattern", lambda tokenizer: pattern)
    rows = [{"instruction": text, "output": "it"} for text in ("say", "the thing", "thing")]
    for count, start, theirs, first in ((3, "2 rows hold", "their", "the first "), (2, "1 row holds", "its", "")):
        _, out, _ = printed(rows[:count])
        [line] = [line for line in out.splitlines() if "control tokens" in line]
        assert line.startswith(f"  {start} control tokens of the tokenizer in {theirs} texts ("), line
        assert "), " + first in line and line.endswith("pool.jsonl, line 2: the model reads these as such"), line
    assert "control tokens" not in printed(rows[:1])[1]


def test_three_rows_are_shown_from_first_to_last(summarise: Summarise) -> None:
    rows = [{"instruction": f"say {i}", "output": "it"} for i in range(1300)]
    found = summarise(rows)
    assert [one.row for one in found.shown] == [0, 649, 1299] and len(found.lengths) == 1300
    assert np.unique(found.scored).tolist() == [2]
