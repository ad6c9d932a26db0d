"""Threads that score and load at the same time never see each other: every bit as when one works alone."""

from __future__ import annotations

import asyncio
import copy
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from random_models import new_llama, tree_requests
from test_model_session import new_gpt2
from tiny_model import tiny_model_folder

import instsel

pytestmark = pytest.mark.usefixtures("two_threads")

REQUESTS = [tree_requests(np.random.default_rng(seed)) for seed in range(4)]


def new_qwen3() -> Any:
    torch.manual_seed(1)
    config = transformers.Qwen3Config(
        vocab_size=211,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.15,
        max_position_embeddings=256,
    )
    return transformers.Qwen3ForCausalLM(config).eval()


def bits(scorer: instsel.Scorer, requests: Any) -> bytes:
    return instsel.score_batch(scorer, requests).mean_logprob.tobytes()


def in_threads(works: list[Callable[[], None]]) -> None:
    """Runs all at once; the first exception of any is raised here."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", ["one scorer", "one model", "models of their own"])
def test_threads_get_the_bits_of_one(share: str, dtype: torch.dtype) -> None:
    model = new_llama().to(dtype)
    first = instsel.Scorer(model, max_batch_tokens=64)
    want = [bits(first, requests) for requests in REQUESTS]
    make = {
        "one scorer": lambda: first,
        "one model": lambda: instsel.Scorer(model, max_batch_tokens=64),
        "models of their own": lambda: instsel.Scorer(copy.deepcopy(model), max_batch_tokens=64),
    }[share]

    def work(number: int) -> None:
        scorer = make()
        for i in range(4):
            which = (number + i) % len(REQUESTS)
            assert bits(scorer, REQUESTS[which]) == want[which]

    in_threads([lambda n=n: work(n) for n in range(3)])  # type: ignore[misc]


_LOADS = """
import sys, threading
sys.path.insert(0, {tests!r})
import torch
from tiny_model import tiny_model_folder
import instsel
folder, errors, scores = tiny_model_folder(), [], []
start = threading.Barrier(4)
def load(dtype):
    try:
        scorer = instsel.Scorer(folder, device="cpu", dtype=dtype)
        start.wait()
        scores.append((dtype, instsel.score_batch(scorer, [("say the thing", " again")]).mean_logprob.tobytes()))
    except Exception as error:
        errors.append(repr(error))
threads = [threading.Thread(target=load, args=(dtype,)) for dtype in ["float32", "bfloat16"] * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
assert len(set(scores)) == 2, scores
assert torch.get_default_dtype() == torch.float32
load_again = instsel.Scorer(folder, device="cpu", dtype="float32")
assert ("float32", instsel.score_batch(load_again, [("say the thing", " again")]).mean_logprob.tobytes()) in scores
"""


@pytest.mark.long
def test_scorers_first_used_in_several_threads_at_once_all_load() -> None:
    """In a process of its own: the first loading of all is what went wrong, and it went wrong for good."""
    program = _LOADS.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_one_scorer_first_used_in_two_threads_loads_once() -> None:
    scorer, seen = instsel.Scorer(tiny_model_folder(), device="cpu"), []
    in_threads([lambda: seen.append(id(scorer.model)) for _ in range(4)])
    assert len(seen) == 4 and len(set(seen)) == 1


def test_asyncio() -> None:
    scorer = instsel.Scorer(new_llama())
    want = [bits(scorer, requests) for requests in REQUESTS]

    async def all_at_once() -> list[bytes]:
        return list(await asyncio.gather(*(asyncio.to_thread(bits, scorer, requests) for requests in REQUESTS)))

    assert asyncio.run(all_at_once()) == want


def test_a_callback_may_wait_for_another_thread_that_scores() -> None:
    scorer = instsel.Scorer(new_llama(), max_batch_tokens=64)
    want, inner = bits(scorer, REQUESTS[0]), []

    def wait(done: int, total: int) -> None:
        if not inner:
            in_threads([lambda: inner.append(bits(scorer, REQUESTS[0]))])

    assert instsel.score_batch(scorer, REQUESTS[0], progress=wait).mean_logprob.tobytes() == want
    assert inner == [want]


class ThrownError(Exception):
    pass


EVENTS = ("load a model", "a scorer of its own", "a callback that raises", "a request that is refused", *["score"] * 4)


def stress(rounds: int) -> None:
    """Eight threads, three models, and everything that may happen in between, so many times in every thread."""
    models = [new_llama().bfloat16(), new_qwen3(), new_gpt2().train()]
    folder = tiny_model_folder()
    texts = [("say the thing", " again"), ("say the thing", " more"), ("say", " more")]
    alone = [[bits(instsel.Scorer(model, max_batch_tokens=64), r) for r in REQUESTS] for model in models]
    of_texts = bits(instsel.Scorer(folder, device="cpu", dtype="bfloat16"), texts)
    shared = [instsel.Scorer(model, max_batch_tokens=64) for model in models]
    start, done = threading.Barrier(len(EVENTS)), [0] * len(EVENTS)

    def throw(done: int, total: int) -> None:
        raise ThrownError

    def work(number: int) -> None:
        rng = random.Random(number)
        start.wait()
        for i in range(rounds):
            which, batch = rng.randrange(3), rng.randrange(len(REQUESTS))
            requests, want = REQUESTS[batch], alone[which][batch]
            event = EVENTS[(number + i) % len(EVENTS)]  # all kinds at the same time in every round
            if event == "load a model":
                with instsel.Scorer(folder, device="cpu", dtype="bfloat16") as loaded:
                    assert bits(loaded, texts) == of_texts
                    assert bits(pickle.loads(pickle.dumps(loaded)), texts) == of_texts
            elif event == "a scorer of its own":
                assert bits(instsel.Scorer(models[which], max_batch_tokens=64), requests) == want
            elif event == "a callback that raises":
                with pytest.raises(ThrownError):
                    instsel.score_batch(shared[which], requests, progress=throw)
            elif event == "a request that is refused":
                with pytest.raises(ValueError, match="requests"):
                    instsel.score_batch(shared[which], [([5], [10**6])])
            else:
                assert bits(shared[which], requests) == want
            done[number] += 1

    in_threads([lambda n=n: work(n) for n in range(len(EVENTS))])  # type: ignore[misc]
    assert all(module.training for module in models[2].modules())
    assert done == [rounds] * len(EVENTS)


@pytest.mark.long
def test_eight_threads_three_models_three_rounds() -> None:
    stress(3)


@pytest.mark.slow
def test_eight_threads_three_models_twenty_rounds() -> None:
    stress(20)
