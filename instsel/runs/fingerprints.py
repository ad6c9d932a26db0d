"""What a run was made with, as digests: a model folder's weights and tokenizer, a hub model's commit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from instsel.hub import cache_alone_if_out_of_reach
from instsel.runs.durable_files import digest_file

_MODEL_FILES = ("config.json", "*.safetensors")
_TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model"
)  # fmt: skip


def model_fingerprint(name: str, revision: str | None, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Digests of a model and its tokenizer, as manifest fields.

    For a folder: of its configuration, weights and tokenizer files. For a hub name: the commit that the name and
    revision mean now. `known` is an earlier manifest: files whose size and time are as it says are not read again.

    Raises ValueError where the folder is no model folder, has no safetensors weights, or the name is not found.
    """
    folder = Path(name)
    if not folder.is_dir():
        commit = _hub_commit(name, revision)
        return {"model_digest": commit, "tokenizer_digest": commit, "model_files": {}}
    _check_folder(folder)
    files = sorted({path for pattern in _MODEL_FILES + _TOKENIZER_FILES for path in folder.glob(pattern)})
    described = _describe([path for path in files if path.is_file()], (known or {}).get("model_files") or {})
    models = {path.name for pattern in _MODEL_FILES for path in folder.glob(pattern)}
    return {
        "model_digest": _combined({name: d for name, d in described.items() if name in models}),
        "tokenizer_digest": _combined({name: d for name, d in described.items() if name not in models}),
        "model_files": described,
    }


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"model folder {folder} has no config.json: it is not a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        found = "weights only in a pickle format, which can run code when loaded" if pickled else "no weights"
        raise ValueError(f"model folder {folder} has {found}; instsel loads model.safetensors only")
    if not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        raise ValueError(f"model folder {folder} has no tokenizer (tokenizer.json or the like)")


def _describe(paths: Iterable[Path], known: Mapping[str, Any]) -> dict[str, Any]:
    def describe(path: Path) -> tuple[str, dict[str, Any]]:
        stat = path.stat()
        found = {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        before = known.get(path.name) or {}
        same = "digest" in before and all(before.get(key) == value for key, value in found.items())
        return path.name, {**found, "digest": before["digest"] if same else digest_file(path)}

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(describe, paths))


def _combined(described: Mapping[str, Any]) -> str:
    lines = "".join(f"{name} {described[name]['digest']}\n" for name in sorted(described))
    return hashlib.sha256(lines.encode()).hexdigest()


def _hub_commit(name: str, revision: str | None) -> str:
    try:
        with cache_alone_if_out_of_reach(name):
            from transformers.utils.hub import cached_file, extract_commit_hash

            path = cached_file(name, "config.json", revision=revision)
        commit = extract_commit_hash(path, None)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model {name!r} is neither a folder nor a model that the hub or its local cache gives"
            f"{f' at revision {revision!r}' if revision else ''}: {_first_line(error)}"
        ) from error
    return f"commit {commit}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
