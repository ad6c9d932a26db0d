"""The stages by which several methods get their embeddings: vectors of the texts, then unit vectors."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.methods.parameters import Parameters, parameter
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.neighbors.embeddings import (
    check_vectors,
    given_vectors,
    mean_vector,
    text_vectors,
    unit_rows,
    without,
)
from instsel.neighbors.mapped_rows import Prepared, rows_of
from instsel.prompts import embedding_text
from instsel.records import Unreadable

if TYPE_CHECKING:
    from typing import Self

    from instsel.engine.requests import Request

_NO_TEXT = 0  # the digest of a row that cannot be read
_WORD, _PLACES = re.compile(r"\w+"), 127  # of stand-ins for vectors


@dataclass(frozen=True, kw_only=True)
class EmbeddingParameters(Parameters):
    """Parameters of a method that embeds instructions."""

    embedder: Any = parameter(
        None,
        "what embeds instructions: None for the scoring model itself, the name of a sentence-transformers model, or "
        "numbers [n, d]",
        kind="embedder",
        metavar="NAME",
    )

    @property
    def needs_embeddings(self) -> bool:
        """Whether the method has a use for them."""
        return True

    def check(self) -> None:
        if isinstance(self.embedder, np.ndarray):
            unit_rows(self.embedder, "embedder")
        else:
            given_vectors(self.embedder if not str(self.embedder).endswith(".npy") else None, 0)

    def for_rows(self, count: int) -> Self:
        if self.needs_embeddings:
            given = given_vectors(self.embedder, count)
            if given is not None:
                check_vectors(given, "embedder")
        return self


def _is_given(parameters: EmbeddingParameters) -> bool:
    return isinstance(parameters.embedder, np.ndarray) or str(parameters.embedder).endswith(".npy")


def _vectors(part: StageSlice[EmbeddingParameters]) -> Columns:
    """As the model gives them; a text's digest beside each, by which equal texts are known later."""
    return _with_digests(part, partial(_embedded, part))


def _embedded(part: StageSlice[EmbeddingParameters], texts: list[str]) -> np.ndarray:
    """The vectors of texts, float32 `[n, d]`; what the scoring model forwards for them is noted."""
    forwarded = 0

    def count(done: int, total: int) -> None:
        nonlocal forwarded
        forwarded = done
        if callable(part.progress):
            part.progress(done, total)

    vectors = text_vectors(texts, part.parameters.embedder, scorer=part.scorer, progress=count)
    if part.parameters.embedder is None:
        part.stats += ScoreStats(tokens_forwarded=forwarded, tokens_unshared=forwarded)
    return vectors


def _requests(part: StageSlice[EmbeddingParameters]) -> list[Request]:
    """The texts as sequences that are forwarded alike: each distinct one once, by the scoring model."""
    if part.parameters.embedder is not None or not part.rows:
        return []
    texts = list(dict.fromkeys(embedding_text(part.examples[row]) for row in part.rows))
    limit, tokenizer = part.token_limit, part.scorer.tokenizer
    assert tokenizer is not None  # a plan's model is one by name
    encoded = [ids[: None if limit is None else limit - 1] for ids in tokenizer(texts)["input_ids"]]
    return [(ids, ids[-1:]) for ids in encoded if len(ids)]


def _words(part: StageSlice[EmbeddingParameters]) -> Columns:
    """Stand-ins: which words a text has, each in a place of its own as far as there are places."""
    return _with_digests(part, _word_vectors)


def _word_vectors(texts: list[str]) -> np.ndarray:
    vectors = np.zeros((len(texts), _PLACES), np.float32)
    for row, text in enumerate(texts):
        for word in {*_WORD.findall(text.lower()), text}:  # the text itself, so that no two have one vector
            digest = zlib.crc32(word.encode("utf-8", "replace"))
            vectors[row, digest % _PLACES] += 1 if digest & 1 << 31 else -1
    return vectors


def _with_digests(part: StageSlice[EmbeddingParameters], vectors_of: Callable[[list[str]], np.ndarray]) -> Columns:
    """The columns vector, of each text as `vectors_of` distinct ones gives it, and text_digest."""
    texts = [embedding_text(part.examples[row]) for row in part.rows]
    # Each distinct text is embedded once: less work, and copies cannot come apart by the rounding of their batches.
    first: dict[str, int] = {}
    place = np.fromiter((first.setdefault(text, len(first)) for text in texts), np.int64, len(texts))
    if not texts:
        return {"vector": np.zeros((0, 1), np.float32), "text_digest": np.zeros(0, np.int64)}
    vectors = vectors_of(list(first))
    digests = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() for text in first]
    digest = np.frombuffer(b"".join(digests), "<i8")[place]
    return {"vector": vectors[place], "text_digest": np.where(_unreadable(part), _NO_TEXT, digest)}


def _unreadable(part: StageSlice[EmbeddingParameters]) -> np.ndarray:
    """Which of the rows cannot be read, bool `[r]`."""
    return np.array([isinstance(part.examples[row], Unreadable) for row in part.rows], bool)


def _embeddings(part: StageSlice[EmbeddingParameters]) -> Columns:
    """Unit vectors; those of the scoring model without what is common to all distinct texts.

    A row that cannot be read has zeros, which have no direction: so it is nobody's neighbour.
    Mean-pooled hidden states all point roughly one way; see `instsel.neighbors.embeddings.embed`.
    """
    rows, embedder = part.rows, part.parameters.embedder
    given = given_vectors(embedder, part.count)
    if given is not None:
        unit = unit_rows(rows_of(given, slice(rows.start, rows.stop)), "embedder", first_row=rows.start)
        return {"embedding": np.where(_unreadable(part)[:, None], np.float32(0), unit)}
    vectors, digest = part.columns["vector"], part.columns["text_digest"]
    # Each row has the vector of the first that has its text: those of copies differ by the rounding of their batches.
    own = rows_of(vectors, _first_rows(digest)[rows.start : rows.stop])
    if embedder is None:
        own = without(own, _common_part(vectors, digest))
    unit = unit_rows(own, "embedder", first_row=rows.start)
    nothing = rows_of(digest, slice(rows.start, rows.stop)) == _NO_TEXT
    return {"embedding": np.where(nothing[:, None], np.float32(0), unit)}


@Prepared
def _first_rows(digest: np.ndarray) -> np.ndarray:
    """Of each row the first with the same text, int64 [n]."""
    _, first, back = np.unique(digest, return_index=True, return_inverse=True)
    return first[back]


@Prepared
def _common_part(vectors: np.ndarray, digest: np.ndarray) -> np.ndarray:
    """The mean over distinct texts, float32 [d]."""
    first = _first_rows(digest)
    return mean_vector(vectors, np.flatnonzero((first == np.arange(len(first))) & (digest != _NO_TEXT)))


VECTORS = Stage(
    "vectors", _vectors, requests=_requests, guess=_words, slice_rows=2048,
    when=lambda parameters: parameters.needs_embeddings and not _is_given(parameters),
)  # fmt: skip
EMBEDDINGS = Stage(
    "embeddings", _embeddings, reads_whole=("vectors",), in_driver=True,
    needs=lambda part: part.rows if _is_given(part.parameters) else (),
    when=lambda parameters: parameters.needs_embeddings, slice_rows=8192,
)  # fmt: skip
EMBEDDING_STAGES = (VECTORS, EMBEDDINGS)
