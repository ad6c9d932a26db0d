"""What public chat templates keep, drop and refuse, as the table in docs/conversations.md has it.

`python tests/template_table.py` prints the table anew, with the version of TRL whose templates they are.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from test_public_templates import ANSWER, ASK, CALLING, RESULT, ROWS, TEMPLATES, TOOLS, WHY, split, tokenizer_with

from instsel.prompts import prompt_and_answer
from instsel.prompts.chat_messages import ChatSettings
from instsel.records import to_examples

PAGE = Path(__file__).parents[1] / "docs/conversations.md"
BLOCK = re.compile(r"<!-- templates:begin -->\n\n(.*?)\n\n<!-- templates:end -->", re.DOTALL)
OBSERVED = "rain at noon"
SURE = {"role": "user", "content": "sure?"}
COLUMNS: dict[str, tuple[dict[str, Any], str]] = {  # a row, and what of it the text holds where it is kept
    "reasoning under a key": (ROWS["reasoning apart"], WHY),
    "in the text": (ROWS["reasoning in the text"], WHY),
    "of earlier turns": ({"messages": [ASK, {**ANSWER, "reasoning_content": WHY}, SURE, ANSWER]}, WHY),
    "tools": ({"messages": [ASK, ANSWER], "tools": TOOLS}, "add_up"),
    "a call as answer": (ROWS["a call"], "add_up"),
    "what a tool answers": (
        {"messages": [ASK, CALLING, {**RESULT, "content": OBSERVED}, ANSWER], "tools": TOOLS},
        OBSERVED,
    ),
}


def table() -> str:
    """The table in Markdown, a template a line."""
    lines = [f"| of TRL {metadata.version('trl')} | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in TEMPLATES:
        tokenizer = tokenizer_with(name)
        cells = [_cell(tokenizer, row, held) for row, held in COLUMNS.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(tokenizer: Any, row: dict[str, Any], held: str) -> str:
    found = split(tokenizer, row)
    if isinstance(found, str):
        return "refused"
    if held in "".join(found):
        return "kept"
    [example] = to_examples([row])
    asked = ChatSettings(keep_reasoning=True)
    try:
        kept = held in "".join(prompt_and_answer("chat", example, tokenizer=tokenizer, settings=asked))
    except ValueError:
        kept = False
    return "dropped, or kept by a switch" if kept else "dropped"


if __name__ == "__main__":
    print(table())
