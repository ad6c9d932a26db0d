"""Threads, GPUs and parts of a model divided among workers: the same numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_rows import example_rows
from tiny_model import tiny_model_folder
from worker_faults import deaths, is_alive
from worker_requests import REQUESTS

import instsel
from instsel.kernels.float_products import LIBRARIES, VARIABLE, float_product
from instsel.parallel.local_processes import LocalProcesses, device_within, threads_for, visible_device
from instsel.parallel.tasks import pack_error
from instsel.parallel.worker_backend import Died, Done
from instsel.parallel.workers import devices_for

pytestmark = pytest.mark.long


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """So workers, which have fewer of them, give the bits of one process; the tiny model is too small to be divided."""
    monkeypatch.setenv(VARIABLE, library)
    scorer = instsel.Scorer(str(Path(instsel.__file__).parent / "demo/model"), device="cpu", dtype="float32")
    requests = [(row["instruction"] + "\n", row["output"] * 3) for row in example_rows(40)]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(instsel.score_batch(scorer, requests).sum_logprob)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_workers_multiply_by_the_library_that_is_chosen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, library := LIBRARIES[LIBRARIES[0] == float_product()])  # not the processor's
    scorer = instsel.Scorer(str(Path(instsel.__file__).parent / "demo/model"), device="cpu", dtype="float32")
    requests = [(row["instruction"] + "\n", row["output"]) for row in example_rows(8)]
    with instsel.workers(scorer, ["cpu"], threads=1) as pool:
        assert pool.arithmetic == scorer.model.arithmetic_by() and pool.arithmetic.endswith(f"products by {library}")
        found, expected = (instsel.score_batch(of, requests).sum_logprob for of in (pool, scorer))
    np.testing.assert_array_equal(found, expected)


def test_threads_and_gpus_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_for(1), threads_for(cores), threads_for(2 * cores)] == [cores, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads_for(1) == 1
    assert visible_device("cuda:1", None) == "1" and visible_device("cuda:1", "4, 6") == "6"
    assert visible_device("cuda", "4,6") == "4"
    assert device_within("cuda:1") == "cuda" and device_within("cpu") == "cpu"


def test_a_model_spread_over_processor_and_disk_in_a_worker(scorer: instsel.Scorer) -> None:
    """As one spread over the GPUs of a machine: accelerate moves each layer's input to where the layer is."""
    pytest.importorskip("accelerate")
    parts = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head")
    places = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}
    spread = instsel.Scorer(tiny_model_folder(), dtype="float32", device_map=places)
    assert spread.model.unwrapped.dispatched and spread.model.model.hf_device_map["model.layers.1"] == "disk"
    with instsel.workers(spread, 1) as pool:
        found = instsel.score_batch(pool, REQUESTS, token_logprobs=True)
    expected = instsel.score_batch(scorer, REQUESTS, token_logprobs=True)
    assert found.status.tolist() == expected.status.tolist()
    np.testing.assert_allclose(found.mean_logprob, expected.mean_logprob, rtol=0, atol=2e-5)


def test_a_model_divided_over_two_processes_is_one_worker(scorer: instsel.Scorer) -> None:
    """Tensor parallelism by transformers' plan over gloo: both processes are told the same and work in step."""
    expected = instsel.score_batch(scorer, REQUESTS, token_logprobs=True)
    with instsel.workers(scorer, 1, tensor_parallel=2) as pool:
        found = instsel.score_batch(pool, REQUESTS, token_logprobs=True)
        assert found.status.tolist() == expected.status.tolist()
        np.testing.assert_allclose(found.mean_logprob, expected.mean_logprob, rtol=0, atol=2e-5)
        vectors = pool.mean_hidden_states(["say the thing", "another"])
        np.testing.assert_allclose(vectors, scorer.mean_hidden_states(["say the thing", "another"]), rtol=0, atol=2e-5)
        (speaker,) = [worker["pid"] for worker in pool.status()]
        (other,) = [process.pid for process in pool._scheduler.backend._processes[0] if process.pid != speaker]
        os.kill(other, signal.SIGKILL)  # the half without which the first cannot go on
        again = instsel.score_batch(pool, REQUESTS)
        np.testing.assert_array_equal(again.mean_logprob, found.mean_logprob)
        assert deaths(pool) == 1
        assert not is_alive(speaker)


@pytest.mark.parametrize("dies", [True, False])
def test_an_error_is_the_death_of_a_rank_that_ends_a_moment_later(scorer: instsel.Scorer, dies: bool) -> None:
    """The others meet its closed sockets before it can be waited for; an error of their own is one."""
    backend = LocalProcesses(scorer, ["cpu"], 1, ranks=2)
    ends = [Pipe() for _ in range(2)]
    backend._lines[0] = [ours for ours, _ in ends]
    backend._processes[0] = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    answer = pack_error(RuntimeError("Connection reset by peer"))
    ends[0][1].send(("done", answer))
    if dies:
        threading.Timer(0.1, backend._processes[0][1].kill).start()
    assert backend.events(1.0) == [Died(0, "killed by SIGKILL") if dies else Done(0, answer)]
    backend.close()


def test_gpus_are_divided_among_workers_whose_models_are_spread(
    scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = instsel.Scorer(tiny_model_folder(), device_map="auto")
    assert devices_for(spread, 2) == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    assert devices_for(spread, 2) == ["cuda:0,cuda:1", "cuda:2,cuda:3"]
    assert visible_device("cuda:2,cuda:3", "7,1,4,6") == "4,6"
    with pytest.raises(ValueError, match="devices: 6 workers with 1 GPUs each were asked for, but PyTorch sees 5"):
        devices_for(spread, 6)
    with pytest.raises(ValueError, match="devices: where a model is divided expected the number of workers"):
        devices_for(spread, ["cuda:0"])
    whole = instsel.Scorer(tiny_model_folder())
    assert devices_for(whole, 2, 2) == ["cuda:0,cuda:1", "cuda:2,cuda:3"]
    with pytest.raises(ValueError, match="devices: 3 workers with 2 GPUs each were asked for, but PyTorch sees 5"):
        devices_for(whole, 3, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device_map": "everywhere"}, "device_map: expected one of auto, balanced"),
        ({"device_map": {}}, "device_map: expected one of auto, balanced"),
        ({"device_map": "auto", "device": "cpu"}, 'device: with a device_map expected "auto", got'),
    ],
)
def test_device_maps_that_are_none(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        instsel.Scorer(tiny_model_folder(), **options)
