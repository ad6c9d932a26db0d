"""Repeating a finished run: nothing is loaded and nothing held, whatever the size of its input and its result.

The peak is VmHWM, which is the process's own. `ru_maxrss` is not: a process begins with that of its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

from instsel.cli import main
from instsel.runs.durable_files import digest_file

SIZE = 200 << 20
REPEAT = """
import sys
import instsel.cli
if sys.argv[1] == "held":  # the control: a file read whole
    import hashlib, instsel.runs.folder
    instsel.runs.folder.digest_file = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
code = instsel.cli.main(sys.argv[2:])
(peak,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(code, peak, int("torch" in sys.modules))
"""

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak from"),
    pytest.mark.long,
]


def test_a_finished_run_of_any_size_is_seen_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, run = write_alpaca(tmp_path / "rows.jsonl", 30), tmp_path / "run"
    command = ["score", str(rows), "--model", tiny_model_folder(), "--output", str(run), "--quiet"]
    with monkeypatch.context() as once:
        load_models_once(once)
        assert main(command) == 0
    # Input and result as those of a run over millions of rows would be, as far as a repetition reads them.
    manifest = json.loads((run / "manifest.json").read_text())
    for path in (rows, run / "scores.parquet"):
        os.truncate(path, SIZE)
    manifest["input_digest"] = digest_file(rows)
    manifest["output"].update(bytes=SIZE, digest=digest_file(run / "scores.parquet"))
    (run / "manifest.json").write_text(json.dumps(manifest))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"}
    peaks = {}
    for way in ("streamed", "held"):
        done = subprocess.run([sys.executable, "-c", REPEAT, way, *command], capture_output=True, text=True, check=True)
        code, peak, torch_loaded = map(int, done.stdout.split())
        assert (code, torch_loaded, done.stderr) == (0, 0, "")
        peaks[way] = peak << 10
    # Python and Arrow alone take 70 to 110 MiB, by what the environment makes of their allocators.
    assert peaks["streamed"] < SIZE * 3 // 4
    assert peaks["held"] > SIZE, "the control: a file held whole is seen"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"} == before
