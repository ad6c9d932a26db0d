"""Facility location beside libraries that do it: the same objective, its value and the time, in turns.

    python benchmarks/facility_location.py [--rows 10000 50000] [--against apricot submodlib] [--output FILE.json]

Embeddings are drawn as for `selection.py` and all scores are equal, so that the objective is plain facility location:
the sum over rows of their best similarity to a chosen one, similarities being those between a row and its 32 nearest.
A tenth of the rows is chosen. Both libraries get these similarities ready, as a sparse matrix, and are timed for lazy
greedy alone; instsel is timed for all that it does (`whole_seconds`: unit vectors, neighbours, greedy) and for what is
left without the search for neighbours (`greedy_seconds`). The value of each choice is computed here from the same
matrix. The libraries are no part of the project: install apricot-select and submodlib-py where they are to be measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from scipy.sparse import csr_matrix, identity
from selection import drawn

from instsel.neighbors.nearest import Neighbors, nearest_neighbors
from instsel.selection import facility_location, select

NEIGHBORS = 32


def similarities(embeddings: np.ndarray) -> csr_matrix:
    """Positive cosines between rows and their nearest, either way; each row has 1 to itself."""
    near = nearest_neighbors(embeddings, NEIGHBORS)
    row, place = np.nonzero(near.similarity > 0)
    shape = (len(embeddings), len(embeddings))
    found = csr_matrix((near.similarity[row, place], (row, near.index[row, place])), shape)
    return found.maximum(found.T).maximum(identity(shape[0], format="csr")).tocsr()


def value(similarity: csr_matrix, chosen: np.ndarray) -> float:
    """Sum over rows of the highest similarity to a chosen one."""
    return float(similarity[chosen].max(axis=0).sum())


def with_instsel(embeddings: np.ndarray, budget: int) -> tuple[np.ndarray, dict[str, float]]:
    """The rows, and seconds for everything and without the search."""
    search, searched = facility_location.nearest_neighbors, []

    def timed(*given: Any) -> Neighbors:
        begin = time.perf_counter()
        found = search(*given)
        searched.append(time.perf_counter() - begin)
        return found

    facility_location.nearest_neighbors = timed
    try:
        begin = time.perf_counter()
        chosen = select(np.ones(len(embeddings)), budget, embeddings=embeddings, coverage="facility-location")
        whole = time.perf_counter() - begin
    finally:
        facility_location.nearest_neighbors = search
    return chosen, {"whole_seconds": whole, "greedy_seconds": whole - sum(searched)}


def with_apricot(similarity: csr_matrix, budget: int) -> np.ndarray:
    """apricot-select's lazy greedy on similarities that are given."""
    from apricot import FacilityLocationSelection

    return FacilityLocationSelection(budget, metric="precomputed", optimizer="lazy").fit(similarity).ranking


def with_submodlib(similarity: csr_matrix, budget: int) -> np.ndarray:
    """submodlib-py's lazy greedy on similarities that are given."""
    from submodlib import FacilityLocationFunction

    widest = int(np.diff(similarity.indptr).max())
    function = FacilityLocationFunction(similarity.shape[0], mode="sparse", sijs=similarity, num_neighbors=widest)
    found = function.maximize(budget, optimizer="LazyGreedy", stopIfZeroGain=False, show_progress=False)
    return np.array([row for row, _ in found])


AGAINST: dict[str, Callable[[csr_matrix, int], np.ndarray]] = {"apricot": with_apricot, "submodlib": with_submodlib}


def compare(rows: int, dimension: int, against: str, pairs: int) -> dict[str, Any]:
    """One result."""
    embeddings = drawn(rows, dimension)["embeddings"]
    similarity, budget = similarities(embeddings), rows // 10
    AGAINST[against](similarities(embeddings[:500]), 20)  # compiles, where it has to
    found: list[dict[str, float]] = []
    for _ in range(pairs):
        ours, seconds = with_instsel(embeddings, budget)
        begin = time.perf_counter()
        theirs = AGAINST[against](similarity, budget)
        found.append({**seconds, "against_greedy_seconds": time.perf_counter() - begin})
    return {
        "rows": rows,
        "dimension": dimension,
        "budget": budget,
        "against": against,
        "pairs": found,
        "ratio_of_greedy": statistics.median(p["against_greedy_seconds"] / p["greedy_seconds"] for p in found),
        "instsel_value": value(similarity, ours),
        "against_value": value(similarity, theirs),
        "rows_in_common": len(set(ours.tolist()) & set(theirs.tolist())),
        "environment": environment(),
    }


def main() -> None:
    """Compare, print one line each, and with `--output` write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--against", nargs="+", choices=AGAINST, default=list(AGAINST))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    results = []
    for rows in given.rows:
        for against in given.against:
            results.append(compare(rows, given.dimension, against, given.pairs))
            shown = {key: found for key, found in results[-1].items() if key != "environment"}
            print(json.dumps(shown), flush=True)
            if given.output:
                given.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
