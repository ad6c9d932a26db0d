"""`instsel ifd`: how much of each answer's uncertainty is left when its prompt is known."""

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
    parser = commands.add_parser("ifd", help="instruction-following difficulty")
    add_input_options(parser)
    add_model_options(parser)
    parser.add_argument("--kind", choices=("ppl", "loss"), default="ppl", help="ratio of perplexities or of losses")
    add_run_options(parser, shard_rows=1024)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Any) -> int:
    """Score every row."""
    from instsel.commands.scoring import run_scoring

    return run_scoring(Method("ifd", "example", lambda args: {"kind": args.kind}, _stages, _requests), args, interrupts)


def _requests(session: Session, rows: range) -> list[Request]:
    from instsel.methods.difficulty import difficulty_requests

    return difficulty_requests(session.scorer, session.numbered_examples(rows), rows, session.args.template)


def _stages(session: Session) -> Iterator[Stage]:
    from instsel.methods.difficulty import difficulty_rows

    args = session.args

    def compute(rows: range) -> Any:
        columns, stats = difficulty_rows(
            session.scorer,
            session.numbered_examples(rows),
            rows,
            kind=args.kind,
            template=args.template,
            max_length=args.max_length,
            progress=session.tokens,
        )
        return columns, stats_of(stats)

    yield Stage("ifd", len(session.rows), args.shard_rows, compute)
