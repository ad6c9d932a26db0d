"""Embeddings: unit vectors, cosines that do not depend on the batch, and where they may come from."""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from instsel.neighbors.embeddings import cosine, embed, unit_rows


class CommonDirection:
    """A scorer whose hidden states are a large common vector and a small part of the text's own, as real ones are."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def mean_hidden_states(self, texts: list[str], progress: Any = None) -> np.ndarray:
        self.asked += texts
        own = [np.random.default_rng(list(text.encode()) or [0]).normal(size=48) for text in texts]
        return np.array([np.full(48, np.nan) if not text else 5 + x for text, x in zip(texts, own, strict=True)], "f4")


def test_unit_rows_of_any_scale(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(50, 7)) * 10.0 ** rng.integers(-300, 300, (50, 1))
    scaled = rows / np.abs(rows).max(1, keepdims=True)
    want = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    np.testing.assert_allclose(unit_rows(rows), want, atol=1e-7)
    assert not unit_rows(np.zeros((2, 3))).any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_vector_is_named(wrong: float) -> None:
    array = np.ones((9000, 2))
    array[5000, 1] = wrong
    with pytest.raises(ValueError, match="embeddings must be finite, but row 5000 "):
        unit_rows(array)
    with pytest.raises(ValueError, match=r"embeddings must be numbers \[n, d\], got float64 of shape \[3\]"):
        unit_rows(np.ones(3))
    with pytest.raises(ValueError, match="embeddings must be numbers"):
        unit_rows([["a"]])


def test_a_cosine_is_the_same_in_any_batch_and_both_ways(rng: np.random.Generator) -> None:
    array = rng.normal(size=(400, 384))
    array[1] = array[0]
    unit = unit_rows(array)
    first, second = rng.integers(0, 400, 3000), rng.integers(0, 400, 3000)
    together = cosine(unit, first, second)
    assert together.tolist() == [cosine(unit, first[i : i + 1], second[i : i + 1])[0] for i in range(3000)]
    assert together.tolist() == cosine(unit, second, first).tolist()
    length = np.linalg.norm(array, axis=1)
    want = (array[first] * array[second]).sum(1) / length[first] / length[second]
    np.testing.assert_allclose(together, want, atol=1e-7)
    assert abs(cosine(unit, np.array([0]), np.array([1]))[0] - 1) < 1e-15
    # The float32 product of float32 vectors is not so: the margin above is no accident.
    assert np.abs((unit[first] * unit[second]).sum(1) - together).max() > 1e-8


def test_hidden_states_lose_their_common_part() -> None:
    texts = [f"text {i}" for i in range(40)] + ["text 3", ""]
    scorer = CommonDirection()
    unit = embed(texts, scorer=scorer)
    assert len(scorer.asked) == 41, "each distinct text is embedded once"
    pairs = np.triu_indices(40, 1)
    raw = unit_rows(CommonDirection().mean_hidden_states(texts[:40]))
    assert np.median((raw @ raw.T)[pairs]) > 0.9, "without it, unrelated texts look alike"
    assert np.abs((unit @ unit.T)[pairs]).max() < 0.7
    assert unit[3].tolist() == unit[40].tolist()
    assert not unit[41].any(), "an empty text has no direction"
    order = np.random.default_rng(0).permutation(len(texts))
    assert embed([texts[i] for i in order], scorer=CommonDirection()).tolist() == unit[order].tolist()
    assert embed(["one", "one"], scorer=CommonDirection()).any(), "one text alone is not its own common part"


def test_vectors_of_ones_own(tmp_path: Path, rng: np.random.Generator) -> None:
    array = rng.normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / "v.npy", array)
    for given in (array, tmp_path / "v.npy", str(tmp_path / "v.npy")):
        assert embed(["a", "b", "c"], given).tolist() == unit_rows(array).tolist()
    with pytest.raises(ValueError, match=r"embedder must have shape \[2, d\], a row for each example, got \[3, 4\]"):
        embed(["a", "b"], array)


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("objects", "text", "empty", "missing"):
        with pytest.raises(ValueError, match=rf"embedder: .*{name}\.npy"):
            embed(["a"], tmp_path / f"{name}.npy")
    with pytest.raises(TypeError, match="embedder must be None, the name of a sentence-transformers model"):
        embed(["a"], 3)  # type: ignore[arg-type]


@pytest.mark.timeout(60)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match=r"pipe\.npy' is not a regular file"):
        embed(["a"], tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match="give scorer"):
        embed(["a"])


def test_sentence_transformers_loads_safetensors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    class SentenceTransformer:
        def __init__(self, name: str, **options: Any) -> None:
            if name == "no/such-model":
                raise OSError("no/such-model is not a model\nand more lines")
            loaded.append((name, options))

        def encode(self, texts: list[str], **options: Any) -> np.ndarray:
            return np.array([[len(text), 1.0] for text in texts])

    package = ModuleType("sentence_transformers")
    package.SentenceTransformer = SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    unit = embed(["a", "bbb", "a"], "some/model")
    assert unit.tolist() == unit_rows([[1, 1], [3, 1], [1, 1]]).tolist()
    assert loaded == [("some/model", {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}})]
    with pytest.raises(ValueError, match=r"embedder 'no/such-model' cannot be loaded.*: no/such-model is not a model$"):
        embed(["a"], "no/such-model")


def test_without_sentence_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "sentence_transformers":
            raise ImportError(name)
        return real_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"needs sentence-transformers: pip install 'instsel\[embeddings\]'"):
        embed(["a"], "some/model-that-nobody-has-opened")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)
