"""The budget of a pack: what is counted from the engine's own code, against counts made by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")


def small(layers: int, tokens: int = 300, *, fused: bool = True) -> tuple[dict[str, Any], Any]:
    import models
    import pack_budget
    import workloads

    config = models.make_config("tiny")
    config.num_hidden_layers = layers
    work = workloads.make_workload("wici-k5", vocabulary=512, size=4, branching=3, shorten=8)
    layout, cached = pack_budget.fullest_pack(work.requests, tokens)
    assert not cached and not layout.kept
    return pack_budget.pack_budget(config, layout, cached, fused=fused), layout


def test_a_layer_more_is_what_it_is_by_hand() -> None:
    (two, layout), (three, _) = small(2), small(3)
    more = {kind: [float(n) for n in three[kind] - two[kind]] for kind in two}
    tokens, hidden, inner, heads, key_heads, size = len(layout.ids), 64, 128, 4, 2, 16
    weights = hidden * (heads + 2 * key_heads) * size + heads * size * hidden + 3 * hidden * inner
    assert more["layer products"][::2] == [2.0 * tokens * weights, 7]
    # Two norms read and write two matrices each with their sum; queries and keys are read and written, with two
    # tables; the gate's two operands are read and one result is written.
    numbers = 8 * tokens * hidden + 2 * tokens * (heads + key_heads) * size + 2 * tokens * size + 3 * tokens * inner
    assert more["elementwise"][1:] == [2.0 * numbers, 4]
    offsets = layout.segments.query_offsets.tolist()
    seen = 0
    for node, context in enumerate(layout.segments.context_length.tolist()):
        seen += sum(context + i + 1 for i in range(offsets[node + 1] - offsets[node]))
    assert more["attention"][0] == 4.0 * heads * size * seen and more["attention"][2] == 1
    assert more["gathers and copies"][2] == 0 and more["head"] == [0.0, 0.0, 0.0]


def test_the_models_own_code_takes_more() -> None:
    (fused, _), (own, _) = small(2), small(2, fused=False)
    assert own["elementwise"][2] > 4 * fused["elementwise"][2] and own["elementwise"][1] > 2 * fused["elementwise"][1]
    for kind in ("layer products", "head"):
        assert own[kind].tolist() == fused[kind].tolist()
    # Beside own code every layer looks for what is not finite.
    assert own["attention"][0] == fused["attention"][0] and own["attention"][2] == 2 * fused["attention"][2] == 4


@pytest.mark.long
def test_the_documented_table_is_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And within what was aimed at for 16,384 tokens of a model of Llama-3.1-8B's shape."""
    import pack_budget

    page = ROOT / "docs/project/speed.md"
    copy = tmp_path / page.name
    copy.write_text(page.read_text())
    monkeypatch.setattr(sys, "argv", ["pack_budget.py", "--write", str(copy)])
    found = pack_budget.main()
    assert copy.read_text() == page.read_text()
    assert sum(counts[2] for counts in found.values()) <= 430
    assert found["elementwise"][1] <= 130e9
