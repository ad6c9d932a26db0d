"""Nearest neighbours against every pair compared in float64."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instsel.neighbors import candidates
from instsel.neighbors.embeddings import cosine, unit_rows
from instsel.neighbors.nearest import nearest_neighbors, neighbors_of


def every_pair(embeddings: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    unit = unit_rows(embeddings)
    rows = np.arange(len(unit))
    similarity = cosine(unit, rows[:, None], rows[None])
    order = np.array([[j for j in np.lexsort((rows, -similarity[i])) if j != i][:count] for i in rows])
    return order, np.take_along_axis(similarity, order, 1)


def drawn(kind: str, rows: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "copies":
        return rng.normal(size=(rows, dimension))[rng.integers(0, max(1, rows // 4), rows)]
    if kind == "axes":  # nothing but ties
        return np.eye(dimension)[rng.integers(0, dimension, rows)]
    if kind == "signs":  # ties between different vectors
        return rng.choice([-1.0, 1.0], size=(rows, dimension))
    if kind == "close":  # closer together than float32 can tell
        return 1 + 1e-4 * rng.normal(size=(rows, dimension))
    return rng.normal(size=(rows, dimension))


@pytest.fixture(params=["float32", "bfloat16"])
def first_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways, whatever this processor would choose."""
    narrow = request.param == "bfloat16"
    monkeypatch.setattr("instsel.kernels.native_arrays.has_bfloat16_products", lambda: narrow)
    return str(request.param)


@pytest.mark.usefixtures("first_look")
@pytest.mark.parametrize("kind", ["spread", "copies", "axes", "signs", "close"])
@pytest.mark.parametrize(("rows", "dimension", "count"), [(300, 16, 32), (150, 3, 5), (20, 4, 32), (2, 5, 3)])
def test_as_when_every_pair_is_compared(kind: str, rows: int, dimension: int, count: int) -> None:
    embeddings = drawn(kind, rows, dimension, np.random.default_rng(rows))
    index, similarity = every_pair(embeddings, count)
    found = nearest_neighbors(embeddings, count)
    assert found.index.tolist() == index.tolist()
    assert found.similarity.tolist() == similarity.tolist()


def test_float32_alone_would_not_do() -> None:
    """The control: ranking the float32 products, and dropping the first as oneself, goes wrong on these inputs."""
    for kind in ("copies", "close"):
        embeddings = drawn(kind, 300, 16, np.random.default_rng(300))
        unit = unit_rows(embeddings)
        naive = np.argsort(-(unit @ unit.T), axis=1, kind="stable")[:, 1:33]
        assert (naive != every_pair(embeddings, 32)[0]).any()


@pytest.mark.parametrize("dimension", [3, 384])
def test_no_product_is_off_by_more_than_its_bound(dimension: int, first_look: str) -> None:
    rng = np.random.default_rng(4)
    # Entries that bfloat16 rounds as far as it can, all of one sign: errors add up instead of cancelling.
    worst = np.abs(rng.choice([1.0, 1 + 2.0**-8 - 2.0**-20, 1 + 3 * 2.0**-9], (64, dimension)))
    unit = unit_rows(np.concatenate([worst, rng.normal(size=(64, dimension)), -worst]))
    dtype = getattr(torch, first_look)
    tiles = candidates._Tiles(unit, np.arange(192), dtype, 5)
    tile = tiles[0]
    assert sorted(tile.place.tolist()) == list(range(192))
    found = tiles.products(tile, tile).double().clamp(-1, 1).numpy()
    exact = cosine(unit, tile.number[:, None].numpy(), tile.number[None].numpy())
    bound = tile.residual[:, None] + tile.residual.max() * (1 + 2.0**-7) + tiles.rounding
    off = (np.abs(found - exact) / bound.numpy()).max()
    assert 1e-3 < off <= 1, "the bound holds, and is none that anything would keep"
    if first_look == "bfloat16":
        float32_bound = candidates._Tiles(unit, np.arange(192), torch.float32, 5).rounding
        assert np.abs(found - exact).max() > 10 * float32_bound, "the control: float32's bound would not do"


@pytest.mark.long
@pytest.mark.usefixtures("first_look")
@pytest.mark.parametrize("kind", ["spread", "copies", "close"])
def test_tiles_and_who_is_compared_with_whom_do_not_show(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = drawn(kind, 757, 24, np.random.default_rng(1))
    index, similarity = every_pair(embeddings, 7)
    for rows in (64, 100, 128, 4096):  # many tiles, of padded groups, two that are not full, one
        monkeypatch.setattr(candidates, "TILE_ROWS", rows)
        found = nearest_neighbors(embeddings, 7)
        assert found.index.tolist() == index.tolist()
        assert found.similarity.tolist() == similarity.tolist()


@pytest.mark.usefixtures("first_look")
@pytest.mark.parametrize(("rows", "wanted"), [(90, 33), (700, 33), (700, 200), (5000, 33)])
def test_few_vectors_are_candidates(rows: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are hardly more rows than are wanted: else every pair would be compared in float64."""
    monkeypatch.setattr(candidates, "TILE_ROWS", 1024)
    unit = unit_rows(drawn("spread", rows, 24, np.random.default_rng(6)))
    every = np.arange(rows)
    for queries in (every, every[:70]):
        pairs = sum(len(other) for *_, other in candidates.exact_candidates(unit, every, queries, wanted))
        assert wanted <= pairs / len(queries) < 1.5 * wanted + 5


def test_crowded_queries_are_compared_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instsel.kernels.native_arrays.has_bfloat16_products", lambda: True)
    looked: list[tuple[Any, int]] = []
    real = candidates._against_all

    def noted(tiles: Any, queries: np.ndarray, wanted: int, most: int | None) -> Any:
        looked.append((tiles[0].vectors.dtype, len(queries)))
        return real(tiles, queries, wanted, most)

    monkeypatch.setattr(candidates, "_against_all", noted)
    rng = np.random.default_rng(5)
    crowd, apart = drawn("close", 500, 24, rng), np.repeat(rng.normal(size=(20, 24)), 8, 0)
    embeddings = np.concatenate([crowd, apart + 0.3 * rng.normal(size=apart.shape)])
    found = nearest_neighbors(embeddings, 3)
    assert looked == [(torch.float32, 500)]
    assert found.index.tolist() == every_pair(embeddings, 3)[0].tolist()


@pytest.mark.usefixtures("first_look")
@pytest.mark.parametrize("kind", ["spread", "copies", "axes", "signs", "close"])
def test_slices_of_a_mapped_file_are_the_whole_search(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = drawn(kind, 230, 12, np.random.default_rng(5))
    embeddings[[3, 100]] = 0
    whole = nearest_neighbors(embeddings, 9)
    np.save(tmp_path / "unit.npy", unit_rows(embeddings))
    unit = np.load(tmp_path / "unit.npy", mmap_mode="c")
    monkeypatch.setattr(candidates, "TILE_ROWS", 64)
    for start in range(0, 230, 37):
        rows = range(start, min(start + 37, 230))
        found = neighbors_of(unit, rows, 9)
        assert found.index.tolist() == whole.index[rows.start : rows.stop].tolist()
        np.testing.assert_array_equal(found.similarity, whole.similarity[rows.start : rows.stop])


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    embeddings = drawn("spread", 200, 12, rng)
    order = rng.permutation(200)
    found, moved = nearest_neighbors(embeddings, 9), nearest_neighbors(embeddings[order], 9)
    assert order[moved.index].tolist() == found.index[order].tolist()


def test_copies_are_neighbours_and_oneself_is_not() -> None:
    embeddings = np.repeat(np.eye(3), 4, axis=0)
    index = nearest_neighbors(embeddings, 3).index
    assert [sorted(row) for row in index.tolist()] == [sorted({0, 1, 2, 3} - {i}) for i in range(4)] + [
        sorted({4, 5, 6, 7} - {i}) for i in range(4, 8)
    ] + [sorted({8, 9, 10, 11} - {i}) for i in range(8, 12)]


def test_rows_without_a_direction_have_no_neighbours() -> None:
    found = nearest_neighbors([[0, 0], [1, 0], [0, 0], [1, 1]], 2)
    assert found.index.tolist() == [[-1, -1], [3, -1], [-1, -1], [1, -1]]
    assert np.isnan(found.similarity[found.index < 0]).all()


def test_few_rows() -> None:
    assert nearest_neighbors(np.ones((1, 3)), 5).index.shape == (1, 0)
    assert nearest_neighbors(np.ones((0, 3)), 5).index.shape == (0, 0)
    assert nearest_neighbors(np.zeros((3, 2)), 5).index.tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "5"])
def test_number_of_neighbours_is_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"num_neighbors must be a whole number of at least 1, got"):
        nearest_neighbors(np.ones((3, 2)), wrong)


def test_the_index_finds_nearly_all() -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(60, 24))
    embeddings = centres[rng.integers(0, 60, 3000)] + 0.5 * rng.normal(size=(3000, 24))
    embeddings[10] = embeddings[11]
    exact, found = nearest_neighbors(embeddings, 10), nearest_neighbors(embeddings, 10, exact_limit=100)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.index.tolist(), found.index.tolist(), strict=True)]
    assert np.mean(shared) / 10 > 0.9
    assert (found.index != np.arange(3000)[:, None]).all()
    assert found.index[10, 0] == 11
    same = found.index == exact.index
    assert found.similarity[same].tolist() == exact.similarity[same].tolist()


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match=r"50 distinct rows; .* needs faiss: pip install 'instsel\[index\]'"):
        nearest_neighbors(np.random.default_rng(0).normal(size=(50, 4)), 3, exact_limit=20)
