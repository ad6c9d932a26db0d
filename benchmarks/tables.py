"""Tables of the results in `benchmarks/results`, as Markdown.

    python benchmarks/tables.py             # prints them
    python benchmarks/tables.py --write     # puts them into the documents

A table stands between the lines `<!-- NAME:begin -->` and `<!-- NAME:end -->` of the document that has them; the names
are those of `SECTIONS`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from environment import machine_name

RESULTS = Path(__file__).with_name("results")
ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/integrations.md", "docs/processors.md", "docs/project/speed.md")
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
}
SHORT = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}


def load(folder: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """All results by benchmark."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.json")):
        result = json.loads(path.read_text())
        if isinstance(result, dict) and "benchmark" in result:
            found[result["benchmark"]].append(result)
            for call in result.get("calls", {}).values():  # of a step on a GPU
                if "result" in call:
                    found[call["result"]["benchmark"]].append(call["result"])
    return found


def _place(result: dict[str, Any]) -> tuple[str, ...]:
    """Where a result's row stands in its table."""
    return machine_name(result["environment"]), result["model"], result["workload"], result["dtype"]


def comparison_table(results: list[dict[str, Any]]) -> str:
    """How many times as long the other ways took, one row each."""
    head = ["processor", "model", "workload", "against", "requests", "instsel", "the other", "ratio", "Spearman"]
    rows = []
    for r in sorted(
        results, key=lambda r: (machine_name(r["environment"]), r["model"], r["workload"], r["dtype"], -r["ratio"])
    ):
        spearman = r["agreement"]["spearman"]
        rows.append(
            [
                machine_name(r["environment"]),
                r["model"],
                f"{r['workload']} x {r['size']}",
                WAYS[r["against"]] + (f" (batch {r['batch_size']})" if r["batch_size"] > 1 else ""),
                str(r["requests"]),
                f"{SHORT[r['dtype']]} {r['instsel_seconds']:.2f} s",
                f"{SHORT[r['against_dtype']]} {r['against_seconds']:.1f} s",
                f"**{r['ratio']:.1f}** ({len(r['pairs'])} {'pair' if len(r['pairs']) == 1 else 'pairs'})",
                f"{spearman:.4f}",
            ]
        )
    return table(head, rows)


def engine_table(results: list[dict[str, Any]]) -> str:
    """Time against the arithmetic floor."""
    head = ["processor", "model", "workload", "dtype", "tree tokens", "unshared", "seconds", "tokens/s", "of the floor"]
    head += ["torch's layer products alone", "memory"]
    rows = []
    for r in sorted(results, key=_place):
        seconds = statistics.median(r["seconds"])
        peak = r["peak_extra_bytes"]
        rows.append(
            [
                machine_name(r["environment"]),
                r["model"],
                f"{r['workload']} x {r['size']}",
                SHORT[r["dtype"]],
                f"{r['tokens_forwarded']:,}",
                f"{r['tokens_unshared']:,}",
                f"{seconds:.2f}",
                f"{r['tokens_forwarded'] / seconds:,.0f}",
                f"**{r['fraction_of_floor']:.0%}** of {max(r['matrix_rates']) / 1e12:.2f} TFLOP/s",
                f"{max(r['layers_rates']) / max(r['matrix_rates']):.0%}",
                "" if peak is None else f"{peak / 2**20:,.0f} MiB at {r['max_batch_tokens']:,} tokens",
            ]
        )
    return table(head, rows)


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


def beside_table(results: list[dict[str, Any]]) -> str:
    """How many times its time alone a run took beside busy processes, and how near to its fair share that is."""
    rows, commits = [], set()
    for r in sorted(results, key=lambda r: (machine_name(r["environment"]), r["what"])):
        if r["quota"] is not None:
            continue
        shares = [f"{n['times_alone']:.1f} ({n['times_fair_share']:.2f})" for n in r["rows"] if n["busy"]]
        busy = [str(n["busy"]) for n in r["rows"] if n["busy"]]
        rows.append([machine_name(r["environment"]), r["what"].replace("_", " "), ", ".join(busy), ", ".join(shares)])
        commits.add(r["environment"]["commit"])
    if not rows:
        return "No results yet."
    head = ["processor", "run", "busy processes beside", "times its time alone (of the fair share)"]
    return f"{table(head, rows)}\n\nMeasured by `benchmarks/beside_others.py` at {', '.join(sorted(commits))}."


def drift_table(results: list[dict[str, Any]]) -> str:
    """By how much scores move with the composition of their batch, one row each, without what was refused."""
    head = [
        "processor",
        "model",
        "dtype",
        "backend",
        "largest",
        "median",
        "ranks",
        "one at a time from fp32",
        "same call twice",
    ]
    cells = [cell for r in results for cell in r["results"] if "refused" not in cell]
    dtypes = ("float32", "bfloat16", "float16")
    cells.sort(key=lambda c: (machine_name(c["environment"]), c["model"], dtypes.index(c["dtype"]), c["backend"]))
    rows = [
        [
            machine_name(c["environment"]),
            c["model"],
            SHORT[c["dtype"]],
            f"{c['backend']} on {c['device']}",
            f"{c['largest']:.1e}",
            f"{c['median']:.1e}",
            f"{c['largest_rank_change']} of {c['requests']}",
            "" if c["dtype"] == "float32" else f"{c['largest_from_float32']:.1e}",
            "same bits" if c["same_call_same_bits"] else "**other bits**",
        ]
        for c in cells
    ]
    commits = ", ".join(sorted({c["environment"]["commit"] for c in cells}))
    return f"{table(head, rows)}\n\nMeasured by `benchmarks/drift.py` at {commits}." if cells else "No results yet."


def harness_table(results: list[dict[str, Any]]) -> str:
    """Seconds of the harness's own model, at its fastest batch size, and of ours, one row each."""
    head = ["processor", "threads, load", "model", "dtype", "questions", "header", "`hf`", "`instsel`", "ratio"]
    head += ["of the processor's time", "largest difference"]
    rows = []
    for r in (one for result in results for one in result["results"]):
        seconds = {name: statistics.median(times) for name, times in r["seconds"].items()}
        ours = seconds.pop("instsel")
        spent = {name: statistics.median(times) for name, times in r.get("processor_seconds", {}).items()}
        way = min(seconds, key=lambda name: seconds[name])
        rows.append(
            [
                machine_name(r["environment"]),
                f"{r['environment']['threads']}, {(r['environment']['load'] or [float('nan')])[0]:.0f}",
                r["model"],
                SHORT[r["dtype"]],
                f"{r['questions']}, {r['requests'] // r['questions']} options each",
                f"{r['header_tokens']} tokens",
                f"{seconds[way]:.1f} s ({way.removeprefix('hf, ')})",
                f"{ours:.2f} s",
                f"**{seconds[way] / ours:.1f}**",
                f"{spent[way] / spent['instsel']:.1f}" if spent else "",
                f"{max(r['largest_difference'].values()):.0e} nats a token",
            ]
        )
    if not rows:
        return "No results yet."
    commits = ", ".join(sorted({one["environment"]["commit"] for result in results for one in result["results"]}))
    return f"{table(head, sorted(rows))}\n\nMeasured by `benchmarks/harness.py` at {commits}."


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def text(found: dict[str, list[dict[str, Any]]]) -> str:
    """Everything between the marks."""
    taken = [r["environment"] for name in ("compare", "engine") for r in found.get(name, [])]
    machines = sorted(
        {
            f"{machine_name(e)} is {e.get('gpu', e['processor'])}, {e['cores']} cores, "
            f"PyTorch {e['torch']}, transformers {e['transformers']}"
            for e in taken
        }
    )
    commits = ", ".join(sorted({e["commit"] for e in taken}))
    parts = [f"Measured on: {'; '.join(machines)}; commits {commits}." if taken else "No results yet."]
    if found.get("compare"):
        parts.append(comparison_table(found["compare"]))
    if found.get("engine"):
        parts.append(engine_table(found["engine"]))
    return "\n\n".join(parts)


def insert(document: str, content: str, section: str = "speed") -> str:
    """The document with the content between its section's marks; ValueError where it lacks them."""
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    if document.count(begin) != 1 or document.count(end) != 1 or document.index(begin) > document.index(end):
        raise ValueError(f"expected the lines {begin} and {end} once each, in this order")
    before, _, rest = document.partition(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"


def sections(found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Each table by its name."""
    return {
        "chosen": chosen_table(found.get("compare", [])),
        "speed": text(found),
        "harness": harness_table(found.get("harness", [])),
        "drift": drift_table(found.get("drift", [])),
        "beside": beside_table(found.get("beside_others", [])),
    }


def main(arguments: list[str]) -> None:
    """Print the tables, or put them into the documents."""
    content = sections(load())
    if arguments != ["--write"]:
        print("\n\n".join(content.values()))
        return
    documents = {name: (ROOT / name).read_text() for name in DOCUMENTS}
    for section, part in content.items():
        holding = [name for name, text in documents.items() if f"<!-- {section}:begin -->" in text]
        if len(holding) != 1:
            sys.exit(f"{section}: expected its marks in one of {', '.join(DOCUMENTS)}, got {len(holding)}")
        documents[holding[0]] = insert(documents[holding[0]], part, section)
    for name, text in documents.items():
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
