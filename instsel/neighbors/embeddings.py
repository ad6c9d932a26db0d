"""Embeddings of texts: unit vectors whose inner product is the cosine between what two instructions ask."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instsel.error_text import first_line
from instsel.neighbors.mapped_rows import BLOCK_ROWS, blocks_of, rows_of
from instsel.optional_packages import need_package

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from instsel.engine.scorer_protocol import ScorerProtocol
    from instsel.engine.token_progress import ProgressLike

Embedder = str | os.PathLike[str] | np.ndarray | None


def embed(
    texts: Sequence[str],
    embedder: Embedder = None,
    *,
    scorer: ScorerProtocol | None = None,
    batch_size: int = 64,
    progress: ProgressLike = None,
) -> np.ndarray:
    """Embed texts as unit vectors, `f(x) / |f(x)|`.

    `embedder` says what `f` is:

    - None: the mean over tokens of the final hidden states of `scorer`'s model, minus the mean of these over the
      distinct texts. Mean-pooled hidden states all point roughly one way (cosines above 0.9 between unrelated texts
      are usual); only without their common part does a threshold on the cosine separate anything.
    - the name or the folder of a sentence-transformers model (the extra "embeddings"); its weights must be
      safetensors, and code from the hub is not run.
    - an array `[n, d]`, or the path of a `.npy` file that holds one, taken as given, one row a text.

    Equal texts get exactly equal vectors. A vector of zeros stays zero, and a text that the model cannot embed gets
    one: it has no direction, so no neighbours.

    Returns float32 `[n, d]`.

    Raises TypeError or ValueError where `embedder` is none of these, has another number of rows than `texts`, holds
    NaN or infinity, or needs a package that is not installed.

    >>> embed(["a", "b"], np.array([[3.0, 4.0], [0.0, 2.0]]))
    array([[0.6, 0.8],
           [0. , 1. ]], dtype=float32)
    """
    given = given_vectors(embedder, len(texts))
    if given is not None:
        return unit_rows(given, "embedder")
    assert not isinstance(embedder, np.ndarray)
    # Each distinct text is embedded once: less work, and copies cannot come apart by the rounding of their batches.
    first: dict[str, int] = {}
    place = np.fromiter((first.setdefault(text, len(first)) for text in texts), np.int64, len(texts))
    distinct = list(first)
    if not distinct:
        return np.zeros((0, 1), np.float32)
    vectors = text_vectors(distinct, embedder, scorer=scorer, batch_size=batch_size, progress=progress)
    return unit_rows(vectors if embedder is not None else centred(vectors), "embedder")[place]


def given_vectors(embedder: object, count: int) -> np.ndarray | None:
    """The vectors of an embedder that is an array or a .npy file, not yet of unit length; None of one that is a model.

    A file is memory-mapped. Raises TypeError or ValueError as `embed` does, but for what is not finite.
    """
    if isinstance(embedder, np.ndarray):
        return _one_row_a_text(embedder, count, "embedder")
    if isinstance(embedder, os.PathLike):
        embedder = os.fspath(embedder)
    if isinstance(embedder, str) and embedder.endswith(".npy"):
        return _one_row_a_text(_read_array(Path(embedder)), count, f"embedder {embedder!r}")
    if embedder is not None and not isinstance(embedder, str):
        raise TypeError(
            "embedder must be None, the name of a sentence-transformers model, an array [n, d] or the path of a .npy "
            f"file, got {type(embedder).__name__}"
        )
    return None


def text_vectors(
    texts: Sequence[str],
    embedder: str | os.PathLike[str] | None,
    *,
    scorer: ScorerProtocol | None = None,
    batch_size: int = 64,
    progress: ProgressLike = None,
) -> np.ndarray:
    """Vectors of texts as the model gives them, float32 [n, d]: neither centred nor of unit length."""
    if embedder is not None:
        return _sentence_vectors(list(texts), os.fspath(embedder), batch_size, progress is True)
    if scorer is None:
        raise ValueError("embedder=None embeds with the scoring model: give scorer, or name another embedder")
    return np.asarray(scorer.mean_hidden_states(texts, progress=progress), np.float32)


def unit_rows(array: object, name: str = "embeddings", *, first_row: int = 0) -> np.ndarray:
    """Rows of an array divided by their length, float32 `[n, d]`; a row of zeros stays zero.

    Raises ValueError naming the first row that holds NaN or infinity (counted from `first_row`), or where the array is
    not two-dimensional.

    >>> unit_rows([[3, 4], [0, 0]])
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    array = _checked_numbers(np.asarray(array), name)
    out = np.empty(array.shape, np.float32)
    for start in range(0, len(array), BLOCK_ROWS):  # in blocks, so that the float64 copy stays small
        rows = array[start : start + BLOCK_ROWS].astype(np.float64)
        _check_finite(rows, name, first_row + start)
        # Dividing by the largest entry first keeps the squares within float64's range.
        rows /= np.maximum(np.abs(rows).max(1, keepdims=True, initial=0.0), np.finfo(np.float64).tiny)
        length = np.sqrt((rows * rows).sum(1, keepdims=True))
        out[start : start + BLOCK_ROWS] = rows / np.where(length > 0, length, 1.0)
    return out + np.float32(0)  # -0.0 becomes 0.0, so that equal rows are equal bytes


def check_vectors(array: np.ndarray, name: str) -> None:
    """Raise ValueError where `unit_rows` would, without making them."""
    _checked_numbers(array, name)
    for start in range(0, len(array), BLOCK_ROWS):
        _check_finite(rows_of(array, slice(start, start + BLOCK_ROWS)), name, start)


def _checked_numbers(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be numbers [n, d], got {array.dtype} of shape {list(array.shape)}")
    return array


def _check_finite(rows: np.ndarray, name: str, first_row: int) -> None:
    finite = np.isfinite(rows).all(1)
    if not finite.all():
        raise ValueError(f"{name} must be finite, but row {first_row + int(np.argmin(finite))} holds NaN or infinity")


def cosine(unit: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine between rows `first` and rows `second` of `unit`, float64 of the indices' broadcast shape.

    Summed in float64 in one order, whatever else is in the batch: so it is symmetric, and rows with equal vectors get
    equal cosines. `unit` is float32 `[n, d]` as from `unit_rows`; a row of zeros has cosine 0.

    >>> cosine(unit_rows([[3, 4], [4, 3], [0, 1]]), np.array([0, 0]), np.array([1, 2])).round(6)
    array([0.96, 0.8 ])
    """
    first, second = np.broadcast_arrays(first, second)
    flat = np.stack([first.ravel(), second.ravel()])
    out = np.empty(flat.shape[1])
    step = max(1, (1 << 17) // max(1, unit.shape[1]))  # blocks that stay in the cache
    for start in range(0, len(out), step):
        a = unit[flat[0, start : start + step]].astype(np.float64)
        b = unit[flat[1, start : start + step]].astype(np.float64)
        length = np.sqrt((a * a).sum(1) * (b * b).sum(1))
        out[start : start + step] = (a * b).sum(1) / np.where(length > 0, length, 1.0)
    return out.clip(-1.0, 1.0).reshape(first.shape)


def _one_row_a_text(array: np.ndarray, count: int, name: str) -> np.ndarray:
    if array.ndim != 2 or len(array) != count:
        raise ValueError(f"{name} must have shape [{count}, d], a row for each example, got {list(array.shape)}")
    return array


def _read_array(path: Path) -> np.ndarray:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"embedder: {str(path)!r} is not a regular file")
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"embedder: there is no file {str(path)!r}") from None
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"embedder: {str(path)!r} cannot be read as a .npy array of numbers: {error}") from None


def _sentence_vectors(texts: list[str], name: str, batch_size: int, progress: bool) -> np.ndarray:
    model = _sentence_model(name)
    return model.encode(texts, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=progress)


@functools.lru_cache(maxsize=1)  # a run asks for it slice by slice
def _sentence_model(name: str) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(
            f"embedder {name!r} needs sentence-transformers: pip install 'instsel[embeddings]', or leave embedder out "
            "to embed with the scoring model itself"
        ) from None
    need_package("sentence-transformers", "sentence_transformers", ">=3", extra="embeddings")
    try:
        return SentenceTransformer(name, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except Exception as error:  # the package raises what its many parts raise
        raise ValueError(
            f"embedder {name!r} cannot be loaded as a sentence-transformers model: {first_line(error)}"
        ) from error


def centred(vectors: np.ndarray) -> np.ndarray:
    """Vectors minus their mean; zeros where a text has none (NaN: it is empty, or did not fit into memory)."""
    return without(vectors, mean_vector(vectors, np.arange(len(vectors))))


def mean_vector(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean of those of the rows that are vectors, float32 `[d]`; zeros where fewer than two are."""
    total, count = np.zeros(vectors.shape[1]), 0
    for _, block in blocks_of(vectors, rows):
        known = np.isfinite(block).all(1)
        total += block[known].sum(0, dtype=np.float64)
        count += int(known.sum())
    # Summed in float64 and rounded to float32: the mean does not depend on the order of the rows.
    return (total / count if count > 1 else 0 * total).astype(np.float32)


def without(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Vectors minus a mean, zeros where a text has no vector."""
    return np.where(np.isfinite(vectors).all(1, keepdims=True), vectors - mean, np.float32(0))
