"""The steps of a GPU's first ten minutes, and of a second call: each with its own time limit and JSON file.

    python benchmarks/gpu_run.py first OUTPUT_FOLDER
    python benchmarks/gpu_run.py second OUTPUT_FOLDER

Steps stand in the order of what they decide. A file is written after every call of its step, so that nothing that was
found is lost; what fails, hangs or is wrong is said and the run goes on. At the end stands a line for each of these;
the status is 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolated import run_isolated


@dataclass(frozen=True, slots=True)
class Step:
    """A file of results, the module whose `calls` give them, and seconds for all of them and for one."""

    name: str
    module: str
    seconds: float
    each: float


STEPS = {
    "first": (
        Step("gpu_versions", "gpu_versions", 75, 40),
        Step("gpu_checks", "gpu_checks", 150, 40),
        Step("gpu_models", "gpu_models", 100, 50),
        Step("gpu_kernels", "gpu_kernels", 90, 40),
        Step("gpu_engine", "gpu_engine", 100, 60),
    ),
    "second": (
        Step("gpu_float8", "gpu_float8", 110, 60),
        Step("gpu_comparisons", "gpu_comparisons", 400, 200),
    ),
}
TOTAL_SECONDS = 515.0  # a minute of the ten is for the C++ module


def line(name: str, result: dict[str, Any]) -> str:
    """One line for a terminal."""
    if result.get("left_out"):
        return f"left out  {name}: {result['left_out']}"
    if result["ok"]:
        return f"ok        {name} ({result['seconds']:.1f} s)"
    wrong = result.get("wrong") or result.get("failed") or f"error {result['error']:.1e} of {result['may_be']:.1e}"
    return f"NOT OK    {name}: {wrong}"


def run(which: str, output: Path, *, device: str, tiny: bool, seconds: float, faults: str | None) -> list[str]:
    """Run all steps; the lines of what was not right."""
    until = time.monotonic() + seconds
    output.mkdir(parents=True, exist_ok=True)
    wrong: list[str] = []
    for step in STEPS[which]:
        found: dict[str, Any] = {}
        path = output / f"{step.name}.json"
        options = {"device": device, "tiny": tiny}
        limit = min(step.seconds, until - time.monotonic())
        for name, result in run_isolated(step.module, options, seconds=limit, each=step.each, faults=faults):
            found[name] = result
            said = line(name, result)
            print(said, flush=True)
            if said.startswith("NOT OK"):
                wrong.append(said)
            part = path.with_suffix(".part")
            part.write_text(json.dumps({"benchmark": step.name, "calls": found}, indent=1, default=str) + "\n")
            part.replace(path)
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the steps; 1 where something was not right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=tuple(STEPS))
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes for a rehearsal without a GPU")
    parser.add_argument("--seconds", type=float, default=TOTAL_SECONDS)
    parser.add_argument("--faults", help="a module that each process imports first, for tests")
    given = parser.parse_args(arguments)
    wrong = run(
        given.which, given.output, device=given.device, tiny=given.tiny, seconds=given.seconds, faults=given.faults
    )
    print(f"{len(wrong)} not right", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
