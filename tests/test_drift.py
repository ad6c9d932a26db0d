"""The measurement of drift between batch compositions: small where scoring is right, large where it is made wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from instsel.engine.model_session import ModelSession

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = [pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests"), pytest.mark.long]
CANDIDATES = 6
TOLERANCE = 2e-5  # nats a token in float32, as elsewhere in the tests


def measured(model="tiny", dtype="float32", backend="cpu"):
    import drift

    return drift.measure(model, dtype, backend, candidates=CANDIDATES)


@pytest.mark.parametrize("model", ["tiny", "demo"])
def test_compositions_differ_and_scores_do_not(model):
    cell = measured(model)
    assert cell["requests"] == 7 * CANDIDATES
    packs = cell["packs"]
    assert packs["one at a time"] == cell["requests"]
    assert packs["packs of 256 tokens"] > packs["packs of 2048 tokens"] == packs["another order"] >= 1
    assert 0 <= cell["median"] <= cell["largest"] < TOLERANCE
    assert cell["largest_from_float32"] < TOLERANCE
    assert cell["same_call_same_bits"]
    assert cell["score_spread"] > 0.1, "the control: scores that are all alike could not move"


def test_a_fault_that_depends_on_the_pack_is_seen(monkeypatch):
    forward = ModelSession._forward

    def stretched(self, ids, positions, rows, logits):
        if positions is not None and len(ids) > 100:
            positions = positions * 2
        return forward(self, ids, positions, rows, logits)

    import drift

    drift.float32_scores.cache_clear()
    drift.float32_scores("tiny", "cpu", CANDIDATES, 0)
    monkeypatch.setattr(ModelSession, "_forward", stretched)
    cell = measured()
    assert cell["largest"] > 1000 * TOLERANCE
    assert cell["largest_rank_change"] > 0
    assert cell["same_call_same_bits"], "it is wrong in the same way each time"


def test_other_bits_of_the_same_call_are_seen(monkeypatch):
    rng = np.random.default_rng(0)
    forward = ModelSession._forward

    def noisy(self, ids, positions, rows, logits):
        return forward(self, ids, positions, rows, logits) * (1 + 1e-5 * (positions is not None) * rng.random())

    monkeypatch.setattr(ModelSession, "_forward", noisy)
    assert not measured()["same_call_same_bits"]


def test_drift_is_the_widest_span_over_the_compositions():
    import drift

    scores = {"packs of 256 tokens": [-1.0, -2.0, -3.0], "another order": [-1.5, -2.0, -3.0]}
    found = {name: (np.array(means), 1) for name, means in {**scores, "one at a time": [-1.0, -0.75, -3.25]}.items()}
    cell = drift.drift(found, np.array([-1.0, -0.5, -3.25]))
    assert (cell["largest"], cell["median"], cell["largest_rank_change"]) == (1.25, 0.5, 1)
    assert cell["largest_from_one_at_a_time"]["another order"] == 1.25
    assert (cell["largest_from_float32"], cell["median_from_float32"]) == (0.25, 0.0)


def test_the_command_writes_what_the_table_shows(tmp_path, monkeypatch, capsys):
    import drift
    import tables

    command = f"drift --model tiny --dtype bfloat16 --candidates {CANDIDATES} --output {tmp_path}".split()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(sys, "argv", [*command, "--backend", "cpu", "triton"])
    drift.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and "refused: backend: 'triton' cannot be used: it needs GPU" in printed[1]
    result = json.loads((tmp_path / "drift_cpu.json").read_text())
    (cell, refused) = result["results"]
    assert result["environment"]["torch"] and cell["environment"]["processor"]
    assert TOLERANCE < cell["largest_from_float32"] < 0.3, "bfloat16 rounds by more than float32"
    assert "largest" not in refused
    monkeypatch.setattr(sys, "argv", [*command, "--backend", "reference", "cpu"])
    drift.main()
    again = json.loads((tmp_path / "drift_cpu.json").read_text())["results"]
    assert again[:2] == [cell, refused] and again[2]["backend"] == "reference", "only what was missing is measured"
    stale = {**again[2], "backend": "cpu", "weights_sha256": "of a demo model that is no more"}
    (tmp_path / "drift_cpu.json").write_text(json.dumps({**result, "results": [stale, *again]}))
    drift.main()
    assert json.loads((tmp_path / "drift_cpu.json").read_text())["results"][0] == stale, "nothing to measure or write"
    (tmp_path / "drift_cpu.json").write_text(json.dumps({**result, "results": [stale]}))
    drift.main()
    assert stale not in json.loads((tmp_path / "drift_cpu.json").read_text())["results"], "measured anew"
    content = tables.drift_table(tables.load(tmp_path)["drift"])
    assert f"| tiny | bf16 | cpu on cpu | {cell['largest']:.1e} |" in content and "triton" not in content
    document = tables.insert("a\n<!-- drift:begin -->\nold\n<!-- drift:end -->\nb\n", content, "drift")
    assert document.startswith("a\n") and document.endswith("\nb\n") and "old" not in document
