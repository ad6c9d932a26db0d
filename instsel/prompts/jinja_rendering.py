"""Rendering a chat template as transformers does, at a moment that is given, without chance, and for a bounded time."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from instsel.records.json_types import Message, Tool

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST_SECONDS = 10.0  # for one conversation, which takes a fraction of a millisecond
LONGEST_TEXT = 1 << 26  # characters


class TemplateLimitError(ValueError):
    """A chat template ran longer, or wrote more, than any conversation needs: it would do so for every row."""


class _RenderingTimeout(BaseException):  # raised in the thread that renders, past its handlers of exceptions
    pass


def reads_the_date(tokenizer: object, source: str | None) -> bool:
    """Whether a chat template, by default the tokenizer's own, asks for the date."""
    return _mentions(tokenizer, source, "strftime_now")


def _mentions(tokenizer: object, source: str | None, *names: str) -> bool:
    return any(name in source_of(tokenizer, source) for name in names)


def source_of(tokenizer: object, source: str | None) -> str:
    """The text of a chat template, by default the tokenizer's own."""
    return str(source or getattr(tokenizer, "chat_template", None))


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    source: str | None,
    *,
    generation: bool,
    moment: datetime | None,
    tools: list[Tool] | None = None,
    template_kwargs: Mapping[str, object] | None = None,
) -> str:
    """The text of a conversation; `strftime_now` tells of `moment`, by default of now.

    Raises TemplateLimitError after `LONGEST_SECONDS`, or for more than `LONGEST_TEXT` characters, and what the
    template raises.
    """

    def written() -> str:
        if _mentions(tokenizer, source, "lipsum", "random") or (moment and reads_the_date(tokenizer, source)):
            template = _template(tokenizer.get_chat_template(source, tools), moment)
            values = {**tokenizer.special_tokens_map, **told, "add_generation_prompt": generation}
            held = [{key: value for key, value in one.items() if value is not None} for one in messages]
            return str(template.render(messages=held, tools=tools, documents=None, **values))
        text: str = tokenizer.apply_chat_template(
            messages, tools, chat_template=source, tokenize=False, add_generation_prompt=generation, **told
        )
        return text

    told = template_kwargs or {}

    text = _limited(written)
    if len(text) > LONGEST_TEXT:
        raise TemplateLimitError(f"wrote more than {LONGEST_TEXT:,} characters for one row")
    return text


@functools.lru_cache(maxsize=8)
def _template(source: str, moment: datetime | None) -> Template:
    """The template in transformers' own environment, with another date and without what draws by chance."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(source).environment.overlay()
    environment.globals = {name: one for name, one in environment.globals.items() if name != "lipsum"}
    environment.filters = {name: one for name, one in environment.filters.items() if name != "random"}
    return environment.from_string(source, globals={} if moment is None else {"strftime_now": moment.strftime})


class _Watchdog:
    """A thread that interrupts what renders for too long; it ends when nothing does."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.until: dict[int, float] = {}  # by thread
        self.thread: threading.Thread | None = None

    def begin(self) -> None:
        with self.lock:
            self.until[threading.get_ident()] = time.monotonic() + LONGEST_SECONDS
            if self.thread is None:
                self.thread = threading.Thread(target=self._watch, name="instsel-templates", daemon=True)
                self.thread.start()

    def end(self) -> bool:
        """Whether the thread was still to be interrupted; if not, the interruption is on its way."""
        with self.lock:
            return self.until.pop(threading.get_ident(), None) is not None

    def _watch(self) -> None:
        idle = 0
        while True:
            time.sleep(min(1.0, LONGEST_SECONDS / 4))
            with self.lock:
                idle = 0 if self.until else idle + 1
                if idle == 5:
                    self.thread = None
                    return
                now = time.monotonic()
                for thread in [one for one, until in self.until.items() if until < now]:
                    del self.until[thread]
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(_RenderingTimeout)
                    )


_watch = _Watchdog()


def _watch_anew() -> None:
    """A forked child has no thread of its parent, and perhaps its lock."""
    global _watch
    _watch = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watch_anew)


def _limited(call: Callable[[], str]) -> str:
    """What a function gives, which is interrupted where it takes too long."""
    interrupted = False
    try:
        _watch.begin()
        try:
            return call()
        except _RenderingTimeout:
            interrupted = True
            raise
        finally:
            if not interrupted and not _watch.end():
                while True:  # until the interruption comes, which must not come later
                    time.sleep(0)
    except _RenderingTimeout:
        raise TemplateLimitError(f"ran for more than {LONGEST_SECONDS:g} s for one row: it may never end") from None
