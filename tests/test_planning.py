from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_requests_of_40_tokens_are_planned_in_a_minute_and_4_gigabytes() -> None:
    """In a process of its own, whose largest resident memory is read; requests share prompts as GRAPE's do."""
    program = """
import json, resource, sys, time
import numpy as np
sys.path.insert(0, "tests")
import instsel
from instsel.engine.scoring import plan_batch
from random_models import new_llama
scorer = instsel.Scorer(new_llama(vocab_size=50_000), device="cpu", dtype="float32")
rng = np.random.default_rng(0)
prompts = rng.integers(3, 50_000, (250_000, 20))
prompts[:, 0], prompts[:, 1] = np.arange(250_000) // 500, np.arange(250_000) % 500
answers = rng.integers(3, 50_000, (1_000_000, 20))
answers[:, 0] = np.arange(1_000_000) % 4
prompts = prompts.tolist()
requests = [(prompts[i // 4], answer) for i, answer in enumerate(answers.tolist())]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
plan = plan_batch(scorer, requests)
seconds = time.process_time() - began
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, before / 2**20, after / 2**20, plan.tokens_forwarded, plan.sequences]))
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    seconds, before, after, tokens, sequences = json.loads(out.splitlines()[-1])
    print(f"planning: {seconds:.1f} s, {before:.2f} GiB before (requests as lists), {after:.2f} GiB at most")
    assert sequences == 1_000_000
    assert tokens == 500 + 250_000 * 19 + 1_000_000 * 19
    assert seconds < 60
    assert after < 4 * 1000**3 / 2**30
