"""A limit on the size of files, as `ulimit -f` sets it: what is kept is said once, and the same command continues."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import tiny_model_folder, write_alpaca

KEPT = "what is whole is kept, and the same command continues"


@pytest.mark.long
def test_what_is_kept_is_said_once(tmp_path: Path) -> None:
    write_alpaca(tmp_path / "rows.jsonl", 40)
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32", "--shard-rows", "10", "--quiet"]
    words = ["perplexity", str(tmp_path / "rows.jsonl"), *model, "--output", str(tmp_path / "run")]
    command = [sys.executable, "-c", "import sys; from instsel.cli import main; sys.exit(main(sys.argv[1:]))", *words]

    def run(limit: int | None) -> subprocess.CompletedProcess[str]:
        def limited() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

        return subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, timeout=300)

    assert run(None).returncode == 0
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "run").rglob("*") if path.is_file()}
    [rows] = [size for name, size in sizes.items() if name.startswith("rows-")]
    for path in sorted((tmp_path / "run").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    ended = run(rows - 1)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("instsel: error")]
    assert ended.returncode in (1, 2) and len(errors) == 1, ended.stderr
    assert ended.stderr.count(KEPT) == 1 and "File too large" in errors[0]
    assert "RunError" not in ended.stderr and "Traceback" not in ended.stderr
    assert run(None).returncode == 0 and (tmp_path / "run/scores.parquet").is_file()
