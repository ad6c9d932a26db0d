"""Flags of a run: one for each field of its configuration, and for each parameter of its method."""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields
from typing import Any

from instsel.commands.options import READERS, Reader, bounded
from instsel.methods.method import Method
from instsel.methods.parameter_fields import FieldSpec, described, first_word
from instsel.runner.configuration import ModelOptions, RunConfiguration, WorkerOptions
from instsel.runner.given_parameters import default_given, flag_of, given_fields

# Fields of the configuration by name, in the order in which help shows them.
INPUT = ("input", "split", "limit", "columns")
MODEL_NAME = ("model", "revision", "trust_remote_code")
PROMPTS = ("max_length", "context_length", "template", "template_without_input", "template_date")
_COMPUTED = ("dtype", "device", "device_map", "backend", "layer_products", "max_batch_tokens")
MODEL = (*MODEL_NAME, *_COMPUTED, *PROMPTS, "allow_unused_weights")
RUN = ("output", "overwrite", "format", "seed", "shard_rows", "max_failures", "strict")
WORKERS = tuple(one.name for one in fields(WorkerOptions))

_FIELDS = {one.name: one for kind in (RunConfiguration, ModelOptions, WorkerOptions) for one in fields(kind)}
_METAVARS = {"array": "NPY", "rows": "FILE", "texts": "FILE", "models": "NAME", "model": "NAME"}


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """What a command line says of these fields of a configuration: a flag each, the input without one."""
    for name in names:
        _, kind, spec = described(_FIELDS[name])
        if spec.flag is None:
            parser.add_argument(name, nargs="+", metavar=spec.metavar, help=_help(spec))
        else:
            _add_flag(parser, name, kind, spec, _FIELDS[name].default, READERS.get(name))


def add_method_flags(parser: argparse.ArgumentParser, method: Method) -> None:
    """One flag a parameter that has one."""
    for name, (kind, spec) in given_fields(method).items():
        _add_flag(parser, name, kind, spec, default_given(method, name, spec))


def _add_flag(
    parser: argparse.ArgumentParser, name: str, kind: str, spec: FieldSpec, default: object, read: Reader | None = None
) -> None:
    options: dict[str, Any] = {"dest": name, "help": _help(spec)}
    options |= {"required": True} if default is MISSING else {"default": default}
    word = first_word(kind)
    if word == "bool":
        options["action"] = argparse.BooleanOptionalAction if default else "store_true"
    elif spec.kind == "value" and spec.choices:
        options["choices"] = spec.choices
    else:
        options["metavar"] = spec.metavar or _METAVARS.get(spec.kind)
        if spec.kind == "models":
            options["nargs"] = "+"
        elif read is not None:
            options["type"] = read
        elif spec.kind == "value" and word in ("int", "float"):
            options |= {"type": bounded(word, spec), "metavar": spec.metavar or ("N" if word == "int" else "X")}
    parser.add_argument(f"--{flag_of(name, spec)}", **options)


def _help(spec: FieldSpec) -> str:
    text = spec.help.replace("%", "%%")
    extra = {
        "array": "a .npy file",
        "embedder": "a .npy file in place of a name",
        "numbers": f"one of {', '.join(spec.choices)}, the name of a column, or a .npy file",
        "texts": "one a line, \\n for a line feed",
    }.get(spec.kind)
    return f"{text} ({extra})" if extra else text
