"""Pools of processes: the numbers of one process, and what cannot be done by them."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_rows import example_rows
from tiny_model import tiny_model_folder
from worker_faults import command
from worker_requests import REQUESTS

import instsel
from instsel.cli import main
from instsel.parallel.pool import Pool
from instsel.parallel.worker_backend import Ready, WorkerInfo, versions

pytestmark = pytest.mark.long


def test_a_batch_on_two_workers_is_the_batch_on_one_in_the_order_given(pool: Pool, scorer: instsel.Scorer) -> None:
    expected = instsel.score_batch(scorer, REQUESTS, token_logprobs=True)
    seen: list[tuple[int, int]] = []
    found = instsel.score_batch(pool, REQUESTS, token_logprobs=True, progress=lambda *at: seen.append(at))
    assert sorted(set(expected.status)) == ["empty_target", "ok", "too_long"]
    for name in ("status", "num_tokens", "is_greedy"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    np.testing.assert_allclose(found.mean_logprob, expected.mean_logprob, rtol=0, atol=2e-5)
    assert found.token_logprobs is not None and expected.token_logprobs is not None
    for ours, theirs in zip(found.token_logprobs, expected.token_logprobs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert found.stats.sequences == len(REQUESTS) and found.stats.pairs == expected.stats.pairs
    assert expected.stats.tokens_forwarded <= found.stats.tokens_forwarded < 1.3 * expected.stats.tokens_forwarded
    assert seen[-1][0] == seen[-1][1] == expected.stats.tokens_unshared
    assert len(instsel.score_batch(pool, [])) == 0
    texts = ["say the thing", "", "another"]
    np.testing.assert_allclose(pool.mean_hidden_states(texts), scorer.mean_hidden_states(texts), rtol=0, atol=2e-5)
    assert instsel.plan_batch(pool, REQUESTS) == instsel.plan_batch(scorer, REQUESTS)


def test_every_method_takes_a_pool_for_a_scorer(pool: Pool, scorer: instsel.Scorer) -> None:
    rows = example_rows(40)
    groups = [{"instruction": f"say {i}", "candidates": [{"response": f"the {j}"} for j in range(3)]} for i in range(9)]
    for of in (pool, scorer):
        got = (
            instsel.wici(of, rows, num_neighbors=8, num_probes=2),
            instsel.ifd(of, rows),
            instsel.perplexity(of, rows),
            instsel.grape(of, groups),
        )
        if of is pool:
            first = got
    for ours, theirs in zip(first, got, strict=True):
        for name in theirs.__slots__:
            one, other = getattr(ours, name), getattr(theirs, name)
            if name == "stats":
                assert one.sequences == other.sequences
            elif isinstance(other, np.ndarray):
                np.testing.assert_array_equal(one, other, err_msg=name)


def test_an_error_in_a_worker_is_the_error_here_and_the_pool_goes_on(pool: Pool) -> None:
    with pytest.raises(ValueError, match=r"requests\[0\]: expected token ids"):
        instsel.score_batch(pool, [([5], [10**6])])
    rows = [{"instruction": "a", "output": "b"}] * 40
    with pytest.raises(ValueError, match="chat"):
        instsel.ifd(pool, rows, template="chat")  # the tiny tokenizer has no chat template
    assert instsel.ifd(pool, rows).status.tolist() == ["ok"] * 40


def test_a_callback_that_raises_leaves_the_pool_to_the_next_call(pool: Pool) -> None:
    rows = [{"instruction": "a", "output": "b"}] * 40
    with pytest.raises(ZeroDivisionError) as kept:  # its traceback holds on to the call that it ended
        instsel.ifd(pool, rows, progress=lambda done, total: 1 // 0)
    with pytest.raises(ZeroDivisionError) as kept_too:
        instsel.score_batch(pool, REQUESTS, progress=lambda done, total: 1 // 0)
    assert instsel.ifd(pool, rows).status.tolist() == ["ok"] * 40
    assert kept.tb is not None and kept_too.tb is not None


@pytest.mark.parametrize("outer", ["score_batch", "ifd"])
def test_a_pool_called_from_its_own_progress_is_an_error_and_not_a_wait_without_end(pool: Pool, outer: str) -> None:
    rows = [{"instruction": "a", "output": "b"}] * 40
    raised: list[BaseException] = []

    def call() -> None:
        def nested(done: int, total: int) -> None:
            instsel.score_batch(pool, REQUESTS[:2])

        try:
            if outer == "ifd":
                instsel.ifd(pool, rows, progress=nested)
            else:
                instsel.score_batch(pool, REQUESTS, progress=nested)
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and "at work for the same thread" in str(raised[0])
    assert instsel.ifd(pool, rows).status.tolist() == ["ok"] * 40


def test_what_cannot_run_elsewhere_is_refused(pool: Pool, scorer: instsel.Scorer) -> None:
    loaded = instsel.Scorer(scorer.model.model, tokenizer=scorer.tokenizer)
    with pytest.raises(ValueError, match="scorer: expected one made from a folder or hub id"):
        instsel.workers(loaded, ["cpu"])
    with pytest.raises(ValueError, match="complexity_scorer: expected one made from a folder"):
        instsel.wici(pool, example_rows(40), complexity="deita", complexity_scorer=loaded)
    with pytest.raises(ValueError, match="scorer: expected a Scorer, got a pool"):
        instsel.workers(pool, ["cpu"])
    with pytest.raises(TypeError, match="scorer: expected a Scorer, got str"):
        instsel.workers("model", ["cpu"])  # type: ignore[arg-type]
    for devices in ([], "cpu", 0, True, ["nonsense"]):
        with pytest.raises(ValueError, match="devices: expected"):
            instsel.workers(scorer, devices)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="devices: 'cuda:9' was asked for"):
        instsel.workers(scorer, ["cuda:9"])
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(pool)
    assert not isinstance(pool, instsel.Scorer) and not hasattr(pool, "model"), "the models are in the workers"


def test_a_model_that_no_worker_can_load_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model: cannot load"):
        instsel.workers(instsel.Scorer(str(tmp_path), device="cpu"), ["cpu"])


@pytest.mark.long
def test_a_worker_repeats_no_remarks_of_other_packages(capfd: pytest.CaptureFixture[str]) -> None:
    with instsel.workers(instsel.Scorer(tiny_model_folder(), device="cpu"), ["cpu"]):
        said = capfd.readouterr().err
    assert "Failed to load" not in said and "_pytree" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "0"], "--workers: expected a whole number of at least 1"),
        (["--workers", "3", "--devices", "cpu,cpu"], "--workers 3 does not go with 2 --devices"),
        (["--devices", "cpu,,cpu"], "--devices: expected NAME"),
        (["--ray", "auto"], "--ray needs --workers"),
        (["--ray", "auto", "--workers", "2", "--devices", "cpu"], "give one of them"),
        (["--num-gpus-per-worker", "1"], "is for --ray"),
        (["--devices", "cuda:7,cuda:8"], "'cuda:7' was asked for"),
        (["--tensor-parallel", "2"], "--tensor-parallel goes with --workers"),
        (["--workers", "2", "--device-map", "auto"], 'device: with a device_map expected "auto"'),
    ],
)
def test_flags_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert main(command(tmp_path, "run", *flags)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


class Elsewhere:
    """A backend whose workers are of another version; it must be given nothing to do."""

    def __init__(self, name: str) -> None:
        self.places, self.name, self.closed = ["cpu", "cpu"], name, False

    def start(self, worker: int) -> None:
        pass

    def events(self, timeout: float) -> list[Any]:
        theirs = {**versions(), self.name: "0.0.1"}
        return [Ready(worker, WorkerInfo("node-7", 1, "cpu", "float32", "", theirs, 0.0)) for worker in range(2)]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("name", ["instsel", "transformers", "torch"])
def test_workers_of_another_version_are_refused_with_both_named(scorer: instsel.Scorer, name: str) -> None:
    backend = Elsewhere(name)
    with pytest.raises(ValueError) as raised:
        Pool(scorer, backend)  # type: ignore[arg-type]
    here = versions()[name]
    assert str(raised.value) == f"workers: the worker on cpu (node-7) has {name} 0.0.1, and here it is {here}"
    assert backend.closed
