"""The stages by which several methods get their embeddings: vectors of the texts, then unit vectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.methods.parameters import Parameters, parameter
from instsel.methods.stages import Columns, Slice, Stage
from instsel.neighbors.embeddings import centred, given_vectors, text_vectors, unit_rows
from instsel.prompts import embedding_text


@dataclass(frozen=True, kw_only=True)
class EmbeddingParameters(Parameters):
    """What a method that embeds instructions can be told."""

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

    def for_rows(self, count: int) -> Any:
        if self.needs_embeddings:
            given_vectors(self.embedder, count)
        return self


def _is_given(parameters: EmbeddingParameters) -> bool:
    return isinstance(parameters.embedder, np.ndarray) or str(parameters.embedder).endswith(".npy")


def _vectors(part: Slice[EmbeddingParameters]) -> Columns:
    """As the model gives them; a text's digest beside each, by which equal texts are known later."""
    texts = [embedding_text(part.examples[row]) for row in part.rows]
    # Each distinct text is embedded once: less work, and copies cannot come apart by the rounding of their batches.
    first: dict[str, int] = {}
    place = np.fromiter((first.setdefault(text, len(first)) for text in texts), np.int64, len(texts))
    if not texts:
        return {"vector": np.zeros((0, 1), np.float32), "text_digest": np.zeros(0, np.int64)}
    vectors = text_vectors(list(first), part.parameters.embedder, scorer=part.scorer, progress=part.progress)
    digests = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() for text in first]
    return {"vector": vectors[place], "text_digest": np.frombuffer(b"".join(digests), "<i8")[place]}


def _embeddings(part: Slice[EmbeddingParameters]) -> Columns:
    """Unit vectors; those of the scoring model without what is common to all distinct texts.

    Mean-pooled hidden states all point roughly one way; see `instsel.neighbors.embeddings.embed`.
    """
    given = given_vectors(part.parameters.embedder, part.count)
    if given is not None:
        return {"embedding": given}
    vectors, digest = part.columns["vector"], part.columns["text_digest"]
    _, first, back = np.unique(digest, return_index=True, return_inverse=True)
    order = np.argsort(first)  # distinct texts as they first appear
    distinct = vectors[first[order]]
    if part.parameters.embedder is None:
        distinct = centred(distinct)
    return {"embedding": unit_rows(distinct, "embedder")[np.argsort(order)[back]]}


VECTORS = Stage(
    "vectors", _vectors, when=lambda parameters: parameters.needs_embeddings and not _is_given(parameters),
    slice_rows=2048,
)  # fmt: skip
EMBEDDINGS = Stage(
    "embeddings", _embeddings, reads=("vectors",), whole=True, when=lambda parameters: parameters.needs_embeddings
)
EMBEDDING_STAGES = (VECTORS, EMBEDDINGS)
