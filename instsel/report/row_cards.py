"""Single rows with their texts: the ends of the ranking, with what they were scored with, and rows without a score."""

from __future__ import annotations

from collections.abc import Sequence

from instsel.report.companions import Companion
from instsel.report.html import Section, details, number, paragraph, table, text
from instsel.report.reading import Report
from instsel.report.text import shown

CARD_CHARACTERS = 2000
COMPANION_CHARACTERS = 300
_OPEN = 5  # rows at either end that are not folded
_PROBES = "They were scored with the row as a demonstration before them; an influence above 0 means that it helped."
_WORDS = {
    "probe": ("probes of this row", _PROBES),
    "neighbour": ("the neighbour of this row", "It was shown before the row as a demonstration."),
    "anchor": (
        "anchors that it helps most and least",
        "What the row before it adds to its log-probability.",
    ),
    "task": ("tasks that it helps most and least", "Influence on each assessment task; above 0 the row helps."),
    "answer": ("all answers of this group", "Log-probability of each after the prompt; the highest is the best."),
}


def ends_section(report: Report) -> Section:
    """The highest and the lowest rows."""
    score = report.score
    parts = [paragraph(f"Ranked by {score.label}. {score.about}", muted=True)]
    for title, rows in ((f"The {len(report.highest)} highest", report.highest),
                        (f"The {len(report.lowest)} lowest", report.lowest)):  # fmt: skip
        if rows:
            parts.append(f"<h3>{text(title)}</h3>")
            parts += [_card(report, row) for row in rows[:_OPEN]]
            if rows[_OPEN:]:
                rest = "".join(_card(report, row) for row in rows[_OPEN:])
                parts.append(details(f"the next {len(rows) - _OPEN}", rest))
    return Section("Highest and lowest rows", "\n".join(parts), "Rows at the ends")


def failed_cards(report: Report, status: str) -> str:
    """The first rows with a status."""
    return "".join(_card(report, row) for row in report.failed[status])


def _card(report: Report, row: int) -> str:
    figures = [f"<b>#{row}</b>"]
    figures += [f"{text(one.label)} <b>{number(float(one.values[row]))}</b>" for one in report.measures]
    if report.coloured_by is not None:
        name = next((name for name, rows in report.classes.items() if row in rows), None)
        figures += [f"{text(report.coloured_by)} <b>{text(name)}</b>"]
    if report.selection is not None and report.whole and report.coloured_by != "selection":
        figures.append("<b>selected</b>" if row in report.selection.rows else "not selected")
    line = "".join(f'<span class="figure-of">{one}</span> ' for one in figures)
    if report.texts[row].unreadable:
        line += text(report.texts[row].unreadable)
    return f"<article><p>{line}</p>{_sides(report, row)}{_companions(report, row)}</article>"


def _sides(report: Report, row: int) -> str:
    said = report.texts[row]
    ranked = [one.answer for one in report.companions.get(row, ()) if one.answer is not None]
    if sorted(ranked) == list(range(len(said.answers))) and len(ranked) > 1:
        name, answer = "answers, the best first", said.ordered(ranked)
    else:
        name, answer = "answer" if len(said.answers) == 1 else "answers", said.answer
    sides = [("prompt", said.prompt), *([(name, answer)] if said.answers else [])]
    parts = [
        f'<div><small>{title}</small><div class="text" dir="auto" tabindex="0">{shown(body, CARD_CHARACTERS)}</div>'
        for title, body in sides
    ]
    return f'<div class="sides">{"</div>".join(parts)}</div></div>'


def _companions(report: Report, row: int) -> str:
    found = report.companions.get(row, ())
    if not found:
        return ""
    kind = found[0].title.split()[0]
    title, about = _WORDS[kind]
    names = list(dict.fromkeys(name for one in found for name, _ in one.figures))
    head = [kind, *names, "prompt", "answer"]
    body = [_companion(report, row, one, names) for one in found]
    if all(not cells[-2] for cells in body):
        head, body = [*head[:-2], *head[-1:]], [[*cells[:-2], cells[-1]] for cells in body]
    if all(not cells[-1] for cells in body):
        head, body = head[:-1], [cells[:-1] for cells in body]
    numbers = range(1, 1 + len(names))
    return details(f"{len(found)} {title}" if kind == "probe" else title, paragraph(about, muted=True) + table(
        head, body, numbers=numbers))  # fmt: skip


def _companion(report: Report, row: int, one: Companion, names: Sequence[str]) -> list[str]:
    figures = dict(one.figures)
    title = text(one.title) + (f" <small>#{one.row}</small>" if one.row is not None else "")
    prompt = answer = ""
    if one.row is not None:
        prompt, answer = report.texts[one.row].prompt, report.texts[one.row].answer
    elif one.text is not None:
        prompt, answer = one.text.prompt, one.text.answer
    elif one.answer is not None and one.answer < len(report.texts[row].answers):
        answer = report.texts[row].answers[one.answer]
    cells = [f'<div class="text" dir="auto">{shown(said, COMPANION_CHARACTERS)}</div>' if said else ""
             for said in (prompt, answer)]  # fmt: skip
    return [title, *(number(figures[name]) if name in figures else "" for name in names), *cells]
