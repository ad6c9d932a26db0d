"""Threads take turns, pack by pack, and what a forked child may do.

Loading by transformers changes PyTorch's default dtype and functions of its modules for the whole process, so that no
forward may run meanwhile and no two models may be loaded at once. Forwards take turns as well: those of one call use
all cores (`side_by_side`), and another's beside them would only get in their way. What calls back into a user's program
(progress, reading of requests) is done outside a turn, so that it may wait for other threads that score.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# How long a fork waits for the pack that runs in another thread. A child that is made in the middle of a matrix product
# would inherit locks of the libraries under it that nobody gives back.
_FORK_PATIENCE = 5.0

_lock = threading.RLock()
_held_for_fork: list[threading.RLock] = []  # the lock, while this process forks
_forked = False


@contextmanager
def inference_lock() -> Iterator[None]:
    """Within this block no other thread runs a pack or loads a model; a thread may enter it again."""
    with _lock:
        yield


def enter_process(device: torch.device | None) -> None:
    """To be called before work in a process: in a forked child, PyTorch gets one thread, or an error says to spawn.

    The threads of an OpenMP pool do not survive a fork, and a parallel loop in the child would wait for them for ever.
    """
    if not _forked:
        return
    if device is not None and device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            "a model on a GPU cannot be used in a forked process: start the processes with "
            'multiprocessing.get_context("spawn"), or make the scorer in the child'
        )
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def _before_fork() -> None:
    lock = _lock
    if lock.acquire(timeout=_FORK_PATIENCE):
        _held_for_fork.append(lock)


def _after_fork_in_parent() -> None:
    if _held_for_fork:
        _held_for_fork.pop().release()


def _after_fork_in_child() -> None:
    global _lock, _forked
    _held_for_fork.clear()
    _lock = threading.RLock()
    _forked = True


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
