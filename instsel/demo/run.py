"""`instsel demo`: a pool with known truth through ifd, wici, select and grape, and what they found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from instsel.demo.corruption import CORRUPTED_CLASSES
from instsel.demo.findings import Findings, read_findings
from instsel.demo.generator import Row, json_lines, make_groups, make_pool
from instsel.demo.lessons import BUDGETS, PROCEDURES, RANDOM, folder_of, learn
from instsel.demo.report import correlation_text, page, picture, read_demo_report
from instsel.engine.processors import sharing_processors
from instsel.runner.method_run import run_method
from instsel.runs.durable_files import TEMPORARY, write_text
from instsel.runs.run_files import PAGE, is_page
from instsel.selection.folder_selection import select_into_folder
from instsel.selection.selection_configuration import SelectionConfiguration

MODEL_FOLDER = Path(__file__).with_name("model")
POOL = 1000
SHOWN = 5  # candidates printed from either end of the ranking


def run_demo(output: Path, *, quiet: bool, seed: int, size: int = POOL) -> int:
    """Run the demo over a pool of `size` candidates into `output`; returns 0.

    Writes pool.jsonl and groups.jsonl, the run folders ifd, wici and grape, a folder for each selection, lessons.json
    (what the model learnt from each), report.html and picture.svg.
    The same call again continues, or shows what it has.

    Raises ValueError where `output` holds something else.
    """
    started = time.perf_counter()
    _prepare(output, seed, size)
    scored: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
        ("difficulty", "ifd", "pool.jsonl", {}),
        ("influence", "wici", "pool.jsonl", {"rule": "gain"}),
        ("own style", "grape", "groups.jsonl", {}),
    )
    say = (lambda line: None) if quiet else partial(print, flush=True)
    for name, method, rows_file, parameters in scored:
        say(f"{name}: instsel {method} {output / rows_file} ...")
        run_method(method, output / rows_file, output / method, model=MODEL_FOLDER, device="cpu", **parameters)
    for budget in BUDGETS:
        for procedure in PROCEDURES:
            say(f"selection of {budget:.0%} by {procedure}: instsel select {output / 'wici'} ...")
            target = folder_of(output, procedure, budget)
            select_into_folder(
                SelectionConfiguration(
                    input=output / "wici", output=target, procedure=procedure, budget=budget, quiet=True
                )
            )
    rows = [json.loads(line) for line in (output / "pool.jsonl").read_text(encoding="utf-8").splitlines()]
    with sharing_processors():
        lessons = learn(MODEL_FOLDER, output, rows, seed, say, quiet=quiet)
    findings, report = read_findings(output, seed, lessons), read_demo_report(output)
    seconds = time.perf_counter() - started
    write_text(output / PAGE, page(findings, report, seconds))
    write_text(output / "picture.svg", picture(findings))
    if not quiet:
        print_findings(findings, seconds, print)
        print(f"\nthe whole story: {output / 'report.html'}")
    return 0


def _prepare(output: Path, seed: int, size: int) -> None:
    """Write the data, or make sure that what is there is the same."""
    texts = {"pool.jsonl": json_lines(make_pool(seed, size)), "groups.jsonl": json_lines(make_groups(seed))}
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output must be a folder, and {output} is a file")
    found = {path.name for path in output.iterdir() if not TEMPORARY.fullmatch(path.name)} if output.is_dir() else set()
    if found and not (output / "pool.jsonl").is_file():
        raise ValueError(f"--output {output} is not empty and holds no demo: name another folder")
    if PAGE in found and not is_page(output / PAGE):
        raise ValueError(f"--output {output}: {PAGE} is no page of a demo: name another folder")
    for name in texts.keys() & found:
        if not (output / name).is_file() or (output / name).read_bytes() != texts[name].encode():
            raise ValueError(f"--output {output} holds the demo of another seed or version: name another folder")
    output.mkdir(parents=True, exist_ok=True)
    for name in [name for name in texts if name not in found]:
        write_text(output / name, texts[name])


def print_findings(findings: Findings, seconds: float, say: Callable[[str], None]) -> None:
    """Say in plain text what was found, against the truth."""
    truth, order = findings.truth, findings.order
    for title, rows in (("the highest gain", order[:SHOWN]), ("the lowest gain", order[::-1][:SHOWN])):
        say(f"\n{title}:")
        say(f"  {'gain':>8}  {'truth':<18}candidate")
        for row in rows.tolist():
            say(f"  {findings.scores['gain'][row]:>8.4f}  {truth[row]:<18}{candidate_line(findings.rows[row])}")
    classes = (*CORRUPTED_CLASSES, "all corrupted", "duplicate")
    say("\nhow often a clean candidate ranks above one of the class (area under the ROC curve, chance is 0.5):")
    say(f"  {'':<12}" + "".join(f"{name:>19}" for name in classes))
    for name, areas in findings.areas.items():
        say(f"  {name:<12}" + "".join(f"{areas[one]:>19.3f}" for one in classes))
    lessons = findings.lessons
    say("\nheld-out loss after tuning the model on what was selected, nats a token (share of answers exactly right):")
    say(f"  {'untuned':<32}{lessons.untuned.loss:>10.3f} ({lessons.untuned.exact:.0%})")
    for name in (*PROCEDURES.values(), RANDOM):
        cells = (lessons.of(name, budget) for budget in BUDGETS)
        say(f"  {name:<32}" + "".join(f"{one.loss:>10.3f} ({one.exact:.0%}) of {one.budget:.0%}" for one in cells))
    say(f"\nrank correlation of difficulty (IFD) and influence (gain): {correlation_text(findings)}")
    say(f"GRAPE picked the model's own style in {findings.own_style:.1%} of {findings.num_groups:,} groups")
    cost = findings.costs["wici"]
    factor = cost["tokens_unshared"] / max(1.0, cost["tokens_forwarded"])
    say(
        f"wici: {cost['tokens_forwarded']:,.0f} tokens forwarded instead of {cost['tokens_unshared']:,.0f} "
        f"(sharing factor {factor:.2f}) in {cost['seconds']:.1f} s"
    )
    say(f"everything: {seconds:.1f} s")


def candidate_line(row: Row, *, width: int = 88) -> str:
    """A candidate on one line: what is asked -> what is answered, cut to a width, nothing in it but printable text."""
    asked = " / ".join(filter(None, (row["instruction"], row["input"])))
    line = f"{asked} -> {row['output'].strip()}"
    line = "".join(character if character.isprintable() else " " for character in line)
    return line if len(line) <= width else line[: width - 1] + "…"
