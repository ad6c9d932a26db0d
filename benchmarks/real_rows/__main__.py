"""What selection is worth with a real model and real rows: tune on what each rule selects, meet rows held out.

    cd benchmarks && python -m real_rows --work FOLDER --model google/gemma-3-270m --rows alpaca.jsonl \
        --records results/real_rows.jsonl [--only confirming]

Several files are one mixed pool. Every tuning is a line of `--records`; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from real_rows import plan
from real_rows.cells import Study


def main(arguments: list[str] | None = None) -> int:
    """Run the cells that have no record yet."""
    parser = argparse.ArgumentParser(prog="python -m real_rows", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for scores, kept by pools")
    parser.add_argument("--model", required=True, help="folder or hub id of the model that scores and is tuned")
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="files of examples, one pool together")
    parser.add_argument("--records", type=Path, required=True, help="JSON lines, one a tuning")
    parser.add_argument(
        "--only", choices=plan.PARTS, action="append", help="parts of the plan (default: all, in their order)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="only these seeds (default: all of the part)")
    parser.add_argument("--rules", nargs="+", help="only these rules (default: all of the part)")
    parser.add_argument("--candidates", type=Path, help="questions with right and wrong answers, to rank after tuning")
    parser.add_argument("--device", default="cpu", help="where the model is (default: cpu)")
    options = parser.parse_args(arguments)
    study = Study(options.work, options.model, options.rows, options.records, options.device, options.candidates)
    for part in options.only or plan.PARTS:
        for cell in plan.PARTS[part]():
            wanted = options.seeds is None or cell.seed in options.seeds
            if wanted and (options.rules is None or cell.rule in options.rules):
                study.run(part, cell)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
