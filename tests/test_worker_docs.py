"""The page on workers: its blocks of Python run as they stand, with a small model in place of the one they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ray_clusters import QUIET
from tiny_model import tiny_model_folder

pytestmark = pytest.mark.long

PAGE = (Path(__file__).parents[1] / "docs" / "workers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page_runs(number: int, tmp_path: Path) -> None:
    program = BLOCKS[number].replace("Qwen/Qwen2.5-0.5B", tiny_model_folder())
    if "ray_workers" in program:
        pytest.importorskip("ray")
        program = program.replace('"local"', '"local", ray_options={"object_store_memory": 80 * 1024**2}')
    (tmp_path / "script.py").write_text(program)  # as a script without a guard: workers must not run it again
    environment = {**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
