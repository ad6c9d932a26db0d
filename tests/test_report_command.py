"""`instsel report`: the same bytes every time, one line for wrong use, in little memory, as the documentation says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from run_folders import texts, write_influence, write_run, write_selection

from instsel.cli import main


@pytest.mark.long
def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "pool", 300)
    assert main(["report", str(run), "--max-rows", "100", "--quiet"]) == 0
    first = (run / "report.html").read_bytes()
    command = [sys.executable, "-m", "instsel.cli", "report", str(run), "--max-rows", "100", "--quiet"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert (run / "report.html").read_bytes() == first


def _unfinished(folder: Path) -> None:
    said = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**said, "state": "interrupted"}))


@pytest.mark.parametrize(
    ("prepare", "flags", "says"),
    [
        (None, ["missing"], "run folder missing does not exist"),
        (None, ["pool/scores.parquet"], "pool/scores.parquet is not a folder"),
        (lambda: Path("empty").mkdir(), ["empty"], "is not a run folder: it has no manifest.json"),
        (lambda: _unfinished(Path("pool")), ["pool"], "pool is not a finished run"),
        (lambda: Path("pool/scores.parquet").unlink(), ["pool"], "pool is not a finished run"),
        (lambda: Path("pool/manifest.json").write_text("{"), ["pool"], "the manifest of pool is damaged"),
        (lambda: os.truncate("pool/scores.parquet", 500), ["pool"], "is not as it was written"),
        (lambda: write_influence(Path("other"), 11), ["pool", "other"], "are of different pools"),
        (lambda: write_influence(Path("o"), 12, input_digest="x"), ["pool", "o"], "are of different pools"),
        (lambda: write_run(Path("t"), "m", texts(2), {}), ["t"], "no column of numbers to report on"),
        (None, ["pool", "--colour-by", "nope"], "has no column 'nope'; it has instruction"),
        (None, ["pool", "--colour-by", "influence"], "not labels"),
        (None, ["pool", "--output", "pool"], "--output pool is a folder"),
        (None, ["pool", "--output", "no/page.html"], "there is no folder no"),
        (None, ["pool", "--output", "/proc/page.html"], "--output /proc/page.html cannot be written"),
        (None, ["pool", "--max-rows", "0"], "--max-rows"),
        (None, [], "the following arguments are required: RUN"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], prepare: Any, flags: list[str],
    says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_influence(Path("pool"), 12)
    if prepare is not None:
        prepare()
    assert main(["report", *flags]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err, said.err
    assert not list(tmp_path.rglob("*.html")) and not list(tmp_path.rglob(".unfinished*"))


@pytest.mark.long
def test_it_loads_no_model_library(tmp_path: Path) -> None:
    run = write_influence(tmp_path / "pool", 12)
    code = """
import sys; from pathlib import Path; from instsel.report import build_page, read_report
build_page(read_report([Path(sys.argv[1])]))
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PEAK = """
import sys; from pathlib import Path; from instsel.report import build_page, read_report
page = build_page(read_report([Path(sys.argv[1])]))
(peak,) = [int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak, len(page))
"""


@pytest.mark.slow
def test_a_million_rows_are_never_held_whole(tmp_path: Path) -> None:
    count = 1_000_000
    rng = np.random.default_rng(0)
    sentence = "some text of a row that is as long as such texts are, once more and again " * 8
    numbers = pa.array(np.arange(count)).cast(pa.string())
    pool = {
        "instruction": pc.binary_join_element_wise("ask", numbers, sentence, " "),
        "output": pc.binary_join_element_wise("answer", numbers, " "),
    }
    scores = {"score": rng.normal(size=count), "ifd": rng.random(count), "status": np.full(count, "ok")}
    run = write_run(tmp_path / "pool", "wici", pool, scores)
    done = subprocess.run([sys.executable, "-c", PEAK, str(run)], capture_output=True, text=True, check=True)
    peak, length = map(int, done.stdout.split())
    assert peak < 700 << 10, f"{peak >> 10} MiB; the texts alone take {len(sentence) * count >> 20} MiB"
    assert length < 20 << 20


def test_the_documentations_own_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documented = (Path(__file__).parents[1] / "docs" / "report.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run = write_influence(Path("runs/wici"), 20, pool={**texts(20), "source": ["one", "two"] * 10})
    run.rename("runs/pool")
    write_influence(Path("runs/wici"), 20)
    write_run(Path("runs/ifd"), "ifd", texts(20), {"ifd": np.linspace(0.1, 1.5, 20)})
    write_selection(Path("runs/chosen"), Path("runs/wici"), [1, 2])
    (python,) = re.findall(r"```python\n(.*?)```", documented, re.DOTALL)
    exec(python, {})
    page = Path("page.html").read_text(encoding="utf-8")
    assert "After tuning" in page and "Accuracy" in page
    shell = "".join(re.findall(r"```sh\n(.*?)```", documented, re.DOTALL))
    reports = [line for line in shell.splitlines() if line.startswith("instsel report")]
    assert len(reports) == 3
    for line in reports:
        assert main([*line.partition("#")[0].split()[1:], "--quiet"]) == 0, line
    assert Path("runs/pool/report.html").is_file()
    assert "wICI by source" in Path("pool.html").read_text(encoding="utf-8")
