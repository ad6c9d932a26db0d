"""Run folders of a stage whose rows can be checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from run_folders import fill

from instsel.runs import RunFolder
from instsel.runs.shards import ShardedStage

SETTINGS = {"method": "square", "seed": 0, "parameters": {"power": 2, "offset": None}}


class Squares:
    """A stage whose rows can be checked, and which remembers the slices it was asked for."""

    def __init__(self, rows: int = 25) -> None:
        self.asked: list[range] = []
        self.stage = ShardedStage("squares", rows)

    def compute(self, rows: range) -> Any:
        self.asked.append(rows)
        numbers = np.array(rows, dtype=np.float64) ** 2
        return {"square": numbers, "status": np.where(numbers == 9, "odd", "ok")}, {"tokens_forwarded": len(rows)}


def open_folder(path: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> RunFolder:
    return RunFolder(path, settings, {"environment": {"torch": "1"}}, **options)


def run_squares(
    path: Path, squares: Squares | None = None, step: int = 10, **options: Any
) -> tuple[np.ndarray, Squares, RunFolder]:
    squares = squares or Squares()
    folder = open_folder(path, **options)
    try:
        fill(folder, squares.stage, squares.compute, step)
        return folder.shards.columns(squares.stage)["square"], squares, folder
    finally:
        folder.close()


def shard_paths(path: Path) -> list[Path]:
    return sorted((path / "shards").glob("*.parquet"))
