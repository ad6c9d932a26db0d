"""What a run folder's manifest says: the settings that decide the numbers, and how two of them differ."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from instsel.runs.durable_files import write_text
from instsel.runs.manifest_shape import Manifest, is_manifest
from instsel.runs.regular_files import read_json
from instsel.runs.run_files import MANIFEST

FORMAT = 1


def read_manifest(folder: Path) -> tuple[Manifest | None, bool]:
    """The manifest of a run folder, or None if there is none to be read; and whether there is a damaged one.

    Damaged is what is no regular file, no JSON, or not of a manifest's shape (see `instsel.runs.manifest_shape`).
    """
    try:
        found = read_json(folder / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return None, False
    except ValueError:
        return None, True
    return (found, False) if is_manifest(found) else (None, True)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a run folder, whole or not at all."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    write_text(folder / MANIFEST, text.encode("utf-8", "replace").decode())  # names of files may have half characters


def settings_digest(settings: Mapping[str, object]) -> str:
    """The SHA-256 of settings, whatever the order of their fields."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, str]:
    """The versions that a number may depend on in its last digits."""
    packages = ("torch", "transformers", "tokenizers", "triton", "numpy", "pyarrow")
    versions = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def differing_fields(there: Mapping[str, object], now: Mapping[str, object], prefix: str = "") -> list[str]:
    """What differs between two settings, each as `field (value there, value now)`; extra fields there are ignored."""
    found: list[str] = []
    for name in now:
        one, other = there.get(name), now[name]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            extra = {key: None for key in one if key not in other}
            found += differing_fields(one, {**other, **extra}, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name} ({_short(one)} there, {_short(other)} now)")
    return found


class OtherSettingsError(ValueError):
    """A folder holds another run; `what` says which and how it differs, without what to do about it."""

    def __init__(self, name: str, fields: Sequence[str]) -> None:
        self.what = f"{name} holds a run with other settings: {'; '.join(fields)}"
        super().__init__(f"{self.what}. Name another --output, or start again with --overwrite")


def _short(value: object) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:12] + "…"
