"""`score_turns`: the last assistant turn, all of them, or those trained on, as one mean over all their tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import tiny_model_folder
from transformers import AutoTokenizer

import instsel
from instsel.cli import main
from instsel.engine.scoring import plan_batch
from instsel.methods.parameters import Parameters
from instsel.methods.stages import StageSlice
from instsel.methods.turn_requests import TurnRequests, flat
from instsel.prompts import chat_template, prompt_and_answer
from instsel.prompts.chat_messages import TemplateRefusalError
from instsel.prompts.scored_turns import scored_turns
from instsel.prompts.templates import turn_prompts
from instsel.records import to_examples

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    "{{ m.content or '' }}</end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Writes a block for reasoning into the last answer only, and takes earlier reasoning out.
LAST_ONLY = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}"
    "<think>{{ m.reasoning_content or '' }}</think>{% endif %}{{ m.content }}</end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TURNS = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "add 1"},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 0},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "it is 2"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "yes it is", "weight": 1},
]
TEXTS = [{"role": role, "content": text} for role, text in
         (("user", "one"), ("assistant", "the first"), ("user", "two"), ("assistant", "the second thing"))]  # fmt: skip
CALLED = json.dumps(CALL["function"])
pytestmark = pytest.mark.filterwarnings("ignore:not part of the prompt", "ignore:template 'chat' was taken")


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = TEMPLATE
    return instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer, device="cpu", dtype="float32", context_length=8192)


@pytest.mark.parametrize(
    ("row", "which", "want"),
    [
        ({"messages": TURNS}, "last", ["yes it is"]),
        ({"messages": TURNS}, "all", [CALLED, "it is 2", "yes it is"]),
        ({"messages": TURNS}, "trained", ["it is 2", "yes it is"]),
        ({"messages": TURNS[:3]}, "trained", []),
        ({"messages": TEXTS}, "all", ["the first", "the second thing"]),
        ({"messages": TEXTS}, "trained", ["the first", "the second thing"]),
        ({"prompt": TEXTS[:3], "completion": TEXTS[3:]}, "trained", ["the second thing"]),
        ({"prompt": TEXTS[:1], "completion": TEXTS[1:]}, "trained", ["the first", "the second thing"]),
        ({"prompt": TEXTS[:3], "completion": TEXTS[3:]}, "all", ["the first", "the second thing"]),
        ({"messages": [TEXTS[0], {**TEXTS[1], "content": " "}, *TEXTS[2:]]}, "all", ["the second thing"]),
        ({"instruction": "two", "output": "x", "history": [["one", "y"]]}, "all", ["y", "x"]),
    ],
)
def test_which_turns_they_are(row: dict[str, Any], which: str, want: list[str]) -> None:
    [example] = to_examples([row])
    assert [one.response for one in scored_turns(example, which)] == want


def test_each_stands_after_what_the_template_writes_before_it(scorer: instsel.Scorer) -> None:
    [example] = to_examples([{"messages": TURNS}])
    whole = scorer.tokenizer.apply_chat_template(TURNS, tokenize=False)
    places = []
    for one in scored_turns(example, "all"):
        context, answer = prompt_and_answer("chat", one, tokenizer=scorer.tokenizer)
        assert whole.startswith(context + answer + "</end>")
        places.append(len(context))
    assert places == sorted(places) and len(places) == 3


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_the_mean_is_over_all_their_tokens(template: str, scorer: instsel.Scorer) -> None:
    pool = [{"messages": TEXTS}, {"messages": TEXTS[:2]}, {"messages": [TEXTS[2], TEXTS[3]]}]
    found = instsel.perplexity(scorer, pool, template=template, score_turns="all")
    alone = [{"messages": TEXTS[:2]}, {"messages": TEXTS}]
    each = instsel.perplexity(scorer, alone, template=template)
    assert found.num_tokens[0] == each.num_tokens.sum()
    np.testing.assert_allclose(found.sum_logprob[0], each.sum_logprob.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.mean_logprob[0], each.sum_logprob.sum() / each.num_tokens.sum(), rtol=1e-6)
    assert found.mean_logprob[1] == each.mean_logprob[0], "one turn alone has the bits that it has anyway"
    ratio = instsel.ifd(scorer, pool, template=template, score_turns="all")
    bare = instsel.score_batch(scorer, [("", "the first"), ("", "the second thing")])
    np.testing.assert_allclose(ratio.direct[0], bare.sum_logprob.sum() / bare.num_tokens.sum(), rtol=1e-6)
    np.testing.assert_allclose(ratio.ifd[0], np.exp(ratio.direct[0] - found.mean_logprob[0]), rtol=1e-6)


def test_calls_are_scored_and_turns_left_out_are_not(scorer: instsel.Scorer) -> None:
    rows = [{"messages": TURNS}, {"messages": TURNS[:3]}]
    last, every, trained = (instsel.perplexity(scorer, rows, template="chat", score_turns=word)
                            for word in ("last", "all", "trained"))  # fmt: skip
    assert every.num_tokens[0] == trained.num_tokens[0] + last.num_tokens[1]
    np.testing.assert_allclose(every.sum_logprob[0], trained.sum_logprob[0] + last.sum_logprob[1], rtol=1e-6)
    assert trained.status.tolist() == ["ok", "empty_target"]


def test_every_method_takes_them(scorer: instsel.Scorer) -> None:
    pool = [{"messages": [*TEXTS[:2], {"role": "user", "content": f"say {i}"}, TEXTS[3]]} for i in range(4)]
    told: dict[str, Any] = {"template": "chat", "score_turns": "all"}
    ring = np.array([[1], [2], [3], [0]])
    found = [
        instsel.wici(scorer, pool, probes=ring, similarity=ring * 0.1, **told),
        instsel.miwv(scorer, pool, neighbors=ring[:, 0], **told),
        instsel.nuggets(scorer, pool, num_anchors=2, **told),
        instsel.rico(scorer, pool, assessment=pool[:1], template="plain", score_turns="all"),
        instsel.grape(scorer, [{"prompt": TEXTS[:3], "candidates": ["a", "b c"]}], include_eos=True, **told),
    ]
    assert all("ok" in one.status for one in found)
    pair = prompt_and_answer(
        "chat", to_examples(pool)[1], demonstration=to_examples(pool)[0], tokenizer=scorer.tokenizer
    )
    first = prompt_and_answer("chat", scored_turns(to_examples(pool)[1], "all")[0],
                              demonstration=to_examples(pool)[0], tokenizer=scorer.tokenizer)  # fmt: skip
    batch = instsel.score_batch(scorer, [first, pair])
    want = batch.sum_logprob.sum() / batch.num_tokens.sum()
    direct = instsel.ifd(scorer, pool, **told).direct[1]
    np.testing.assert_allclose(found[0].one_shot_ifd[0, 0], np.exp(direct - want), rtol=1e-5)


def test_one_that_is_too_long_is_the_status_of_all(scorer: instsel.Scorer) -> None:
    pool = [{"messages": TEXTS}, {"messages": TEXTS[:2]}]
    found = instsel.perplexity(scorer, pool, template="chat", score_turns="all", max_length=50)
    assert found.status.tolist() == ["too_long", "ok"] and np.isnan(found.mean_logprob[0])


def test_an_assistant_who_speaks_first_is_one_status(scorer: instsel.Scorer) -> None:
    pool = [{"messages": [TEXTS[1], *TEXTS[2:]]}, {"messages": TEXTS}]
    for template in ("plain", "chat"):
        with pytest.warns(UserWarning, match="1 of 2 rows .*speaks before the user"):
            found = instsel.perplexity(scorer, pool, template=template, score_turns="all")
        assert found.status.tolist() == ["unreadable", "ok"]


def test_a_call_that_ends_its_turn_otherwise_ends_there() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = TEMPLATE.replace("</end>", "{{ '</call>' if m.tool_calls else '</end>' }}")
    [example] = to_examples([{"messages": TURNS}])
    found = [prompt_and_answer("chat", one, tokenizer=tokenizer)[1] for one in scored_turns(example, "all")]
    assert found == [CALLED + "</call>", "it is 2", "yes it is"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_conversation_is_written_twice_however_many_its_answers(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more for all turns than for the last."""
    calls: list[int] = []

    def counted(*arguments: Any, **told: Any) -> str:
        calls.append(1)
        return render(*arguments, **told)

    render = chat_template.render
    monkeypatch.setattr(chat_template, "render", counted)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = TEMPLATE
    turns = scored_turns(to_examples([{"messages": TEXTS[:2] * count}])[0], "all")
    found = turn_prompts("chat", turns, tokenizer=tokenizer)
    assert len(calls) == 2 and [answer for _, answer in found] == ["the first"] * count
    assert found == [prompt_and_answer("chat", one, tokenizer=tokenizer) for one in turns]


@pytest.mark.parametrize(
    "changed",
    [
        "m.content | trim",
        "m.content | replace('  ', ' ')",  # blanks within an answer too
        "m.content ~ loop.length",
        "m.content if loop.last else m.content | trim",
        "(m.content | trim) ~ ' '",
        "m.content ~ ('!' if messages[-1].content == 'b' else '?')",  # another turn decides
    ],
)
def test_answers_that_a_template_changes_are_found_as_they_are_one_by_one(changed: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = TEMPLATE.replace("m.content or ''", changed)
    answers = (" a ", "b", "c  d\n", "b")
    turns = [{"role": role, "content": text} for one in answers for role, text in (("user", "x"), ("assistant", one))]
    scored = scored_turns(to_examples([{"messages": turns}])[0], "all")
    try:
        want = [prompt_and_answer("chat", one, tokenizer=tokenizer) for one in scored]
    except TemplateRefusalError as error:
        with pytest.raises(TemplateRefusalError, match=re.escape(str(error))):
            turn_prompts("chat", scored, tokenizer=tokenizer)
        return
    assert turn_prompts("chat", scored, tokenizer=tokenizer) == want


def test_they_are_scored_in_one_text_as_a_trainer_has_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = LAST_ONLY
    turns = [{**turn, "reasoning_content": f"why {i}"} if i % 2 else turn for i, turn in enumerate(TEXTS)]
    [example] = to_examples([{"messages": turns}])
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    found = [prompt_and_answer("chat", one, tokenizer=tokenizer) for one in scored_turns(example, "all")]
    assert [answer for _, answer in found] == ["the first", "<think>why 3</think>the second thing"]
    assert all(whole.startswith(context + answer) for context, answer in found)


@pytest.mark.long
@pytest.mark.parametrize("template", ["plain", "chat", "last only"])
def test_all_turns_cost_about_one_pass(template: str, scorer: instsel.Scorer) -> None:
    """Six exchanges each: counted in tokens forwarded, against the last turn alone."""
    pool = [
        {"messages": [turn for k in range(6) for turn in (
            {"role": "user", "content": f"question {i * 7 + k} of {i}"},
            {"role": "assistant", "content": f"answer {(i * 31 + k) % 97} to it"})]}
        for i in range(200)
    ]  # fmt: skip
    examples = dict(enumerate(to_examples(pool)))
    if template == "last only":
        template, tokenizer = "chat", AutoTokenizer.from_pretrained(tiny_model_folder())
        tokenizer.chat_template = LAST_ONLY
        scorer = instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer, device="cpu", context_length=8192)
    plans = []
    for which in ("last", "all"):
        parameters = Parameters(template=template, score_turns=which)
        part = StageSlice(range(len(pool)), len(pool), parameters, scorer, examples)
        requests = [part.request(row) for row in part.rows]
        assert all(isinstance(request, TurnRequests) == (which == "all") for request in requests)
        plans.append(plan_batch(scorer, flat(requests), max_length=None))
    last, every = plans
    assert every.sequences == 6 * last.sequences
    assert every.tokens_forwarded <= 1.15 * last.tokens_forwarded


def test_a_command_records_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"messages": TEXTS}) + "\n" + json.dumps({"messages": TEXTS}) + "\n"
    )
    command = ["perplexity", str(tmp_path / "rows.jsonl"), "--model", tiny_model_folder(), "--score-turns", "all"]
    assert main([*command, "--dry-run"]) == 0
    assert main([*command, "--output", str(tmp_path / "run"), "--quiet"]) == 0
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["parameters"] == {"score_turns": "all"}
