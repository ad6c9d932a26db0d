"""Reasoning: what of an answer is scored, whoever opened its block, and what a demonstration keeps of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

import instsel
from instsel.cli import main
from instsel.prompts import prompt_and_answer
from instsel.prompts.chat_messages import ChatSettings
from instsel.records import to_examples

_TURNS = (
    "{% for m in messages %}{% set text = m.content %}{% set why = m.reasoning_content or '' %}"
    "{% if m.role == 'assistant' and not why and '</think>' in text %}"
    "{% set why = text.split('</think>')[0].split('<think>')[-1] | trim %}"
    "{% set text = text.split('</think>')[-1] | trim %}{% endif %}"
    "<{{ m.role }}>{% if m.role == 'assistant' and (loop.last or preserve_thinking) %}WHY{% endif %}{{ text }}</end>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>BEGIN{% endif %}"
)
BLOCK = "<think>\n{{ why }}\n</think>\n"
OPENING = _TURNS.replace("WHY", BLOCK).replace("BEGIN", "<think>\n")  # the generation prompt opens the block
CLOSED = _TURNS.replace("WHY", BLOCK).replace("BEGIN", "")  # the answer does
EMPTY = OPENING.replace("BEGIN", "").replace("<assistant><think>\n{% endif", "<assistant><think>\n\n</think>\n{% endif")
FORGETFUL = OPENING.replace("or preserve_thinking", "")  # it has no switch
REMOVING = _TURNS.replace("WHY", "").replace("BEGIN", "<think>\n")  # not even the last answer keeps its reasoning
ASK = {"role": "user", "content": "add 1 and 2"}
APART = {"role": "assistant", "content": "it is 3", "reasoning_content": "the sum"}
INSIDE = {"role": "assistant", "content": "<think>the sum</think>it is 3"}
PLAIN = {"role": "assistant", "content": "it is 3"}
pytestmark = pytest.mark.filterwarnings("ignore:template 'chat' was taken")


def tokenizer(template: str) -> Any:
    found = AutoTokenizer.from_pretrained(tiny_model_folder())
    found.chat_template = template
    return found


def parts(template: str, answer: dict[str, Any], reasoning: str = "keep") -> tuple[str, str]:
    [example] = to_examples([{"messages": [ASK, answer]}])
    return prompt_and_answer("chat", example, tokenizer=tokenizer(template), settings=ChatSettings(reasoning))


ASKED = "<user>add 1 and 2</end><assistant>"
WANT = {
    OPENING: (ASKED + "<think>\n", "the sum\n</think>\n", "it is 3"),
    CLOSED: (ASKED, "<think>\nthe sum\n</think>\n", "it is 3"),
    EMPTY: (ASKED + "<think>\n", "the sum\n</think>\n", "it is 3"),
}


@pytest.mark.parametrize("answer", [APART, INSIDE], ids=["apart", "inside"])
@pytest.mark.parametrize("template", WANT, ids=["opening", "closed", "empty"])
def test_the_answer_is_what_follows_the_generation_prompt(template: str, answer: dict[str, Any]) -> None:
    before, why, text = WANT[template]
    assert parts(template, answer) == (before, why + text)
    assert parts(template, answer, "drop") == (before + why, text)
    assert parts(template, answer, "only") == (before, why)


def test_an_answer_without_reasoning_has_none_to_score() -> None:
    assert parts(CLOSED, PLAIN) == parts(CLOSED, PLAIN, "drop") == (ASKED + "<think>\n\n</think>\n", "it is 3")
    assert parts(CLOSED, PLAIN, "only")[1] == ""


@pytest.mark.parametrize("template", ["plain", "{instruction}\n"])
def test_a_block_in_a_text_is_split_without_a_template(template: str) -> None:
    [example] = to_examples([{"messages": [ASK, INSIDE]}])
    found = [prompt_and_answer(template, example, settings=ChatSettings(word)) for word in ("keep", "drop", "only")]
    before, why = "add 1 and 2\n", "<think>the sum</think>"
    assert found == [(before, why + "it is 3"), (before + why, "it is 3"), (before, why)]


AS_IT_IS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}</end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CALLS = [{"type": "function", "function": {"name": "add", "arguments": {}}}]


@pytest.mark.parametrize("block", ["<think></think>", "<think>\n\n</think>\n\n", "</think>\n"])
def test_drop_scores_what_follows_an_empty_block(block: str) -> None:
    answer = {**PLAIN, "content": block + "it is 3"}
    assert parts(AS_IT_IS, answer) == (ASKED, block + "it is 3")
    assert parts(AS_IT_IS, answer, "drop") == (ASKED + block, "it is 3")
    assert parts(AS_IT_IS, answer, "only") == (ASKED, "")
    assert parts(AS_IT_IS, {**PLAIN, "content": block}, "drop") == (ASKED + block, "")
    [example] = to_examples([{"messages": [ASK, answer]}])
    found = [prompt_and_answer("plain", example, settings=ChatSettings(word)) for word in ("keep", "drop", "only")]
    before = "add 1 and 2\n"
    assert found == [(before, block + "it is 3"), (before + block, "it is 3"), (before, "")]


def test_drop_scores_what_follows_an_empty_block_before_a_call() -> None:
    block, answer = "<think>\n\n</think>\n", {**PLAIN, "content": "<think>\n\n</think>\nso", "tool_calls": CALLS}
    context, whole = parts(AS_IT_IS, answer)
    assert context == ASKED and whole.startswith(block + "so[") and '"add"' in whole
    assert parts(AS_IT_IS, answer, "drop") == (ASKED + block, whole.removeprefix(block))
    assert parts(AS_IT_IS, answer, "only") == (ASKED, "")


def test_a_template_that_reads_the_content_of_a_call_is_said_to_do_so() -> None:
    with pytest.raises(ValueError, match=r"refuses the turns user, assistant: it reads the content of a turn that has"):
        parts(
            "{% for m in messages %}{{ '<' + m.content + '>' }}{% endfor %}",
            {"role": "assistant", "content": None, "tool_calls": CALLS},
        )
    with pytest.raises(ValueError, match=r"refuses the turns user, assistant: 'dict object' has no attribute 'name'"):
        parts("{% for m in messages %}{{ m.name + '>' }}{% endfor %}", PLAIN)  # the control


@pytest.mark.parametrize("word", ["keep", "drop"])
@pytest.mark.parametrize("template", WANT, ids=["opening", "closed", "empty"])
def test_an_empty_block_that_the_template_writes_itself_is_not_scored(template: str, word: str) -> None:
    answer = {**PLAIN, "content": "<think>\n\n</think>\nit is 3"}
    assert parts(template, answer, word) == (ASKED + "<think>\n\n</think>\n", "it is 3")
    assert parts(template, answer, "only")[1] == ""


@pytest.mark.parametrize("answer", [APART, INSIDE], ids=["apart", "inside"])
def test_reasoning_that_the_template_takes_out_is_refused_or_dropped(answer: dict[str, Any]) -> None:
    for word in ("keep", "only"):
        with pytest.raises(ValueError, match="leaves out the answer's reasoning"):
            parts(REMOVING, answer, word)
    assert parts(REMOVING, answer, "drop") == (ASKED, "it is 3")


def test_other_text_before_the_answer_is_refused() -> None:
    counting = "{{ messages | length }}" + OPENING
    with pytest.raises(ValueError, match="otherwise once it is there"):
        parts(counting, APART)


@pytest.mark.parametrize("template", WANT, ids=["opening", "closed", "empty"])
def test_the_numbers_are_those_of_a_plain_forward(template: str) -> None:
    scorer = instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer(template), device="cpu", dtype="float32")
    rows = [{"messages": [ASK, APART]}, {"messages": [ASK, INSIDE]}]
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder(), dtype=torch.float32)
    ids = tokenizer(template).apply_chat_template(rows[0]["messages"], return_dict=True)["input_ids"]
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    each = np.array([float(logprobs[i - 1, token]) for i, token in enumerate(ids) if i])
    start, middle, end = (
        len(tokenizer(template)(text)["input_ids"]) for text in np.cumsum(np.array(WANT[template], object)).tolist()
    )
    spans = {"keep": (start, end), "drop": (middle, end), "only": (start, middle)}
    for word, (low, high) in spans.items():
        found = instsel.perplexity(scorer, rows, reasoning=word)
        np.testing.assert_allclose(found.mean_logprob, each[low - 1 : high - 1].mean(), rtol=0, atol=1e-5)
        assert found.num_tokens.tolist() == [high - low] * 2 and found.template == "chat"


def shown(template: str, why: str, **told: Any) -> Any:
    rows = [{"messages": [ASK, {**APART, "reasoning_content": why}]}, {"messages": [{**ASK, "content": "b"}, PLAIN]}]
    scorer = instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer(template), device="cpu", dtype="float32")
    return instsel.miwv(scorer, rows, neighbors=[1, 0], **told)


def test_a_demonstration_loses_its_reasoning_and_it_is_said() -> None:
    with pytest.warns(UserWarning, match=r"'reasoning in demonstrations' \(1 row\)"):
        found = shown(OPENING, "the sum")
    assert found.one_shot[1] == shown(OPENING, "a guess").one_shot[1], "the control: it is gone"


def test_it_is_kept_by_the_templates_own_switch_or_refused() -> None:
    one, other = (shown(OPENING, why, keep_demonstration_reasoning=True) for why in ("the sum", "a guess"))
    assert one.one_shot[1] != other.one_shot[1] and (one.status == "ok").all()
    found = shown(FORGETFUL, "the sum", keep_demonstration_reasoning=True)
    assert found.status.tolist() == ["ok", "unreadable"]


def test_commands_say_it_once_and_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    make_tiny_model(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(OPENING)
    rows = [{"messages": [{**ASK, "content": f"add {i}"}, APART]} for i in range(5)] + [{"messages": [ASK, PLAIN]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["miwv", str(tmp_path / "rows.jsonl"), "--model", str(tmp_path / "model"), "--quiet"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    assert "not part of the prompt: 'reasoning in demonstrations' (5 rows)\n" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["not_in_prompt"] == {"reasoning in demonstrations": 5}
    told = ["--reasoning", "drop", "--keep-demonstration-reasoning", "--chat-template-kwargs", '{"x": 1}']
    assert main([*command, *told, "--output", str(tmp_path / "kept")]) == 0
    manifest = json.loads((tmp_path / "kept/manifest.json").read_text())
    assert manifest["not_in_prompt"] == {} and manifest["parameters"]["reasoning"] == "drop"
    assert main([*command, "--output", str(tmp_path / "kept")]) == 2, "another way of scoring is another run"
    assert "reasoning (drop there, none now)" in capsys.readouterr().err
