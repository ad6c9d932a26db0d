"""Pools of processes: the numbers of one process, whatever happens to the workers or to their driver."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from example_rows import example_rows
from tiny_model import tiny_model_folder
from worker_faults import (
    assert_same_run,
    children_of,
    command,
    deaths,
    disturbed,
    is_alive,
    kill_worker,
    poisoned,
    run,
    shards,
    use_pool,
    wait_until,
)

import instsel
from instsel.cli import main
from instsel.kernels import float_products
from instsel.kernels.float_products import LIBRARIES, VARIABLE, float_product
from instsel.parallel import schedule, whole_columns
from instsel.parallel.crew import Hello, Ready, versions
from instsel.parallel.local import device_within, threads_for, visible_device
from instsel.parallel.pool import Pool
from instsel.parallel.workers import devices_for

REQUESTS = [("say the thing", " and the other"), ("", "alone"), ("nothing to score", ""), ("x" * 400, "too long")]
REQUESTS += [(f"demonstration {i // 4}: the ring", f" answer {i} of the thing") for i in range(24)]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with instsel.workers(scorer, ["cpu", "cpu"]) as pool:
        yield pool


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


def test_a_run_on_workers_is_the_run_on_none(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pool(monkeypatch, pool)
    for method in ("wici", "slow", "score"):
        run(command(tmp_path, f"{method}-alone", method=method, pause=0))
        run(command(tmp_path, method, "--workers", "2", method=method, pause=0))
        assert_same_run(tmp_path / f"{method}-alone", tmp_path / method)
    before = (tmp_path / "wici/scores.parquet").read_bytes()
    for path in sorted((tmp_path / "wici/shards").glob("*-0000[1-3]-*")):
        path.unlink()
    (tmp_path / "wici/scores.parquet").unlink()
    run(command(tmp_path, "wici", method="wici"))  # continued without workers
    assert (tmp_path / "wici/scores.parquet").read_bytes() == before
    assert len(json.loads((tmp_path / "wici/workers.json").read_text())["workers"]) == 2


def test_workers_that_do_not_see_the_folder_are_sent_rows_and_columns(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pool(monkeypatch, pool)
    run(command(tmp_path, "alone", method="wici"))
    monkeypatch.setattr(Pool, "sees_disk", property(lambda self: False))
    monkeypatch.setattr(whole_columns, "PIECE_BYTES", 1000)  # embeddings of 32 numbers: seven rows
    run(command(tmp_path, "run", "--workers", "2", method="wici"))
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_a_run_whose_workers_are_killed_is_the_run_that_was_left_alone(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pool(monkeypatch, pool)
    run(command(tmp_path, "alone", pause=0))
    before = deaths(pool)
    with disturbed(tmp_path / "run", 4, 3, lambda number: kill_worker(pool, number)) as struck:
        run(command(tmp_path, "run", "--workers", "2", pause=0.2))
    assert len(struck) == 3 and deaths(pool) - before == 3
    assert_same_run(tmp_path / "alone", tmp_path / "run")


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_rows_that_kill_their_workers_get_a_status_and_the_run_goes_on(
    pool: Pool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    times: int,
) -> None:
    use_pool(monkeypatch, pool)
    monkeypatch.setattr(schedule, "DEATHS_OF_A_TASK", times)
    before = deaths(pool)
    assert main([*poisoned(tmp_path, {23}), "--max-failures", "0.2"]) == 0
    assert f"poison, rows 20 to 29: {times} workers died of it" in capsys.readouterr().err
    assert deaths(pool) - before == times
    found = pq.read_table(tmp_path / "run/scores.parquet").to_pydict()
    alone = instsel.perplexity(
        instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32"),
        [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()],
    )
    for row, (status, score) in enumerate(zip(found["status"], found["score"], strict=True)):
        if row in range(20, 30):
            assert score is None and status == ("worker_died" if alone.status[row] == "ok" else alone.status[row])
        else:
            assert status == alone.status[row]
    assert main([*poisoned(tmp_path, {23})]) == 1  # the share of rows that failed is too large


def test_a_task_that_kills_without_a_forward_ends_the_run_with_its_rows_named(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pool(monkeypatch, pool)
    monkeypatch.setattr(schedule, "DEATHS_OF_A_TASK", 1)
    assert main(poisoned(tmp_path, {23}, always=True)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "poison, rows 20 to 29: the worker died (killed by SIGKILL) even when nothing was forwarded" in said
    assert json.loads((tmp_path / "run/manifest.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("count", "how", "worker_first", "dtype"),
    [
        (2, signal.SIGKILL, True, "bfloat16"),
        (4, signal.SIGINT, False, "float32"),
        pytest.param(4, signal.SIGKILL, False, "float32", marks=pytest.mark.slow),
        pytest.param(2, signal.SIGKILL, False, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_driver_that_is_stopped_leaves_no_worker_and_a_folder_that_continues(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pool: Pool,
    count: int,
    how: signal.Signals,
    worker_first: bool,
    dtype: str,
) -> None:
    arguments = command(tmp_path, "run", "--workers", str(count), pause=0.4, dtype=dtype)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(
        [sys.executable, "-m", "instsel.cli", *arguments], env=environment, start_new_session=True
    )
    try:
        wait_until(lambda: shards(tmp_path / "run") >= 3, 120)
        notes = json.loads((tmp_path / "run/workers.json").read_text())["workers"]
        pids = [worker["pid"] for worker in notes]
        assert len(pids) == count and all(is_alive(pid) for pid in pids)
        if worker_first:
            os.kill(pids[0], signal.SIGKILL)
        os.killpg(driver.pid, how)
        wait_until(lambda: driver.poll() is not None, 60)
        assert driver.returncode == (-how if how == signal.SIGKILL else 128 + how)
        wait_until(lambda: not any(is_alive(pid) for pid in pids), 10)
        # Nor is one left that was being started in the place of the dead one.
        wait_until(lambda: not children_of(driver.pid), 30)
    finally:
        driver.kill()
    kept = {path.name for path in (tmp_path / "run/shards").glob("*.parquet")}
    assert len(kept) < 24
    if count == 4:  # goes on with two workers, else with none
        use_pool(monkeypatch, pool)
        run(command(tmp_path, "run", "--workers", "2", pause=0, dtype=dtype))
    else:
        run(command(tmp_path, "run", pause=0, dtype=dtype))
    assert kept <= {path.name for path in (tmp_path / "run/shards").glob("*.parquet")}, "none was computed again"
    run(command(tmp_path, "alone", pause=0, dtype=dtype))
    assert_same_run(tmp_path / "alone", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_workers_killed_at_ten_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(schedule, "DEATHS_OF_A_TASK", 20)  # kills of ours that meet one shard thrice are no fault of it
    run(command(tmp_path, "alone", pause=0))
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with instsel.workers(scorer, ["cpu"] * count) as pool:
        use_pool(monkeypatch, pool)
        with disturbed(tmp_path / "run", 2, 10, lambda number: kill_worker(pool, number)) as struck:
            run(command(tmp_path, "run", "--workers", str(count), pause=0.5))
        assert len(struck) == 10
    assert_same_run(tmp_path / "alone", tmp_path / "run")


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
    with pytest.raises(ValueError, match="has no model in this process"):
        _ = pool.model


def test_a_model_that_no_worker_can_load_is_said_before_anything_is_scored(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model: cannot load"):
        instsel.workers(instsel.Scorer(str(tmp_path), device="cpu"), ["cpu"])


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
    """With one thread each they might find the other one faster: two workers, and one process, would give two bits."""
    monkeypatch.delenv(VARIABLE, raising=False)
    library = LIBRARIES[LIBRARIES[0] == float_product(288, 288)]  # not what one would find by itself
    monkeypatch.setattr(float_products, "_measured", {})
    monkeypatch.setattr(float_products, "_faster", lambda outputs, depth: library)
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


def test_status_shows_the_workers_of_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pool: Pool
) -> None:
    use_pool(monkeypatch, pool)
    said: list[str] = []

    def look(number: int) -> None:
        assert main(["status", str(tmp_path / "run")]) == 0
        said.append(capsys.readouterr().out)

    with disturbed(tmp_path / "run", 16, 1, look):
        run(command(tmp_path, "run", "--workers", "2", pause=0.4))
    lines = [line for line in said[0].splitlines() if line.startswith("  worker ")]
    assert len(lines) == 2 and all("rows/s" in line and "process" in line for line in lines), said[0]
    assert any("slow, rows" in line for line in lines) and "left" in said[0]
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "  worker " not in capsys.readouterr().out


def test_a_model_spread_over_processor_and_disk_in_a_worker(scorer: instsel.Scorer) -> None:
    """As one spread over the GPUs of a machine: accelerate moves each layer's input to where the layer is."""
    pytest.importorskip("accelerate")
    parts = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head")
    places = {**dict.fromkeys(parts, "cpu"), "model.layers.1": "disk"}
    spread = instsel.Scorer(tiny_model_folder(), dtype="float32", device_map=places)
    assert spread.model.held.dispatched and spread.model.model.hf_device_map["model.layers.1"] == "disk"
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
        (speaker,) = [worker["pid"] for worker in pool.told()]
        (other,) = [process.pid for process in pool._schedule.crew._processes[0] if process.pid != speaker]
        os.kill(other, signal.SIGKILL)  # the half without which the first cannot go on
        again = instsel.score_batch(pool, REQUESTS)
        np.testing.assert_array_equal(again.mean_logprob, found.mean_logprob)
        assert deaths(pool) == 1
        assert not is_alive(speaker)


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


class Elsewhere:
    """A crew whose workers are of another version; it must be given nothing to do."""

    def __init__(self, name: str) -> None:
        self.places, self.name, self.closed = ["cpu", "cpu"], name, False

    def start(self, worker: int) -> None:
        pass

    def events(self, timeout: float) -> list[Any]:
        theirs = {**versions(), self.name: "0.0.1"}
        return [Ready(worker, Hello("node-7", 1, "cpu", "float32", "", theirs, 0.0)) for worker in range(2)]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("name", ["instsel", "transformers", "torch"])
def test_workers_of_another_version_are_refused_with_both_named(scorer: instsel.Scorer, name: str) -> None:
    crew = Elsewhere(name)
    with pytest.raises(ValueError) as raised:
        Pool(scorer, crew)  # type: ignore[arg-type]
    here = versions()[name]
    assert str(raised.value) == f"workers: the worker on cpu (node-7) has {name} 0.0.1, and here it is {here}"
    assert crew.closed
