"""Packs that run at once on a CPU, each in a thread of its own.

A kernel that all cores share ends with the slowest of them, and from one kernel to the next a single core is at work.
With a pack to each core, or to a few, neither holds up the others; the more cores there are, the more it saves. No bit
depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from instsel.engine.model_session import ModelSession
from instsel.kernels.thread_shares import ThreadShares
from instsel.layers.attention import Workspace
from instsel.layers.fused_modules import is_hooked

Result = TypeVar("Result")

# Each needs memory of its own, and with eight what lies between kernels is an eighth of what it was.
MOST = 8
VARIABLE = "INSTSEL_PACKS_AT_ONCE"
# Bytes of a layer's gate and up projections together. The kernels lay them out anew in every pack, so that each pack
# that runs needs as much again; and larger products take so long that what lies between them matters little.
LARGEST_GATE = 32 << 20


def packs_at_once(session: ModelSession) -> int:
    """How many packs of a model may run at once: several only where the layers are nothing but kernels that take a
    share of the threads, and nothing of the user's own code runs between them.

    INSTSEL_PACKS_AT_ONCE allows fewer; ValueError if it is not a positive integer.
    """
    allowed = os.environ.get(VARIABLE, "") or str(MOST)
    if not allowed.isdecimal() or int(allowed) < 1:
        raise ValueError(f"{VARIABLE}: expected a positive integer, got {allowed!r}")
    info = session.info
    known = (
        session.device.type == "cpu"
        and session.backend in ("auto", "cpu")
        # float32 is multiplied by libraries whose threads are not ours to divide.
        and info.dtype == torch.bfloat16
        and session.head is not None
        and len(session.whole_layers) == info.config.num_hidden_layers
        and all(layer.only_kernels for layer in session.whole_layers)
        and all(4 * layer.shape.hidden * layer.shape.gate <= LARGEST_GATE for layer in session.whole_layers)
        and not (info.draws or info.length_dependent or info.row_dependent)
        and type(session.decoder).__module__.startswith("transformers.")
        and not any(is_hooked(module) for module in session.replica.modules)
    )
    return min(torch.get_num_threads(), int(allowed), MOST) if known else 1


class SideBySide:
    """Up to `count` packs of a model at once, each in a workspace of its own, which keeps its memory for the next."""

    def __init__(self, session: ModelSession, count: int) -> None:
        self._session = session
        self.workspaces = [Workspace() for _ in range(count)]

    def run_packs(self, tasks: Sequence[Callable[[Workspace], Result]]) -> list[Result]:
        """What the tasks give, or the first error among them once all have ended; Ctrl-C stops all of them."""
        if len(tasks) == 1:
            return [tasks[0](self.workspaces[0])]
        shares = ThreadShares(torch.get_num_threads())

        def run_one(task: Callable[[Workspace], Result], workspace: Workspace) -> Result:
            with shares.taken(), self._session.inference_context():
                return task(workspace)

        with ThreadPoolExecutor(len(tasks), thread_name_prefix="instsel-pack") as pool:
            try:
                futures = [pool.submit(run_one, *both) for both in zip(tasks, self.workspaces, strict=False)]
                wait(futures)
            except BaseException:  # Ctrl-C, at any point
                for workspace in self.workspaces:
                    workspace.stop.set()
                raise
        return [future.result() for future in futures]
