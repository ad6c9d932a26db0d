"""Tables of the results of `compare.py` and `engine.py`: against other ways, and against the arithmetic floor."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

from environment import machine_name

# The README's five rows: workload, dtype, the other way and its dtype.
CHOSEN = (
    ("wici-k5", "bfloat16", "one_by_one", "float32"),
    ("wici-k5", "bfloat16", "one_by_one_lean", "bfloat16"),
    ("wici-k5", "float32", "one_by_one_lean", "float32"),
    ("few-shot-4", "bfloat16", "lm_eval", "bfloat16"),
    ("grape-5", "bfloat16", "one_by_one_lean", "bfloat16"),
)
WAYS = {
    "one_by_one": "released programs: one at a time, answer alone again for each pair",
    "one_by_one_lean": "one at a time",
    "padded": "padded batches",
    "lm_eval": "lm-evaluation-harness",
    "dynamic_cache": "DynamicCache by hand",
    "flex": "FlexAttention packs",
    "llama_cpp": "llama.cpp, prefixes shared",
    "vllm": "vLLM",
    "sglang": "SGLang",
}
COLUMNS = ("one_by_one_lean", "dynamic_cache")  # ways with a column of their own
SHORT = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}


def _place(result: dict[str, Any]) -> tuple[str, ...]:
    """Where a result's row stands in its table."""
    return machine_name(result["environment"]), result["model"], result["workload"], result["dtype"]


def comparison_table(results: list[dict[str, Any]]) -> str:
    """How many times as long the other ways took, one row a workload, and how far the scores' ranks agree."""
    workloads = defaultdict(list)
    for r in sorted(results, key=lambda r: (*_place(r), -r["ratio"])):
        workloads[(*_place(r), f"{r['workload']} x {r['size']}", str(r["requests"]))].append(r)
    rows = []
    for (machine, model, _, dtype, workload, requests), found in workloads.items():
        cells: dict[str, list[str]] = defaultdict(list)
        for r in found:
            way = r["against"] if r["against"] in COLUMNS else ""
            name = "" if way else WAYS[r["against"]].partition(":")[0]
            name += f", {SHORT[r['against_dtype']]}" if r["against_dtype"] != dtype else ""
            cells[way].append(f"{name} **{r['ratio']:.1f}** ({len(r['pairs'])})".strip())
        seconds = statistics.median(r["instsel_seconds"] for r in found)
        columns = ["; ".join(cells[way]) for way in (*COLUMNS, "")]
        rows.append([machine, model, workload, requests, SHORT[dtype], f"{seconds:.2f}", *columns])
    head = ["processor", "model", "workload", "requests", "dtype", "seconds", *(WAYS[way] for way in COLUMNS), "others"]
    correlations: dict[str, list[float]] = defaultdict(list)
    for r in results:
        correlations[SHORT[r["dtype"]]].append(r["agreement"]["spearman"])
    lowest = ", ".join(f"{min(found):.4f} in {dtype}" for dtype, found in sorted(correlations.items()))
    return f"{table(head, rows)}\n\nLowest rank correlation of the two ways' scores: {lowest}."


def engine_table(results: list[dict[str, Any]]) -> str:
    """Speed against the arithmetic floor, one row a workload and three columns a processor."""
    machines = sorted({machine_name(r["environment"]) for r in results})
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    tokens = {}
    for r in sorted(results, key=_place):
        workload = f"{r['workload']} x {r['size']}"
        found[r["model"], workload, SHORT[r["dtype"]]][machine_name(r["environment"])] = r
        tokens[workload, r["tokens_forwarded"], r["tokens_unshared"]] = None
    rows = [
        [*place, *(cell for machine in machines for cell in _engine_cells(by_machine.get(machine)))]
        for place, by_machine in sorted(found.items())
    ]
    head = ["model", "workload", "dtype"]
    head += [cell for machine in machines for cell in (f"{machine}: tokens/s", "of the floor", "MiB")]
    shares = sorted(max(r["layers_rates"]) / max(r["matrix_rates"]) for r in results)
    packs = ", ".join(f"{size:,}" for size in sorted({r["max_batch_tokens"] for r in results}))
    shared = "; ".join(f"{name} {forwarded:,} of {unshared:,}" for name, forwarded, unshared in sorted(tokens))
    return (
        f"{table(head, rows)}\n\nIn packs of {packs} tokens. torch's products with the layers' weights, when nothing "
        f"else is done, reach {shares[0]:.0%} to {shares[-1]:.0%} of that rate.\n\n"
        f"Tokens forwarded, of those of an unshared run: {shared}."
    )


def _engine_cells(r: dict[str, Any] | None) -> list[str]:
    if r is None:
        return ["", "", ""]
    peak = r["peak_extra_bytes"]
    return [
        f"{r['tokens_forwarded'] / statistics.median(r['seconds']):,.0f}",
        f"**{r['fraction_of_floor']:.0%}** of {max(r['matrix_rates']) / 1e12:.2f}",
        "" if peak is None else f"{peak / 2**20:,.0f}",
    ]


def chosen_table(results: list[dict[str, Any]], model: str = "smollm2-135m") -> str:
    """Ratios of the README's rows, one column a processor that was itself and not held to another's instructions."""
    ratios = {
        ((r["workload"], r["dtype"], r["against"], r["against_dtype"]), machine): r["ratio"]
        for r in results
        if r["model"] == model and "held-to" not in (machine := machine_name(r["environment"]))
    }
    machines = sorted({machine for _, machine in ratios})
    rows = []
    for key in CHOSEN:
        workload, dtype, against, against_dtype = key
        other = f"{WAYS[against]}, {SHORT[against_dtype]}"
        cells = [f"**{ratios[key, one]:.1f}**" if (key, one) in ratios else "" for one in machines]
        if any(cells):
            rows.append([workload, SHORT[dtype], other, *cells])
    return table(["workload", "instsel in", "times as fast as", *machines], rows) if rows else "No results yet."


def text(found: dict[str, list[dict[str, Any]]]) -> str:
    """Everything between the marks."""
    taken = [r["environment"] for name in ("compare", "engine") for r in found.get(name, [])]
    machines = sorted(
        {
            f"{machine_name(e)} is {e.get('gpu', e['processor'])}, {e['cores']} cores, PyTorch {e['torch']}"
            for e in taken
        }
    )
    versions = ", ".join(sorted({e["transformers"] for e in taken}))
    commits = ", ".join(sorted({e["commit"] for e in taken}))
    measured = f"Measured with transformers {versions} at commits {commits}: {'; '.join(machines)}."
    parts = [measured if taken else "No results yet."]
    if found.get("compare"):
        parts.append(comparison_table(found["compare"]))
    if found.get("engine"):
        parts.append(engine_table(found["engine"]))
    return "\n\n".join(parts)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
