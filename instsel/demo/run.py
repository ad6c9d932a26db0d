"""`instsel demo`: a pool with known truth through ifd, wici, select and grape, and what they found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from instsel.demo.corruption import CORRUPTED_CLASSES, TRUTH_CLASSES
from instsel.demo.findings import Findings, read_findings
from instsel.demo.generator import DEFAULT_POOL, Row, json_lines, make_groups, make_pool
from instsel.demo.report import correlation_text, page, picture, read_demo_report

MODEL_FOLDER = Path(__file__).with_name("model")
BUDGET = "20%"
MAX_SIMILARITY = "0.999"  # leaves out copies; instructions of one family are near 0.9 without being copies
SHOWN = 5  # candidates printed from either end of the ranking


def run_demo(output: Path, *, quiet: bool, seed: int, size: int = DEFAULT_POOL) -> int:
    """Run the demo over a pool of `size` candidates into `output`; returns 0.

    Writes pool.jsonl and groups.jsonl, the run folders ifd, wici, selected and grape, report.html and picture.svg.
    The same call again continues, or shows what it has.

    Raises ValueError where `output` holds something else.
    """
    started = time.perf_counter()
    _prepare(output, seed, size)
    model = ["--model", str(MODEL_FOLDER), "--device", "cpu", "--quiet"]
    commands = (
        ("difficulty", ["ifd", str(output / "pool.jsonl"), "--output", str(output / "ifd"), *model]),
        ("influence", ["wici", str(output / "pool.jsonl"), "--output", str(output / "wici"), *model]),
        (
            "selection",
            [
                *("select", str(output / "wici"), "--budget", BUDGET, "--max-similarity", MAX_SIMILARITY),
                *("--output", str(output / "selected"), "--quiet"),
            ],
        ),
        ("own style", ["grape", str(output / "groups.jsonl"), "--output", str(output / "grape"), *model]),
    )
    for name, arguments in commands:
        if not quiet:
            print(f"{name}: instsel {' '.join(arguments[:2])} ...", flush=True)
        _run_command(arguments)
    findings, report = read_findings(output, seed), read_demo_report(output)
    seconds = time.perf_counter() - started
    (output / "report.html").write_text(page(findings, report, seconds), encoding="utf-8")
    (output / "picture.svg").write_text(picture(findings), encoding="utf-8")
    if not quiet:
        print_findings(findings, seconds, print)
        print(f"\nthe whole story: {output / 'report.html'}")
    return 0


def _prepare(output: Path, seed: int, size: int) -> None:
    """Write the data, or make sure that what is there is the same."""
    texts = {"pool.jsonl": json_lines(make_pool(seed, size)), "groups.jsonl": json_lines(make_groups(seed))}
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output must be a folder, and {output} is a file")
    if output.is_dir() and any(output.iterdir()) and not (output / "pool.jsonl").is_file():
        raise ValueError(f"--output {output} is not empty and holds no demo: name another folder")
    output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = output / name
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"--output {output} holds the demo of another seed or version: name another folder")
        path.write_text(text, encoding="utf-8")


def _run_command(arguments: Sequence[str]) -> None:
    """Run one of the package's commands as its command line would, but let its errors through to the caller."""
    from instsel.cli import build_parser
    from instsel.runs.interrupts import Interrupts

    parsed = build_parser().parse_args(list(arguments))
    code = parsed.run(parsed, Interrupts())
    if code:
        raise ValueError(f"instsel {arguments[0]} failed with exit code {code}")


def print_findings(findings: Findings, seconds: float, say: Callable[[str], None]) -> None:
    """Say in plain text what was found, against the truth."""
    truth, order = findings.truth, findings.order
    for title, rows in (("the highest wICI", order[:SHOWN]), ("the lowest wICI", order[::-1][:SHOWN])):
        say(f"\n{title}:")
        say(f"  {'wICI':>8}  {'truth':<18}candidate")
        for row in rows.tolist():
            say(f"  {findings.scores['wICI'][row]:>8.4f}  {truth[row]:<18}{candidate_line(findings.rows[row])}")
    classes = (*CORRUPTED_CLASSES, "all corrupted", "duplicate")
    say("\nhow often a clean candidate ranks above one of the class (area under the ROC curve, chance is 0.5):")
    say(f"  {'':<12}" + "".join(f"{name:>19}" for name in classes))
    for name, areas in findings.areas.items():
        say(f"  {name:<12}" + "".join(f"{areas[one]:>19.3f}" for one in classes))
    chosen = Counter(truth[findings.selected].tolist())
    pool = Counter(truth.tolist())
    say(f"\nselected by wICI, {len(findings.selected):,} of {len(truth):,} candidates, copies left out:")
    for name in TRUTH_CLASSES:
        say(f"  {name:<18}{chosen[name]:>5} of {pool[name]:>5,}")
    say(f"\nrank correlation of difficulty (IFD) and influence (wICI): {correlation_text(findings)}")
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
