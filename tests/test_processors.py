"""The processors that a process may use, and threads that leave those of other processes alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from random_models import new_llama

import instsel
from instsel.engine import processors
from instsel.engine.processors import sharing_processors, usable_processors
from instsel.engine.side_by_side import packs_at_once

BOUND = len(os.sched_getaffinity(0))
contended_by = processors.are_contended


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*processors.CHOSEN, *processors.WAITING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processors, "_told", set())
    monkeypatch.setattr(processors, "_usable_here", lambda: 4)
    monkeypatch.setattr(processors, "_bound", lambda: 4)
    monkeypatch.setattr(processors, "are_contended", lambda threads: True)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A file system that says these things of the process's cgroups."""
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/user/session\n", {"user/session/cpu.max": "100000 100000\n", "cpu.max": "max 100000\n"}),
        ("0::/user/session\n", {"user/session/cpu.max": "max 100000\n", "user/cpu.max": "50000 100000\n"}),
        ("0::/the/path/of/the/host\n", {"cpu.max": "20000 20000\n"}),  # as within a container
        ("0::/../elsewhere\n", {"cpu.max": "20000 20000\n"}),
        (
            "4:cpuset:/\n3:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "90000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        ),
        ("3:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}),
    ],
)
def test_a_quota_of_one_processor(groups: str, files: dict[str, str], tmp_path: Path) -> None:
    assert usable_processors(machine(tmp_path, groups, files)) == 1


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}),
        ("0::/a\n", {"b/cpu.max": "100000 100000\n"}),  # another process's
        ("0::/\n", {"cpu.max": "?\n"}),
        ("0::/\n", {"cpu.max": "100000 0\n"}),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}),
        ("3:memory:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}),
        ("0::/\n", {"cpu.max": f"{100_000 * (BOUND + 1)} 100000\n"}),  # more than it is bound to
        ("nonsense", {}),
    ],
)
def test_no_quota_leaves_the_processors_that_a_process_is_bound_to(
    groups: str, files: dict[str, str], tmp_path: Path
) -> None:
    assert usable_processors(machine(tmp_path, groups, files)) == BOUND


def test_a_part_of_a_processor_is_one_and_a_machine_that_says_nothing_has_no_quota(tmp_path: Path) -> None:
    assert usable_processors(machine(tmp_path, "0::/\n", {"cpu.max": "1000 100000\n"})) == 1
    assert usable_processors(tmp_path / "empty") == BOUND


def test_threads_are_as_many_as_a_quota_allows_and_as_before_afterwards(
    four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "_usable_here", lambda: 3)
    with pytest.warns(UserWarning, match="3 of 4 threads are used.*OMP_NUM_THREADS"), sharing_processors():
        assert torch.get_num_threads() == 3
    with warnings.catch_warnings(), pytest.raises(KeyError):
        warnings.simplefilter("error")  # it is said once
        with sharing_processors():
            assert torch.get_num_threads() == 3
            raise KeyError
    assert torch.get_num_threads() == 4
    torch.set_num_threads(5)  # more than PyTorch takes by itself: somebody has chosen
    with sharing_processors():
        assert torch.get_num_threads() == 5
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with sharing_processors():
        assert torch.get_num_threads() == 4


def test_packs_at_once_are_no_more_than_a_quota_allows(four_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "_usable_here", lambda: 1)
    scorer = instsel.Scorer(new_llama().to(torch.bfloat16), device="cpu")
    seen = []
    run = torch.nn.Embedding.forward

    def noted(self: torch.nn.Embedding, *given: torch.Tensor) -> torch.Tensor:
        seen.append((torch.get_num_threads(), threading.current_thread() is threading.main_thread()))
        return run(self, *given)

    monkeypatch.setattr(torch.nn.Embedding, "forward", noted)
    with pytest.warns(UserWarning, match="1 of 4 threads"):
        assert (instsel.score_batch(scorer, [([1, 2, 3], [4, 5])] * 3).status == "ok").all()
    assert set(seen) == {(1, True)}
    with scorer.session() as session:
        assert packs_at_once(session) <= torch.get_num_threads() == 4


def burnt_while_waiting() -> float:
    """Processor time, in seconds, of a team that has nothing to do: 40 times one small operator and 5 milliseconds."""
    values = torch.ones(1 << 18)
    values.add_(1)
    before = time.process_time()
    for _ in range(40):
        values.add_(1)
        time.sleep(0.005)
    return time.process_time() - before


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def check_that_threads_sleep() -> None:
    torch.set_num_threads(2)
    processors.are_contended = lambda threads: True
    processors._IdleTeam.LINGER = 0.01
    with sharing_processors():
        assert "instsel-idle" in names_of_threads()
        sleeping = min(burnt_while_waiting() for _ in range(3))
    for _ in range(1000):
        if "instsel-idle" not in names_of_threads():
            break
        time.sleep(0.01)
    assert "instsel-idle" not in names_of_threads(), "the team stays when nobody wants it"
    if BOUND == 2:  # with more processors two threads spin as little as before only if the machine says so
        spinning = max(burnt_while_waiting() for _ in range(3))
        assert sleeping < spinning / 2, "the control spins no more than this: the test sees nothing"
    assert sleeping < 0.08, "40 waits of 5 ms"


@pytest.mark.long
@pytest.mark.skipif(BOUND < 2, reason="with one processor nobody waits")
def test_threads_that_wait_sleep() -> None:
    """In a process of its own, whose threads spin: those of the tests do not (conftest.py)."""
    told = {name: value for name, value in os.environ.items() if name not in processors.CHOSEN + processors.WAITING}
    program = "import test_processors; test_processors.check_that_threads_sleep()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=told, cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_processors_are_contended_by_what_runs_beside(four_threads: None, tmp_path: Path) -> None:
    count = os.cpu_count() or 1
    (tmp_path / "proc").mkdir()
    for running, threads, contended in (
        (1, count, False),
        (2, count, True),
        (1, count - 1, False),
        (count + 1, 1, True),
    ):
        (tmp_path / "proc/loadavg").write_text(f"0.10 0.20 0.30 {running}/345 6789\n")
        assert contended_by(threads, tmp_path) == contended, (running, threads)
    assert not contended_by(count, tmp_path / "elsewhere")


def test_alone_threads_may_spin(four_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "are_contended", lambda threads: False)
    monkeypatch.setattr(processors, "_idle_team", None)  # which would fail
    with sharing_processors():
        pass


def test_a_quota_counts_what_is_burnt(four_threads: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processors, "_usable_here", lambda: 2)
    assert contended_by(2, tmp_path)


def test_one_team_serves_all_who_want_it_and_a_larger_one_takes_its_place(four_threads: None) -> None:
    team = processors._IdleTeam()
    formed: list[int] = []
    team._form = formed.append  # type: ignore[method-assign]
    with team.standing_by(2), team.standing_by(2):
        assert formed == [2]
        with team.standing_by(3):
            assert formed == [2, 3]
    with team.standing_by(3):  # which lingers
        assert formed == [2, 3]


def test_who_chose_how_threads_wait_is_left_alone(four_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setattr(processors, "_idle_team", None)  # which would fail
    with sharing_processors():
        pass
