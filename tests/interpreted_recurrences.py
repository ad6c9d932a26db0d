"""Convolutions and recurrences along a tree under Triton's interpreter; test_triton_recurrences.py runs this file.

As in interpreted_attention.py the interpreter must be on before Triton is imported. bfloat16 is no exception here, as
all products are of float32.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"


import numpy as np
import pytest
import torch
from kernel_checks import with_gaps
from test_tree_recurrences import DOUBLE, FLOAT, HALF, KINDS, TOLERANCE, difference

from instsel.kernels import TreeNodes, triton_tree_levels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # products with infinities are meant
# Longer than a chunk and shorter, empty, of several levels; more long leaves than a launch has places for.
LENGTHS = [18, 0, 20, 3, 17, 33]
PARENTS = [-1, 0, 1, 0, -2, 3]
SINGLE = "scan of single channels"  # of many heads: too many programs for the interpreter


def nodes_of(lengths: list[int], parents: list[int], num_initial: int = 0) -> TreeNodes:
    return TreeNodes.from_lists(np.concatenate([[0], np.cumsum(lengths)]), parents, num_initial)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((kind, FLOAT) for kind in KINDS if kind != SINGLE), ("convolution", HALF), ("delta rule", HALF), ("scan", HALF)],
)
def test_every_node_is_as_its_path_by_itself(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_tree_levels, "SCRATCH", 1)
    one = KINDS[kind](nodes_of(LENGTHS, PARENTS, 1), dtype)
    want, ends = one.want()
    kept = [5, 0, 2, 1]
    out, states = one.run("triton", keep=kept)
    assert difference(out, want) <= TOLERANCE[dtype]
    assert difference(states, [ends[node] for node in kept]) <= TOLERANCE[dtype]


def test_inputs_that_a_path_lacks_are_zeros() -> None:
    one = KINDS["convolution"](nodes_of([1, 1], [-1, 0]), FLOAT)
    _, states = one.run("triton", keep=[1, 0])
    _, ends = one.want()
    assert difference(states, [ends[1], ends[0]]) == 0


@pytest.mark.parametrize("kind", ["convolution", "delta rule", SINGLE])
def test_double(kind: str) -> None:
    one = KINDS[kind](nodes_of([3, 5], [-1, 0]), DOUBLE)
    assert difference(one.run("triton")[0], one.want()[0]) <= TOLERANCE[DOUBLE]


@pytest.mark.parametrize("kind", ["convolution", "delta rule", "scan"])
def test_a_state_of_another_node_is_another_result(kind: str) -> None:
    """Negative control: of the wrong parent, and of a sibling."""
    lengths = [4, 4, 3, 3]
    want, _ = KINDS[kind](nodes_of(lengths, [-1, -1, 0, 0]), FLOAT).want()
    for parents in ([-1, -1, 1, 0], [-1, -1, 0, 2]):
        out, _ = KINDS[kind](nodes_of(lengths, parents), FLOAT).run("triton")
        assert difference(out, want) > 2 * TOLERANCE[FLOAT]


@pytest.mark.parametrize("kind", ["convolution", "delta rule", "delta rule with a decay a row", "scan"])
def test_a_state_goes_on_in_a_later_pack_with_the_same_bits(kind: str) -> None:
    one = KINDS[kind](nodes_of([17, 5], [-1, 0]), FLOAT)
    out, states = one.run("triton")
    if kind == "convolution":
        one.x = one.x[17:]
    else:
        one.parts = {name: x[17:] for name, x in one.parts.items()}
    again, end = one.run("triton", nodes_of([5], [-2], 1), initial=states[:1])
    assert torch.equal(again, out[17:]) and torch.equal(end[0], states[1])


@pytest.mark.parametrize("kind", ["convolution", "delta rule", "scan"])
def test_a_level_for_each_token_and_a_pack_of_nothing(kind: str) -> None:
    one = KINDS[kind](nodes_of([7], [-1]), FLOAT)
    out, states = one.run("triton", nodes_of([1] * 7, list(range(-1, 6))), keep=[6])
    want, ends = one.want()
    assert difference(out, want) <= TOLERANCE[FLOAT] and difference(states, ends) <= TOLERANCE[FLOAT]
    out, states = KINDS[kind](TreeNodes.from_lists([0], []), FLOAT).run("triton")
    assert len(out) == len(states) == 0


@pytest.mark.parametrize("kind", ["convolution", "delta rule", "scan", "scan with a rate a row"])
def test_numbers_that_lie_apart(kind: str) -> None:
    """Every other tensor, so that of two neighbours by name, as keys and queries are, each keeps its own strides."""
    one = KINDS[kind](nodes_of([3, 2], [-2, 0], 1), FLOAT)
    expected = one.run("triton")
    parts = getattr(one, "parts", {})
    names = sorted({"x", "weight", "bias", "initial", "rate", "skip", *parts} & {*vars(one), *parts})
    for chosen in (names[::2], names[1::2]):
        changed = KINDS[kind](nodes_of([3, 2], [-2, 0], 1), FLOAT)
        for name in chosen:
            found = changed.parts if name in parts else vars(changed)
            found[name] = with_gaps(found[name])
        got = changed.run("triton")
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1]), chosen


@pytest.mark.parametrize("kind", ["delta rule", "delta rule with a decay a row"])
def test_vectors_of_zeros(kind: str) -> None:
    """Which have no direction, and are divided by the root of a number that is not 0."""
    one = KINDS[kind](nodes_of([6, 3], [-1, 0]), FLOAT)
    one.parts["key"][[2, 7]], one.parts["query"][[3, 7]] = 0.0, 0.0
    out, states = one.run("triton")
    want, ends = one.want()
    assert difference(out, want) <= TOLERANCE[FLOAT] and difference(states, ends) <= TOLERANCE[FLOAT]


@pytest.mark.parametrize("kind", ["delta rule", "delta rule with a decay a row"])
def test_a_state_that_is_forgotten(kind: str) -> None:
    """Decays to exactly 0, of which no difference of infinite logarithms may be taken."""
    one = KINDS[kind](nodes_of([14, 18], [-1, 0]), FLOAT)
    one.parts["decay"][[3, 17, 19]] = -torch.inf
    one.parts["decay"][21:25] = -200.0
    out, states = one.run("triton")
    want, ends = one.want()
    assert difference(out, want) <= TOLERANCE[FLOAT] and difference(states, ends) <= TOLERANCE[FLOAT]


@pytest.mark.parametrize("kind", ["convolution", "delta rule", "scan"])
def test_numbers_that_are_not_finite_stay_on_their_path(kind: str) -> None:
    one = KINDS[kind](nodes_of([3, 12, 2], [-1, 0, 0]), FLOAT)
    plain, _ = one.run("triton")
    (one.x if kind == "convolution" else one.parts["x" if kind == "scan" else "value"])[8] = torch.inf
    out, _ = one.run("triton")
    others = [*range(8), 15, 16]
    assert torch.equal(out[others], plain[others]) and not out[8].isfinite().all()
