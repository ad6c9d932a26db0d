"""What an export may write over: the files that one wrote before, as they are still, and nothing else.

A folder's `.instsel-export.json` keeps the digests of what exports wrote into it, by the files' names. It is written
before the files are, so that an export that was stopped can be made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from instsel.runs.durable_files import digest_file, remove_unfinished, write_text
from instsel.runs.regular_files import read_json

RECORD = ".instsel-export.json"


def check_writable(paths: Sequence[Path], overwrite: bool) -> None:
    """ValueError naming a file that is there and must stay."""
    for path in paths:
        if not os.path.lexists(path):
            continue
        if not overwrite:
            raise ValueError(f"{path} exists: name another output, or overwrite it (--overwrite, overwrite=True)")
        digests = _recorded(path.parent).get(path.name, [])
        if path.is_symlink() or not path.is_file() or digest_file(path) not in digests:
            raise ValueError(
                f"{path} is not overwritten: no export wrote it, or it was changed since. Move it away, or name another"
            )


def write_files(texts: Mapping[Path, str]) -> None:
    """Write files of one folder, each whole or not at all, and what is to be known of them first."""
    folder = next(iter(texts)).parent
    recorded = _recorded(folder)
    for path, text in texts.items():
        before = [digest_file(path)] if path.is_file() else []
        kept = [digest for digest in before if digest in recorded.get(path.name, [])]
        recorded[path.name] = [*kept, hashlib.sha256(text.encode()).hexdigest()]
    remove_unfinished(folder)
    write_text(folder / RECORD, json.dumps(recorded, indent=1))
    for path, text in texts.items():
        write_text(path, text)


def others_of(folder: Path, written: Sequence[Path]) -> list[Path]:
    """What exports wrote into a folder before one that wrote `written`, as far as it is still there."""
    names = set(_recorded(folder)) - {path.name for path in written}
    return sorted(folder / name for name in names if (folder / name).is_file())


def _recorded(folder: Path) -> dict[str, list[str]]:
    try:
        found = read_json(folder / RECORD)
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if isinstance(found, dict) and all(isinstance(digests, list) for digests in found.values()):
        return found
    return {}
