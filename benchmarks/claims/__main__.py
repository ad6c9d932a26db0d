"""What selection is worth: tune a model on what each method selects, and see what it learnt.

    cd benchmarks && python -m claims --work results/claims --processes 2 --output results/claims.json
    cd benchmarks && python -m claims --work FOLDER --model Qwen/Qwen2.5-0.5B --pool my.jsonl --lora-rank 16

Everything that has been measured is kept in `--work`, a line a tuning; the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

from claims import plan
from claims.learning_rate import chosen_learning_rate
from claims.own_pool import own_units
from claims.questions import small_subsets, styles
from claims.trials import Setting, run_unit

DEMO_MODEL = Path(__file__).resolve().parents[2] / "instsel" / "demo" / "model"


def demo_tasks(setting: Setting, seeds: int) -> Iterator[Callable[[], object]]:
    """The whole study on the demo's pools, each task a process's work."""
    few = {*plan.EXPLORING[:seeds], *plan.CONFIRMING[:seeds]}
    units = {
        name: [
            (key, tuple(trial for trial in trials if trial.embeddings == "model" or setting.sentence_model))
            for key, trials in part
            if key.seed in few
        ]
        for name, part in plan.units().items()
    }
    for name in ("grid", "confirmation", "corruption"):
        yield from (partial(run_unit, setting, *unit) for unit in units[name])
    yield from (partial(small_subsets, setting, plan.PoolKey(seed)) for seed in plan.EXPLORING[:seeds])
    yield from (partial(run_unit, setting, *unit) for unit in units["budgets"])
    yield from (partial(styles, setting, seed) for seed in plan.EXPLORING[:seeds])
    yield from (partial(run_unit, setting, *unit) for unit in units["large budget"])


def main(arguments: list[str] | None = None) -> int:
    """Run what is left to run, then write the result."""
    parser = argparse.ArgumentParser(prog="python -m claims", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that has been measured")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--seeds", type=int, default=8, help="how many of the plan's seeds (default: all 8)")
    parser.add_argument("--processes", type=int, default=2, help="how many pools at once, one thread each")
    parser.add_argument("--sentence-model", default="", help="a sentence-transformers folder, for its embeddings")
    parser.add_argument("--model", default=str(DEMO_MODEL), help="folder or hub id (default: the demo's)")
    parser.add_argument("--pool", type=Path, help="a file of examples instead of the demo's pools")
    parser.add_argument("--heldout", type=Path, help="a file of held-out examples (default: others of --pool)")
    parser.add_argument("--pool-size", type=int, default=plan.POOL_SIZE, help="candidates of --pool a seed")
    parser.add_argument("--corrupted", type=float, default=0.0, help="share of --pool's answers to exchange")
    parser.add_argument("--longest", type=int, default=512, help="leave out rows of --pool with more tokens")
    parser.add_argument("--template", default="plain", help="of --pool's prompts")
    parser.add_argument("--lora-rank", type=int, default=0, help="tune with LoRA of this rank (needs peft)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    setting = Setting(
        folder=options.work, model=options.model, sentence_model=options.sentence_model, template=options.template,
        device=options.device, lora_rank=options.lora_rank, short_rows=options.pool is None,
    )  # fmt: skip
    started = time.perf_counter()
    if options.pool is not None:
        tasks = own_units(setting, options)
    else:
        setting = replace(setting, learning_rate=chosen_learning_rate(setting)["learning_rate"])
        tasks = demo_tasks(setting, options.seeds)
    run_tasks(list(tasks), options.processes)
    from claims.findings import findings

    found = findings(setting, None if options.pool is None else (options.pool, options.corrupted))
    found["minutes"] = round((time.perf_counter() - started) / 60, 1)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def run_tasks(tasks: list[Callable[[], object]], processes: int) -> None:
    """Run tasks side by side; the first that fails stops the study, and what was measured stays."""
    if processes == 1:
        for task in tasks:
            task()
        return
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawned) as executor:
        running = [executor.submit(task) for task in tasks]
        try:
            for done, one in enumerate(as_completed(running), 1):
                one.result()
                print(f"{done} of {len(tasks)} parts", flush=True)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    raise SystemExit(main())
