"""Prompt templates: the published wordings, and chat templates of the common kinds."""

from __future__ import annotations

import pytest
from small_tokenizers import byte_level

from instsel.prompts import (
    TEMPLATES,
    context_text,
    embedding_text,
    encode_pairs,
    prompt_and_answer,
)
from instsel.records import Example

SHOWN = Example("Add 1 and 2.", "", "3")
ASKED = Example("Add up.", "2, 3", "5")
LONG = Example("And 2+2?", "", "4", (("system", "Be brief."), ("user", "1+1?"), ("assistant", "2")))

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama 3: BOS in the text, blanks of a message stripped.
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n\n{% endif %}"
)
# Gemma and Mistral: no system turn, user and assistant in turn.
ALTERNATING = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
# Qwen 3: an empty block of reasoning before the last answer only, unless the answer brings its own.
REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}{% if '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# DeepSeek R1: the generation prompt opens the reasoning, which a finished answer does not show.
OPENING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}"
    "{% elif m.role == 'assistant' %}<|Assistant|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)


def chat(template, *, bos=False):
    base = byte_level(bos=bos)
    tokenizer = type(base)(tokenizer_object=base.backend_tokenizer, bos_token="<bos>", eos_token="<eos>")
    tokenizer.chat_template = template
    return tokenizer


def rendered(tokenizer, *turns, prompt=False):
    messages = [{"role": role, "content": text} for role, text in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def test_plain():
    assert prompt_and_answer("plain", SHOWN) == ("Add 1 and 2.\n", "3")
    assert prompt_and_answer("plain", ASKED, demonstration=SHOWN) == ("Add 1 and 2.\n3Add up.\n2, 3\n", "5")
    assert prompt_and_answer("plain", Example("a", " \n", "b")) == ("a\n", "b")  # a blank input is none
    assert prompt_and_answer("plain", LONG) == ("Be brief.\n1+1?\n2\nAnd 2+2?\n", "4")


def test_alpaca_is_the_stanford_wording():
    without = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd 1 and 2.\n\n### Response:"
    )
    with_input = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd up.\n\n### Input:\n2, 3\n\n### Response:"
    )
    assert prompt_and_answer("alpaca", SHOWN) == (without, "3")
    assert prompt_and_answer("alpaca", ASKED, demonstration=SHOWN) == (without + "3\n\n" + with_input, "5")
    text = context_text("alpaca", LONG)
    assert text.startswith("Be brief.\n\nBelow is")
    assert text.endswith("### Instruction:\n1+1?\n\n### Response:2\n\n### Instruction:\nAnd 2+2?\n\n### Response:")
    assert "{x}" in context_text("alpaca", Example("{x} {instruction}"))  # text is never a format string


@pytest.mark.parametrize("template", [CHATML, TRIMMING, ALTERNATING])
def test_chat_is_generation_prompt_and_answer(template):
    """Context and answer are a prefix of what the template writes, and the context is its generation prompt."""
    tokenizer = chat(template)
    for example, turns in (
        (SHOWN, [("user", "Add 1 and 2.")]),
        (ASKED, [("user", "Add up.\n2, 3")]),
        (Example("a", "", "user"), [("user", "a")]),  # an answer that the template's own words contain
        (Example("a", "", "<|im_end|>"), [("user", "a")]),
        (Example("a b a b", "", "a b"), [("user", "a b a b")]),
    ):
        context, answer = prompt_and_answer("chat", example, tokenizer=tokenizer)
        assert context == rendered(tokenizer, *turns, prompt=True)
        assert answer == example.response
        assert rendered(tokenizer, *turns, ("assistant", example.response)).startswith(context + answer)
        assert context_text("chat", example, tokenizer=tokenizer) == context


def test_chat_demonstration_is_the_earlier_turn():
    tokenizer = chat(ALTERNATING)
    context, answer = prompt_and_answer("chat", ASKED, demonstration=SHOWN, tokenizer=tokenizer)
    turns = [("user", "Add 1 and 2."), ("assistant", "3"), ("user", "Add up.\n2, 3")]
    assert (context, answer) == (rendered(tokenizer, *turns, prompt=True), "5")
    tokenizer = chat(CHATML)
    both = context_text("chat", LONG, demonstration=LONG, tokenizer=tokenizer)
    assert both.count("Be brief.") == 1 and both.count("1+1?") == 2  # one system prompt for both
    other = Example("a", "", "b", (("system", "Be kind."),))
    assert "Be kind." in context_text("chat", other, demonstration=LONG, tokenizer=tokenizer)


def test_chat_answer_as_the_template_writes_it():
    tokenizer = chat(TRIMMING)
    assert prompt_and_answer("chat", Example("a", "", " b c\n"), tokenizer=tokenizer)[1] == "b c"
    assert prompt_and_answer("chat", Example("a", "", " \n"), tokenizer=tokenizer)[1] == ""
    assert prompt_and_answer("chat", Example("a"), tokenizer=tokenizer)[1] == ""
    tokenizer = chat(REASONING)
    context, answer = prompt_and_answer("chat", SHOWN, tokenizer=tokenizer)
    assert (context[-19:], answer) == ("<think>\n\n</think>\n\n", "3")
    own = Example("a", "", "<think>\nb\n</think>\n\nc")
    context, answer = prompt_and_answer("chat", own, tokenizer=tokenizer)
    assert context == rendered(tokenizer, ("user", "a"), prompt=True) and answer == own.response
    context, answer = prompt_and_answer("chat", SHOWN, tokenizer=chat(OPENING))
    assert (context, answer) == ("<bos><|User|>Add 1 and 2.<|Assistant|>", "3")


def test_chat_end_of_turn_is_not_scored():
    for template, end in ((CHATML, "<|im_end|>"), (TRIMMING, "<|eot|>"), (ALTERNATING, "<eos>")):
        assert end in rendered(chat(template), ("user", "a"), ("assistant", "3"))
        assert prompt_and_answer("chat", SHOWN, tokenizer=chat(template))[1] == "3"


def test_chat_has_one_bos():
    """Written by the template, added by the tokenizer, or both: the model sees one."""
    example = Example("the answer", "", "the end")
    for template in (TRIMMING, CHATML):
        seen = []
        for bos in (False, True):
            tokenizer = chat(template, bos=bos)
            [encoded] = encode_pairs(tokenizer, [prompt_and_answer("chat", example, tokenizer=tokenizer)])
            seen.append(encoded.ids.tolist().count(tokenizer.bos_token_id))
            assert tokenizer.decode(encoded.ids[encoded.start :]).strip() == "the end"
        assert seen == ([1, 1] if template == TRIMMING else [0, 1])


@pytest.mark.parametrize(
    ("template", "example", "message"),
    [
        (None, SHOWN, "no chat template; use template 'plain' or 'alpaca'"),
        (ALTERNATING, LONG, "refuses the turns system, user, assistant, user, assistant: System role not supported"),
        (ALTERNATING, Example("a", "", "b", (("user", "c"),)), "refuses the turns user, user, assistant: .*alternate"),
        ("{{ 1 / (messages | length - 2) }}", SHOWN, "refuses the turns user, assistant: division by zero"),
        ("{{ 'x' + 1 }}", SHOWN, "refuses the turns user, assistant: can only concatenate"),
        ("{{ nothing.at.all }}", SHOWN, "refuses the turns user, assistant: 'nothing' is undefined"),
        ("{{ range(10 ** 9) | list }}", SHOWN, "refuses the turns user, assistant: Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", SHOWN, "refuses the turns user, assistant: .*recursion"),
        ("{{ messages[9].content }}", SHOWN, "refuses the turns user, assistant"),
        ("{{ messages | tojson", SHOWN, "refuses the turns"),
        ("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}", SHOWN, "leaves out"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", SHOWN, "leaves out or changes"),
        (OPENING, Example("a", "", "b</think>c"), "leaves out the answer's reasoning"),
    ],
)
def test_chat_templates_that_do_not_do(template, example, message):
    tokenizer = chat(template)
    with pytest.raises(ValueError, match=message) as error:
        prompt_and_answer("chat", example, tokenizer=tokenizer)
    assert "\n" not in str(error.value)


def test_unknown_template_and_missing_tokenizer():
    assert TEMPLATES == ("plain", "alpaca", "chat")
    for call in (prompt_and_answer, context_text):
        with pytest.raises(ValueError, match=r"template must be one of plain, .* got 'Plain'"):
            call("Plain", SHOWN)
        with pytest.raises(ValueError, match="needs a tokenizer"):
            call("chat", SHOWN)


def test_embedding_text():
    assert embedding_text(SHOWN) == "Add 1 and 2."
    assert embedding_text(ASKED) == "Add up.\n2, 3"
    assert embedding_text(Example("a", "\n ")) == "a"
