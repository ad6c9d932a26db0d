"""`--config FILE`: a command's flags from a YAML or JSON file, of which a run's manifest is one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from instsel.commands.configuration_file import check_value, read_document
from instsel.commands.options import column_mapping, device_names, written
from instsel.nearest_word import nearest

OPTION = "--config"
PLUGIN = "--plugin"
HELP = "a YAML or JSON file of flags, such as a run's manifest.json; flags given here override it"
TRUST = "--trust-plugins"
_OWN_RAY = ("auto", "local")  # the cluster of this machine


def with_configuration(
    arguments: Sequence[str], parser_of: Callable[[Sequence[str]], argparse.ArgumentParser]
) -> list[str]:
    """The arguments with those of the file after --config put in, each unless it is given on the command line.

    `parser_of` gives the parser with the methods of the plug-ins that these words name.

    A file may say `command` itself. It may ask for code to be run, and for a cluster that runs code for whoever it
    answers to, but that happens only where the command line names it too: a file may come from anybody.

    Raises ValueError naming the file and the key, and the nearest one that there is.
    """
    rest, path = _split(arguments)
    if path is None:
        return rest
    settings = _read(path)
    plugins = _plugin_words(settings.pop("plugin", None), rest[: _own_options(rest)], path)
    commands = _commands(parser_of([*plugins, *rest[: _own_options(rest)]]))
    given = next((word for word in rest if word in commands), None)
    command = given or settings.get("command")
    if not isinstance(command, str) or command not in commands:
        raise ValueError(f"{OPTION} {path}: which command? give one of {', '.join(commands)}, or say command: in it")
    settings.pop("command", None)
    own = rest.index(given) if given is not None else _own_options(rest)
    before, after = rest[:own], rest[own + (given is not None) :]
    return [*before, *plugins, command, *after, *_words(settings, commands[command], path, after)]


def _own_options(words: Sequence[str]) -> int:
    """How many words before the command are options of the whole program."""
    at = 0
    while at < len(words) and (words[at] in (PLUGIN, TRUST) or words[at].startswith(f"{PLUGIN}=")):
        at += 2 if words[at] == PLUGIN else 1
    return at


def _plugin_words(named: object, given: Sequence[str], path: str) -> list[str]:
    """The plug-ins that a file names and the command line does not, where it trusts them."""
    if isinstance(named, str):
        named = [named]
    if not isinstance(named, (list, type(None))) or not all(isinstance(one, str) for one in named or []):
        raise ValueError(f"{OPTION} {path}: plugin must be the path of a Python file, or a list of them")
    words = iter(given)
    known = {os.path.realpath(next(words, "") if word == PLUGIN else word.partition("=")[2]) for word in words}
    others = [one for one in named or [] if os.path.realpath(one) not in known]
    if others and TRUST not in given:
        first = _shown(others[0], 4096)
        raise ValueError(
            f"{OPTION} {path}: this configuration names the plug-in {first}; it was not run: "
            f"give {PLUGIN} {first} or {TRUST} before the command"
        )
    return [f"{PLUGIN}={one}" for one in others]


def _split(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The arguments without --config, and its file."""
    rest: list[str] = []
    path: str | None = None
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != OPTION:
            rest.append(word)
            continue
        if path is not None:
            raise ValueError(f"{OPTION} is given twice")
        path = value if equals else next(words, "")
        if not path:
            raise ValueError(f"{OPTION}: expected the path of a YAML or JSON file")
    return rest, path


def _read(path: str) -> dict[str, object]:
    """The flags that a file gives, by their names with underscores."""
    document = read_document(Path(path), f"{OPTION} {path}")
    found: object = document
    if "method" in document and "input_digest" in document:  # a manifest
        if "arguments" not in document:
            raise ValueError(f"{OPTION} {path}: this manifest is of a version that did not record its arguments")
        found = document["arguments"]
    if not isinstance(found, dict):
        raise ValueError(f"{OPTION} {path}: arguments must be keys and values, got {type(found).__name__}")
    settings: dict[str, object] = {}
    for key, value in found.items():
        if not isinstance(key, str):
            raise ValueError(f"{OPTION} {path}: a key must be a text, got {type(key).__name__}")
        name = key.replace("-", "_")
        if name in settings:
            raise ValueError(f"{OPTION} {path} gives the key {_shown(name)} twice")
        settings[name] = value
    return settings


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(choices[0])


def _words(
    settings: Mapping[str, object], command: argparse.ArgumentParser, path: str, after: Sequence[str]
) -> Iterator[str]:
    """The file's settings as flags, without those that the command line overrides; positional arguments first."""
    named = {name: action for action in command._actions for name in _names(action)}
    given = _given(command, after)
    taken = given | {
        other.dest
        for group in command._mutually_exclusive_groups
        for other in group._group_actions
        if any(action.dest in given for action in group._group_actions)
    }
    chosen: list[tuple[argparse.Action, str, object]] = []
    for key, value in settings.items():
        if key not in named:
            near = nearest(key[:80], list(named))
            hint = f"did you mean {near}?" if near else f"it has {', '.join(named)}"
            raise ValueError(f"{OPTION} {path}: {command.prog.split()[-1]} has no {_shown(key)}; {hint}")
        if value is None or named[key].dest in taken:
            continue
        if any(action is named[key] for action, _, _ in chosen):
            raise ValueError(f"{OPTION} {path} gives {key} twice, under another name too")
        if (key == "trust_remote_code" and value is True) or (key == "ray" and value not in _OWN_RAY):
            flag = f"{named[key].option_strings[0]}{'' if value is True else f' {_shown(value)}'}"
            raise ValueError(
                f"{OPTION} {path}: this configuration asks for {key}, which is code of others; "
                f"it was not run: give {flag} on the command line"
            )
        chosen.append((named[key], key, value))
    for action, key, value in sorted(chosen, key=lambda one: bool(one[0].option_strings)):
        yield from _as_flag(action, key, value, path)


def _names(action: argparse.Action) -> list[str]:
    """What a file may call an action: its flag without dashes, or the name of its value."""
    flags = [word[2:].replace("-", "_") for word in action.option_strings if word.startswith("--")]
    return [name for name in dict.fromkeys([*flags[:1], action.dest]) if name not in ("help", "config")]


def _given(command: argparse.ArgumentParser, words: Sequence[str]) -> set[str]:
    """Which of a command's values the words give: flags, abbreviated ones too, and what stands without a flag."""
    found: set[str] = set()
    room = 0.0  # how many words the last flag still takes
    positional = [action for action in command._actions if not action.option_strings]
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, equals, _ = word.partition("=")
            fits = [a for a in command._actions if flag in a.option_strings] or [
                a for a in command._actions if any(name.startswith(flag) for name in a.option_strings)
            ]
            found |= {action.dest for action in fits}
            takes = fits[0].nargs if fits else 0
            room = 0 if equals else float("inf") if takes in ("+", "*") else 1 if takes is None else 0
        elif room:
            room -= 1
        else:
            found |= {action.dest for action in positional}
    return found


def _as_flag(action: argparse.Action, key: str, value: object, path: str) -> list[str]:
    said = f"{OPTION} {path}: {key} must be"
    flag = action.option_strings[0] if action.option_strings else ""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{said} true or false, got {value!r:.60}")
        return [flag] if value else list(action.option_strings[1:2])  # the second of a pair is --no-...
    if action.type is column_mapping:
        expected = "a text or a mapping of fields to columns"
    elif action.type is device_names:
        expected = "a text of names with commas between them, or a list of names"
    else:
        expected = "one text or number" if action.nargs is None else "a text or number, or a list of them"
    check_value(value, f"{said} {expected}")
    if isinstance(value, bool) or (isinstance(value, dict) and action.type is not column_mapping):
        raise ValueError(f"{said} {expected}, got {type(value).__name__}")
    if isinstance(value, dict) or (isinstance(value, list) and action.type is device_names):
        value = written(value)
    if isinstance(value, list) and action.nargs is None:
        raise ValueError(f"{said} {expected}, got a list")
    if flag and not isinstance(value, list):
        return [f"{flag}={value}"]
    words = [str(one) for one in (value if isinstance(value, list) else [value])]
    for word in words:
        if word.startswith("-") and word != "-":  # argparse would take it for a flag, and for one that nobody gave
            raise ValueError(f"{said} a name that does not begin with a hyphen, got {_shown(word)}")
    return [flag, *words] if flag else words


def _shown(value: object, longest: int = 60) -> str:
    """A value in a message: a word of the file as it is, anything else quoted."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."
