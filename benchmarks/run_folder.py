"""What a run folder costs: the time of a whole command over the time that its scoring takes by itself.

    python benchmarks/run_folder.py ROWS.jsonl --model NAME [--limit N]

The model is loaded before the clock starts. "folder" is everything else that the command does: digests, keeping the
rows, checking them, shards, manifest, merging.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import instsel.engine.scorer as scoring
from instsel.cli import main
from instsel.runs.manifest import environment


def measure(rows: str, model: str, method: str, limit: int, device: str) -> dict[str, object]:
    """Run one command and split its time."""
    scorer = scoring.Scorer(model, device=device)
    scorer.model, scorer.tokenizer  # noqa: B018 - loads both
    scoring.load_model = lambda source: scorer.model
    scoring.load_tokenizer = lambda source: scorer.tokenizer
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "run")
        arguments = [method, rows, "--model", model, "--device", device, "--output", output, "--quiet"]
        main([*arguments, "--limit", "16"])  # warms up what is compiled or mapped at the first call
        began = time.perf_counter()
        code = main([*arguments, "--limit", str(limit), "--overwrite"])
        whole = time.perf_counter() - began
        manifest = json.loads((Path(output) / "manifest.json").read_text())
    scored = manifest["stats"]["seconds"]
    return {
        "method": method,
        "exit_code": code,
        "rows": manifest["rows"],
        "tokens_forwarded": manifest["stats"]["tokens_forwarded"],
        "seconds": round(whole, 3),
        "scoring_seconds": round(scored, 3),
        "folder_overhead": round(whole / scored - 1, 4),
        "environment": environment(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows")
    parser.add_argument("--model", required=True)
    parser.add_argument("--method", default="ifd", choices=("score", "ifd"))
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    print(json.dumps(measure(given.rows, given.model, given.method, given.limit, given.device), indent=2))
