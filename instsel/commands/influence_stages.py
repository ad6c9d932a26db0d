"""The stages of a wici run: embeddings, complexity, probes, answers alone, pairs, scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from instsel.commands.session import Session, stats_of
from instsel.methods.complexity import ORDERINGS, complexity_values, given_complexity
from instsel.methods.correlation import spearman_correlation
from instsel.methods.difficulty import direct_rows
from instsel.methods.influence import combine_influence, influence_rows
from instsel.methods.wici import checked_probes, checked_similarity
from instsel.neighbors.embeddings import centred, cosine, embed, unit_rows
from instsel.neighbors.probes import find_probes
from instsel.prompts import embedding_text
from instsel.runs.shards import Stage

_RESAMPLES, _RESAMPLES_OF_MANY, _MANY = 1000, 100, 100_000  # bootstrap: of many rows the interval is narrow anyway

Arrays = dict[str, np.ndarray]


def stages(session: Session) -> Iterator[Stage]:
    """The stages in order; see `Method`."""
    args, count = session.args, len(session.rows)
    _check_options(session)

    def stage(name: str, compute: Callable[[range], tuple[Any, Any]]) -> Stage:
        return Stage(name, count, args.shard_rows, compute)

    def whole(name: str, compute: Callable[[], Arrays]) -> Stage:
        """A stage whose rows depend on all rows: computed at once, when its first missing shard is asked for."""
        found = functools.cache(compute)
        return stage(name, lambda rows: ({key: part[rows.start : rows.stop] for key, part in found().items()}, {}))

    unit: np.ndarray | None = None
    if args.probes is None or args.similarity is None:
        if str(args.embedder).endswith(".npy"):
            unit = embed([""] * count, Path(args.embedder))
        else:
            vectors = stage("embeddings", functools.partial(_embed_rows, session))
            yield vectors
            unit = _unit_vectors(session, session.columns(vectors)["embedding"])
    complexity = None
    if args.probes is None:
        order = stage("complexity", functools.partial(_complexity_rows, session))
        yield order
        complexity = session.columns(order)["complexity"]
    chosen = whole("probes", lambda: _probes(session, unit, complexity))
    yield chosen
    found = session.columns(chosen)
    alone = stage("direct", functools.partial(_direct_rows, session))
    yield alone
    pairs = stage("influence", functools.partial(_pair_rows, session, found["probes"]))
    yield pairs

    def combine() -> Arrays:
        direct, shown = session.columns(alone), session.columns(pairs)
        cut, _ = shown.pop("demonstration_cut"), shown.pop("num_tokens")
        scores = combine_influence(**direct, **shown, **found, rule=args.rule)
        status = scores.pop("status")
        return {**scores, **found, "demonstration_cut": cut, "status": status}

    yield whole("wici", combine)


def findings(session: Session) -> dict[str, Any]:
    """The rank correlation of difficulty and influence, the paper's second question."""
    assert session.folder is not None
    rows = Stage("wici", len(session.rows), session.args.shard_rows, lambda rows: ({}, {}))
    scores = session.columns(rows)
    resamples = _RESAMPLES if len(session.rows) <= _MANY else _RESAMPLES_OF_MANY
    found = spearman_correlation(scores["ifd"], scores["score"], resamples=resamples, seed=session.args.seed)
    if np.isnan(found.rho):
        return {}
    text = f"Spearman {found.rho:.3f}, 95 % interval {found.low:.3f} to {found.high:.3f} over {found.count:,} rows"
    figures = {"rho": found.rho, "low": found.low, "high": found.high, "rows": found.count}
    return {"difficulty (ifd) and influence (score)": {**figures, "text": text}}


def _texts(session: Session, rows: range) -> list[str]:
    return [embedding_text(example) for example in session.examples(rows)]


def _embed_rows(session: Session, rows: range) -> tuple[Arrays, dict[str, float]]:
    texts = _texts(session, rows)
    if session.args.embedder is not None:
        return {"embedding": embed(texts, session.args.embedder)}, {}
    return {"embedding": session.scorer.mean_hidden_states(texts, progress=session.tokens)}, {}


def _unit_vectors(session: Session, vectors: np.ndarray) -> np.ndarray:
    """Unit vectors; those of the scoring model without what is common to all distinct texts."""
    if session.args.embedder is not None:
        return vectors
    first: dict[str, int] = {}
    place = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), session.args.shard_rows):
        for number, text in enumerate(_texts(session, range(start, start + session.args.shard_rows)), start):
            place[number] = first.setdefault(text, number)
    distinct, back = np.unique(place, return_inverse=True)
    return unit_rows(centred(vectors[distinct]))[back]


def _complexity_rows(session: Session, rows: range) -> tuple[Arrays, dict[str, float]]:
    args = session.args
    name = args.complexity
    if name.endswith(".npy"):
        return {"complexity": _given_complexity(session)[rows.start : rows.stop]}, {}
    if name not in ORDERINGS:
        held = [row.get(name) for row in session.rows.rows(rows.start, rows.stop)]
        return {"complexity": given_complexity(held, len(rows))}, {}
    values, stats = complexity_values(
        name,
        session.scorer,
        session.examples(rows),
        template=args.template,
        max_length=args.max_length,
        complexity_scorer=session.rating_scorer,
        first_row=rows.start,
        progress=session.tokens,
    )
    return {"complexity": values}, stats_of(stats)


def _given_complexity(session: Session) -> np.ndarray:
    return given_complexity(_array(session.args.complexity, "--complexity"), len(session.rows))


def _given_probes(session: Session) -> Arrays:
    """The probes and similarities that the flags name, checked."""
    args, found = session.args, {}
    if args.probes is not None:
        found["probes"] = checked_probes(_array(args.probes, "--probes"), len(session.rows))
    if args.similarity is not None:
        found["similarity"] = checked_similarity(_array(args.similarity, "--similarity"), found["probes"])
    return found


def _probes(session: Session, unit: np.ndarray | None, complexity: np.ndarray | None) -> Arrays:
    args, found = session.args, _given_probes(session)
    if not found:
        sizes = {"num_neighbors": args.num_neighbors, "num_probes": args.num_probes}
        chosen = find_probes(unit, complexity, **sizes, seed=args.seed)
        return {"probes": chosen.index, "similarity": chosen.similarity}
    if "similarity" not in found:
        assert unit is not None
        probes = found["probes"]
        cosines = cosine(unit, np.arange(len(session.rows))[:, None], probes)
        found["similarity"] = np.where(probes >= 0, cosines, np.nan)
    return found


def _check_options(session: Session) -> None:
    """What can be wrong with the flags, said before anything is computed."""
    _given_probes(session)
    name = session.args.complexity
    if name.endswith(".npy"):
        _given_complexity(session)
    elif name not in ORDERINGS and name not in session.columns_present:
        known, columns = ", ".join(ORDERINGS), ", ".join(session.columns_present)
        raise ValueError(f"--complexity {name!r} is none of {known} and no column; the columns are {columns}")


def _array(path: Path | str, option: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):  # what NumPy says of a file that is none speaks of loading pickles
        raise ValueError(f"{option} {path} is not a .npy file of numbers") from None


def _direct_rows(session: Session, rows: range) -> tuple[Arrays, dict[str, float]]:
    args = session.args
    columns, stats = direct_rows(
        session.scorer,
        session.numbered_examples(rows),
        rows,
        template=args.template,
        max_length=args.max_length,
        progress=session.tokens,
    )
    return columns, stats_of(stats)


def _pair_rows(session: Session, probes: np.ndarray, rows: range) -> tuple[Arrays, dict[str, float]]:
    args = session.args
    shown = probes[rows.start : rows.stop]
    columns, stats = influence_rows(
        session.scorer,
        session.numbered_examples({*rows, *shown[shown >= 0].tolist()}),
        rows,
        probes,
        template=args.template,
        max_length=args.max_length,
        cut_demonstration=args.cut_demonstration,
        progress=session.tokens,
    )
    return columns, stats_of(stats)
