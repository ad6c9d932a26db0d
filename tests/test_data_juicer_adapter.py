"""The Data-Juicer operators give the statistics of Data-Juicer's own, on the same model."""

from __future__ import annotations

import pytest
from tiny_model import tiny_model_folder

pytest.importorskip("data_juicer")
from data_juicer.ops.filter.in_context_influence_filter import InContextInfluenceFilter
from data_juicer.ops.filter.instruction_following_difficulty_filter import InstructionFollowingDifficultyFilter
from data_juicer.ops.filter.llm_perplexity_filter import LLMPerplexityFilter
from data_juicer.utils.constant import Fields

from instsel.integrations.data_juicer import (
    InstselIFDFilter,
    InstselInContextInfluenceFilter,
    InstselPerplexityFilter,
)

SAMPLES = [{"query": f"say the thing {i}", "answer": f"the thing number {i * i} is in a ring"} for i in range(5)]
VALID = [{"query": "what is it", "answer": "the other thing"}, {"query": "say the", "answer": "in the ring"}]
WORDING = {"query_template": "{query}", "response_template": "{answer}"}
PAIRS = [
    (LLMPerplexityFilter, InstselPerplexityFilter, {}),
    (InstructionFollowingDifficultyFilter, InstselIFDFilter, {}),
    (InContextInfluenceFilter, InstselInContextInfluenceFilter, {"valid_dataset": VALID}),
]


@pytest.mark.parametrize("theirs, ours, options", PAIRS)
def test_statistics_are_those_of_the_own_operator(theirs, ours, options):
    own = theirs(hf_model=tiny_model_folder(), **WORDING, **options)
    mine = ours(hf_model=tiny_model_folder(), scorer={"dtype": "float32"}, **WORDING, **options)
    batch = {key: [sample[key] for sample in SAMPLES] for key in SAMPLES[0]} | {Fields.stats: [{} for _ in SAMPLES]}
    mine.compute_stats_batched(batch)
    for sample, stats in zip(SAMPLES, batch[Fields.stats], strict=True):
        expected = own.compute_stats_single({**sample, Fields.stats: {}})[Fields.stats]
        assert stats == {name: pytest.approx(float(value), rel=1e-4) for name, value in expected.items()}
    values = sorted(stats[mine.statistic] for stats in batch[Fields.stats])
    mine.min_score, mine.max_score = values[1], values[3]
    assert sum(mine.process_batched(batch)) == 3


def test_what_cannot_be_scored_is_left_out():
    mine = InstselPerplexityFilter(hf_model=tiny_model_folder(), **WORDING)
    batch = {"query": ["a"], "answer": [""], Fields.stats: [{}]}
    mine.compute_stats_batched(batch)
    assert batch[Fields.stats] == [{"llm_perplexity": None}] and mine.process_batched(batch) == [False]
