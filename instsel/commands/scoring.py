"""A scoring run from its flags to its files, the same for every method."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import instsel
from instsel.commands.configuration import recorded_arguments
from instsel.commands.method_flags import read_parameters, recorded, template_of
from instsel.commands.named_files import files_named_by
from instsel.commands.plan import print_plan
from instsel.commands.session import Session, open_scorer
from instsel.commands.summary import closing_summary, count_by_status, failure
from instsel.commands.unreadable_rows import check_rows, check_strict, refused_of, with_reasons
from instsel.commands.worker_options import wants_workers
from instsel.engine.processors import sharing_processors
from instsel.methods.method import Method, Outcome
from instsel.methods.parameters import now
from instsel.prompts import is_chat_template, template_name
from instsel.prompts.templates import template_reads_the_date
from instsel.records.formats import detect_layout
from instsel.records.unread_keys import UnreadKeys
from instsel.runs import RunError, RunFolder
from instsel.runs.fingerprints import model_fingerprint
from instsel.runs.inputs import InputSource, open_input
from instsel.runs.interrupts import Interrupted, Interrupts
from instsel.runs.manifest import environment, read_manifest
from instsel.runs.merged_output import write_merged
from instsel.runs.remote_files import is_address
from instsel.runs.results import describe_result
from instsel.runs.row_store import RowStore, write_rows
from instsel.runs.shards import Stage
from instsel.runs.stored_folder import StoredRunFolder, copy_here
from instsel.terminal import complain


def run_scoring(method: Method[Any], args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run a method over an input into a run folder; returns the exit code."""
    read_parameters(method, args, partial(open_scorer, args))  # what is wrong with them is said first
    wants_workers(args)
    source = open_input(args.input, args.limit, args.split)
    if args.dry_run:
        return _dry_run(method, args, source, interrupts)
    if args.output is None:
        raise ValueError("--output is needed: the run folder to write (or --dry-run to see the plan)")
    if is_address(args.output):
        _check_addresses(args)
        with copy_here(args.output) as (path, copy):
            open_folder = partial(StoredRunFolder, path, copy)
            return _run_into(method, args, source, path, open_folder, interrupts)
    path = Path(args.output)
    return _run_into(method, args, source, path, partial(RunFolder, path), interrupts)


def _run_into(
    method: Method[Any],
    args: argparse.Namespace,
    source: InputSource,
    path: Path,
    open_folder: Callable[..., RunFolder],
    interrupts: Interrupts,
) -> int:
    known, _ = read_manifest(path) if path.is_dir() else (None, False)
    fingerprint = model_fingerprint(args.model, args.revision, known)
    dated = _fix_date(args, None if args.overwrite else known)
    settings, about = _describe(method, args, source, fingerprint, known or {})
    settings |= dated
    inputs = [*source.files, *files_named_by(vars(args))]
    folder = open_folder(settings, about, overwrite=args.overwrite, inputs=inputs, interrupts=interrupts)
    try:
        return _run(method, args, source, folder, interrupts)
    except Interrupted as stop:
        _note_state(folder, "interrupted")
        complain("interrupted", f"{stop}; {folder.name} keeps what is whole, and the same command continues")
        return stop.exit_code
    except BaseException:
        _note_state(folder, "failed")
        raise
    finally:
        folder.close()


def _check_addresses(args: argparse.Namespace) -> None:
    """ValueError where an input lies in the output folder, as `RunFolder` says it of files."""
    for name in args.input:
        if f"{name.rstrip('/')}/".startswith(f"{args.output.rstrip('/')}/"):
            raise ValueError(f"input {name} lies in the output folder {args.output}: name another --output")


def _run(
    method: Method[Any], args: argparse.Namespace, source: InputSource, folder: RunFolder, interrupts: Interrupts
) -> int:
    result = f"scores.{args.format}"
    if folder.is_finished(result):
        closing_summary(folder, args.quiet, again=True)
        return failure(folder.manifest, args.max_failures)
    for change in folder.environment_changes:
        complain("warning", f"this run was begun with another environment: {change}; last digits may differ")
    rows = folder.rows(lambda: input_batches(source, interrupts))
    from instsel.kernels.float_products import remember  # torch, which a finished run needs not

    remember({(outputs, depth): library for outputs, depth, library in folder.manifest.get("float_products", [])})
    session = _session(method, args, rows, folder.manifest["columns"], interrupts)
    session.folder = folder
    if not folder.manifest.get("input_checked") or "refused" not in folder.manifest.get("unreadable", {}):
        unread = UnreadKeys()
        unreadable = check_rows(session, source, unread)
        folder.save(input_checked=True, unreadable=unreadable, not_in_prompt=dict(unread.counts))
    session.leave_out(refused_of(folder.manifest))
    check_strict(folder.manifest.get("unreadable", {}), args.strict)
    done: list[Stage] = []
    with session.workers(), sharing_processors():
        _check_resolved(session, folder)
        _note_arithmetic(session, folder)
        for stage in session.stages:
            done.append(session.shards_of(stage))
            to_come = [later.name for later in session.stages[len(done) :]]
            folder.save(stages=[[one.name, one.rows, one.shard_rows] for one in done], stages_to_come=to_come)
            session.run(stage)
            _keep_products(folder)
            session.forget(stage.name)
    for name in folder.damaged:
        complain("warning", f"{name} was damaged; it was set aside in {folder.name}/damaged and computed again")
    folder.save(stages_complete=True)
    outcome = Outcome(session.columns(session.stages[-1].name), session.parameters, len(rows))
    finish(folder, rows, done[-1], result, method.findings(outcome), done, method.score)
    closing_summary(folder, args.quiet)
    return failure(folder.manifest, args.max_failures)


def _session(
    method: Method[Any], args: argparse.Namespace, rows: RowStore, columns: list[str], interrupts: Interrupts
) -> Session:
    return Session(method, args, rows, columns, detect_layout(columns, args.columns, kind=method.rows), interrupts)


def finish(
    folder: RunFolder,
    rows: RowStore,
    last: Stage,
    result: str,
    findings: dict[str, Any],
    stages: list[Stage],
    score: str,
) -> None:
    """Merge the result and close the manifest over it."""
    folder.interrupts.check()
    with folder.explained():
        scores = with_reasons(lambda: folder.shards.tables(last), rows, folder.manifest)
        own = write_merged(folder.path, result, rows, scores, columns=folder.manifest["columns"])
        path = folder.path / result
        output = describe_result(path, own)
        folder.written(path)
    counts, stats = count_by_status(folder, last, stages)
    folder.finish(output=output, counts=counts, stats=stats, findings=findings, score=score)


def _fix_date(args: argparse.Namespace, known: dict[str, Any] | None) -> dict[str, str]:
    """The date that the run's prompts are to tell, kept from its beginning, as a setting; none where they tell none."""
    template = template_of(args)
    if not is_chat_template(template):
        return {}
    tokenizer = open_scorer(args, args.model, args.revision).tokenizer
    if not template_reads_the_date(template, tokenizer):
        return {}
    if known is not None and "template_date" not in known and args.template_date is None:
        began = known.get("created")  # by a version that did not fix the date: the day it began is the best guess
        args.template_date = str(began)[:10] if began else now()
        return {}
    args.template_date = args.template_date or (known or {}).get("template_date") or now()
    return {"template_date": args.template_date}


def _describe(
    method: Method[Any],
    args: argparse.Namespace,
    source: InputSource,
    fingerprint: dict[str, Any],
    known: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that decide the numbers, and what else the manifest says."""
    settings = {
        "version": instsel.__version__,
        "method": method.name,
        "parameters": recorded(method, args),
        "template": template_name(template_of(args)),
        "seed": args.seed,
        "input_digest": source.digest,
        "column_mapping": args.columns,
        "limit": args.limit,
        "model_digest": fingerprint["model_digest"],
        "tokenizer_digest": fingerprint["tokenizer_digest"],
        "dtype": args.dtype,
        "device": args.device,
        "backend": args.backend,
        "max_batch_tokens": args.max_batch_tokens,
        "max_length": args.max_length,
        "shard_rows": args.shard_rows,
    }
    if args.context_length is not None or "context_length" in known:  # folders begun without it go on
        settings["context_length"] = args.context_length
    about = {
        "input": source.name,
        "model": args.model,
        "model_revision": args.revision,
        "model_files": fingerprint["model_files"],
        "environment": environment(),
        "arguments": recorded_arguments(args),
        "compared": ["format", *settings],
    }
    return settings, about


def _check_resolved(session: Session, folder: RunFolder) -> None:
    """What "auto" means may differ between two starts on two machines; numbers of both must not be mixed."""
    now = session.resolved
    before = {"tensor_parallel": "1", **folder.manifest.get("resolved", now)}
    for name, value in now.items():
        if before[name] != value:
            raise ValueError(
                f"{folder.name} was begun with {name} {before[name]}, and it is {value} here; "
                f"give --{name.replace('_', '-')} {before[name]}, or another --output"
            )
    folder.save(resolved=now)


def _note_arithmetic(session: Session, folder: RunFolder) -> None:
    """Another processor, or another library on this one, rounds differently: it is said, and all of them are noted."""
    now, before = session.arithmetic, folder.manifest.get("arithmetic", [])
    if before and now not in before:
        complain("warning", f"this run was begun with {before[-1]} and goes on with {now}: last digits may differ")
    from instsel.parallel.float_choices import choices_of

    if session.resolved["device"] == "cpu" and session.resolved["dtype"] == "float32":
        choices_of(session.scorer)  # of the products that are still to come, too
    _keep_products(folder)
    folder.save(arithmetic=before if now in before else [*before, now])


def _keep_products(folder: RunFolder) -> None:
    """Libraries were chosen by a measurement, which the next start is not to make anew."""
    from instsel.kernels.float_products import choices_made

    made = [[*shape, library] for shape, library in sorted(choices_made().items())]
    if made != folder.manifest.get("float_products", []):
        folder.save(float_products=made)


def _note_state(folder: RunFolder, state: str) -> None:
    with contextlib.suppress(RunError, OSError):
        if folder.path.is_dir():
            folder.save(state=state)


def _dry_run(method: Method[Any], args: argparse.Namespace, source: InputSource, interrupts: Interrupts) -> int:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.arrow"
        with open(path, "wb") as file:
            _, columns = write_rows(file, source.read())
        rows = RowStore(path)
        session = _session(method, args, rows, columns, interrupts)
        check_rows(session, source, UnreadKeys())
        print_plan(session)
        rows.close()
    return 0


def input_batches(source: InputSource, interrupts: Interrupts) -> Iterator[Any]:
    """The batches of an input, noticing signals between them."""
    for batch in source.read():
        interrupts.check()
        yield batch
