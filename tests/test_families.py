"""The page of families is true: none has lost what the page says of it, and enough of them share prefixes."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import transformers
from families import ENOUGH, PAGE, Family, measured, page_families, page_version

TEXT = PAGE.read_text(encoding="utf-8")
FAMILIES = page_families(TEXT)
# One of each kind of layer: those that run whole and others, windows, experts, latent and indexed attention, sinks,
# chunks, recurrences of each kind, tables of positions.
SAMPLE = (
    *("llama", "qwen3", "gemma3_text", "qwen3_moe", "deepseek_v32", "gpt_oss", "llama4_text", "qwen3_5_text", "lfm2"),
    *("falcon_h1", "nemotron_h", "granitemoehybrid", "kimi_linear", "bart", "modernbert-decoder", "bloom"),
)
same_version = pytest.mark.skipif(
    page_version(TEXT) != transformers.__version__, reason=f"the page is of transformers {page_version(TEXT)}"
)


@pytest.mark.long
@same_version
@pytest.mark.parametrize("name", SAMPLE)
def test_a_family_keeps_what_the_page_says(name: str) -> None:
    found = measured(name)
    assert found is not None
    assert not found.lost(FAMILIES[name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@same_version
def test_every_family_keeps_what_the_page_says() -> None:
    found = {name: measured(name) for name in FAMILIES}
    lost = [f"{name} cannot be scored" for name, family in found.items() if family is None]
    lost += [said for name, family in found.items() if family is not None and (said := family.lost(FAMILIES[name]))]
    assert not lost
    if gained := [name for name in FAMILIES if found[name] != FAMILIES[name]]:
        warnings.warn(f"the page lags behind for {', '.join(gained)}: python tests/families.py --write", stacklevel=1)


def test_most_families_share_prefixes_whatever_the_length_or_up_to_enough() -> None:
    shared = [family for family in FAMILIES.values() if family.shares]
    assert len(FAMILIES) >= 173 and len(shared) >= 135
    whole = sum(family.whole > 0 for family in FAMILIES.values())
    said = (
        f"Of {len(FAMILIES)} families {len(shared)} share prefixes at all lengths up to {ENOUGH:,} tokens or more, and"
    )
    assert f"{said} {whole} run layers whole." in " ".join(TEXT.split())
    # What people tune: each shares.
    named = (
        *(
            "qwen3_5_text",
            "qwen3_5_moe_text",
            "qwen3_next",
            "gpt_oss",
            "llama4_text",
            "granitemoehybrid",
            "lfm2",
            "lfm3",
        ),
        *("nemotron_h", "falcon_h1", "kimi_linear", "olmo_hybrid", "deepseek_v32", "glm_moe_dsa", "mimo_v2_flash"),
    )
    assert [name for name in named if not FAMILIES[name].shares] == []


def test_a_loss_is_seen() -> None:
    before = Family("some", None, 4, 4, "")
    assert Family.of_row(before.row) == before and not before.lost(before)
    for family in (before, replace(before, shared=0, reason="because"), replace(before, shared=8191, whole=0)):
        assert Family.of_row(family.row) == family
    limited = replace(before, shared=2048)
    assert "up to 2048" in limited.lost(before) and not before.lost(limited)
    assert "up to 0" in replace(before, shared=0).lost(limited)
    assert "runs 3 layers whole" in replace(before, whole=3).lost(before)
    for reason, said in (
        ("own logits computed", "own logits"),
        ("SomeExperts: it has weight for weights", "own experts"),
    ):
        own = replace(before, reason=reason)
        assert said in own.lost(before) and not own.lost(own)
