"""Which turns of a conversation are answers to be scored: each as an example that ends with it.

A chat template is given the whole conversation for each of them, so that all are scored in one text, as a trainer has
it: a template that takes the reasoning out of earlier turns has taken it out of their answers too.
"""

from __future__ import annotations

from dataclasses import replace

from instsel.prompts.chat_messages import TemplateRefusalError, messages_of
from instsel.records import Example
from instsel.records.chat import Chat, text_of_message

WHICH = ("last", "all", "trained")


def scored_turns(example: Example, which: str) -> list[Example]:
    """The example's scored turns in order, each with the turns before it as its prompt; blank ones are left out.

    which: "last" for the example as it is; "all" assistant turns; or those "trained" on, which are all but those that
    the row leaves out (a weight of 0 and the like) and those of a prompt that stands apart from its completion.

    Raises TemplateRefusalError for an assistant's turn before any of the user's.

    >>> shown = Example("c", "", "d", (("user", "a"), ("assistant", "b")))
    >>> [(one.instruction, one.response) for one in scored_turns(shown, "all")]
    [('a', 'b'), ('c', 'd')]
    """
    if which == "last":
        return [example]
    chat = example.chat or Chat(tuple(messages_of(example)))
    turns = [(str(message["role"]), text_of_message(message)) for message in chat.messages]
    if example.chat is None:
        turns[-2] = ("user", example.instruction)  # what Alpaca keeps apart from it stays apart
    found = []
    for place, (role, text) in enumerate(turns):
        left_out = place < example.asked or (bool(chat.trained) and not chat.trained[place])
        if role != "assistant" or not text.strip() or (which == "trained" and left_out):
            continue
        if place == len(turns) - 1:
            found.append(example)
            continue
        asked = max((i for i, (one, _) in enumerate(turns[:place]) if one == "user"), default=-1)
        if asked < 0:
            raise TemplateRefusalError("the assistant speaks before the user: there is nothing that its turn answers")
        shorter = replace(chat, messages=chat.messages[: place + 1], later=chat.messages[place + 1 :])
        found.append(Example(turns[asked][1], "", text, tuple(turns[:asked]), shorter, example.asked))
    return found
