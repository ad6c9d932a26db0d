"""Closing a scorer gives its memory back, and what is closed says so."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import new_llama, tree_requests
from tiny_model import tiny_model_folder

import instsel

pytestmark = pytest.mark.long
PAIRS = tree_requests(np.random.default_rng(0))
TEXTS = [("say the thing", " again"), ("say", " more")]


def resident() -> int:
    """MiB that this process holds."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_twenty_models_opened_and_closed_leave_resident_memory_flat(tmp_path: Path) -> None:
    new_llama(hidden_size=512, intermediate_size=1024, num_hidden_layers=4).save_pretrained(tmp_path)
    tokenizer = instsel.Scorer(tiny_model_folder()).tokenizer
    seen = []
    for _ in range(20):
        with instsel.Scorer(tmp_path, tokenizer=tokenizer, device="cpu") as scorer:
            instsel.score_batch(scorer, PAIRS)
            held = resident()
        seen.append(resident())
    assert held - seen[-1] > 20, "a model of 45 MB is not seen in resident memory"
    assert seen[-1] - seen[3] < 20


def test_a_loaded_model_is_let_go_of_and_stays_usable() -> None:
    model = new_llama()
    want = instsel.score_batch(instsel.Scorer(model), PAIRS).mean_logprob
    scorer = instsel.Scorer(model)
    instsel.score_batch(scorer, PAIRS)
    scorer.close()
    assert instsel.score_batch(instsel.Scorer(model), PAIRS).mean_logprob.tobytes() == want.tobytes()
    gc.disable()  # what is still held has to go at once, not at some later sweep
    try:
        other = instsel.Scorer(model)
        instsel.score_batch(other, PAIRS)
        other.close()
        weight = weakref.ref(model.model.layers[0].mlp.up_proj.weight)
        del model
        gc.collect(0)
    finally:
        gc.enable()
    gc.collect()
    assert weight() is None


def test_a_call_leaves_no_circles_that_hold_the_weights() -> None:
    model = new_llama()
    scorer = instsel.Scorer(model)
    instsel.score_batch(scorer, PAIRS)
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(item, torch.nn.Linear) for item in gc.get_objects())
        for _ in range(3):
            instsel.score_batch(scorer, PAIRS)
        assert sum(isinstance(item, torch.nn.Linear) for item in gc.get_objects()) == before
    finally:
        gc.enable()


def test_a_closed_scorer_says_so_whatever_it_is_asked() -> None:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu")
    instsel.score_batch(scorer, TEXTS)
    scorer.close()
    scorer.close()
    asked = [
        lambda: instsel.score_batch(scorer, TEXTS),
        lambda: instsel.plan_batch(scorer, TEXTS),
        lambda: scorer.mean_hidden_states(["say"]),
        lambda: scorer.model,
        lambda: scorer.tokenizer,
        lambda: instsel.score_batch(pickle.loads(pickle.dumps(scorer)), TEXTS),
        lambda: instsel.score_batch(copy.deepcopy(scorer), TEXTS),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=r"scorer: Scorer\(.*closed"):
            ask()


def test_the_block_is_left_closed_also_by_an_exception() -> None:
    with pytest.raises(KeyError), instsel.Scorer(tiny_model_folder(), device="cpu") as scorer:
        instsel.score_batch(scorer, TEXTS)
        raise KeyError
    with pytest.raises(ValueError, match="closed"):
        instsel.score_batch(scorer, TEXTS)


def test_a_scorer_used_in_threads_pickles_without_its_weights_and_copies() -> None:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu")
    want = instsel.score_batch(scorer, TEXTS).mean_logprob.tobytes()
    assert len(pickle.dumps(scorer)) < 2000
    for other in (copy.deepcopy(scorer), copy.copy(scorer), pickle.loads(pickle.dumps(scorer))):
        assert instsel.score_batch(other, TEXTS).mean_logprob.tobytes() == want
