"""Whether a GPU's head runs fused: timed once for each shape on the machine itself, and kept in the user's cache.

The fused kernel is taken unless the library's product is clearly faster: with it a row's bits do not depend on its
batch, and no logits take memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton

from instsel.engine.model import Head
from instsel.kernels import linear_logprob
from instsel.kernels.devices import current

CLEARLY = 0.9  # of the fused kernel's time, which the library's product must stay below
ROWS = 4096  # of a pass over the head
REPEATS = 5


def head_is_fused(head: Head) -> bool | str:
    """What `linear_logprob` is to be given as `fused` for a head, by what is kept for it or else by a timing.

    "auto" where nothing is to be timed: on a processor, and in float32, where the fused kernel has no tensor cores.
    """
    weight = head.weight
    if weight.device.type != "cuda" or weight.dtype.itemsize != 2:
        return "auto"
    shape = {
        "device": torch.cuda.get_device_name(weight.device),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "dtype": str(weight.dtype),
        "weight": list(weight.shape),
    }
    path = cache_folder() / f"head-{hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:20]}.json"
    kept = read_choice(path, shape)
    if kept is not None:
        return kept
    try:
        fused, unfused = (milliseconds(head, fused=way) for way in (True, False))
    except Exception:  # no memory to spare, or a product that this build of torch lacks
        return "auto"
    found = {"shape": shape, "fused": unfused >= CLEARLY * fused, "milliseconds": [fused, unfused]}
    return keep_choice(path, found)


def milliseconds(head: Head, *, fused: bool) -> float:
    """The least time of a pass over the head, once it is compiled."""
    weight = head.weight
    index = torch.zeros(1, dtype=torch.int64, device=weight.device)
    taken = []
    with torch.inference_mode(), current(weight.device):
        for _ in range(1 + REPEATS):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            linear_logprob(
                weight[:ROWS],
                weight,
                index,
                index,
                bias=head.bias,
                scale=head.scale,
                softcap=head.softcap,
                argmax=True,
                backend="triton",
                fused=fused,
            )
            ended.record()
            ended.synchronize()
            taken.append(began.elapsed_time(ended))
    return min(taken[1:])


def cache_folder() -> Path:
    """`instsel` in the user's cache as the XDG base directory specification has it, which passes over relative ones."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache")) / "instsel"


def read_choice(path: Path, shape: dict[str, object]) -> bool | None:
    """What is kept for a shape; None where nothing is, or nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kept = found["fused"] if found["shape"] == shape else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return kept if isinstance(kept, bool) else None


def keep_choice(path: Path, found: dict[str, Any]) -> bool:
    """Keeps a choice; gives what is kept, which is another process's where that one was first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(found, file)
            try:
                os.link(made, path)  # whole, and never over another's
            except OSError:  # another was first, or the file is damaged, or this file system has no links
                if (kept := read_choice(path, found["shape"])) is not None:
                    return kept
                os.replace(made, path)
        finally:
            Path(made).unlink(missing_ok=True)
    except OSError:  # a folder that cannot be written: the next process times again
        pass
    return bool(found["fused"])
