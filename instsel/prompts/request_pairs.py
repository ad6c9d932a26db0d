"""What counts as a request: a pair of context and continuation, or a dict of two keys that say which is which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Part = str | Sequence[int] | np.ndarray

CONTEXT_KEYS = ("context", "prompt")
CONTINUATION_KEYS = ("continuation", "completion", "response")
_EXPECTED = (
    f"a pair (context, continuation) or a dict of {' or '.join(CONTEXT_KEYS)} and {' or '.join(CONTINUATION_KEYS)}"
)


def request_pair(request: Any, index: int) -> tuple[Part, Part]:
    """A request's context and continuation, whatever they are; TypeError naming the request where it is none.

    A dict must hold one key of each kind and no other: what else a row says (an input, a rejected answer) would be left
    out of the score without a word.

    >>> request_pair({"completion": " b", "prompt": "a"}, 0)
    ('a', ' b')
    >>> request_pair({"prompt": "a", "chosen": "b", "rejected": "c"}, 7)
    Traceback (most recent call last):
        ...
    TypeError: requests[7] must be a pair (context, continuation) or a dict of context or prompt and continuation or \
completion or response, got a dict with the keys 'prompt', 'chosen', 'rejected'
    """
    if isinstance(request, tuple) and len(request) == 2:
        return request
    if isinstance(request, Mapping):
        contexts = [key for key in CONTEXT_KEYS if key in request]
        continuations = [key for key in CONTINUATION_KEYS if key in request]
        if len(request) == 2 and len(contexts) == 1 and len(continuations) == 1:
            return request[contexts[0]], request[continuations[0]]
        keys = ", ".join(repr(key) for key in list(request)[:8]) or "(none)"
        raise TypeError(f"requests[{index}] must be {_EXPECTED}, got a dict with the keys {keys}")
    # A set has no order, the items of a text or of bytes are no parts.
    ordered = hasattr(request, "__getitem__") and hasattr(request, "__len__")
    if not ordered or isinstance(request, (str, bytes, bytearray, memoryview)) or len(request) != 2:
        raise TypeError(f"requests[{index}] must be {_EXPECTED}, got {shown(request)}")
    context, continuation = request
    return context, continuation


def shown(value: object) -> str:
    """A value for a message: its type and how it begins."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
