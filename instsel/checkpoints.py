"""What a model's name stands for: a folder or hub id, one file of GGUF, or an adapter of PEFT over another model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from instsel.hub import cache_alone_if_out_of_reach
from instsel.optional_packages import need_package

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model's configuration and weights lie.

    name       folder or hub id of the model, of the base model for an adapter
    revision   of a hub id
    gguf_file  the file in it that holds all of the model, in GGUF
    adapter    what changes the model: the checkpoint of an adapter, whose name is a folder
    """

    name: str
    revision: str | None = None
    gguf_file: str | None = None
    adapter: Checkpoint | None = None

    @property
    def options(self) -> dict[str, str | None]:
        """What transformers takes beside the name."""
        packed = {} if self.gguf_file is None else {"gguf_file": self.gguf_file}
        return {"revision": self.revision, **packed}

    @property
    def tokenizer(self) -> Checkpoint:
        """Where the tokenizer lies: with the adapter that was trained by it, or with the model."""
        own = self.adapter is not None and any((Path(self.adapter.name) / file).is_file() for file in _TOKENIZERS)
        return self.adapter if self.adapter is not None and own else self


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """What a name stands for: asks the hub, or its cache, whether an id is that of an adapter.

    Raises ValueError where a package that it takes is not installed, or an adapter is not whole.
    """
    place, gguf_file = gguf_parts(name)
    if gguf_file is not None:
        with _needing("a GGUF file"):
            need_package("gguf", "gguf", ">=0.10", extra="gguf")
        return Checkpoint(place, revision, gguf_file)
    found = _file(name, ADAPTER_CONFIG, revision)
    if found is None:
        return Checkpoint(name, revision)
    with _needing("an adapter"):
        need_package("peft", "peft", ">=0.17", extra="peft")
    if _file(name, ADAPTER_WEIGHTS, revision) is None:
        raise ValueError(f"the adapter {name} has no {ADAPTER_WEIGHTS}; instsel loads safetensors only")
    for file in _TOKENIZERS:  # of a hub id, so that they lie beside it
        _file(name, file, revision)
    adapter = Checkpoint(str(found.parent))
    if _file(name, "config.json", revision) is not None:  # a whole model with the adapter beside its weights
        return Checkpoint(name, revision, adapter=adapter)
    settings = json.loads(found.read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ValueError(f"the adapter {name} names no base model in its {ADAPTER_CONFIG}")
    check_name(base, f"the base model of the adapter {name}")
    return Checkpoint(base, settings.get("revision"), adapter=adapter)


def check_name(name: str, what: str = "model") -> None:
    """Raise ValueError, beginning with `what`, for a path at which there is nothing, and a file that is not GGUF."""
    place, file = gguf_parts(name)
    path = Path(place, file or "")
    looks_local = (
        place.startswith((".", "/", "~")) or place.count("/") > 1 or (file is not None and Path(place).is_dir())
    )
    expected = f"{what}: expected a folder, a GGUF file or a hub id, got {name!r}"
    if looks_local and not path.exists():
        raise ValueError(f"{expected}, which does not exist")
    if file is None and path.exists() and not path.is_dir():
        raise ValueError(f"{expected}, which is a file of another kind")


def gguf_parts(name: str) -> tuple[str, str | None]:
    """The folder or hub id, and the file in it, of `PATH/FILE.gguf` and `FOLDER:FILE.gguf`; no file for other names."""
    path = Path(name)
    if path.suffix.lower() != ".gguf" or path.is_dir():
        return name, None
    place, colon, file = name.rpartition(":")
    if path.is_file() or not colon:
        return str(path.parent), path.name
    return place, file


def _file(name: str, file: str, revision: str | None) -> Path | None:
    """A file of a folder or hub id; None where it has none, and for a name that gives nothing: loading says why."""
    if Path(name).exists():
        path = Path(name) / file
        return path if path.is_file() else None
    from transformers.utils.hub import cached_file

    try:
        with cache_alone_if_out_of_reach(name):
            found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError:
        return None
    return None if found is None else Path(found)


@contextmanager
def _needing(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{what} needs a package: {error}") from error
