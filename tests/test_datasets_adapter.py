"""`dataset.map` with a method's columns: its numbers, the cache by fingerprint, and processes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from random_models import new_llama
from tiny_model import make_tiny_model, tiny_model_folder

import instsel

pytest.importorskip("datasets")
from datasets import Dataset, load_dataset
from datasets.fingerprint import Hasher

from instsel.integrations.datasets import score

ROWS = [
    {"instruction": f"say the thing {i}", "input": "in" * (i % 2), "output": "the thing " * (i % 4), "status": i}
    for i in range(12)
]


def test_columns_are_those_of_the_method(scorer):
    mapped = Dataset.from_list(ROWS).map(score(scorer, "ifd", template="alpaca"), batched=True, batch_size=5)
    expected = instsel.ifd(scorer, ROWS, template="alpaca")
    np.testing.assert_allclose(np.array(mapped["ifd"], float), expected.ifd, rtol=1e-5)
    assert mapped["instsel_status"] == expected.status.tolist() and mapped["status"] == list(range(12))
    assert mapped["ifd"][0] is None  # an empty answer


def test_equal_calls_are_read_from_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder(), folder)
    Dataset.from_list(ROWS).to_json(tmp_path / "rows.jsonl")
    rows = load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    first = rows.map(score(folder), batched=True)
    calls = []
    monkeypatch.setattr(instsel.Scorer, "model", property(lambda self: calls.append(1)))
    again = rows.map(score(str(folder)), batched=True)  # another scorer, not even loaded
    assert not calls and again["mean_logprob"] == first["mean_logprob"]
    hashes = [Hasher.hash(score(folder, **options)) for options in ({}, {}, {"template": "alpaca"}, {"method": "ifd"})]
    make_tiny_model(folder, seed=1)
    hashes.append(Hasher.hash(score(folder)))
    hashes.append(Hasher.hash(score(instsel.Scorer(folder, dtype="bfloat16"))))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 5


def test_loaded_models_are_known_by_their_weights():
    one, same, other = (new_llama(seed=seed) for seed in (0, 0, 1))
    hashes = [Hasher.hash(score(instsel.Scorer(model))) for model in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.long
def test_processes_load_their_own_weights():
    rows = Dataset.from_list(ROWS)
    alone = rows.map(score(tiny_model_folder()), batched=True, batch_size=3)
    apart = rows.map(score(tiny_model_folder()), batched=True, batch_size=3, num_proc=2)
    assert alone["status"] == apart["status"] and alone["instsel_status"] == apart["instsel_status"]
    np.testing.assert_allclose(
        np.array(alone["mean_logprob"], float), np.array(apart["mean_logprob"], float), rtol=1e-5
    )


def test_refusals_name_the_parameter():
    with pytest.raises(ValueError, match=r"method: expected one whose rows are scored apart \(perplexity, ifd.*'wici'"):
        score(tiny_model_folder(), "wici")
    with pytest.raises(TypeError, match="template: expected a name"):
        score(tiny_model_folder(), template=3)
    import pickle

    copy = pickle.loads(pickle.dumps(score(instsel.Scorer(new_llama()))))
    with pytest.raises(ValueError, match="num_proc: processes load their own weights"):
        copy({"instruction": ["a"], "output": ["b"]})


@pytest.mark.long
@pytest.mark.parametrize("kind", ["numpy", "arrow", "pandas", "polars", "torch"])
def test_any_format_of_the_dataset_gives_the_same(kind, scorer):
    turns = [{"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": "x" * i}]}
             for i in range(1, 5)]  # fmt: skip
    for rows in (ROWS, turns):
        plain = Dataset.from_list(rows)
        expected = plain.map(score(scorer, "ifd"), batched=True, batch_size=3)
        found = plain.with_format(kind).map(score(scorer, "ifd"), batched=True, batch_size=3).with_format(None)
        assert set(found.column_names) == set(expected.column_names)
        assert [row for row in found.select_columns(plain.column_names)] == list(plain)
        np.testing.assert_allclose(np.array(found["ifd"], float), np.array(expected["ifd"], float), rtol=1e-5)


def test_a_batch_of_rows_that_cannot_be_read_gets_their_status(scorer):
    rows = Dataset.from_list([{"messages": [{"role": role, "content": "a"}, {"role": "assistant", "content": "b"}]}
                              for role in ("user", "tool", "user")])  # fmt: skip
    with pytest.warns(UserWarning, match="1 of 1 rows cannot be read"):
        mapped = rows.map(score(scorer), batched=True, batch_size=1, load_from_cache_file=False)
    assert mapped["status"] == ["ok", "unreadable", "ok"] and mapped["mean_logprob"][1] is None
