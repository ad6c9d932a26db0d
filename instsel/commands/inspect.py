"""`instsel inspect INPUT...`: how a pool is read, and what a model would see of it, before anything is scored."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from instsel.commands.arguments import Subcommands
from instsel.commands.flags import INPUT, MODEL_NAME, PROMPTS, add_method_flags, add_options
from instsel.methods.perplexity import perplexity
from instsel.terminal import complain, escaped, say

if TYPE_CHECKING:
    from instsel.runner.pool_summary import ControlTokens, PoolSummary
    from instsel.runner.seen_text import Piece, SeenRow
    from instsel.runs.interrupts import Interrupts

_COLOUR = ("\x1b[30;42m", "\x1b[0m")  # of what is scored: a background, which shows blanks too
_BRACKETS = ("[[", "]]")
_QUANTILES = {"5%": 0.05, "50%": 0.5, "95%": 0.95, "99%": 0.99, "longest": 1.0}
_KINDS = 20  # of odd rows
_CONTROL_TOKENS = 5  # named
_END = 600  # characters shown of a long text's beginning, and of its end
_WHOLE = 10_000  # of a template


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    parser = commands.add_parser(
        "inspect",
        help="how a pool is read, what is odd in it, what the model sees and how long it is; loads no weights",
    )
    add_options(parser, *INPUT, *MODEL_NAME, *PROMPTS)
    add_method_flags(parser, perplexity.method)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Print what is to know of a pool."""
    from instsel.commands.method_command import configuration_of
    from instsel.runner.configuration import Messages
    from instsel.runner.pool_summary import summarise_pool
    from instsel.runner.scored_run import checked_input

    configuration = configuration_of(perplexity.method, args)
    messages = Messages(partial(complain, "warning"), partial(complain, "note"), interrupts)
    summary = summarise_pool(configuration, checked_input(configuration), messages)
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    say("\n".join(summary_lines(summary, _COLOUR if coloured else _BRACKETS)))
    return 0


def summary_lines(summary: PoolSummary, marks: tuple[str, str]) -> Iterator[str]:
    """The summary in lines, what is scored between `marks`."""
    count, layout = len(summary.statuses), summary.layout
    yield f"{escaped(summary.source.name)}: {summary.source.format}, {count:,} rows, read as {layout.name}"
    for name, column in layout.columns.items():
        yield f"  {name:<16}{escaped(repr(column))}"
    if others := [name for name in summary.columns if name not in layout.columns.values()]:
        yield f"  {'other columns':<16}{escaped(', '.join(map(repr, others)))}"
    yield f"template: {escaped(repr(summary.template), limit=_WHOLE)}, {escaped(summary.why)}"
    if summary.unread:
        yield f"not part of the prompt: {escaped(summary.unread)}"
    yield "\nrows"
    yield from (f"  {status:<16}{rows:>10,}  {rows / max(count, 1):6.1%}" for status, rows in summary.counts.items())
    for odd in summary.odd[:_KINDS]:
        rows = "1 row" if odd.count == 1 else f"{odd.count:,} rows, the first"
        yield f"  {odd.status}, {rows}: {escaped(f'{odd.place}: {odd.reason}')}"
    if len(summary.odd) > _KINDS:
        yield f"  and {len(summary.odd) - _KINDS:,} more kinds"
    if summary.control.rows:
        yield _control_line(summary.control)
    yield from _length_lines(summary)
    for row in summary.shown:
        yield from _row_lines(row, marks)
    if summary.shown:
        yield f"\n{marks[0]}scored{marks[1]}: the tokens whose log-probabilities count"


def _control_line(control: ControlTokens) -> str:
    tokens = [token for token, _ in control.tokens.most_common(_CONTROL_TOKENS)]
    shown = ", ".join(tokens) + (", ..." if len(control.tokens) > len(tokens) else "")
    rows, theirs = ("1 row holds", "its texts") if control.rows == 1 else (f"{control.rows:,} rows hold", "their texts")
    place = control.place if control.rows == 1 else f"the first {control.place}"
    told = f"{rows} control tokens of the tokenizer in {theirs} ({shown}), {place}: the model reads these as such"
    return f"  {escaped(told)}"


def _length_lines(summary: PoolSummary) -> Iterator[str]:
    if not summary.lengths:
        return
    yield f"\ntokens, of {len(summary.lengths):,} answer{'s' * (len(summary.lengths) != 1)}"
    yield f"  {'':<16}" + "".join(f"{name:>10}" for name in _QUANTILES)
    for name, values in (("with the prompt", summary.lengths), ("scored", summary.scored)):
        found = np.quantile(np.array(values, np.float64), list(_QUANTILES.values()), method="inverted_cdf")
        yield f"  {name:<16}" + "".join(f"{_number(value, summary.limit):>10}" for value in found)
    if summary.limit is None:
        yield "  the model's configuration states no context"
    else:
        yield f"  longer than {summary.limit:,} tokens, the model's context or --max-length: {summary.exceeding:,}"


def _number(value: float, limit: int | None) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else f">{limit:,}"


def _row_lines(row: SeenRow, marks: tuple[str, str]) -> Iterator[str]:
    of = f", the first of {row.answers} answers" if row.answers > 1 else ""
    yield f"\n{escaped(row.place)}{of}: {row.tokens:,} tokens, {row.scored:,} scored"
    for pieces in row.sequences:
        yield "".join(_shown(piece, marks) for piece in pieces)


def _shown(piece: Piece, marks: tuple[str, str]) -> str:
    """A piece's text, its middle left out where it is long, and nothing in it that a terminal would obey."""
    text, left = piece.text, len(piece.text) - 2 * _END
    if left > 0:
        text = f"{text[:_END]}\n… {left:,} characters …\n{text[-_END:]}"
    lines = [escaped(line, limit=len(text)) for line in text.split("\n")]
    if not piece.is_scored:
        return "\n".join(lines)
    if marks is _COLOUR:  # line by line, or the background would reach to the terminal's edge
        return "\n".join(f"{marks[0]}{line}{marks[1]}" for line in lines)
    return marks[0] + "\n".join(lines) + marks[1]
