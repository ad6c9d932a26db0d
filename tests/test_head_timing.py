"""The choice between a fused head and the library's product on a GPU: timed once, kept, and read by whoever is next."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")
from instsel.engine import head_timing
from instsel.engine.head_timing import cache_folder, head_is_fused, keep_choice, read_choice


def head(device: str = "cuda:0", dtype: torch.dtype = torch.bfloat16, rows: int = 512) -> Any:
    return SimpleNamespace(weight=SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(rows, 64)))


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[Any, Any]:
    """Milliseconds fused and not, and the timings that were made; nothing of the user's is touched."""
    given: dict[Any, Any] = {True: 10.0, False: 20.0, "made": []}

    def milliseconds(one: Any, *, fused: bool) -> float:
        given["made"].append((one.weight.shape[0], fused))
        if isinstance(given[fused], Exception):
            raise given[fused]
        return float(given[fused])

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(head_timing, "milliseconds", milliseconds)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    return given


@pytest.mark.parametrize(("unfused", "expected"), [(20.0, True), (9.5, True), (8.5, False)])
def test_it_is_timed_once_for_a_shape_and_then_read(times: dict[Any, Any], unfused: float, expected: bool) -> None:
    """Unfused only where that is clearly faster."""
    times[False] = unfused
    assert head_is_fused(head()) is expected
    times[True], times[False] = 1.0, (100.0 if not expected else 0.01)
    assert head_is_fused(head()) is expected and times["made"] == [(512, True), (512, False)]
    assert head_is_fused(head(rows=640)) is not expected and times["made"][2:] == [(640, True), (640, False)]


def test_on_a_processor_and_in_float32_nothing_is_timed(times: dict[Any, Any], tmp_path: Path) -> None:
    assert head_is_fused(head("cpu")) == "auto" == head_is_fused(head(dtype=torch.float32))
    assert times["made"] == [] == list(tmp_path.iterdir())


def test_a_timing_that_fails_is_not_kept(times: dict[Any, Any], tmp_path: Path) -> None:
    times[False] = torch.OutOfMemoryError("out of memory")
    assert head_is_fused(head()) == "auto" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"fused": true}', b"shape of another",
                                     b"no boolean"])  # fmt: skip
def test_a_damaged_file_is_timed_again_and_replaced(times: dict[Any, Any], tmp_path: Path, content: bytes) -> None:
    assert head_is_fused(head()) is True
    (file,) = (tmp_path / "instsel").iterdir()
    sound = json.loads(file.read_text())
    if content == b"shape of another":
        content = json.dumps({**sound, "shape": {**sound["shape"], "torch": "0.1"}}).encode()
    elif content == b"no boolean":
        content = json.dumps({**sound, "fused": "yes"}).encode()
    file.write_bytes(content)
    times[False] = 1.0
    assert head_is_fused(head()) is False and len(times["made"]) == 4
    assert head_is_fused(head()) is False and len(times["made"]) == 4
    assert list((tmp_path / "instsel").iterdir()) == [file], "nothing is left beside it"


@pytest.mark.parametrize("links", [True, False])
def test_processes_at_the_same_time_keep_one_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """The first one's where the file system has links; a whole file in any case."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
    for number in range(20):
        path, shape = tmp_path / str(number) / "head.json", {"weight": [number]}
        with ThreadPoolExecutor(8) as pool:
            given = [pool.submit(keep_choice, path, {"shape": shape, "fused": bool(n % 2)}) for n in range(8)]
        found = {one.result() for one in given}
        assert read_choice(path, shape) in found and (not links or len(found) == 1)
        assert list(path.parent.iterdir()) == [path]


def test_where_nothing_can_be_kept_the_timing_decides(times: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no such folder")
    assert head_is_fused(head()) is True and head_is_fused(head()) is True and len(times["made"]) == 4


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/instsel")
    for passed_over in ("", "relative/one"):
        monkeypatch.setenv("XDG_CACHE_HOME", passed_over)
        assert cache_folder() == Path("/somebody/.cache/instsel")
