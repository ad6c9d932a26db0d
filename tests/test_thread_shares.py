"""Threads of the kernels, divided between those that run packs, and given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from instsel.kernels import _native
from instsel.kernels.native_arrays import Machine
from instsel.kernels.thread_shares import ThreadShares


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_threads_are_shared_by_those_that_are_there() -> None:
    shares, shown, leave = ThreadShares(4), [], [threading.Event() for _ in range(3)]
    arrived = threading.Barrier(4)

    def user(place: int) -> None:
        with shares.taken():
            arrived.wait(30)
            leave[place].wait(30)
            shown.append((Machine.now().threads, torch.get_num_threads()))

    users = [threading.Thread(target=user, args=(place,)) for place in range(3)]
    for thread in users:
        thread.start()
    arrived.wait(30)
    for place, thread in enumerate(users):
        leave[place].set()
        thread.join(30)
    assert shown == [(1, 1), (2, 1), (4, 1)], "threads of kernels, and of PyTorch's operators"
    assert (Machine.now().threads, torch.get_num_threads()) == (4, 4)


def test_a_share_is_given_back_in_the_thread_that_took_it() -> None:
    with ThreadShares(6).taken():
        assert (Machine.now().threads, torch.get_num_threads()) == (6, 1)
    assert (Machine.now().threads, torch.get_num_threads()) == (4, 4)
    assert _native.set_openmp_threads(4) == 4
    with pytest.raises(ValueError, match="threads"):
        _native.set_openmp_threads(0)
