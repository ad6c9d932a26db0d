"""All faults, and putting one into a tree of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import attention, float8, gpu_layers, head, layers, recurrences, runs, sharing, transfers
from .faults import Fault

LISTS = {
    "transfers": transfers.FAULTS,
    "attention": attention.FAULTS,
    "head": head.FAULTS,
    "recurrences": recurrences.FAULTS,
    "layers": layers.FAULTS,
    "gpu_layers": gpu_layers.FAULTS,
    "float8": float8.FAULTS,
    "sharing": sharing.FAULTS,
    "runs": runs.FAULTS,
}


def applied(fault: Fault, text: str) -> str:
    """A file's text with the fault. Raises ValueError where it does not apply, or more than once."""
    found = text.count(fault.text)
    if found != 1:
        raise ValueError(f"{fault.name!r}: expected its text once in {fault.file}, found it {found} times")
    changed = text.replace(fault.text, fault.instead)
    if changed == text:
        raise ValueError(f"{fault.name!r} changes nothing in {fault.file}")
    compile(changed, fault.file, "exec")
    return changed


@contextmanager
def put_into(tree: Path, fault: Fault) -> Iterator[None]:
    """Within this block the tree has the fault."""
    path = tree / fault.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(applied(fault, sound), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(sound, encoding="utf-8")
