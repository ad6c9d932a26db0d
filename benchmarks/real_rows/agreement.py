"""How far two models agree on which rows are the worst of their length, by IFD.

    cd benchmarks && python -m real_rows.agreement --models SMALL LARGE --rows alpaca.jsonl medquad.jsonl \
        --output results/real_rows_agreement.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

import instsel
from instsel.records import to_examples
from instsel.records.files import read_rows
from instsel.selection.length_strata import rank_within_strata
from instsel.selection.procedures import DEFAULT, WORST_STRATA, worst_share


def agreement(first: np.ndarray, second: np.ndarray, words: np.ndarray) -> dict[str, float]:
    """Of two models' IFD [n] of the same rows: rank correlations, and how many of the worst rows are the same.

    `worst_in_common` is the share of the rows that the recommended selection would leave out by the first model which
    it would leave out by the second too; `by_chance` what models that know nothing of each other have.
    """
    from scipy import stats

    known = np.isfinite(first) & np.isfinite(second)
    share = worst_share(DEFAULT) or 0.0
    ranks = [rank_within_strata(one, words, known, WORST_STRATA) for one in (first, second)]
    worst = [(rank > 1 - share) & known for rank in ranks]
    return {
        "rows": int(known.sum()),
        "correlation": float(stats.spearmanr(first[known], second[known]).statistic),
        "correlation_of_like_length": float(stats.spearmanr(*(rank[known] for rank in ranks)).statistic),
        "correlation_with_length": float(stats.spearmanr(second[known], words[known]).statistic),
        "worst_in_common": float(np.mean(worst[1][worst[0]])),
        "by_chance": float(np.mean(worst[1][known])),
    }


def measured(models: Sequence[str], file: Path, most: int) -> dict[str, Any]:
    """Both models' agreement on the first rows of a file."""
    rows = to_examples(read_rows(file))[:most]
    words = np.array([len(row.response.split()) for row in rows], np.float64)
    found = [instsel.ifd(instsel.Scorer(model, dtype="bfloat16"), rows, template="alpaca").ifd for model in models]
    return {"source": file.stem, **agreement(found[0], found[1], words)}


def agreement_lines(found: Mapping[str, Any]) -> str:
    """What was measured, a line for each file."""
    first, second = found["models"]
    return "\n".join(
        f"- {one['source']}, {one['rows']} rows: of the rows that {first} would leave out, {second} would too: "
        f"{one['worst_in_common']:.0%} (chance: {one['by_chance']:.0%}); rank correlation of their IFD "
        f"{one['correlation']:.2f}, among answers of like length {one['correlation_of_like_length']:.2f}"
        for one in found["agreement"]
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m real_rows.agreement", description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs=2, required=True, help="folders or hub ids")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="files of examples")
    parser.add_argument("--most", type=int, default=1000, help="rows of each file at most (default: 1000)")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    found = {
        "environment": environment(),
        "models": [Path(model).name for model in options.models],
        "agreement": [measured(options.models, file, options.most) for file in options.rows],
    }
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["agreement"], indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
