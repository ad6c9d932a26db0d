"""What a dry run says of time and tokens, and what the run then takes.

    python benchmarks/dry_run.py --model SmolLM2-135M-Instruct --method ifd --pools alpaca.jsonl medquad.jsonl
    python benchmarks/dry_run.py --page docs/what_to_run.md

Rows are spread evenly over each file. Beside the seconds on the clock stand those of the processor, all threads
together, which a busy machine lengthens less: the dry run times its packs once by each.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import tables
from environment import environment, machine_name

from instsel.commands import method_command
from instsel.methods.registry import find_methods
from instsel.runner import scored_run, timing
from instsel.runner.configuration import Messages
from instsel.runner.plan import plan_run

CLOCKS: dict[str, Callable[[], float]] = {"clock": time.perf_counter, "processor": time.process_time}


def measure(method: str, model: str, pool: Path, rows: int, folder: Path) -> dict[str, Any]:
    """Seconds and tokens of a pool as planned and as run, by the words of the command line."""
    lines = pool.read_bytes().splitlines()
    some = folder / "rows.jsonl"
    some.write_bytes(b"\n".join(lines[i * len(lines) // rows] for i in range(rows)))
    parser = argparse.ArgumentParser()
    method_command.add_parser(parser.add_subparsers(), find_methods()[method])
    words = [method, str(some), "--model", model, "--output", str(folder / "run"), "--quiet"]
    configuration = method_command.configuration_of(find_methods()[method], parser.parse_args(words))
    source, messages = scored_run.checked_input(configuration), Messages()
    found: dict[str, Any] = {"pool": pool.stem, "rows": rows, "load_before": os.getloadavg()[0]}
    for name, clock in CLOCKS.items():
        with mock.patch.object(timing, "time", SimpleNamespace(perf_counter=clock)):
            plan = plan_run(configuration, source, messages, timed=True)
        assert plan.seconds is not None
        found[f"planned_{name}"] = plan.seconds
    found["planned_tokens"] = plan.total["tokens_forwarded"]
    found["planned_spread"] = plan.spread
    run_stages = scored_run.run_stages

    def timed(*given: Any) -> None:
        began = {name: clock() for name, clock in CLOCKS.items()}
        run_stages(*given)
        found.update({f"run_{name}": clock() - began[name] for name, clock in CLOCKS.items()})

    with mock.patch.object(scored_run, "run_stages", timed):
        run = scored_run.run_into_folder(configuration, source, messages)
    return {**found, "run_tokens": run.stats["tokens_forwarded"], "load_after": os.getloadavg()[0]}


def ratio(found: dict[str, Any], what: str) -> float:
    """What a run took over the middle of what its plan said, of "clock", "processor" or "tokens"."""
    planned = found[f"planned_{what}"]
    middle = sum(planned) / 2 if isinstance(planned, (list, tuple)) else planned
    return float(found[f"run_{what}"] / middle)


def table(results: list[dict[str, Any]]) -> str:
    """One row a pool: what the run took over what was planned."""
    head = ["processor, load", "model", "method", "rows", "tokens", "seconds of the processor", "of the clock"]
    rows = []
    for result in results:
        machine = machine_name(result["environment"])
        for one in result["rows"]:
            load = f"{one['load_before']:.0f} to {one['load_after']:.0f}"
            told = [f"{one[f'run_{what}']:,.0f} ({ratio(one, what):.2f})" for what in ("tokens", "processor", "clock")]
            pool = f"{one['rows']} of {one['pool'].partition('_')[0]}"
            rows.append([f"{machine}, {load}", result["model"], result["method"], pool, *told])
    return tables.table(head, rows)


def main() -> None:
    """Measure and print; with `--output` add to a JSON file in that folder, with `--page` write a page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a folder or a name of the hub")
    parser.add_argument("--method", default="ifd", choices=tuple(find_methods()))
    parser.add_argument("--pools", type=Path, nargs="+", default=[], help="files of JSON lines")
    parser.add_argument("--rows", type=int, default=300, help="of each file")
    parser.add_argument("--output", type=Path, help="folder for the result file")
    parser.add_argument("--page", type=Path, help="page whose table is written from the results that there are")
    options = parser.parse_args()
    name = Path(options.model).name.lower()
    path = options.output and options.output / f"dry_run_{name}_{options.method}.json"
    rows = json.loads(path.read_text())["rows"] if path and path.exists() else []
    for pool in options.pools:
        with TemporaryDirectory() as folder:
            found = measure(options.method, options.model, pool, options.rows, Path(folder))
        told = ", ".join(f"{what} {ratio(found, what):.2f}" for what in (*CLOCKS, "tokens"))
        print(f"{options.method} of {found['rows']} rows of {found['pool']}, run over plan: {told}", flush=True)
        rows = [one for one in rows if one["pool"] != found["pool"]] + [found]
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            result = {"benchmark": "dry_run", "model": name, "method": options.method, "rows": rows}
            result["environment"] = environment("cpu")
            path.write_text(json.dumps(result, indent=1) + "\n")
    if options.page:
        content = table(tables.load()["dry_run"])
        options.page.write_text(tables.insert(options.page.read_text(), content, "dry run"))


if __name__ == "__main__":
    main()
