"""A GPU's first day, rehearsed on a processor: what is wrong, raises, dies or hangs is said, and the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")
WRONG = "attention torch.float32 head 80 window=50"


@pytest.mark.long
def test_what_raises_dies_or_hangs_does_not_end_the_run() -> None:
    import isolated

    runs = isolated.run_isolated("isolated_calls", {}, seconds=60, each=1.5)
    found = dict(runs)
    assert [result["ok"] for result in found.values()] == [True, False, False, False, True]
    said = [result.get("failed", "") for result in found.values()]
    assert "num_splits requires FA3" in said[1] and "exit code" in said[2] and "over its limit of 2 s" in said[3]


def test_calls_without_time_and_modules_that_cannot_be_imported_are_named() -> None:
    import isolated

    runs = isolated.run_isolated("isolated_calls", {}, seconds=0.0, each=1.0)
    assert dict(runs) == {"isolated_calls": {"ok": False, "failed": "no time was left"}}
    ((name, result),) = isolated.run_isolated("no_such_module", {}, seconds=60, each=1.0)
    assert name == "no_such_module" and not result["ok"] and "ModuleNotFoundError" in result["failed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [("raises", "num_splits requires FA3"), ("wrong", None), ("dies", "exit code -9"), ("hangs", "over its limit")],
)
def test_a_fault_costs_its_own_check_alone(fault: str, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import isolated

    monkeypatch.setenv("INSTSEL_TEST_FAULT", fault)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = {"device": "cpu", "tiny": True}
    limit = 8.0 if fault == "hangs" else 60.0
    runs = isolated.run_isolated("gpu_checks", options, seconds=300, each=limit, faults="gpu_day_faults")
    found = {}
    for name, result in runs:
        found[name] = result
        if name == WRONG:  # the rest, the model among it, has its own tests
            break
    runs.close()
    assert list(found) == ["head torch.float32 fused=logits softcap=30.0", WRONG]
    assert found[next(iter(found))]["ok"] and not found[WRONG]["ok"]
    assert (said in found[WRONG]["failed"]) if said else found[WRONG]["error"] > 2 * found[WRONG]["may_be"]


def test_prefixes_that_are_not_shared_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_checks
    import models
    import workloads

    import instsel

    work = workloads.make_workload("wici-k5", vocabulary=512, size=2, branching=3, shorten=8)
    scorer = instsel.Scorer(models.make_model("tiny", "float32"))
    gpu_checks.check_sharing(scorer, work)
    few = instsel.score_batch(scorer, work.requests[:2])
    monkeypatch.setattr(instsel, "score_batch", lambda *_: few)
    with pytest.raises(ValueError, match=f"not shared: {few.stats.tokens_forwarded} tokens"):
        gpu_checks.check_sharing(scorer, work)


def attention_of(monkeypatch: pytest.MonkeyPatch, difference: dict[str, float | Exception]) -> dict[str, Any]:
    """What the first step says of attention where backends differ from the reference by so much, or raise."""
    import gpu_versions

    from instsel.kernels import attention_probes, varlen_attention

    def relative_difference(backend: str, kind: object) -> float:
        found = difference[backend]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(attention_probes, "relative_difference", relative_difference)
    monkeypatch.setattr(varlen_attention, "varlen_error", lambda kind: None)
    return gpu_versions.backends("cpu", torch.float32, 64)


def test_a_flash_attention_that_raises_is_no_error_and_wrong_numbers_are(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = RuntimeError("num_splits requires FA3")
    found = attention_of(monkeypatch, {"varlen": refused, "triton": 1e-7})
    assert found["ok"] and found["triton, sinks"] == {"difference": 1e-7}
    assert found["varlen, plain"] == {"raises": "RuntimeError: num_splits requires FA3"}
    for wrong in (0.25, float("nan")):
        found = attention_of(monkeypatch, {"varlen": 1e-7, "triton": wrong})
        assert not found["ok"] and len(found["wrong"]) == 3 and "triton, plain: differs by" in found["wrong"][0]


def test_without_triton_and_flash_attention_the_first_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_versions

    from instsel.kernels import backends, varlen_attention

    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(varlen_attention, "has_flash_attn", lambda: False)
    monkeypatch.setattr(varlen_attention, "has_torch_varlen", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    backends.triton_error.cache_clear()
    try:
        found = gpu_versions.backends("cuda:0", torch.bfloat16, 128)
        assert gpu_versions.versions("cpu")["triton"].startswith("Triton is not installed")
    finally:
        backends.triton_error.cache_clear()
    said = {name: entry["cannot"] for name, entry in found.items() if name != "ok"}
    assert found["ok"] and len(said) == 6
    assert "Triton is not installed" in said["triton, plain"] and "flash-attn" in said["varlen, sinks"]


def test_results_are_written_call_by_call_and_the_next_steps_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_run

    asked: list[str] = []

    def run_isolated(module: str, options: dict[str, Any], **limits: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        asked.append(module)
        yield "right", {"ok": True, "seconds": 1.0}
        if module == "gpu_checks":
            yield "wrong numbers", {"ok": False, "error": 0.25, "may_be": 1e-5, "seconds": 1.0}
            yield "raises", {"ok": False, "failed": "RuntimeError: out of luck", "seconds": 1.0}
            written = json.loads((tmp_path / "gpu_checks.json").read_text())
            assert list(written["calls"]) == ["right", "wrong numbers", "raises"], "also where the process then dies"

    monkeypatch.setattr(gpu_run, "run_isolated", run_isolated)
    assert gpu_run.main(["first", str(tmp_path)]) == 1
    assert asked == [step.module for step in gpu_run.STEPS["first"]]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == "2 not right"
    assert lines[-2:] == [
        "NOT OK    wrong numbers: error 2.5e-01 of 1.0e-05",
        "NOT OK    raises: RuntimeError: out of luck",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}.json" for name in asked)


def run_script(script: str, output: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(FOLDER / script), str(output), "--device", "cpu", "--tiny", *arguments],
        env={**os.environ, "PYTHON": sys.executable, **environment}, capture_output=True, text=True,
    )  # fmt: skip


def calls_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["calls"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["no triton", "wrong"])
def test_a_whole_script_says_what_is_missing_or_wrong_and_goes_on(fault: str, tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    faults = {"INSTSEL_TEST_FAULT": fault, "PYTHONPATH": tests}
    done = run_script("gpu_first_day.sh", tmp_path, "--faults", "gpu_day_faults", **faults)
    wrong = [name for path in tmp_path.iterdir() for name, call in calls_of(path).items() if not call["ok"]]
    assert len(list(tmp_path.iterdir())) == 5, done.stderr[-2000:]
    assert wrong == ([WRONG] if fault == "wrong" else []), done.stdout[-4000:]
    assert done.returncode == len(wrong) and f"{len(wrong)} not right" in done.stdout
    if fault == "no triton":
        assert "not installed" in calls_of(tmp_path / "gpu_versions.json")["versions"]["triton"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["gpu_first_day.sh", "gpu_second_call.sh"])
def test_a_whole_script_without_a_gpu(script: str, tmp_path: Path) -> None:
    """The second call with packages that answer as vLLM and SGLang do."""
    engines = str(Path(__file__).parent / "fake_engines")
    done = run_script(script, tmp_path, PYTHONPATH=engines)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.rstrip().endswith("0 not right")
    files = sorted(tmp_path.iterdir())
    assert len(files) == (5 if "first" in script else 2) <= 8
    for path in files:
        assert all(call["ok"] for call in calls_of(path).values())
    if "second" in script:
        assert "no_such_package is not installed" in done.stdout
        compared = [call["result"]["against"] for call in calls_of(files[0]).values() if "result" in call]
        assert "left out  demo wici-k5: it needs an NVIDIA GPU" in done.stdout
        assert compared == ["one_by_one_lean", "vllm", "sglang"]
