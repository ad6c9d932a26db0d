"""The reference of the command line, from the parsers themselves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from instsel.cli import COMMANDS, build_parser
from instsel.methods.registry import OLDER_NAMES

SEEN_BY_ITSELF = ("--help", "--version")


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Every command by its name, without older names of one."""
    [action] = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return {name: command for name, command in action.choices.items() if name not in OLDER_NAMES}


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a parser takes: positional arguments and flags, but for --help, --version and its commands."""
    return [
        action
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction) and not set(SEEN_BY_ITSELF) & set(action.option_strings)
    ]


def reference(parser: argparse.ArgumentParser | None = None) -> str:
    """All commands and flags as Markdown; flags that every method has stand once."""
    parser = parser or build_parser()
    commands = commands_of(parser)
    helps = _helps(parser)
    methods = {name: command for name, command in commands.items() if name not in COMMANDS}
    shared = _shared(list(methods.values()))
    older = {name: [old for old, new in OLDER_NAMES.items() if new == name] for name in methods}
    parts = ["## Before the command", _table(arguments_of(parser))]
    parts += ["## What every method takes", _table(shared)]
    for name, command in methods.items():
        own = [one for one in arguments_of(command) if _said(one) not in {_said(known) for known in shared}]
        also = f" Its older name, `instsel {older[name][0]}`, still works." if older[name] else ""
        parts += [f"## instsel {name}", f"{_sentence(helps[name])}{also} See [{name}](/methods/{name}.md)."]
        parts.append(_table(own) if own else "No flags besides those that every method takes.")
    for name in COMMANDS:
        parts += [f"## instsel {name}", _sentence(helps[name]), _table(arguments_of(commands[name]))]
    return "\n\n".join(parts) + "\n"


def undocumented(parser: argparse.ArgumentParser) -> list[str]:
    """Commands and flags of which the parsers say nothing."""
    helps = _helps(parser)
    silent = [f"{parser.prog} {action.option_strings[0]}" for action in arguments_of(parser) if not action.help]
    for name, command in commands_of(parser).items():
        silent += [f"{parser.prog} {name}"] * (not helps.get(name))
        silent += [f"{command.prog} {_word(action)}" for action in arguments_of(command) if not action.help]
    return silent


def _helps(parser: argparse.ArgumentParser) -> dict[str, str]:
    [action] = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return {choice.dest: str(choice.help or "") for choice in action._choices_actions}


def _shared(commands: list[argparse.ArgumentParser]) -> list[argparse.Action]:
    """Arguments that all of the commands have, in the words of the first."""
    everywhere = set.intersection(*({_said(action) for action in arguments_of(command)} for command in commands))
    return [action for action in arguments_of(commands[0]) if _said(action) in everywhere]


def _said(action: argparse.Action) -> tuple[str, ...]:
    return (*action.option_strings, action.dest, str(action.default), str(action.help))


def _table(actions: list[argparse.Action]) -> str:
    rows = ["| argument | default | meaning |", "|---|---|---|"]
    for action in actions:
        meaning = (action.help or "") % {"default": action.default} if "%" in (action.help or "") else action.help
        words = ", ".join(f"`{word}`" for word in _words(action))
        rows.append(f"| {words} | {_default(action)} | {_cell(meaning or '')} |")
    return "\n".join(rows)


def _word(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def _words(action: argparse.Action) -> Iterator[str]:
    """A flag as it is written, with what follows it."""
    value = "" if action.nargs == 0 else f" {_value(action)}"
    if not action.option_strings:
        yield _value(action)
    for flag in action.option_strings:
        yield f"{flag}{value}"


def _value(action: argparse.Action) -> str:
    if action.choices is not None:
        shown = "\\|".join(str(choice) for choice in action.choices)
    else:
        shown = str(action.metavar or action.dest.upper())
    return f"{shown} ..." if action.nargs in ("+", "*") else shown


def _default(action: argparse.Action) -> str:
    if action.required and action.option_strings:
        return "needed"
    if action.default in (None, [], "") or action.nargs == 0 or len(str(action.default)) > 24:
        return ""
    return f"`{action.default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("{", "`{").replace("}", "}`").replace("\n", " ")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
