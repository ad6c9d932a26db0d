"""Whether the Hugging Face hub can be reached, asked quickly: its own client retries for half a minute a file."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 5.0  # to wait for a connection
_TRUST = 30.0  # seconds for which an answer holds
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_answers: dict[str, tuple[float, str | None]] = {}


@contextmanager
def cache_alone_if_out_of_reach(name: str) -> Iterator[None]:
    """A block that loads a model by its hub id: with the hub out of reach it sees only the cache, and never retries.

    name: a hub id; the path of what exists on the disk changes nothing.

    Raises ConnectionError, at once, where the hub is out of reach or offline settings forbid it (`HF_HUB_OFFLINE`,
    `TRANSFORMERS_OFFLINE`) and the cache holds nothing under the name.
    """
    reason = None if Path(name).exists() else out_of_reach()
    if reason is None:
        yield
        return
    if not _is_cached(name):
        raise ConnectionError(f"{reason}, and the local cache holds no model of this name")
    if _setting() is None:
        warnings.warn(f"{reason}: model {name!r} is taken from the local cache", stacklevel=1)
    with offline():
        yield


def out_of_reach() -> str | None:
    """Why the hub cannot be asked, as a sentence without its stop; None where it can."""
    setting = _setting()
    return f"{setting} is set" if setting else _unreachable()


def _setting() -> str | None:
    return next((variable for variable in _OFFLINE if _is_true(os.environ.get(variable))), None)


def _unreachable() -> str | None:
    """Why the hub cannot be reached; None where it can, or where only trying would tell: a proxy stands before it."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    parts = urllib.parse.urlsplit(endpoint)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    if (parts.scheme in proxies or "all" in proxies) and not urllib.request.proxy_bypass(host):
        return None
    asked, answer = _answers.get(endpoint, (float("-inf"), None))
    if time.monotonic() - asked < _TRUST:
        return answer
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=SECONDS).close()
        answer = None
    except (OSError, UnicodeError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        answer = f"{endpoint} cannot be reached ({why})"
    _answers[endpoint] = time.monotonic(), answer
    return answer


def _is_cached(name: str) -> bool:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def offline() -> Iterator[None]:
    """Offline mode for the hub's client, put back afterwards. Other threads lose nothing: they could not reach it."""
    from huggingface_hub import constants

    holders: list[Any] = [constants, *(module for module in [sys.modules.get("datasets.config")] if module is not None)]
    before = [(holder, holder.HF_HUB_OFFLINE) for holder in holders if hasattr(holder, "HF_HUB_OFFLINE")]
    for holder, _ in before:
        holder.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for holder, value in before:
            holder.HF_HUB_OFFLINE = value


def _is_true(value: str | None) -> bool:
    return (value or "").strip().upper() in ("1", "ON", "YES", "TRUE")
