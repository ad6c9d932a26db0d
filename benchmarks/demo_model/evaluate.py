"""Hold the demo's model and the methods to the generator's truth: in benchmarks/ `python -m demo_model.evaluate`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from demo_model.baselines import DIRECTIONS, side_by_side
from demo_model.in_context import InContextGain, in_context_gain
from demo_model.limits import combinations
from environment import environment
from intervals import mean_interval

from instsel.demo.families import HELD_OUT_FAMILIES, TRAINING_FAMILIES
from instsel.demo.families.family import Family
from instsel.demo.generator import DEFAULT_GROUPS, DEFAULT_POOL, make_groups, make_pool
from instsel.demo.run import MODEL_FOLDER
from instsel.demo.separation import areas_by_class

BUDGET = 0.2  # of the pool, in the measurement of what selection takes


def measure_in_context(model_folder: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Measure the in-context gain in float32 on held-out families, and on seen families with held-out conventions."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    out: dict[str, Any] = {}
    for name, families in (("held_out_families", HELD_OUT_FAMILIES), ("seen_families", TRAINING_FAMILIES)):
        gains = [in_context_gain(model, tokenizer, seed=seed, families=families) for seed in seeds]
        out[name] = {
            field: over_seeds([read(gain) for gain in gains])
            for field, read in {
                "loss_without": lambda gain: gain.without,
                "loss_same_convention": lambda gain: gain.same_convention,
                "loss_other_family": lambda gain: gain.other_family,
                "same_reduction": lambda gain: gain.same_reduction,
                "other_reduction": lambda gain: gain.other_reduction,
                "other_over_same": _other_over_same,
            }.items()
        }
    return out


def _other_over_same(gain: InContextGain) -> float:
    return gain.other_reduction / gain.same_reduction


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """A measurement as the result file keeps it: mean, half-width of the 95 % interval, the value of each seed."""
    found = mean_interval(values)
    half_width = found["high"] - found["mean"]
    return {"mean": found["mean"], "half_width": half_width, "by_seed": [float(value) for value in values]}


def measure_pool(
    scorer: Any, seed: int, size: int, families: Sequence[Family] = HELD_OUT_FAMILIES, *, selecting: bool = True
) -> dict[str, Any]:
    """Score one pool with every method; areas under the ROC curve by class, and what each method would select."""
    from instsel.methods.correlation import spearman_correlation
    from instsel.methods.ifd import ifd
    from instsel.methods.influence import score_by_rule
    from instsel.methods.wici import wici

    rows = make_pool(seed, size, families=families)
    truth = np.array([row["truth"] for row in rows])
    examples = [{name: row[name] for name in ("instruction", "input", "output")} for row in rows]
    started = time.perf_counter()
    paper = wici(scorer, examples, seed=seed)
    seconds = time.perf_counter() - started
    difficulty = ifd(scorer, examples)
    # The released program leaves out what it finds harder with its prompt than without.
    easier = (paper.status == "ok") & (paper.ifd <= 1)
    found = (paper.ifd, paper.one_shot_ifd, paper.probes, paper.similarity)
    release = np.where(easier, score_by_rule(*found, "release"), np.nan)
    scores = side_by_side(paper.score, release, score_by_rule(*found, "gain"), difficulty, seed)
    sound = (paper.probes >= 0) & np.isin(truth[paper.probes], ("clean", "duplicate"))
    knowing_more = combinations(paper.influence, sound, [row["family"] for row in rows])
    return {
        "areas": areas_by_class(scores, truth),
        "areas_knowing_more": areas_by_class(knowing_more, truth),
        "sound_probes": float(sound.mean()),
        "selected": measure_selection(scores, truth, paper) if selecting else None,
        "seconds": seconds,
        "sharing_factor": paper.stats.tokens_unshared / paper.stats.tokens_forwarded,
        "difficulty_influence_correlation": spearman_correlation(paper.ifd, paper.score).rho,
    }


def measure_selection(scores: dict[str, np.ndarray], truth: np.ndarray, result: Any) -> dict[str, Any]:
    """Share of clean rows among those that each method selects, without and with diversity."""
    from instsel.selection import select

    selected = {}
    for name, score in scores.items():
        plain = select(score, BUDGET)
        diverse = select(score, BUDGET, embeddings=result.embeddings)
        selected[name] = {
            "clean_share": float((truth[plain] == "clean").mean()),
            "rows_with_diversity": len(diverse),
            "clean_share_with_diversity": float((truth[diverse] == "clean").mean()),
        }
    return selected


def measure_groups(scorer: Any, seed: int, size: int) -> float:
    """Share of the groups in which GRAPE picks the candidate in the model's own style."""
    from instsel.methods.grape import grape

    groups = make_groups(seed, size)
    best = grape(scorer, [{key: group[key] for key in ("instruction", "input", "candidates")} for group in groups]).best
    return float(np.mean(best == np.array([group["own"] for group in groups])))


def evaluate(
    model_folder: Path, seeds: Sequence[int], *, size: int, num_groups: int, dtype: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure everything over the seeds of the pool and say it as tables."""
    from instsel.engine.scorer import Scorer

    in_context = measure_in_context(model_folder, seeds)
    for name, measured in in_context.items():
        say(f"\nmean loss of answers, {name.replace('_', ' ')} with held-out conventions (95 % interval over seeds)")
        for field, value in measured.items():
            say(f"  {field:<24}{value['mean']:>8.3f} ±{value['half_width']:.3f}")
    scorer = Scorer(str(model_folder), dtype=dtype)
    pools = []
    for seed in seeds:
        pools.append(measure_pool(scorer, seed, size))
        say(f"pool {seed}: {pools[-1]['seconds']:.1f} s, sharing factor {pools[-1]['sharing_factor']:.2f}")
    say("\narea under the ROC curve, clean against each class (95 % interval over seeds)")
    areas = _areas_over_seeds(pools, "areas", say)
    say("\nthe influences of wICI, combined by one who knows more")
    knowing_more = _areas_over_seeds(pools, "areas_knowing_more", say)
    say("\nthe same methods on seen families with held-out conventions")
    pools_seen = [measure_pool(scorer, seed, size, TRAINING_FAMILIES, selecting=False) for seed in seeds]
    seen = _areas_over_seeds(pools_seen, "areas", say)
    selected = {
        method: {field: over_seeds([pool["selected"][method][field] for pool in pools]) for field in fields}
        for method, fields in pools[0]["selected"].items()
    }
    say(f"\nclean among the {BUDGET:.0%} of the pool that each method selects")
    for method, fields in selected.items():
        say(f"  {method:<20}{fields['clean_share']['mean']:>8.1%} ±{fields['clean_share']['half_width']:.1%}")
    grape = over_seeds([measure_groups(scorer, seed, num_groups) for seed in seeds])
    say(f"\nGRAPE picks the model's own style in {grape['mean']:.1%} ±{grape['half_width']:.1%} of the groups")
    return {
        "seeds": list(seeds),
        "pool_size": size,
        "groups": num_groups,
        "dtype": dtype,
        "in_context": in_context,
        "directions": DIRECTIONS,
        "areas": areas,
        "areas_knowing_more": knowing_more,
        "areas_seen_families": seen,
        "selected": selected,
        "grape_own_style": grape,
        **{
            field: over_seeds([pool[field] for pool in pools])
            for field in ("seconds", "sharing_factor", "sound_probes", "difficulty_influence_correlation")
        },
        "environment": environment(),
    }


def _areas_over_seeds(pools: Sequence[dict[str, Any]], kind: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Areas by method and class as `over_seeds` gives them, and said as a table."""
    classes = list(next(iter(pools[0][kind].values())))
    areas = {
        method: {name: over_seeds([pool[kind][method][name] for pool in pools]) for name in classes}
        for method in pools[0][kind]
    }
    say(f"{'':<20}" + "".join(f"{name:>19}" for name in classes))
    for method, by_class in areas.items():
        cells = (f"{by_class[name]['mean']:.3f} ±{by_class[name]['half_width']:.3f}" for name in classes)
        say(f"{method:<20}" + "".join(f"{cell:>19}" for cell in cells))
    return areas


def main(arguments: list[str] | None = None) -> int:
    """Evaluate and write the result."""
    parser = argparse.ArgumentParser(prog="python -m demo_model.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER, help="model folder (default: the package's own)")
    parser.add_argument("--seeds", type=int, default=5, help="how many pools, with the seeds 0, 1, ... (at least 2)")
    parser.add_argument("--size", type=int, default=DEFAULT_POOL)
    parser.add_argument("--groups", type=int, default=DEFAULT_GROUPS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    options = parser.parse_args(arguments)
    result = evaluate(
        options.model,
        range(options.seeds),
        size=options.size,
        num_groups=options.groups,
        dtype=options.dtype,
        say=lambda line: print(line, flush=True),
    )
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
