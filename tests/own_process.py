"""A file of tests that runs in a process of its own, for what stays on once it is on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
INTERPRETED = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


def assert_passes(script: str, environment: dict[str, str] | None = None) -> None:
    """The tests of `script` in this folder pass, and there are some; `environment` is added to this process's own."""
    command = [sys.executable, "-m", "pytest", str(HERE / script), "-p", "no:cacheprovider"]
    told = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=told, capture_output=True, text=True, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout and "failed" not in done.stdout
