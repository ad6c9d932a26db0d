"""A chat template reads one date for a whole run, whenever it goes on, and is stopped where it never ends."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder, write_alpaca
from transformers import AutoTokenizer

import instsel
from instsel.cli import main
from instsel.methods import in_memory
from instsel.prompts import jinja_rendering, prompt_and_answer
from instsel.prompts.building import build_request
from instsel.records import Example

TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}" + TEMPLATE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_models_once(monkeypatch)
    make_tiny_model(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(TEMPLATE)
    write_alpaca(tmp_path / "pool.jsonl", 4)
    return tmp_path


def command(folder: Path, output: str, *more: str) -> list[str]:
    flags = ["--model", str(folder / "model"), "--template", "chat", "--shard-rows", "2", "--quiet"]
    return ["perplexity", str(folder / "pool.jsonl"), *flags, "--output", str(folder / output), *more]


def test_a_run_that_goes_on_another_day_keeps_its_date(folder: Path, capsys: Any) -> None:
    def scores(name: str) -> Any:
        return pq.read_table(folder / name / "scores.parquet")

    assert main(command(folder, "old", "--template-date", "2020-01-02")) == 0
    assert main(command(folder, "today")) == 0
    assert not scores("old").equals(scores("today")), "the date is in the prompts"
    assert json.loads((folder / "old/manifest.json").read_text())["template_date"] == "2020-01-02"
    sorted((folder / "old/shards").glob("*.parquet"))[1].unlink()
    whole = scores("old")
    (folder / "old/scores.parquet").unlink()
    assert main(command(folder, "old")) == 0 and scores("old").equals(whole)
    assert main(["--config", str(folder / "old/manifest.json"), "--output", str(folder / "again")]) == 0
    assert scores("again").equals(whole)
    assert main(command(folder, "old", "--template-date", "2021-01-02")) == 2
    assert "template_date (2020-01-02 there, 2021-01-02 now)" in capsys.readouterr().err
    assert main(command(folder, "new", "--template-date", "tomorrow")) == 2
    assert "template_date must be a day" in capsys.readouterr().err


@pytest.mark.long
def test_workers_read_the_same_date(folder: Path) -> None:
    found = []
    for output, workers in (("alone", ()), ("spread", ("--workers", "2"))):
        assert main(command(folder, output, "--template-date", "2020-01-02", *workers)) == 0
        found.append(pq.read_table(folder / output / "scores.parquet")["mean_logprob"].to_numpy())
    assert main(command(folder, "later", "--template-date", "2027-11-12", "--workers", "2")) == 0
    later = pq.read_table(folder / "later/scores.parquet")["mean_logprob"].to_numpy()
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    assert not np.isclose(later, found[0], rtol=1e-5).any(), "the control"


def test_a_call_has_one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = TEMPLATE
    rows = [{"instruction": f"say {i}", "output": "the thing"} for i in range(3)]
    scorer = instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer, device="cpu")
    past = instsel.perplexity(scorer, rows, template="chat", template_date="2020-01-02")
    monkeypatch.setattr(in_memory, "now", lambda: "2020-01-02T23:59:59")
    assert instsel.perplexity(scorer, rows, template="chat").to_dict() == past.to_dict()


@pytest.mark.parametrize("source", [TEMPLATE.replace("strftime_now('%d %b %Y')", "bos_token"), TEMPLATE])
def test_the_text_is_that_of_transformers(source: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    messages = [{"role": "user", "content": " <a> "}, {"role": "assistant", "content": "b"}]
    now = datetime.now()
    text = jinja_rendering.render(tokenizer, messages, source, generation=True, moment=now)
    assert text == tokenizer.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize(
    ("source", "says"), [("{{ lipsum() }}", "'lipsum' is undefined"), ("{{ messages | random }}", "named 'random'")]
)
@pytest.mark.parametrize("moment", [None, datetime(2020, 1, 2)])
def test_nothing_is_drawn_by_chance(source: str, says: str, moment: datetime | None) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    row = Example("say", "", "thing")
    for template, refused in ((source + TEMPLATE, True), ("at random" + TEMPLATE, False)):
        tokenizer.chat_template = template
        if refused:
            with pytest.raises(ValueError, match=says):
                prompt_and_answer("chat", row, tokenizer=tokenizer, moment=moment)
            jinja_rendering.render(tokenizer, [], "{% set lipsum = 1 %}{{ lipsum }}", generation=False, moment=moment)
        else:
            assert prompt_and_answer("chat", row, tokenizer=tokenizer, moment=moment)[0].startswith("at random")
    tokenizer.chat_template = "{{ [1] | random }}"
    messages = [{"role": "user", "content": "a"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "1", "transformers' own keeps it"


@pytest.mark.long
def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_rendering, "LONGEST_SECONDS", 0.5)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    row = {"instruction": "say", "output": "thing"}
    for _ in range(2):  # and what comes after it is not
        tokenizer.chat_template = ENDLESS
        with pytest.raises(ValueError, match=r"chat template ran for more than 0.5 s for one row"):
            build_request(row, template="chat", tokenizer=tokenizer)
        tokenizer.chat_template = TEMPLATE
        assert build_request(row, template="chat", tokenizer=tokenizer)[1] == "thing"
