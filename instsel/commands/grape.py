"""`instsel grape`: of several answers to one instruction, the one that the model finds likeliest."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from instsel.commands.options import add_input_options, add_model_options, add_run_options
from instsel.commands.session import Method, Session, stats_of
from instsel.runs.shards import Stage

if TYPE_CHECKING:
    from instsel.engine.scorer import Request


def add_parser(commands: Any) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("grape", help="of several answers, the one that the model finds likeliest")
    add_input_options(parser)
    add_model_options(parser)
    parser.add_argument(
        "--normalize", choices=("mean", "sum"), default="mean", help="log-probability a token, or whole"
    )
    parser.add_argument("--include-eos", action="store_true", help="score the end-of-sequence token too")
    add_run_options(parser, shard_rows=512)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Any) -> int:
    """Score every group."""
    from instsel.commands.scoring import run_scoring

    return run_scoring(Method("grape", "group", _parameters, _stages, _requests), args, interrupts)


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    return {"normalize": args.normalize, "include_eos": args.include_eos}


def _requests(session: Session, rows: range) -> list[Request]:
    from instsel.methods.grape import grape_requests

    args = session.args
    groups = dict(zip(rows, session.groups(rows), strict=True))
    return grape_requests(session.scorer, groups, rows, args.template, args.include_eos, args.max_length)


def _stages(session: Session) -> Iterator[Stage]:
    from instsel.methods.grape import combine_grape, grape_rows

    args = session.args

    def compute(rows: range) -> Any:
        columns, stats = grape_rows(
            session.scorer,
            dict(zip(rows, session.groups(rows), strict=True)),
            rows,
            template=args.template,
            include_eos=args.include_eos,
            max_length=args.max_length,
            progress=session.tokens,
        )
        best, scores = combine_grape(columns, args.normalize)
        return {"best": best, "scores": scores, "status": columns["status"]}, stats_of(stats)

    yield Stage("grape", len(session.rows), args.shard_rows, compute)
