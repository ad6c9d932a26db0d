"""Progress of one scoring call, in tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ProgressLike = bool | Callable[[int, int], None] | None

_SECONDS_BEFORE_SHOWN = 3.0


@contextmanager
def open_progress(progress: ProgressLike, total: int) -> Iterator[Callable[[int], None]]:
    """A function to call with the tokens done since the last call: a bar on stderr, the caller's own, or nothing."""
    if callable(progress):
        done = 0

        def report(tokens: int) -> None:
            nonlocal done
            done += tokens
            progress(done, total)

        yield report
    elif progress:
        from tqdm.auto import tqdm

        with tqdm(total=total, unit="tok", unit_scale=True, delay=_SECONDS_BEFORE_SHOWN, dynamic_ncols=True) as bar:
            yield lambda tokens: bar.update(tokens) and None
    else:
        yield lambda tokens: None
