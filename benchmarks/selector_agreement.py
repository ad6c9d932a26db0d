"""Every selector on rows of a file against float64 forwards of one sequence at a time: the largest relative errors.

    python benchmarks/selector_agreement.py pool.jsonl [--rows 200] [--model FOLDER] [--output FILE]

The plain implementations are those that the tests hold the selectors to on a few rows (`tests/`). A number agrees
where it is within 1e-4 of the plain one, relative to it or to one where it is smaller. Ends with status 1 where one
does not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from one_by_one import OneByOne, plain  # noqa: E402
from test_deita import SHORT, expected  # noqa: E402
from test_nuggets import by_loop, score_by_loop  # noqa: E402
from test_rico import influences  # noqa: E402
from test_selectit import PROMPTS, sentence_level, token_levels  # noqa: E402

import instsel  # noqa: E402
from instsel.records.examples import to_examples  # noqa: E402
from instsel.records.files import read_rows  # noqa: E402

TOLERANCE = 1e-4
Rows = list[dict[str, str]]


def chosen_rows(path: Path, truth: OneByOne, count: int, longest: int) -> Rows:
    """The first rows of a file with an answer, which two of fit into the model's context."""
    found: Rows = []
    for example in to_examples(read_rows(path)):
        row = {"instruction": example.instruction, "input": example.input, "output": example.response}
        if row["output"].strip() and truth.length(plain(row) + row["output"]) <= longest:
            found.append(row)
        if len(found) == count:
            return found
    raise ValueError(f"{path} has {len(found)} rows of at most {longest} tokens, and {count} are wanted")


def comparisons(scorer: instsel.Scorer, truth: OneByOne, rows: Rows) -> Iterator[tuple[str, Any, Any]]:
    """Name, what a selector gives and what the plain way gives."""
    alone = np.array([truth.token_logprobs("", row["output"]).mean() for row in rows])
    after = np.array([truth.token_logprobs(plain(row), row["output"]).mean() for row in rows])
    yield "perplexity", instsel.perplexity(scorer, rows).perplexity, np.exp(-after)
    yield "ifd", instsel.ifd(scorer, rows).ifd, np.exp(alone - after)
    near = np.roll(np.arange(len(rows)), -7)
    shown = np.array([
        truth.token_logprobs(plain(rows[b], rows[a]), rows[b]["output"]).mean() for a, b in enumerate(near)
    ])  # fmt: skip
    found = instsel.wici(scorer, rows, probes=near[:, None], similarity=np.zeros((len(rows), 1)), rule="gain")
    yield "wici, gain", found.score, shown - after[near]
    yield "wici, one-shot IFD", found.one_shot_ifd[:, 0], np.exp(alone[near] - shown)
    back = np.roll(np.arange(len(rows)), 7)  # whose demonstration each row is
    yield "miwv", instsel.miwv(scorer, rows, neighbors=back).score, after - shown[back]
    groups = [
        {"instruction": row["instruction"], "input": row["input"], "candidates": [{"response": row["output"]}]}
        for row in rows
    ]
    yield "grape", [one[0] for one in instsel.grape(scorer, groups, normalize="mean").scores], after
    anchors = rows[3::50]
    zero_shot, one_shot = by_loop(truth, rows, anchors)
    nuggets = instsel.nuggets(scorer, rows, anchors, measure="gain")
    yield "nuggets, one-shot", nuggets.one_shot, one_shot
    yield "nuggets, gain", nuggets.score, score_by_loop(zero_shot, one_shot, "gain")
    tasks = anchors[:2]
    own = np.array([[row == task for task in tasks] for row in rows])  # left out by the selector
    want = np.where(own, np.nan, influences(truth, rows, tasks))
    yield "rico", instsel.rico(scorer, rows, assessment=tasks).influence, want
    for level in ("authors", "expected"):
        rated = instsel.selectit(scorer, rows, rating_prompts=PROMPTS, token_level=level)
        yield (
            f"selectit, {level}", rated.score, [sentence_level(token_levels(truth, row, level), 0.2) for row in rows]
        )  # fmt: skip
    product = [np.prod([expected(truth, prompt, row) for prompt in SHORT.values()]) for row in rows]
    yield "deita", instsel.deita(scorer, rows, **SHORT).score, product


def main() -> int:
    """Print a line for each selector; 1 where one disagrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--longest", type=int, default=150, help="tokens of a row")
    parser.add_argument("--model", default=str(ROOT / "instsel" / "demo" / "model"))
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    truth = OneByOne(options.model)
    rows = chosen_rows(options.pool, truth, options.rows, options.longest)
    scorer = instsel.Scorer(options.model, device="cpu", dtype="float32")
    lines = []
    for name, got, want in comparisons(scorer, truth, rows):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        same_gaps = bool((np.isnan(got) == np.isnan(want)).all())
        error = float(np.nanmax(np.abs(got - want) / np.maximum(np.abs(want), 1.0)))
        lines.append({"selector": name, "numbers": int(np.isfinite(want).sum()), "largest_error": error})
        lines[-1]["ok"] = same_gaps and error <= TOLERANCE
        print(
            "ok    " if lines[-1]["ok"] else "FAILED",
            f"{name}: {lines[-1]['numbers']} numbers, {error:.1e}",
            flush=True,
        )
    if options.output:
        about = {"benchmark": "selector_agreement", "rows": len(rows), "pool": options.pool.name}
        options.output.write_text(
            json.dumps({**about, "environment": environment(), "selectors": lines}, indent=1) + "\n", encoding="utf-8"
        )
    return int(not all(line["ok"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
