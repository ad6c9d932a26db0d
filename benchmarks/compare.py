"""instsel beside another way of scoring the same requests: runs in turns, the same numbers checked.

    python benchmarks/compare.py --workload wici-k5 --against padded lm_eval --output benchmarks/results

Both load the same random weights, each in a process of its own that waits while the other runs. Their scores must
agree with a float64 reference as well as one sequence at a time does, or there is no result; of a mixture of experts,
whose choices rounding moves, in float32 before, and then within more of the timed runs' dtype. Then runs alternate,
instsel and the other, until there are `--pairs` pairs or `--seconds` have passed for it (at least one pair); the ratio
reported is the median over the pairs. With `--append` pairs are added to those of an earlier call's result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import models
import workloads
from agreement import Reference, compare_scores
from competitors import NAMES
from contestants import Contestant
from environment import environment

_OURS = "instsel_engine"


def compare(
    ours: Contestant,
    references: dict[str, Reference],
    against: str,
    *,
    against_dtype: str,
    pairs: int = 3,
    seconds: float = 60.0,
) -> dict[str, Any]:
    """One result; ValueError where the scores do not agree. `references` are by dtype."""
    model, dtype, device, work = ours.model, ours.dtype, ours.device, ours.work
    theirs = Contestant(against, model, against_dtype, device, work, threads=ours.threads)
    found: list[dict[str, float]] = []
    agreement: dict[str, Any] = {}
    began = time.perf_counter()
    try:
        while len(found) < pairs and (not found or time.perf_counter() - began < seconds):
            our_seconds, our_scores = ours.run()
            their_seconds, their_scores = theirs.run()
            agreement = {
                "instsel": references[dtype].check("instsel", our_scores),
                against: references[against_dtype].check(against, their_scores),
                **compare_scores(work, our_scores, their_scores),
            }
            found.append({"instsel": our_seconds, "against": their_seconds})
    finally:
        theirs.close()
    return {
        "benchmark": "compare",
        "model": Path(model).name,
        "workload": work.name,
        "size": work.size,
        "requests": len(work),
        "dtype": dtype,
        "against": against,
        "against_dtype": against_dtype,
        "device": device,
        "batch_size": theirs.setup["batch_size"],
        "trial_seconds": theirs.setup["trial_seconds"],
        "pairs": found,
        "agreement": agreement,
        "environment": environment(device),
    }


def float32_errors(
    model: str, device: str, work: workloads.Workload, names: list[str], threads: int | None
) -> dict[str, float]:
    """Errors of ways in float32, by name; ValueError where one is more than rounding."""
    reference = Reference(model, "float32", device, work)
    errors: dict[str, float] = {}
    for name in names:
        contestant = Contestant(name, model, "float32", device, work, threads=threads)
        try:
            errors[name] = reference.check(f"{name} in float32", contestant.run()[1])["error"]
        finally:
            contestant.close()
    return errors


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """The result with its medians."""
    pairs = result["pairs"]
    return {
        **result,
        "instsel_seconds": statistics.median(pair["instsel"] for pair in pairs),
        "against_seconds": statistics.median(pair["against"] for pair in pairs),
        "ratio": statistics.median(pair["against"] / pair["instsel"] for pair in pairs),
    }


def file_name(result: dict[str, Any]) -> str:
    """Where a result is kept: one file for each comparison."""
    keys = ("model", "workload", "dtype", "against", "against_dtype")
    return "_".join(["compare", result["device"].replace(":", ""), *(result[key] for key in keys)]) + ".json"


def save(result: dict[str, Any], folder: Path, *, append: bool) -> dict[str, Any]:
    """Write the result, with the pairs of an earlier one of the same commit if `append`, and give what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(result)
    if append and path.exists():
        before = json.loads(path.read_text())
        same = all(before[key] == result[key] for key in ("size", "requests"))
        if same and before["environment"]["commit"] == result["environment"]["commit"]:
            result = {**result, "pairs": before["pairs"] + result["pairs"]}
    result = summarise(result)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def line(result: dict[str, Any]) -> str:
    """One line for a terminal."""
    agreement = result["agreement"]
    influence = agreement["spearman_influence"]
    return (
        f"{result['model']} {result['workload']} x {result['size']}: instsel {result['dtype']} "
        f"{result['instsel_seconds']:.2f} s, {result['against']} {result['against_dtype']} "
        f"(batch size {result['batch_size']}) {result['against_seconds']:.2f} s, ratio {result['ratio']:.2f} "
        f"over {len(result['pairs'])} pairs; largest difference {agreement['largest_difference']:.1e} nats a token, "
        f"Spearman {agreement['spearman']:.5f}" + ("" if influence is None else f", of influences {influence:.5f}")
    )


def main() -> None:
    """Compare, print one line, and with `--output` write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=models.known, default="smollm2-135m", help="a shape's name, or a folder")
    parser.add_argument("--workload", choices=workloads.NAMES, default="wici-k5")
    parser.add_argument("--size", type=int, help="candidates, groups, demonstrations or questions")
    parser.add_argument("--branching", type=int, help="probes, answers or anchors, where not as in the workload's name")
    parser.add_argument("--against", choices=NAMES, nargs="+", required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--against-dtype", choices=("bfloat16", "float32"), help="where not the same")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no further pair after this time")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder for the result file")
    parser.add_argument("--append", action="store_true", help="add to the pairs of the file that is there")
    options = parser.parse_args()
    work = workloads.make_workload(
        options.workload,
        vocabulary=models.vocabulary(options.model),
        size=options.size,
        branching=options.branching,
        seed=options.seed,
    )
    against_dtype = options.against_dtype or options.dtype
    ours = None
    try:
        references = {
            dtype: Reference(options.model, dtype, options.device, work)
            for dtype in dict.fromkeys((options.dtype, against_dtype))
        }
        errors = {}
        if any(reference.rounding_chooses for reference in references.values()):
            errors = float32_errors(options.model, options.device, work, [_OURS, *options.against], options.threads)
        ours = Contestant(_OURS, options.model, options.dtype, options.device, work, threads=options.threads)
        for against in options.against:
            result = compare(
                ours,
                references,
                against,
                against_dtype=against_dtype,
                pairs=options.pairs,
                seconds=options.seconds,
            )
            if errors:
                result["agreement"]["float32_errors"] = {name: errors[name] for name in (_OURS, against)}
            if options.output:
                result = save(result, options.output, append=options.append)
            print(line(summarise(result)), flush=True)
    except (ValueError, RuntimeError) as error:
        sys.exit(f"no result: {error}")
    finally:
        if ours:
            ours.close()


if __name__ == "__main__":
    main()
