"""wICI: the in-context influence of each example on its probes, weighted by how unlike them it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.engine.scorer import Scorer
from instsel.engine.token_progress import ProgressLike
from instsel.methods.chunks import Columns, in_chunks
from instsel.methods.complexity import RATING_PROMPT, Complexity, check_complexity, complexity_values, named_complexity
from instsel.methods.difficulty import CHUNK_ROWS, direct_rows
from instsel.methods.influence import check_rule, combine_influence, influence_rows
from instsel.neighbors.embeddings import Embedder, cosine, embed
from instsel.neighbors.probes import check_sizes, find_probes
from instsel.prompts import embedding_text
from instsel.records import Example, to_examples

PAIR_CHUNK_ROWS = 512  # candidates a call of score_batch, each with its probes


@dataclass(frozen=True, slots=True)
class InfluenceResult(ResultTable):
    """wICI of each example, in the order given; k probes an example.

    score              float64 [n], NaN where `status` is not "ok"
    ifd                float64 [n], `PPL(y|x) / PPL(y)` of the example itself, NaN where it could not be computed
    one_shot_ifd       float64 [n, k], of the probe's answer after the example as a demonstration; NaN where missing
    influence          float64 [n, k], `ifd[probe] - one_shot_ifd`; NaN where missing
    probes             int64 [n, k], rows, -1 where there is none
    similarity         float64 [n, k], cosines, NaN where there is no probe
    status             str [n], "ok" where at least one pair was scored
    selectable         bool [n], status is "ok", and with rule="release" also ifd <= 1
    demonstration_cut  bool [n, k], the demonstration was cut from its left to fit
    embeddings         float32 [n, d], unit vectors, for `select`; None where probes and similarity were given
    """

    score: np.ndarray
    ifd: np.ndarray
    one_shot_ifd: np.ndarray
    influence: np.ndarray
    probes: np.ndarray
    similarity: np.ndarray
    status: np.ndarray
    selectable: np.ndarray
    demonstration_cut: np.ndarray
    embeddings: np.ndarray | None
    rule: str
    template: str
    stats: ScoreStats


def wici(
    scorer: Scorer,
    examples: Iterable[Any],
    *,
    probes: Any = None,
    similarity: Any = None,
    rule: str = "paper",
    template: str = "plain",
    max_length: int | None = None,
    num_neighbors: int = 32,
    num_probes: int = 5,
    embedder: Embedder = None,
    complexity: Complexity = "length",
    complexity_scorer: Scorer | None = None,
    rating_prompt: str = RATING_PROMPT,
    seed: int = 0,
    cut_demonstration: bool = False,
    columns: Mapping[str, str] | None = None,
    progress: ProgressLike = None,
) -> InfluenceResult:
    """Weighted in-context influence (wICI) of examples: how much each, shown before others, makes them easier.

        influence(a, b) = PPL(y_b|x_b) / PPL(y_b) - PPL(y_b|a, x_b) / PPL(y_b)
        rule="paper":    score(a) = mean over probes b of (1 - cos(a, b)) / 2 * influence(a, b)
        rule="release":  score(a) = mean over probes b with influence(a, b) > 0 of (1 - cos(a, b)) * influence(a, b),
                         0 where there is none, and examples with an ifd above 1 are not selectable

    examples           dicts in any known format, a `Dataset`, or `Example`s
    probes             int [n, k], the rows to show each example to, -1 for none; found where not given: the
                       `num_neighbors` nearest rows by cosine, clustered into `num_probes` clusters by k-means, of each
                       the most complex member
    similarity         float [n, k], the cosines to given probes; computed from the embeddings where not given
    template           "plain", "alpaca" or "chat": how prompts and demonstrations are written
    max_length         longest sequence in tokens, demonstration, prompt and answer together; by default and at most
                       the model's context. A longer pair is missing from the mean
    embedder           what embeds instructions: see `instsel.neighbors.embeddings.embed`
    complexity         what orders the members of a cluster: "length", "ifd", "deita", the name of a column of
                       `examples`, numbers [n] or a function; see `instsel.methods.complexity.complexity_values`, also
                       for `complexity_scorer` and `rating_prompt`
    seed               of k-means
    cut_demonstration  whether a demonstration may be cut from its left where a pair is too long otherwise
    columns            which column holds which field, where the format is not to be found by itself
    progress           None, True for bars on stderr, or a function of (tokens done, tokens in all) of each stage

    A row is "ok" where at least one of its pairs was scored; otherwise it has the status of its own failure or of its
    first pair's, and "empty_target" where it has no probe at all (there is no other row, or it has no embedding).

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2604.25132; the rule "release" is that of the repository trust-nlp/SyntheticData-Curator.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> tom = {"instruction": "Once upon a time, there was a boy named Tom.",
    ...        "output": "He loved to play with his toys."}
    >>> found = instsel.wici(scorer, [lily, tom], probes=[[1], [0]], similarity=[[0.3], [0.3]])  # doctest: +SKIP
    >>> found.influence.round(3).tolist(), found.score.round(3).tolist()  # doctest: +SKIP
    ([[-0.19], [0.02]], [-0.066, 0.007])
    """
    check_rule(rule)
    check_sizes(num_neighbors, num_probes)
    if isinstance(examples, Iterator):
        examples = list(examples)
    if isinstance(complexity, str):
        complexity = named_complexity(complexity, examples)
    records = to_examples(examples, columns=columns)
    check_complexity(complexity, len(records))
    stats = ScoreStats()
    unit = None
    if probes is None:
        if similarity is not None:
            raise ValueError("similarity was given without the probes that it belongs to")
        unit = _embeddings(records, embedder, scorer, progress)
        values, stats = complexity_values(
            complexity,
            scorer,
            records,
            template=template,
            max_length=max_length,
            complexity_scorer=complexity_scorer,
            rating_prompt=rating_prompt,
            progress=progress,
        )
        found = find_probes(unit, values, num_neighbors=num_neighbors, num_probes=num_probes, seed=seed)
        probes, similarity = found.index, found.similarity
    else:
        probes = checked_probes(probes, len(records))
        if similarity is None:
            unit = _embeddings(records, embedder, scorer, progress)
            similarity = np.where(probes >= 0, cosine(unit, np.arange(len(records))[:, None], probes), np.nan)
        else:
            similarity = checked_similarity(similarity, probes)

    def direct(rows: range, progress: ProgressLike) -> tuple[Columns, ScoreStats]:
        return direct_rows(scorer, records, rows, template=template, max_length=max_length, progress=progress)

    def pairs(rows: range, progress: ProgressLike) -> tuple[Columns, ScoreStats]:
        return influence_rows(
            scorer,
            records,
            rows,
            probes,
            template=template,
            max_length=max_length,
            cut_demonstration=cut_demonstration,
            progress=progress,
        )

    alone, cost = in_chunks(direct, len(records), CHUNK_ROWS, progress)
    shown, more = in_chunks(pairs, len(records), PAIR_CHUNK_ROWS, progress)
    cut = shown.pop("demonstration_cut")
    shown.pop("num_tokens")
    scores = combine_influence(**alone, **shown, probes=probes, similarity=similarity, rule=rule)
    return InfluenceResult(
        **scores,
        probes=probes,
        similarity=similarity,
        demonstration_cut=cut,
        embeddings=unit,
        rule=rule,
        template=template,
        stats=stats + cost + more,
    )


def _embeddings(records: list[Example], embedder: Embedder, scorer: Scorer, progress: ProgressLike) -> np.ndarray:
    return embed([embedding_text(example) for example in records], embedder, scorer=scorer, progress=progress)


def checked_probes(probes: Any, count: int) -> np.ndarray:
    array = np.asarray(probes)
    if array.size == 0 and count == 0:
        array = array.astype(np.int64)
    if array.ndim != 2 or len(array) != count or array.shape[1] == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            f"probes must be whole numbers [{count}, k], the rows to show each example to, "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    if count and (array.min() < -1 or array.max() >= count):
        wrong = array[(array < -1) | (array >= count)][0]
        raise ValueError(f"probes must be rows from 0 to {count - 1}, or -1 for none, got {wrong}")
    return array.astype(np.int64)


def checked_similarity(similarity: Any, probes: np.ndarray) -> np.ndarray:
    array = np.asarray(similarity, np.float64)
    if array.shape != probes.shape:
        raise ValueError(f"similarity must have the shape of probes, {list(probes.shape)}, got {list(array.shape)}")
    array = np.where(probes >= 0, array, np.nan)
    wrong = (probes >= 0) & ~(np.abs(array) <= 1 + 1e-6)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise ValueError(f"similarity must be cosines from -1 to 1, got {array[row, place]} at [{row}, {place}]")
    return array
