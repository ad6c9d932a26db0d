"""What a pool is before any model has seen it: how it is read, what is odd in it, what a model would see of it."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from instsel.engine.model import CausalModel
from instsel.engine.requests import Request, token_limit
from instsel.methods.refused_rows import answers_of, refused_rows
from instsel.methods.stages import UNREADABLE, RefusedRequest, StageSlice
from instsel.prompts.automatic_template import AUTO
from instsel.prompts.control_tokens import control_token_pattern, control_tokens_in
from instsel.records import Unreadable
from instsel.records.formats import Layout, detect_layout
from instsel.records.unread_keys import UnreadKeys
from instsel.runner.configuration import Messages, RunConfiguration
from instsel.runner.given_parameters import read_parameters
from instsel.runner.input_rows import InputRows, rows_for_now
from instsel.runner.run_settings import template_for
from instsel.runner.seen_text import SeenRow, TokenCount, count_tokens, seen_row
from instsel.runs.inputs import InputSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AT_A_TIME = 1024  # rows
_SHOWN = 3
_VALUE = re.compile(r"""(?<!column )(?<!\w)(['"]).*?\1(?!\w)|\d+""")  # what differs within one kind of reason


@dataclass(slots=True)
class OddRows:
    """Rows that have no number for one kind of reason: their status, the first one's reason and place, how many."""

    status: str
    reason: str
    first: int
    count: int = 0
    place: str = ""


@dataclass(slots=True)
class ControlTokens:
    """Rows whose own texts hold control tokens of the tokenizer: how many, how often each, the first."""

    rows: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    first: int = 0
    place: str = ""

    def add(self, row: int, found: set[str]) -> None:
        """Count a row in."""
        if found:
            self.first = self.first if self.rows else row
            self.rows += 1
            self.tokens.update(sorted(found))


@dataclass(slots=True)
class PoolSummary:
    """A pool as it is read, and as the template writes it.

    kind       "example" or "group"
    template   the template taken, and `why`
    statuses   of each row as `perplexity` would give it, of a group as `grape`: "ok" where there is something to score
    odd        rows that are not "ok", by kind
    control    rows that hold control tokens in their texts
    unread     what rows hold that the prompt does not, in words
    lengths    tokens of each answer with its prompt, of several turns the longest's; infinite where a text is so long
               that it is not even tokenised. Answers with nothing to score are left out
    scored     tokens of each that are scored
    limit      the longest sequence that the model would take; None where nothing says
    shown      some rows as the model would see them
    """

    source: InputSource
    columns: list[str]
    layout: Layout
    kind: str
    template: str | tuple[str, str]
    why: str
    limit: int | None
    unread: str = ""
    statuses: list[str] = field(default_factory=list)
    odd: list[OddRows] = field(default_factory=list)
    control: ControlTokens = field(default_factory=ControlTokens)
    lengths: list[float] = field(default_factory=list)
    scored: list[float] = field(default_factory=list)
    shown: list[SeenRow] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status, "ok" first."""
        return dict(sorted(Counter(self.statuses).items(), key=lambda one: (one[0] != "ok", one[0])))

    @property
    def exceeding(self) -> int:
        """How many sequences are longer than the model takes."""
        return 0 if self.limit is None else int((np.array(self.lengths) > self.limit).sum())


def summarise_pool(configuration: RunConfiguration, source: InputSource, messages: Messages) -> PoolSummary:
    """Read all rows, write them by the template and count their tokens; loads a tokenizer and no weights.

    The configuration's method says what is scored, of groups that of each answer.

    Raises ValueError where no format fits the columns, or the template cannot be used at all.
    """
    with rows_for_now(source) as (rows, columns):
        configuration = _of_kind(configuration, columns)
        scorer = configuration.model_options.open_scorer()
        outline = scorer.outline  # a model that is none is said before its tokenizer
        configuration, why = _with_reason(configuration, source, scorer.tokenizer)
        inputs = InputRows.of(configuration, rows, columns)
        parameters = read_parameters(configuration, inputs.numbers)
        part: StageSlice = StageSlice(range(0), len(inputs), parameters, scorer)
        summary = PoolSummary(
            source=source,
            columns=columns,
            layout=inputs.reader.layout,
            kind=configuration.method.rows,
            template=configuration.whole_template,
            why=why,
            limit=token_limit(outline, parameters.max_length),
        )
        tokenizer = scorer.tokenizer
        assert tokenizer is not None  # the model is one by name
        control = control_token_pattern(tokenizer)
        unread, odd = UnreadKeys(), dict[tuple[str, str], OddRows]()
        for start in range(0, len(inputs), _AT_A_TIME):
            messages.interrupts.check()
            records = inputs.read(range(start, min(start + _AT_A_TIME, len(inputs))), unread)
            if control is not None:
                for row, record in records.items():
                    summary.control.add(row, control_tokens_in(record, control))
            reasons = {row: one.reason for row, one in records.items() if isinstance(one, Unreadable)}
            reasons |= refused_rows(records, parameters, scorer, unread)
            _add(summary, part, outline, records, reasons, odd)
        summary.unread = unread.summary()
        summary.odd = sorted(odd.values(), key=lambda one: (-one.count, one.first))
        chosen = _spread([row for row, status in enumerate(summary.statuses) if status == "ok"])
        controlled = [summary.control.first] if summary.control.rows else []
        places = source.places([*(one.first for one in summary.odd), *controlled, *chosen])
        summary.control.place = places.get(summary.control.first, "")
        for one in summary.odd:
            one.place = places[one.first]
        for row, record in inputs.read(chosen).items():
            requests = [request for _, request in _requests(part, row, record)]
            summary.shown.append(seen_row(row, places[row], requests, tokenizer, outline))
    return summary


def _of_kind(configuration: RunConfiguration, columns: list[str]) -> RunConfiguration:
    """The configuration with a method that reads groups of candidates, where nothing else fits the columns."""
    kinds: tuple[Literal["example", "group"], ...] = ("example", "group")
    for kind in kinds:
        with contextlib.suppress(ValueError):
            detect_layout(columns, configuration.columns, kind=kind)
            return replace(configuration, method=replace(configuration.method, rows=kind))
    return configuration  # reading them says what is wrong


def _with_reason(
    configuration: RunConfiguration, source: InputSource, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[RunConfiguration, str]:
    """The configuration with a template's name in place of `auto`, and why that one."""
    if configuration.template != AUTO or configuration.template_without_input is not None:
        return configuration, "as --template says"
    template, reason = template_for(configuration, source, tokenizer)
    return replace(configuration, template=template), reason or "the tokenizer has no chat template"


def _requests(part: StageSlice, row: int, record: Any) -> list[tuple[int, Request]]:
    """What would be scored of a row: each answer's place and request, without those that the template refuses."""
    found = [(place, part.request_of(one, row=row)) for place, one in enumerate(answers_of(record))]
    return [(place, request) for place, request in found if not isinstance(request, RefusedRequest)]


def _add(
    summary: PoolSummary,
    part: StageSlice,
    outline: CausalModel,
    records: Mapping[int, object],
    reasons: Mapping[int, str],
    odd: dict[tuple[str, str], OddRows],
) -> None:
    """Count some rows in."""
    found = {row: [] if row in reasons else _requests(part, row, record) for row, record in records.items()}
    counted = iter(
        count_tokens(
            [request for requests in found.values() for _, request in requests],
            part.scorer,
            outline,
            part.parameters.max_length,
        )
    )
    for row, requests in found.items():
        counts: list[TokenCount] = [next(counted) for _ in requests]
        answered = [one for one in counts if one.status != "empty_target"]
        summary.lengths += [one.length for one in answered]
        summary.scored += [one.scored for one in answered]
        status, reason = _status(counts, reasons.get(row), [place for place, _ in requests])
        summary.statuses.append(status)
        if status != "ok":
            kind = odd.setdefault((status, _VALUE.sub("…", reason)), OddRows(status, reason, row))
            kind.count += 1


def _status(counts: Sequence[TokenCount], refused: str | None, places: Sequence[int]) -> tuple[str, str]:
    """A row's status and the reason for it: "ok" where one answer is, else the first answer's."""
    if refused is not None:
        return UNREADABLE, refused
    if any(one.status == "ok" for one in counts):
        return "ok", ""
    if counts and places[0] > 0:
        return UNREADABLE, "the template refuses the first answer, and the others cannot be scored"
    status = counts[0].status if counts else "empty_target"
    return status, {"too_long": "more tokens than the model's context or --max-length"}.get(
        status, "no answer, or a blank one"
    )


def _spread(rows: list[int]) -> list[int]:
    """A few of these, spread evenly from the first to the last."""
    if len(rows) <= _SHOWN:
        return rows
    return [rows[i * (len(rows) - 1) // (_SHOWN - 1)] for i in range(_SHOWN)]
