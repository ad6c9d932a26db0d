"""The help of every command says every default, as the parser has it."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields

import command_line
import pytest

from instsel.cli import build_parser, main
from instsel.commands.arguments import HelpWithDefaults, Parser
from instsel.runner.configuration import ModelOptions, RunConfiguration, WorkerOptions


def shown(action: argparse.Action) -> str:
    """What help says of one argument, in one line."""
    formatter = HelpWithDefaults("instsel", width=10_000, max_help_position=60)
    formatter.add_argument(action)
    return " ".join(formatter.format_help().split())


def test_every_flag_with_a_value_says_its_default() -> None:
    silent, differing = [], []
    for name, command in command_line.commands_of(build_parser()).items():
        assert command.formatter_class is HelpWithDefaults
        assert command.format_help()
        for action in command_line.arguments_of(command):
            if not action.option_strings or action.nargs == 0:
                continue
            said = shown(action)
            if "default" not in said and not action.required:
                silent.append(f"{name} {action.option_strings[0]}")
            told = re.search(r"\(default: (.*)\)", said)
            if told is not None and action.default not in (None, [], {}):
                want = " ".join(str(action.default).split())
                if not want.startswith(told[1].removesuffix("...").strip()):
                    differing.append((name, action.option_strings[0], told[1]))
    assert silent == [] and differing == []


def test_a_parser_without_it_would_be_seen() -> None:
    parser = Parser(prog="instsel x", formatter_class=argparse.HelpFormatter)
    assert "default" not in parser.format_help()
    parser.add_argument("--share", default="10%", help="of the rows")
    assert "(default: 10%)" in Parser(prog="instsel x", parents=[parser], add_help=False).format_help()


def test_every_described_field_of_a_configuration_is_an_argument_with_its_default() -> None:
    arguments = {one.dest: one for one in command_line.arguments_of(command_line.commands_of(build_parser())["ifd"])}
    described = [
        one for kind in (RunConfiguration, ModelOptions, WorkerOptions) for one in fields(kind) if one.metadata
    ]
    assert len(described) > 30 and {one.name for one in described} <= set(arguments)
    for one in described:
        argument = arguments[one.name]
        assert argument.help == one.metadata["spec"].help.replace("%", "%%")
        assert argument.required if one.name in ("input", "model") else argument.default == one.default


def test_a_number_out_of_its_bounds_is_told_them(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, given, expected in (
        ("--seed", "x", "a whole number of at least 0"),
        ("--limit", "0", "a whole number of at least 1"),
        ("--num-gpus-per-worker", "nan", "a number of at least 0 and at most 999999"),
    ):
        assert main(["ifd", "pool.jsonl", "--model", "m", flag, given]) == 2
        assert f"argument {flag}: expected {expected}, got '{given}' (see" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ifd", "curate", "select", "export"])
def test_an_empty_output_is_not_the_folder_that_one_is_in(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--output", ""]) == 2
    assert "argument --output: expected a name, got ''" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["wici", "rico", "nuggets", "curate", "select", "demo"])
def test_no_command_takes_a_seed_that_fails_after_hours(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--seed", "-1"]) == 2
    assert "argument --seed: expected a whole number of at least 0, got '-1'" in capsys.readouterr().err
