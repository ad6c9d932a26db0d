"""`instsel wici`: how much each example, shown before others, makes them easier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsel.commands.options import add_input_options, add_model_options, add_run_options, positive
from instsel.commands.session import Method, Session

if TYPE_CHECKING:
    from instsel.engine.scorer import Request


def add_parser(commands: Any) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("wici", help="weighted in-context influence")
    add_input_options(parser)
    add_model_options(parser)
    parser.add_argument("--rule", choices=("paper", "release"), default="paper", help="how influences are combined")
    parser.add_argument("--num-neighbors", type=positive, default=32, metavar="N", help="nearest rows to choose from")
    parser.add_argument("--num-probes", type=positive, default=5, metavar="K", help="of them shown to")
    parser.add_argument("--probes", type=Path, metavar="NPY", help="rows [n, k] to show each row to, -1 for none")
    parser.add_argument("--similarity", type=Path, metavar="NPY", help="cosines [n, k] to these probes")
    parser.add_argument(
        "--embedder", metavar="NAME", help="sentence-transformers model or .npy array; default the scoring model"
    )
    parser.add_argument(
        "--complexity", default="length", metavar="ORDER", help="length, ifd, deita, a column or a .npy array"
    )
    parser.add_argument("--complexity-model", metavar="NAME", help="rating model for --complexity deita")
    parser.add_argument("--cut-demonstration", action="store_true", help="cut a demonstration from its left to fit")
    add_run_options(parser, shard_rows=512)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Any) -> int:
    """Score every row."""
    from instsel.commands.influence_stages import findings, stages
    from instsel.commands.scoring import run_scoring

    if args.num_probes > args.num_neighbors:
        raise ValueError(f"--num-probes {args.num_probes} is more than --num-neighbors {args.num_neighbors}")
    if args.similarity is not None and args.probes is None:
        raise ValueError("--similarity was given without the --probes that it belongs to")
    if args.complexity_model is not None and args.complexity != "deita":
        raise ValueError("--complexity-model is for --complexity deita only")
    return run_scoring(Method("wici", "example", _parameters, stages, _requests, findings), args, interrupts)


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    from instsel.runs.fingerprints import model_fingerprint

    rating = model_fingerprint(args.complexity_model, None)["model_digest"] if args.complexity_model else None
    return {
        "rule": args.rule,
        "num_neighbors": args.num_neighbors,
        "num_probes": args.num_probes,
        "probes": _array_digest(args.probes),
        "similarity": _array_digest(args.similarity),
        "embedder": _array_digest(args.embedder) if str(args.embedder).endswith(".npy") else args.embedder,
        "complexity": _array_digest(args.complexity) if args.complexity.endswith(".npy") else args.complexity,
        "complexity_model": rating,
        "cut_demonstration": args.cut_demonstration,
    }


def _array_digest(path: Path | str | None) -> str | None:
    from instsel.runs.durable_files import digest_file

    return None if path is None else digest_file(Path(path))


def _requests(session: Session, rows: range) -> list[Request]:
    """As many pairs as there will be; which rows the probes are takes a forward to know, so the next ones stand in."""
    import numpy as np

    from instsel.methods.difficulty import direct_requests
    from instsel.methods.influence import influence_requests

    args, count = session.args, len(session.rows)
    width = min(args.num_probes, count - 1)
    probes = np.full((count, args.num_probes), -1)
    probes[:, :width] = (np.arange(count)[:, None] + 1 + np.arange(width)) % count
    wanted = {*rows, *probes[rows.start : rows.stop, :width].ravel().tolist()}
    examples = session.numbered_examples(wanted)
    own, _, pairs, _ = influence_requests(
        session.scorer, examples, rows, probes, args.template, args.max_length, args.cut_demonstration
    )
    return [*direct_requests(session.scorer, examples, rows, args.template), *own, *pairs]
