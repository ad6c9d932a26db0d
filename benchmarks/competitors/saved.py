"""A loaded model as a folder, for engines that load the weights themselves."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from transformers import PreTrainedModel

LONGEST = 16_384  # tokens of a sequence, more than any workload has: engines set memory aside for it
MEMORY_SHARE = 0.5  # of the GPU's memory: instsel's process has the same model on it


@functools.cache
def saved(model: PreTrainedModel) -> tuple[Path, str, int]:
    """The folder, the name of the model's dtype, and the longest sequence; the GPU's memory is given up."""
    folder = tempfile.TemporaryDirectory(prefix="instsel-model-")
    _folders.append(folder)
    model.save_pretrained(folder.name)
    dtype = str(model.dtype).removeprefix("torch.")
    model.to("cpu")
    return Path(folder.name), dtype, min(model.config.max_position_embeddings, LONGEST)


_folders: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends
