"""Names of the columns that instsel adds beside others: none is taken twice, and a result says which are whose.

A column NAME keeps its name where it is free. Otherwise it is called `instsel_NAME`, and where that is taken too,
`instsel_NAME_2`, `instsel_NAME_3` and so on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

CLASH_PREFIX = "instsel_"
_METADATA_KEY = b"instsel"


def allot_names(added: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """The name in a table of each column added to those that it has.

    >>> allot_names(["ifd", "direct"], ["text", "ifd", "instsel_ifd"])
    {'ifd': 'instsel_ifd_2', 'direct': 'direct'}
    """
    added = list(added)
    used = {*taken, *added}  # a column that keeps its name must not lose it to one that is renamed
    allotted = {}
    for name in added:
        allotted[name] = next(one for one in _candidates(name) if one not in used) if name in taken else name
        used.add(allotted[name])
    return allotted


def _candidates(name: str) -> Iterable[str]:
    numbered = (f"{CLASH_PREFIX}{name}_{number}" for number in itertools.count(2))
    return itertools.chain([CLASH_PREFIX + name], numbered)


def names_of_old_run(added: Sequence[str], original: Collection[str]) -> dict[str, str]:
    """The name that a run gave each of its columns before manifests said so: `instsel_NAME` where NAME was there."""
    return {name: CLASH_PREFIX + name if name in original else name for name in added}


def names_guessed(columns: Sequence[str]) -> dict[str, str]:
    """What the columns of a result mean of which nothing else is known: `instsel_NAME` beside NAME is ours.

    >>> names_guessed(["text", "ifd", "instsel_ifd"])
    {'text': 'text', 'ifd': 'instsel_ifd'}
    """
    there = set(columns)
    found = {name: name for name in columns}
    for name in columns:
        plain = name.removeprefix(CLASH_PREFIX)
        if plain != name and plain in there:
            found[plain] = name
            del found[name]
    return found


def with_names(schema: pa.Schema, own: Mapping[str, str]) -> pa.Schema:
    """A schema that says which of its columns are the run's own, so that a file alone knows it."""
    return schema.with_metadata({_METADATA_KEY: json.dumps({"columns": dict(own)}).encode()})


def names_within(schema: pa.Schema) -> dict[str, str] | None:
    """What `with_names` put into a file's schema; None where there is nothing, or columns went since."""
    try:
        told = json.loads((schema.metadata or {}).get(_METADATA_KEY, b"null"))
    except ValueError:
        return None
    return checked_names(told.get("columns") if isinstance(told, dict) else None, schema.names)


def checked_names(told: object, columns: Collection[str]) -> dict[str, str] | None:
    """A mapping of our names to columns, as a file tells it; None where it is none or names others than `columns`."""
    if not isinstance(told, dict):
        return None
    there = set(columns)
    return dict(told) if all(isinstance(name, str) and name in there for name in told.values()) else None
