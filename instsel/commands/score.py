"""`instsel score`: the log-probability of every answer given its prompt."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from instsel.commands.options import add_input_options, add_model_options, add_run_options
from instsel.commands.session import Method, Session, stats_of
from instsel.runs.shards import Stage

if TYPE_CHECKING:
    from instsel.engine.scorer import Request

_COLUMNS = ("mean_logprob", "sum_logprob", "num_tokens", "is_greedy", "status")


def add_parser(commands: Any) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("score", help="log-probability of each answer given its prompt")
    add_input_options(parser)
    add_model_options(parser)
    add_run_options(parser, shard_rows=1024)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Any) -> int:
    """Score every row."""
    from instsel.commands.scoring import run_scoring

    return run_scoring(Method("score", "example", lambda args: {}, _stages, _requests), args, interrupts)


def _requests(session: Session, rows: range) -> list[Request]:
    from instsel.prompts import prompt_and_answer

    template, tokenizer = session.args.template, session.scorer.tokenizer
    numbered = zip(rows, session.examples(rows), strict=True)
    return [prompt_and_answer(template, example, tokenizer=tokenizer, row=row) for row, example in numbered]


def _stages(session: Session) -> Iterator[Stage]:
    from instsel.engine.scorer import score_batch

    def compute(rows: range) -> Any:
        batch = score_batch(
            session.scorer, _requests(session, rows), max_length=session.args.max_length, progress=session.tokens
        )
        return {name: getattr(batch, name) for name in _COLUMNS}, stats_of(batch.stats)

    yield Stage("score", len(session.rows), session.args.shard_rows, compute)
