"""A method run from Python into a run folder, as its command runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instsel.methods.definition import MethodFunction
from instsel.methods.method import Method
from instsel.methods.parameter_fields import FieldSpec, first_word
from instsel.methods.registry import OLDER_NAMES, find_methods
from instsel.nearest_word import nearest
from instsel.runner.configuration import Messages, configuration_of
from instsel.runner.given_parameters import default_given, given_fields
from instsel.runner.scored_run import MethodRun, checked_input, run_into_folder

PathLike = str | os.PathLike[str]


def run_method(
    method: str | MethodFunction[..., object],
    input: PathLike | Sequence[PathLike],
    output: PathLike,
    *,
    model: PathLike,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    backend: str = "auto",
    max_batch_tokens: int | str = "auto",
    context_length: int | None = None,
    allow_unused_weights: bool = False,
    layer_products: str = "auto",
    trust_remote_code: bool = False,
    workers: int | None = None,
    devices: Sequence[str] | None = None,
    tensor_parallel: int | None = None,
    ray: str | None = None,
    num_gpus_per_worker: float | None = None,
    split: str | None = None,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    template: str | tuple[str, str] = "auto",
    template_date: str | None = None,
    seed: int = 0,
    shard_rows: int | None = None,
    format: str = "parquet",
    overwrite: bool = False,
    strict: bool = False,
    progress: bool = False,
    plugins: Sequence[PathLike] = (),
    **parameters: object,
) -> MethodRun:
    """Run a method over an input into a run folder; the same call, or the method's command, continues it.

    method      a name such as "ifd" or its function, of the package, an installed plug-in or a file of `plugins`
    input       files, folders, globs, addresses or hub datasets, one or several
    output      the run folder, or its address
    model       a folder or hub id; the keywords up to `trust_remote_code` are those of `Scorer`
    progress    whether to show a bar on stderr
    parameters  of the method. A run folder is continued by what it says of itself, so arrays, rows, texts and further
                models are given as files or names, as to the command

    The other keywords are the command's flags. Everything is as its command leaves it: shards, manifest, numbers.
    What the command writes as a warning is one of Python's. No signal is handled: Ctrl-C raises KeyboardInterrupt
    between any two lines, and everything in the folder is whole.

    Raises ValueError or TypeError naming the parameter or flag, `instsel.runs.RunError` where the run cannot go on, and
    what a worker met. Rows that fail have their status, however many they are.

    >>> run = instsel.run_method("ifd", "pool.jsonl", "runs/ifd", model="Qwen/Qwen2.5-0.5B")  # doctest: +SKIP
    >>> run.counts, run.result  # doctest: +SKIP
    ({'ok': 1000}, 'runs/ifd/scores.parquet')
    """
    given: dict[str, Any] = dict(locals())  # by the names of the configuration's fields, but for those below
    found, command = _method(method, plugins)
    text, without_input = (template, None) if isinstance(template, str) else template
    given |= {
        "command": command,
        "plugin": [os.fspath(one) for one in plugins],
        "input": [os.fspath(one) for one in ([input] if isinstance(input, (str, os.PathLike)) else input)],
        "output": os.fspath(output),
        "model": os.fspath(model),
        "columns": None if columns is None else dict(columns),
        "template": text,
        "template_without_input": without_input,
        "quiet": not progress,
    }
    configuration = configuration_of(found, given, _as_given(found, parameters))
    return run_into_folder(configuration, checked_input(configuration), Messages())


def _method(method: str | MethodFunction[..., object], plugins: Sequence[PathLike]) -> tuple[Method, str]:
    """The method, and the name by which it was called."""
    if not isinstance(method, str):
        return method.method, method.method.name
    methods = find_methods([os.fspath(one) for one in plugins])
    name = OLDER_NAMES.get(method, method)
    if name not in methods:
        raise ValueError(f"method: expected one of {', '.join(methods)}, got {method!r}")
    return methods[name], method


def _as_given(method: Method, parameters: Mapping[str, object]) -> dict[str, object]:
    """All parameters of a method as its command would have them."""
    fields = given_fields(method)
    for name in parameters:
        if name not in fields:
            near = nearest(name, list(fields))
            hint = f" (did you mean {near}?)" if near else ""
            raise TypeError(f"{method.name} has no parameter {name!r}{hint}; it has {', '.join(fields)}")
    return {
        name: _plain(name, kind, spec, parameters[name]) if name in parameters else default_given(method, name, spec)
        for name, (kind, spec) in fields.items()
    }


def _plain(name: str, kind: str, spec: FieldSpec, value: Any) -> object:
    """A value as a manifest can hold it, of the type that the command's flag has."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        value = value.item()
    if spec.kind == "value":
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if is_whole and first_word(kind) == "float" else value
    if spec.kind == "models" and isinstance(value, (list, tuple)):
        return [_plain(name, kind, _ONE_MODEL, one) for one in value]
    if value is not None and (spec.kind == "models" or not isinstance(value, str)):
        expected = "a list of folders or hub ids" if spec.kind == "models" else "a name or the path of a file"
        raise TypeError(f"{name}: expected {expected}, by which a run folder is continued, got {type(value).__name__}")
    return value


_ONE_MODEL = FieldSpec("", "model")
