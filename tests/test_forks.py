"""A scorer in forked children: it scores there, the same bits, and nothing ever hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.long]

# A user's script, in a process of its own with a time limit: what went wrong before was that it never ended.
_BEGIN = """
import multiprocessing, os, sys, threading, warnings
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
import numpy as np, torch
torch.set_num_threads(2)
from random_models import new_llama, tree_requests
from tiny_model import tiny_model_folder
import instsel
pairs = tree_requests(np.random.default_rng(1))
scorer = instsel.Scorer(new_llama().to(torch.{dtype}), max_batch_tokens=128)
(torch.randn(600, 600) @ torch.randn(600, 600)).exp().sum()  # the threads of the parent's pools are there
def score(number=0):
    return instsel.score_batch(scorer, pairs).mean_logprob.tobytes()
def in_child():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, score())
        os._exit(0)
    os.close(write)
    got = os.fdopen(read, "rb").read()
    assert os.waitpid(child, 0)[1] == 0
    return got
"""
_SCRIPTS = {
    "after use": "want = score(); assert in_child() == want == in_child() == score()",
    "before use": "assert in_child() == score()",
    "of a folder that the parent never loaded": """
scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="{dtype}")
pairs = [("say the thing", " again"), ("say", " more")]
assert in_child() == score()
""",
    "while threads score and load": """
want, stop = score(), []
def load():
    while not stop:
        score()
        instsel.score_batch(instsel.Scorer(tiny_model_folder(), device="cpu"), [("say", " more")])
threads = [threading.Thread(target=load) for _ in range(2)]
for thread in threads: thread.start()
try:
    for _ in range(4): assert in_child() == want
finally:
    stop.append(1)
    for thread in threads: thread.join()
""",
    "multiprocessing": """
want = score()
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(score, range(4)) == [want] * 4
""",
    "a data loader": """
class Scores(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return score()
want = score()
loader = torch.utils.data.DataLoader(Scores(), batch_size=2, num_workers=2, multiprocessing_context="fork")
assert [x for batch in loader for x in batch] == [want] * 4
""",
    "a data set": """
import datasets
datasets.disable_progress_bars()
scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="{dtype}")
texts = ["say the thing " + str(i) for i in range(20)]
def add(batch):
    return {{"score": instsel.score_batch(scorer, [(t, " again") for t in batch["text"]]).mean_logprob}}
rows = datasets.Dataset.from_dict({{"text": texts}})
want = add({{"text": texts[:10]}})["score"].tolist() + add({{"text": texts[10:]}})["score"].tolist()
assert rows.map(add, batched=True, num_proc=2)["score"] == want
""",
}


@pytest.mark.parametrize(
    ("purpose", "dtype"), [*((purpose, "float32") for purpose in _SCRIPTS), ("after use", "bfloat16")]
)
def test_a_forked_child_scores_the_same_bits(purpose: str, dtype: str) -> None:
    if purpose == "a data set":
        pytest.importorskip("datasets")
    program = (_BEGIN + _SCRIPTS[purpose]).format(tests=str(Path(__file__).parent), dtype=dtype)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
