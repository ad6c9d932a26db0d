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
from speed_tables import SHORT, chosen_table, table, text

RESULTS = Path(__file__).with_name("results")
ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/integrations.md", "docs/processors.md", "docs/project/speed.md")


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
    head = ["model", "dtype", "backend", "largest", "median", "ranks", "one at a time from fp32"]
    cells = [cell for r in results for cell in r["results"] if "refused" not in cell]
    dtypes = ("float32", "bfloat16", "float16")
    cells.sort(key=lambda c: (machine_name(c["environment"]), c["model"], dtypes.index(c["dtype"]), c["backend"]))
    machines = sorted({machine_name(c["environment"]) for c in cells})
    rows = [
        [
            *([machine_name(c["environment"])] if len(machines) > 1 else []),
            c["model"],
            SHORT[c["dtype"]],
            f"{c['backend']} on {c['device']}",
            f"{c['largest']:.1e}",
            f"{c['median']:.1e}",
            str(c["largest_rank_change"]),
            "" if c["dtype"] == "float32" else f"{c['largest_from_float32']:.1e}",
        ]
        for c in cells
    ]
    if not cells:
        return "No results yet."
    other = [f"{c['model']} {SHORT[c['dtype']]} {c['backend']}" for c in cells if not c["same_call_same_bits"]]
    again = f"**other bits** by {', '.join(other)}" if other else "the same bits in every row"
    commits = ", ".join(sorted({c["environment"]["commit"] for c in cells}))
    return (
        f"{table(['processor'] * (len(machines) > 1) + head, rows)}\n\nThe same call twice gave {again}. Measured by "
        f"`benchmarks/drift.py` on {', '.join(machines)} at {commits}."
    )


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
    for name, document in documents.items():
        (ROOT / name).write_text(document)


if __name__ == "__main__":
    main(sys.argv[1:])
