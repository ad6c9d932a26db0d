"""A method's parameters as a run is given them: files and models by name, read, and recorded by their digests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instsel.methods.method import Method
from instsel.methods.parameter_fields import FieldSpec, default_of
from instsel.methods.parameters import OF_CONVERSATIONS, Parameters, own_fields
from instsel.records import Example
from instsel.runner.configuration import RunConfiguration
from instsel.runs.array_files import read_array

SHARED = {"seed"}  # what every run has
Column = Callable[
    [str, str, tuple[str, ...]], object
]  # the numbers of a parameter's column, given words that it may be
_BY_NAME = ("array", "rows", "texts", "models")  # their default is none, whatever the method's own is


def flag_of(name: str, spec: FieldSpec) -> str:
    """The command line's word for a parameter, without its dashes."""
    return spec.flag or name.replace("_", "-")


def given_fields(method: Method) -> dict[str, tuple[str, FieldSpec]]:
    """The parameters that a run can be given besides what every run has, each with its type and description."""
    fields = own_fields(method.parameters)
    return {name: (kind, spec) for name, kind, spec in fields if spec.flag is not None and name not in SHARED}


def default_given(method: Method, name: str, spec: FieldSpec) -> object:
    """What stands for a parameter that is not given."""
    return None if spec.kind in _BY_NAME else default_of(method.parameters, name)


def read_parameters(configuration: RunConfiguration, column: Column | None = None) -> Parameters:
    """The parameters that a configuration says, files read; `column(parameter, name, words)` gives a column's numbers.

    Without `column`, before the rows are known, a parameter that names one keeps its default.

    Raises ValueError or TypeError naming the flag or the parameter.
    """
    method = configuration.method
    values: dict[str, object] = {"template": configuration.whole_template, "template_date": configuration.template_date}
    values |= {"max_length": configuration.max_length, "columns": configuration.columns}
    if any(name == "seed" for name, _, _ in own_fields(method.parameters)):
        values["seed"] = configuration.seed
    for name, (_, spec) in given_fields(method).items():
        given = configuration.parameters[name]
        if given is not None and (found := _read(name, given, spec, configuration, column)) is not None:
            values[name] = found
    parameters: Parameters = method.parameters(**values)
    return parameters


def _read(name: str, value: Any, spec: FieldSpec, configuration: RunConfiguration, column: Column | None) -> Any:
    flag = f"--{flag_of(name, spec)}"
    if spec.kind == "array" or (spec.kind == "numbers" and str(value).endswith(".npy")):
        return read_array(value, flag)
    if spec.kind == "numbers" and value not in spec.choices:
        return None if column is None else column(name, value, spec.choices)
    if spec.kind == "model":
        return configuration.model_options.open_scorer(value)
    if spec.kind == "models":
        return [configuration.model_options.open_scorer(one) for one in value]
    if spec.kind == "rows":
        return _rows(value, flag, configuration.columns)
    if spec.kind == "texts":
        return _texts(value, flag)
    return value


def recorded_parameters(configuration: RunConfiguration) -> dict[str, object]:
    """The parameters as a manifest holds them: files and models by their digests.

    Of those that say how turns are scored, only what differs from the default: folders begun without them go on.
    """
    method, found = configuration.method, {}
    for name, (_, spec) in given_fields(method).items():
        given = configuration.parameters[name]
        if name not in OF_CONVERSATIONS or given != default_of(method.parameters, name):
            found[flag_of(name, spec).replace("-", "_")] = _recorded(given, spec)
    return found


def _recorded(value: Any, spec: FieldSpec) -> object:
    from instsel.runs.durable_files import digest_file
    from instsel.runs.fingerprints import model_fingerprint
    from instsel.runs.inputs import open_input

    if value is None or spec.kind == "value":
        return value
    if spec.kind in ("array", "texts") or (spec.kind in ("numbers", "embedder") and str(value).endswith(".npy")):
        return digest_file(Path(value))
    if spec.kind == "rows":
        return open_input(value, None).digest
    if spec.kind == "model":
        return model_fingerprint(value, None)["model_digest"]
    if spec.kind == "models":
        return [model_fingerprint(one, None)["model_digest"] for one in value]
    return value


def _rows(path: str, flag: str, columns: Mapping[str, str] | None) -> list[Example]:
    """Read as the input is: the columns named for that hold the fields here as well."""
    from instsel.records import Unreadable, to_examples
    from instsel.records.unread_keys import UnreadKeys
    from instsel.runs.inputs import open_input

    try:
        unread = UnreadKeys()
        source = open_input(path, None)
        found = [
            one
            for batch in source.read()
            for one in to_examples(batch, columns=columns, unread=unread, on_error="status")
        ]
    except ValueError as error:
        raise ValueError(f"{flag} {path}: {error}") from None
    if not found:
        raise ValueError(f"{flag} {path} has no rows")
    for row, one in enumerate(found):
        if isinstance(one, Unreadable):
            raise ValueError(f"{flag} {source.places([row])[row]}: {one.reason}")
    unread.warn()
    return found


def _texts(path: str, flag: str) -> list[str]:
    try:
        found = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{flag} {path} is not a text file in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{flag} {path}: {error.strerror}") from None
    if not found:
        raise ValueError(f"{flag} {path} has no lines")
    return [line.replace("\\n", "\n") for line in found]
