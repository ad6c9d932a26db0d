"""What a run was made with, as digests: a model folder's weights and tokenizer, a hub model's commit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from instsel.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Checkpoint, check_name, find_checkpoint
from instsel.error_text import first_line
from instsel.hub import cache_alone_if_out_of_reach
from instsel.runs.durable_files import digest_file

_MODEL_FILES = ("config.json", "*.safetensors")
_TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model"
)  # fmt: skip

_ADAPTER = "adapter/"  # before the names of an adapter's files, which may be those of its base model's


def model_fingerprint(name: str, revision: str | None, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Digests of a model and its tokenizer, as manifest fields.

    For a folder: of its configuration, weights and tokenizer files. For a hub name: the commit that the name and
    revision mean now. For a file of GGUF: of the file, which holds all of them. For an adapter: of its own files and of
    the model under it. `known` is an earlier manifest: files whose size and times are as it says are not read again.

    Raises ValueError where the folder is no model folder, has no safetensors weights, or the name is not found.
    """
    earlier = (known or {}).get("model_files") or {}
    check_name(name)
    checkpoint = find_checkpoint(name, revision)
    found = _fingerprint(checkpoint, earlier)
    if checkpoint.adapter is None:
        return found
    folder = Path(checkpoint.adapter.name)
    described = _describe(_files(folder, (ADAPTER_CONFIG, ADAPTER_WEIGHTS)), earlier, _ADAPTER)
    model = {"base model": {"digest": found["model_digest"]}, **described}
    own = _describe(_files(folder, _TOKENIZER_FILES), earlier, _ADAPTER) if checkpoint.tokenizer != checkpoint else {}
    return {
        "model_digest": _combined(model),
        "tokenizer_digest": _combined(own) if own else found["tokenizer_digest"],
        "model_files": found["model_files"] | described | own,
    }


def _fingerprint(checkpoint: Checkpoint, known: Mapping[str, object]) -> dict[str, Any]:
    """The digests of a model without what an adapter changes."""
    folder, file = Path(checkpoint.name), checkpoint.gguf_file
    if not folder.is_dir():
        commit = _hub_commit(checkpoint) + (f" {file}" if file else "")
        return {"model_digest": commit, "tokenizer_digest": commit, "model_files": {}}
    if file is not None:
        described = _describe([folder / file], known)
        digest = _combined(described)
        return {"model_digest": digest, "tokenizer_digest": digest, "model_files": described}
    _check_folder(folder, tokenizer=checkpoint.tokenizer == checkpoint)
    models = _files(folder, _MODEL_FILES)
    if checkpoint.adapter is not None:
        models = [path for path in models if path.name != ADAPTER_WEIGHTS]
    described = _describe(sorted({*models, *_files(folder, _TOKENIZER_FILES)}), known)
    names = {path.name for path in models}
    return {
        "model_digest": _combined({name: d for name, d in described.items() if name in names}),
        "tokenizer_digest": _combined({name: d for name, d in described.items() if name not in names}),
        "model_files": described,
    }


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _check_folder(folder: Path, *, tokenizer: bool) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"model folder {folder} has no config.json: it is not a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        found = "weights only in a pickle format, which can run code when loaded" if pickled else "no weights"
        raise ValueError(f"model folder {folder} has {found}; instsel loads model.safetensors only")
    if tokenizer and not _files(folder, _TOKENIZER_FILES):
        raise ValueError(f"model folder {folder} has no tokenizer (tokenizer.json or the like)")


def _describe(paths: Iterable[Path], known: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Size, times and digest of each file, under its name."""

    def describe(path: Path) -> tuple[str, dict[str, Any]]:
        name = prefix + path.name
        stat = path.stat()
        # Copies and unpacked archives may bear the time of another file; that of the last change nobody can set.
        found = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "changed_ns": stat.st_ctime_ns}
        before = known.get(name) or {}
        same = "digest" in before and all(before.get(key) == value for key, value in found.items())
        return name, {**found, "digest": before["digest"] if same else digest_file(path)}

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(describe, paths))


def _combined(described: Mapping[str, Any]) -> str:
    lines = "".join(f"{name} {described[name]['digest']}\n" for name in sorted(described))
    return hashlib.sha256(lines.encode()).hexdigest()


def _hub_commit(checkpoint: Checkpoint) -> str:
    name, revision = checkpoint.name, checkpoint.revision
    try:
        with cache_alone_if_out_of_reach(name):
            from transformers.utils.hub import cached_file, extract_commit_hash

            path = cached_file(name, checkpoint.gguf_file or "config.json", revision=revision)
        commit = extract_commit_hash(path, None)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model {name!r} is neither a folder nor a model that the hub or its local cache gives"
            f"{f' at revision {revision!r}' if revision else ''}: {first_line(error)}"
        ) from error
    return f"commit {commit}"
