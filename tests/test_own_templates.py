"""Templates of one's own: what stands before an answer, through the requests and through every method's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_rows import example_rows
from one_by_one import OneByOne
from tiny_model import make_tiny_model, tiny_model_folder
from transformers import AutoTokenizer

import instsel
from instsel.cli import main
from instsel.prompts import build_request, build_request_ids
from instsel.records import Example

TEXT = "Q {instruction} {input} {not a place}\nA "
PAIR = ("Q {instruction} with {input}\nA ", "Q {instruction}\nA ")
JINJA = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHOWN = {"instruction": "say a", "input": "", "output": "king"}
ASKED = {"instruction": "sing {input}", "input": "the thing", "output": "an answer"}


def test_the_text_before_an_answer() -> None:
    assert build_request(ASKED, template=TEXT) == ("Q sing {input} the thing {not a place}\nA ", "an answer")
    assert build_request(SHOWN, template=TEXT)[0] == "Q say a  {not a place}\nA "
    assert build_request(SHOWN, template=PAIR)[0] == "Q say a\nA "
    both = build_request(ASKED, template=PAIR, demonstration=SHOWN)[0]
    assert both == "Q say a\nA king\n\nQ sing {input} with the thing\nA "
    talk = Example("again", "", "no", history=(("system", "Be kind."), ("user", "first"), ("assistant", "yes")))
    assert build_request(talk, template=PAIR)[0] == "Be kind.\n\nQ first\nA yes\n\nQ again\nA "


def test_a_jinja_file_is_used_as_the_tokenizers_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(JINJA)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    from_file = build_request(ASKED, template=path, demonstration=SHOWN, tokenizer=tokenizer)
    assert from_file[0] == "<user>say a\n<assistant>king\n<user>sing {input}\nthe thing\n<assistant>"
    tokenizer.chat_template = JINJA
    assert build_request(ASKED, template="chat", demonstration=SHOWN, tokenizer=tokenizer) == from_file


def test_ids_are_those_of_the_whole_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    context, answer = build_request_ids(tokenizer, ASKED, template=PAIR)
    text = "".join(build_request(ASKED, template=PAIR))
    assert context + answer == tokenizer(text)["input_ids"]
    assert tokenizer.decode(answer).strip() == "an answer"


@pytest.mark.parametrize("template", [TEXT, PAIR])
def test_scores_are_those_of_the_text_by_hand(scorer: instsel.Scorer, truth: OneByOne, template: Any) -> None:
    rows = example_rows(6)
    found = instsel.perplexity(scorer, rows, template=template)
    for row, value in zip(rows, found.perplexity, strict=True):
        assert value == pytest.approx(
            truth.perplexity(build_request(row, template=template)[0], row["output"]), rel=1e-4
        )
    assert found.template == template
    plain = instsel.perplexity(scorer, rows)
    assert np.median(np.abs(plain.perplexity / found.perplexity - 1)) > 1e-2, "the control: the template matters"
    assert (instsel.wici(scorer, rows, template=template, num_neighbors=3, num_probes=2).status == "ok").all()


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        ("Answer: {input}", ValueError, r"template must contain \{instruction\}, got 'Answer: \{input\}'"),
        (("{instruction}", "{input}"), ValueError, r"template must contain \{instruction\}, got '\{input\}'"),
        (("{instruction}",) * 3, ValueError, "one text or two .* got 3"),
        ("Answer", ValueError, "template must be one of plain, alpaca, chat, a text with"),
        (7, TypeError, "template: expected a name, a text or two texts, got int"),
        ("no/such/file.jinja", ValueError, "the Jinja chat template 'no/such/file.jinja' cannot be read: No such file"),
    ],
)
def test_what_is_refused(scorer: instsel.Scorer, template: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        instsel.ifd(scorer, example_rows(2), template=template)


def test_a_template_that_drops_an_input_names_the_row(scorer: instsel.Scorer) -> None:
    rows = example_rows(3)
    assert not rows[0]["input"] and rows[1]["input"]
    with pytest.warns(UserWarning, match=r"row 1 \(counting from 0\): the example has an input"):
        found = instsel.ifd(scorer, rows, template="Q {instruction} A ")
    assert found.status.tolist() == ["unreadable" if row["input"] else "ok" for row in rows]
    with pytest.raises(ValueError, match=r"row 0 \(counting from 0\): the example has an input"):
        instsel.ifd(scorer, rows[1:2], template="Q {instruction} A ")
    assert instsel.ifd(scorer, rows[:1], template="Q {instruction} A ").status.tolist() == ["ok"]


def test_the_command_takes_the_same_templates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    model, pool, chat = tmp_path / "model", tmp_path / "pool.jsonl", tmp_path / "mine.jinja"
    make_tiny_model(model)
    pool.write_text("".join(json.dumps(row) + "\n" for row in example_rows(4)))
    chat.write_text(JINJA)
    scorer = instsel.Scorer(str(model), dtype="float32")
    cases: list[tuple[list[str], Any]] = [
        (["--template", TEXT.replace("\n", "\\n")], TEXT),
        (["--template", PAIR[0], "--template-without-input", PAIR[1].replace("\n", "\\n")], PAIR),
        (["--template", str(chat)], str(chat)),
    ]
    for number, (flags, template) in enumerate(cases):
        output = tmp_path / f"run{number}"
        command = ["perplexity", str(pool), "--model", str(model), "--dtype", "float32", "--output", str(output)]
        assert main([*command, *flags, "--quiet"]) == 0
        scores = pq.read_table(output / "scores.parquet")["perplexity"].to_numpy()
        np.testing.assert_allclose(
            scores, instsel.perplexity(scorer, example_rows(4), template=template).perplexity, rtol=1e-5
        )
    chat.write_text(JINJA.replace("<", "["))
    from instsel.prompts.templates import _read_jinja

    _read_jinja.cache_clear()  # another process would read it anew
    assert main([*command, *flags, "--quiet"]) == 2
    assert "template" in capsys.readouterr().err, "another text in the file is another run"
