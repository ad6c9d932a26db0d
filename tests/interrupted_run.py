"""A command that is stopped by Ctrl-C after some shards and continued by the same command."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from instsel.cli import main
from instsel.runs.shards import ShardFolder


def interrupted_then_continued(arguments: Sequence[str], *, after: int = 2) -> None:
    """Stop a command once `after` shards are written, run it again to its end; no shard may be computed twice."""
    written: list[tuple[str, int]] = []
    real = ShardFolder.write

    def counted(self: ShardFolder, stage: Any, number: int, *rest: Any) -> Any:
        info = real(self, stage, number, *rest)
        written.append((stage.name, number))
        if len(written) == after:
            os.kill(os.getpid(), signal.SIGINT)
        return info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardFolder, "write", counted)
        assert main(arguments) == 130, "the first run was to be interrupted"
        assert len(written) == after
        assert main(arguments) == 0
    assert len(written) > after, "nothing was left to do"
    assert len(set(written)) == len(written), "a shard that was whole was computed again"
