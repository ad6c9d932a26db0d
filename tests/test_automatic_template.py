"""The template `auto`: chat where tokenizer and rows, or the model's name, speak for it; said once and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder
from transformers import AutoTokenizer

import instsel
from instsel.cli import main
from instsel.prompts.automatic_template import automatic_template

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ tone }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{{ tone }}{% endif %}"
)
TURNS = [
    {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "it"}]} for i in range(4)
]
TEXTS = [{"instruction": f"say {i}", "output": "it"} for i in range(4)]


def tokenizer(name: str = "model", template: str | None = TEMPLATE) -> Any:
    found = AutoTokenizer.from_pretrained(tiny_model_folder())
    found.chat_template, found.name_or_path = template, name
    return found


@pytest.mark.parametrize(
    ("name", "conversations", "want"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", False, "chat"),
        ("/models/gemma-3-1b-it/", False, "chat"),
        ("meta-llama/Llama-2-7b-chat-hf", False, "chat"),
        ("Qwen/Qwen3-0.6B-Base", False, "plain"),
        ("chats/gpt2", False, "plain"),
        ("bits/fit-items", False, "plain"),
        ("Qwen/Qwen3-0.6B-Base", True, "chat"),
    ],
)
def test_what_it_is(name: str, conversations: bool, want: str) -> None:
    assert automatic_template(tokenizer(name), conversations=conversations)[0] == want
    assert automatic_template(tokenizer(name, None), conversations=conversations) == ("plain", "")
    assert automatic_template(tokenizer(name), conversations=conversations, takes_chat=False) == ("plain", "")


def test_python_takes_it_and_says_so() -> None:
    scorer = instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer(), device="cpu", dtype="float32")
    with pytest.warns(UserWarning, match=r"^template 'chat' was taken: .* the rows hold turns") as caught:
        found = instsel.perplexity(scorer, TURNS)
    assert found.template == "chat" and len(caught) == 1
    assert found.mean_logprob.tolist() == instsel.perplexity(scorer, TURNS, template="chat").mean_logprob.tolist()
    assert instsel.perplexity(scorer, TEXTS).template == "plain"
    told = [instsel.perplexity(scorer, TURNS, template="chat", chat_template_kwargs=kwargs).mean_logprob[0]
            for kwargs in (None, {"tone": "dry"}, '{"tone": "dry"}')]  # fmt: skip
    assert told[0] != told[1] == told[2]
    own = [{**row, "chat_template_kwargs": {"tone": "dry"}} for row in TURNS]
    assert (
        instsel.perplexity(scorer, own, template="chat", chat_template_kwargs={"tone": "x"}).mean_logprob[0] == told[1]
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [("[1]", "must be a JSON object"), ("{a", "must be a JSON object"), (3, "must be a JSON object"),
     ({"tools": []}, "must not say 'tools'")],
)  # fmt: skip
def test_what_no_template_can_be_told(given: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"chat_template_kwargs {reason}"):
        instsel.perplexity(instsel.Scorer(tiny_model_folder()), TEXTS, chat_template_kwargs=given)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_models_once(monkeypatch)
    make_tiny_model(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TURNS))
    return tmp_path


def command(folder: Path, *more: str) -> tuple[int, dict[str, Any]]:
    words = [
        "ifd",
        str(folder / "rows.jsonl"),
        "--model",
        str(folder / "model"),
        "--output",
        str(folder / "run"),
        *more,
    ]
    code = main(words)
    return code, json.loads((folder / "run/manifest.json").read_text())


def test_a_command_says_it_in_one_line_and_the_manifest_keeps_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, manifest = command(folder)
    lines = [line for line in capsys.readouterr().err.splitlines() if "template" in line]
    assert code == 0 and manifest["template"] == manifest["arguments"]["template"] == "chat"
    assert len(lines) == 1 and lines[0].startswith("instsel: note: template 'chat' was taken: the tokenizer has")
    assert command(folder)[0] == 0 and "was taken" not in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("begun", ["plain", "chat"])
def test_a_folder_goes_on_with_its_own_template(begun: str, folder: Path) -> None:
    before = command(folder, "--template", begun)[1]
    (folder / "run/scores.parquet").unlink()
    manifest = {**before, "state": "failed", "output": None}
    (folder / "run/manifest.json").write_text(json.dumps(manifest))
    code, after = command(folder, "--quiet")
    assert code == 0 and after["template"] == begun and after["output"]["digest"] == before["output"]["digest"]
    assert command(folder, "--template", "alpaca")[0] == 2
