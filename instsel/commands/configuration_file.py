"""Reading a configuration: YAML or JSON from anywhere, bounded in size and depth, of plain values only."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

_LARGEST_JSON = 1 << 24  # bytes: a manifest holds the names of all inputs
_LARGEST_YAML = 1 << 18  # its parser takes a second for so much
_DEEPEST = 32  # levels of YAML; Python bounds those of JSON
_LARGEST_NUMBER = 2**63


def read_document(path: Path, name: str) -> dict[str, object]:
    """The keys and values of a file; `name` is what messages call it.

    Raises ValueError, in one line, for what is no document of either language, or is larger or deeper than a
    configuration is, repeats a key, or uses YAML's anchors, aliases and merge keys, of which a few lines can stand for
    more than a memory holds. Raises OSError where the file cannot be read.
    """
    is_json = path.suffix == ".json"
    largest = _LARGEST_JSON if is_json else _LARGEST_YAML
    with open(path, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{name} is larger than the {largest:,} bytes that a configuration may have")
    try:
        text = content.decode("utf-8")
        found = _read_json(text) if is_json else _read_yaml(text)
    except ImportError:
        raise ValueError(f"{name}: YAML needs a package that is missing: pip install pyyaml") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    except _RefusedError as error:
        raise ValueError(f"{name} {error}") from None
    except Exception as error:  # whatever either parser says of a file that is none
        raise ValueError(f"{name} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: expected keys and values, got {type(found).__name__}")
    return found


def check_value(value: object, expected: str) -> None:
    """ValueError where a value is no plain one, such as a table in a list, or a number that no flag takes."""
    members: Iterable[object] = [value]
    if isinstance(value, list):
        members = value
    elif isinstance(value, Mapping):
        members = [*value, *value.values()]
    for one in members:
        if not isinstance(one, (str, int, float, datetime.date)):
            raise ValueError(f"{expected}, got {type(one).__name__}{'' if one is value else ' in it'}")
        if isinstance(one, (int, float)) and not abs(one) < _LARGEST_NUMBER:  # nor is NaN
            raise ValueError(f"{expected}, got a number out of all bounds")


class _RefusedError(Exception):
    """A document that could be read and is not; says why."""


def _read_json(text: str) -> object:
    def without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise _RefusedError(f"gives the key {_short(key)} twice")
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=without_repeats)


def _read_yaml(text: str) -> object:
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):  # before anything is built from it
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _RefusedError(f"has an anchor or alias ({_short(event.anchor)}), which a configuration may not")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise _RefusedError("is nested too deeply")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    return yaml.safe_load(text)


def _check_keys(node: object) -> None:
    """No key of a mapping, or of one inside it, stands twice or takes in another mapping."""
    import yaml

    nodes = [node]
    while nodes:
        one = nodes.pop()
        if isinstance(one, yaml.SequenceNode):
            nodes += one.value
        elif isinstance(one, yaml.MappingNode):
            seen: set[object] = set()
            for key, value in one.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    raise _RefusedError("has a merge key (<<), which a configuration may not")
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in seen:
                        raise _RefusedError(f"gives the key {_short(key.value)} twice")
                    seen.add((key.tag, key.value))
                nodes.append(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
