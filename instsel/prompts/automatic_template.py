"""Which template `auto` is: the tokenizer's chat template where it is meant for what is scored, else plain."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUTO = "auto"
_INSTRUCT = re.compile(r"(?i)instruct|(?:^|[-_.])(?:chat|it|assistant|thinking|sft|dpo|rlhf)(?:[-_.]|$)")


def automatic_template(
    tokenizer: PreTrainedTokenizerBase | None, *, conversations: bool, takes_chat: bool = True
) -> tuple[str, str]:
    """The template that "auto" stands for, "plain" or "chat", and why; no reason where there is no choice.

    tokenizer: says whether there is a chat template, and its name whose it is. conversations: whether the rows hold
    turns. takes_chat: whether the method can do with a chat template.

    >>> automatic_template(None, conversations=True)
    ('plain', '')
    """
    if not takes_chat or not getattr(tokenizer, "chat_template", None):
        return "plain", ""
    if conversations:
        return "chat", "the tokenizer has a chat template, and the rows hold turns"
    name = str(getattr(tokenizer, "name_or_path", "")).rstrip("/").rpartition("/")[2]
    if _INSTRUCT.search(name):
        return "chat", f"the tokenizer has a chat template, and {name} is the name of an instruct model"
    return "plain", "the rows hold no turns, and the model's name does not say that it is an instruct model"


def told(template: str, reason: str) -> str:
    """One line that says which template was taken."""
    return f"template {template!r} was taken: {reason}; --template, or template=, says another"
