"""The progress bar of a long job: rows, tokens a second, time left."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_DELAY_SECONDS = 2.0  # what is over sooner needs no bar
_TERMINAL_INTERVAL, _LOG_INTERVAL = 0.5, 30.0


class StageProgress:
    """A bar over the rows of a stage on standard error; inside a shard it follows the tokens done.

    `tokens(done, total)` is the callback that `score_batch` takes as its `progress`.
    """

    def __init__(self, label: str, total_rows: int, *, done_rows: int = 0, quiet: bool = False) -> None:
        self._bar = tqdm(
            total=total_rows,
            initial=done_rows,
            desc=label,
            unit="row",
            disable=quiet,
            delay=_DELAY_SECONDS,
            mininterval=_TERMINAL_INTERVAL if sys.stderr.isatty() else _LOG_INTERVAL,
            dynamic_ncols=True,
            leave=False,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} rows [{elapsed}<{remaining}{postfix}]",
        )
        self.rows_done = float(done_rows)  # those of a shard under way in proportion to its tokens
        self._rows = float(done_rows)
        self._shard, self._total_rows = range(0), total_rows
        self._tokens_before = self._tokens_now = 0
        self._start = time.monotonic()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def begin(self, rows: range) -> None:
        """A shard begins."""
        self._shard = rows
        self._tokens_now = 0

    def tokens(self, done: int, total: int) -> None:
        """`done` of the shard's `total` tokens are through."""
        self._tokens_now = done
        self._show(min(self._rows + len(self._shard) * done / max(total, 1), self._total_rows))

    def end(self, rows: range, tokens: int) -> None:
        """A shard of these rows is written, for which so many tokens were forwarded."""
        self._rows += len(rows)
        self._tokens_before += tokens
        self._tokens_now = 0
        self._show(self._rows)

    def _show(self, rows: float) -> None:
        seconds = max(time.monotonic() - self._start, 1e-9)
        tokens = self._tokens_before + self._tokens_now
        if tokens:
            self._bar.set_postfix_str(f"{tokens / seconds:,.0f} tokens/s", refresh=False)
        self.rows_done = rows
        self._bar.update(rows - self._bar.n)
