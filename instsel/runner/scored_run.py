"""A run of a method from its configuration to its result: the same for a command and for a call from Python."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from instsel.engine.processors import sharing_processors
from instsel.methods.method import Outcome
from instsel.methods.stage_loop import run_stages
from instsel.records.json_types import JsonObject
from instsel.records.unread_keys import UnreadKeys
from instsel.runner.arithmetic_checks import check_resolved, note_arithmetic
from instsel.runner.configuration import Messages, RunConfiguration, open_pool
from instsel.runner.folder_store import FolderStore
from instsel.runner.given_parameters import read_parameters
from instsel.runner.input_rows import InputRows
from instsel.runner.row_checks import READING, check_rows, check_same_reading, check_strict, refused_of
from instsel.runner.run_result import finish
from instsel.runner.run_settings import settle
from instsel.runs import RunError, RunFolder
from instsel.runs.arguments import files_named_by
from instsel.runs.inputs import InputSource, open_input
from instsel.runs.interrupts import Interrupted, Interrupts
from instsel.runs.manifest import read_manifest
from instsel.runs.manifest_shape import Manifest
from instsel.runs.remote_files import is_address
from instsel.runs.row_store import Batch, RowStore
from instsel.runs.run_status import RunStatusFile
from instsel.runs.stored_folder import StoredRunFolder, copy_here

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer
    from instsel.parallel.pool import Pool


@dataclass(frozen=True, slots=True)
class MethodRun:
    """A finished run of a method.

    folder    its run folder, or the address of that
    manifest  what the run is made of, as its manifest.json says
    again     whether it was finished before this call, which then computed nothing
    """

    folder: str
    manifest: Manifest
    again: bool = False

    @property
    def result(self) -> str:
        """The file of the input's columns with the scores beside them."""
        return f"{self.folder}/{self.manifest['output']['name']}"

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status."""
        return dict(self.manifest["counts"])

    @property
    def stats(self) -> dict[str, float]:
        """The cost of all stages together, by the names of `ScoreStats`, and `wall_seconds`."""
        return dict(self.manifest["stats"])

    @property
    def findings(self) -> JsonObject:
        """What the method found besides scores."""
        return dict(self.manifest["findings"])


def checked_input(configuration: RunConfiguration) -> InputSource:
    """The input of a run; what is wrong with its parameters is said first."""
    read_parameters(configuration)
    configuration.worker_options.wanted()
    return open_input(list(configuration.input), configuration.limit, configuration.split)


def run_into_folder(configuration: RunConfiguration, source: InputSource, messages: Messages) -> MethodRun:
    """Run a method into its run folder, or continue it there.

    Raises ValueError or TypeError for what is wrong with what the run is told, RunError where it cannot go on, and
    `FolderInUseError` where another process writes the folder.
    """
    assert configuration.output is not None
    if not is_address(configuration.output):
        path = Path(configuration.output)
        return _run_into(configuration, source, path, partial(RunFolder, path), messages)
    for name in configuration.input:  # as `RunFolder` says it of files
        if f"{name.rstrip('/')}/".startswith(f"{configuration.output.rstrip('/')}/"):
            raise ValueError(f"input {name} lies in the output folder {configuration.output}: name another --output")
    with copy_here(configuration.output) as (path, copy):
        return _run_into(configuration, source, path, partial(StoredRunFolder, path, copy), messages)


def _run_into(
    configuration: RunConfiguration,
    source: InputSource,
    path: Path,
    open_folder: Callable[..., RunFolder],
    messages: Messages,
) -> MethodRun:
    known, _ = read_manifest(path) if path.is_dir() else (None, False)
    # Its tokenizer loads once, and torch only where it is needed.
    open_scorer = functools.cache(configuration.model_options.open_scorer)
    configuration, settings, about = settle(configuration, source, known, open_scorer, messages)
    inputs = [*source.files, *files_named_by(configuration.arguments())]
    overwrite, interrupts = configuration.overwrite, messages.interrupts
    folder = open_folder(settings, about, overwrite=overwrite, inputs=inputs, interrupts=interrupts)
    try:
        return _run(configuration, source, folder, open_scorer, messages)
    except KeyboardInterrupt as stop:
        _note_state(folder, "interrupted")
        if isinstance(stop, Interrupted):
            stop.args = (f"{stop}; {folder.name} keeps what is whole, and the same command continues",)
        raise
    except BaseException:
        _note_state(folder, "failed")
        raise
    finally:
        folder.close()


def _run(
    configuration: RunConfiguration,
    source: InputSource,
    folder: RunFolder,
    open_scorer: Callable[[], Scorer],
    messages: Messages,
) -> MethodRun:
    result = f"scores.{configuration.format}"
    if folder.is_finished(result):
        return MethodRun(folder.name, folder.manifest, again=True)
    for change in folder.environment_changes:
        messages.warn(f"this run was begun with another environment: {change}; last digits may differ")
    rows = folder.rows(lambda: _batches(source, messages.interrupts))
    inputs = InputRows.of(configuration, rows, folder.manifest["columns"])
    parameters = read_parameters(configuration, inputs.numbers).for_rows(len(inputs))
    scorer = open_scorer()
    if not folder.manifest.get("input_checked") or folder.manifest.get("read_by") != READING:
        unread = UnreadKeys()
        unreadable = check_rows(configuration, inputs, parameters, scorer, source, unread, messages)
        found: Manifest = {"unreadable": unreadable, "not_in_prompt": dict(unread.counts)}
        check_same_reading(folder.manifest, found, folder.name)
        folder.save(input_checked=True, read_by=READING, **found)
    inputs.leave_out(refused_of(folder.manifest))
    check_strict(folder.manifest.get("unreadable", {}), configuration.strict)
    method, asked = configuration.method, configuration.shard_rows
    status_file = RunStatusFile(folder.path)
    with _workers(configuration, scorer, status_file, rows) as pool, sharing_processors():
        check_resolved(configuration, pool, scorer, folder)
        note_arithmetic(pool, scorer, folder, messages)
        scores_with: Pool | Scorer = scorer if pool is None else pool
        quiet = configuration.quiet
        store = FolderStore(method, parameters, inputs, folder, scores_with, status_file, shard_rows=asked, quiet=quiet)
        run_stages(store, scores_with)
    for name in folder.damaged:
        messages.warn(f"{name} was damaged; it was set aside in {folder.name}/damaged and computed again")
    folder.save(stages_complete=True)
    outcome = Outcome(store.columns(store.begun[-1].name), parameters, len(inputs))
    finish(folder, rows, store.begun[-1], result, method.findings(outcome), store.begun, method.score)
    return MethodRun(folder.name, folder.manifest)


@contextlib.contextmanager
def _workers(
    configuration: RunConfiguration, scorer: Scorer, status_file: RunStatusFile, rows: RowStore
) -> Iterator[Pool | None]:
    """A block with the workers that are asked for, which the file says what they do; None where none are."""
    if not configuration.worker_options.wanted():
        yield None
        return
    with open_pool(configuration.worker_options, scorer, rows.path) as pool:
        status_file.workers = pool.status
        try:
            status_file.write(now=True)
            yield pool
        finally:
            status_file.write(now=True)


def _note_state(folder: RunFolder, state: str) -> None:
    with contextlib.suppress(RunError, OSError):
        if folder.path.is_dir():
            folder.save(state=state)


def _batches(source: InputSource, interrupts: Interrupts) -> Iterator[Batch]:
    """The batches of an input, noticing signals between them; ValueError where it has another digest afterwards."""
    try:
        for batch in source.read():
            interrupts.check()
            yield batch
        changed = source.digest_now() != source.digest
    except OSError as error:  # for the run's folder it would be one of writing
        raise ValueError(f"input {source.name} cannot be read: {error.strerror or error}") from error
    if changed:
        raise ValueError(f"input {source.name} was changed while it was read: give the same command again")
