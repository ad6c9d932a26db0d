"""`--config FILE`: a command's flags from a YAML or JSON file, of which a run's manifest is one."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from instsel.nearest_word import nearest
from instsel.runs.remote_files import is_address

OPTION = "--config"
HELP = "a YAML or JSON file of flags, such as a run's manifest.json; flags given here override it"
_NOT_RECORDED = ("run", "config")


def with_configuration(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments with those of the file after --config put in, each unless it is given on the command line.

    A file may say `command` itself. Raises ValueError naming the file and the key, and the nearest one that there is.
    """
    rest, path = _split(arguments)
    if path is None:
        return rest
    settings = _read(Path(path))
    commands = _commands(parser)
    given = next((word for word in rest if word in commands), None)
    command = str(given or settings.get("command"))
    if command not in commands:
        raise ValueError(f"{OPTION} {path}: which command? give one of {', '.join(commands)}, or say command: in it")
    settings.pop("command", None)
    if given is not None:
        before, after = rest[: rest.index(given)], rest[rest.index(given) + 1 :]
    else:  # options of the whole program, such as --plugin FILE, come in pairs
        own = 0
        while own + 1 < len(rest) and rest[own] == "--plugin":
            own += 2
        before, after = rest[:own], rest[own:]
    for plugin in settings.pop("plugin", None) or []:
        before += ["--plugin", str(plugin)]
    return [*before, command, *after, *_words(settings, commands[command], path, after)]


def recorded_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """A command's arguments as a manifest keeps them, files by their full path, for --config to read again."""
    given = {name: value for name, value in vars(args).items() if name not in _NOT_RECORDED and value is not None}
    recorded = {name: _recordable(value) for name, value in given.items()}
    if (output := given.get("output")) is not None and not is_address(str(output)):
        recorded["output"] = os.path.abspath(output)  # a folder, though none may be there yet
    return recorded


def _recordable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_recordable(one) for one in value]
    if isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.exists(value)):
        return os.path.abspath(value)
    return value


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


def _read(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".json":
            found = json.loads(text)
        else:
            import yaml

            found = yaml.safe_load(text)
    except ImportError:
        raise ValueError(f"{OPTION} {path}: YAML needs a package that is missing: pip install pyyaml") from None
    except Exception as error:  # whatever either parser says of a file that is none
        raise ValueError(f"{OPTION} {path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{OPTION} {path}: expected keys and values, got {type(found).__name__}")
    if "method" in found and "input_digest" in found:  # a manifest
        if "arguments" not in found:
            raise ValueError(f"{OPTION} {path}: this manifest is of a version that did not record its arguments")
        found = found["arguments"]
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    choices = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(choices[0])


def _words(
    settings: Mapping[str, Any], command: argparse.ArgumentParser, path: str, after: Sequence[str]
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
    chosen: list[tuple[argparse.Action, str, Any]] = []
    for key, value in settings.items():
        if key not in named:
            near = nearest(key, list(named))
            hint = f"did you mean {near}?" if near else f"it has {', '.join(named)}"
            raise ValueError(f"{OPTION} {path}: {command.prog.split()[-1]} has no {key}; {hint}")
        if value is not None and named[key].dest not in taken:
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


def _as_flag(action: argparse.Action, key: str, value: Any, path: str) -> list[str]:
    if not action.option_strings:
        return [str(one) for one in (value if isinstance(value, list) else [value])]
    flag = action.option_strings[0]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{OPTION} {path}: {key} must be true or false, got {value!r}")
        return [flag] if value else list(action.option_strings[1:2])  # the second of a pair is --no-...
    if isinstance(value, dict):
        return [f"{flag}={','.join(f'{name}={one}' for name, one in value.items())}"]
    if isinstance(value, list):
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]
