"""What a run says at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from instsel.methods.stages import UNREADABLE
from instsel.runner.configuration import RunConfiguration
from instsel.runner.plan import COUNTS, RunPlan
from instsel.runner.scored_run import MethodRun
from instsel.runs.manifest_shape import Manifest
from instsel.runs.remote_files import is_address
from instsel.terminal import complain, escaped, say

# Rows that the input itself makes impossible to score; everything else but "ok" is a failure of the run.
UNSCORABLE = ("empty_target", "too_long")


def closing_summary(run: MethodRun) -> None:
    """Print counts by status, cost and where the result is."""
    say("\n".join([*summary_lines(run.manifest), *length_lines(run), *winner_lines(run)]))
    say(f"{'already finished' if run.again else 'written'}: {escaped(run.result)}")


def length_lines(run: MethodRun) -> list[str]:
    """A line where the score follows the answer's length."""
    from instsel.selection.length_strata import said_of_length
    from instsel.selection.procedures import DEFAULT, PROCEDURES
    from instsel.selection.selection_inputs import run_follows_length

    by, rho = ("", float("nan")) if is_address(run.folder) else run_follows_length(Path(run.folder))
    said = said_of_length(by, rho)
    if run.manifest["method"] in PROCEDURES[DEFAULT].methods:
        cure = "select by itself ranks among answers of like length"
    else:
        cure = "select --length-strata 10 ranks rows among those of like length"
    return [f"{said}; {cure}"] if said else []


def winner_lines(run: MethodRun) -> list[str]:
    """Lines where the best answers of groups mostly repeat themselves, or are of another length than the others."""
    from instsel.selection.group_winners import run_winners, said_of_winners

    found = None if is_address(run.folder) else run_winners(Path(run.folder))
    return [] if found is None else said_of_winners(found)


def plan_summary(method: str, configuration: RunConfiguration, plan: RunPlan) -> list[str]:
    """What a run would cost."""
    total = plan.total
    factor = total["tokens_unshared"] / max(total["tokens_forwarded"], 1)
    estimated = f", estimated from {plan.sampled}" if plan.sampled else ""
    lines = [f"{method}: plan for {plan.rows:,} rows{estimated}"]
    if plan.left:
        lines.append(escaped(f"  left of the run in {configuration.output}, all below is of that:"))
        lines += [
            f"    {escaped(name)}: {left:,} of {rows:,} rows" if left else f"    {escaped(name)}: done"
            for name, rows, left in plan.left
        ]
    if plan.seconds is not None:
        lines.append(f"  {_time_range(configuration, *plan.seconds)}")
    for name, label in zip(COUNTS[:3], ("sequences", "tree tokens", "unshared tokens"), strict=True):
        lines.append(f"  {label:<16} {round(total[name]):>20,}")
        if name == "tokens_forwarded" and round(plan.spread * total[name]):
            low, high = (_rounded(total[name] * (1 + sign * plan.spread)) for sign in (-1, 1))
            lines[-1] += f"  (between {low:,} and {high:,})"
    lines.append(f"  {'sharing factor':<16} {factor:>20.2f}")
    lines.append(f"  {'packs':<16} {round(total['packs']):>20,}")
    if plan.seconds is None:
        lines.append(f"  {'estimated FLOPs':<16} {total['estimated_flops']:>20.3g}")
    return lines


def _time_range(configuration: RunConfiguration, low: float, high: float) -> str:
    """Seconds of one model on this machine as a person says them, divided among the workers that have a GPU each."""
    options = configuration.worker_options
    size = len(options.devices or ()) or options.workers or 1
    where = "this machine"
    if options.ray is not None or any(device != "cpu" for device in options.devices or ()):
        low, high, where = low / size, high / size, f"{size} workers like this machine"
    unit, name = (1, "seconds") if high < 120 else (60, "minutes") if high < 7200 else (3600, "hours")
    said = [f"{seconds / unit:.1f}" if seconds / unit < 10 else f"{seconds / unit:.0f}" for seconds in (low, high)]
    return f"about {said[0]} to {said[1]} {name} on {where} (a few packs timed)"


def _rounded(number: float) -> int:
    """To three digits that count."""
    return int(float(f"{number:.3g}"))


def summary_lines(manifest: Manifest) -> list[str]:
    """Counts by status, cost, and what the method found."""
    counts, stats = manifest.get("counts", {}), manifest.get("stats", {})
    rows, seconds = sum(counts.values()), stats.get("wall_seconds", 0.0)
    lines = [f"{escaped(manifest['method'])}: {rows:,} rows in {duration(seconds)}"]
    lines += [f"  {escaped(status):<16}{count:>10,}  {count / max(rows, 1):6.1%}" for status, count in counts.items()]
    forwarded, unshared = stats.get("tokens_forwarded", 0), stats.get("tokens_unshared", 0)
    if forwarded:
        lines.append(
            f"tokens forwarded: {forwarded:,.0f}; an unshared run: {unshared:,.0f} "
            f"(sharing factor {unshared / forwarded:.2f}); {forwarded / max(seconds, 1e-9):,.0f} tokens/s"
        )
    for name, value in manifest.get("findings", {}).items():
        said = value["text"] if isinstance(value, Mapping) and "text" in value else value
        lines.append(escaped(f"{name}: {said}"))
    return lines


def failure(manifest: Manifest, allowed: float) -> int:
    """The exit code of a finished run: 1, with a line that says so, if more than the allowed share of rows failed."""
    counts = manifest["counts"]
    rows = sum(counts.values())
    failed = {status: n for status, n in counts.items() if status != "ok" and status not in UNSCORABLE}
    if sum(failed.values()) <= allowed * rows:
        if rows and not counts.get("ok"):
            complain("warning", f"no row was scored: {', '.join(f'{n:,} {status}' for status, n in counts.items())}")
        return 0
    named = ", ".join(f"{n:,} {status}" for status, n in failed.items())
    hint = "; does the model have NaN weights, or is its dtype too narrow?" if failed.get("nonfinite") else ""
    complain("error", f"{named} of {rows:,} rows: more than --max-failures {allowed:.1%} failed{hint}")
    return 1


def plan_failure(plan: RunPlan, allowed: float) -> int:
    """The exit code of a dry run: 1, with a line that says so, if the run's own is known to be 1."""
    if plan.failing <= allowed * plan.rows:
        return 0
    complain(
        "error",
        f"{plan.failing:,} {UNREADABLE} of {plan.rows:,} rows: more than --max-failures {allowed:.1%}, "
        "so that the run would end as failed",
    )
    return 1


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
