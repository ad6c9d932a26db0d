"""Data-Juicer operators over the engine, for `custom_operator_paths`: perplexity, IFD and in-context influence.

Each gives the statistic of Data-Juicer's own operator (of 1.6) under the same name, a batch of samples at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instsel import Scorer, score_batch
from instsel.optional_packages import need_package

need_package("py-data-juicer", "data_juicer", ">=1.5,<2", extra="data-juicer")

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields


class InstselFilter(Filter):
    """What the operators share: the model, the wording, and loss as Data-Juicer defines it.

    Its arguments are those of Data-Juicer's own operators, and `scorer`: keywords of `instsel.Scorer`. A sample that
    cannot be scored has the statistic None and is left out.
    """

    _batched_op, _accelerator = True, "cuda"
    statistic = ""  # its name in the samples' stats

    def __init__(
        self,
        hf_model: str = "Qwen/Qwen2.5-0.5B",
        min_score: float | None = None,
        max_score: float | None = None,
        query_template: str = "",
        response_template: str = "{text}",
        scorer: dict[str, Any] | None = None,
        *args: Any,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.min_score, self.max_score = min_score, max_score
        self.query_template, self.response_template = query_template, response_template
        self.scorer = Scorer(hf_model, **scorer or {})

    def texts(self, sample: Mapping[str, Any]) -> list[str]:
        """The sample's messages, or its query and response by the templates; the answer is the last."""
        if "messages" in sample:
            return [message["content"] for message in sample["messages"]]
        return [self.query_template.format(**sample), self.response_template.format(**sample)]

    def losses(self, conversations: Sequence[list[str]]) -> np.ndarray:
        """Mean loss over the answer's tokens, nats: as many at the end as the answer has alone, less one for a BOS."""
        tokenizer = self.scorer.tokenizer
        assert tokenizer is not None  # the model is one by name
        pairs = []
        for texts in conversations:
            ids = tokenizer(" ".join(texts).strip())["input_ids"]
            answer = len(tokenizer(texts[-1].strip())["input_ids"]) - int(tokenizer.bos_token_id is not None)
            start = max(len(ids) - answer, 1)  # nothing predicts the first token
            pairs.append((ids[:start], ids[start:]) if answer > 0 and ids else ([], []))
        return -score_batch(self.scorer, pairs).mean_logprob

    def scores(self, conversations: Sequence[list[str]]) -> np.ndarray:
        """The statistic of each sample, by default perplexity; NaN where it has none."""
        return np.exp(self.losses(conversations))

    def compute_stats_batched(self, samples: dict[str, list[Any]], *args: Any, **options: Any) -> dict[str, list[Any]]:
        """Put the statistic into the samples that lack it."""
        stats = samples[Fields.stats]
        lacking = [i for i, known in enumerate(stats) if self.statistic not in known]
        found = self.scores([self.texts({key: values[i] for key, values in samples.items()}) for i in lacking])
        for i, value in zip(lacking, found.tolist(), strict=True):
            stats[i][self.statistic] = value if np.isfinite(value) else None
        return samples

    def process_batched(self, samples: dict[str, list[Any]]) -> list[bool]:
        """Which samples are within the bounds."""
        values = [stats[self.statistic] for stats in samples[Fields.stats]]
        return [v is not None and bool(self.get_keep_boolean(v, self.min_score, self.max_score)) for v in values]


@OPERATORS.register_module("instsel_perplexity_filter")
class InstselPerplexityFilter(InstselFilter):
    """Perplexity of the answer after its query."""

    statistic = "llm_perplexity"


@OPERATORS.register_module("instsel_ifd_filter")
class InstselIFDFilter(InstselFilter):
    """Loss of the answer after its query over the loss of the answer alone."""

    statistic = "ifd_score"

    def scores(self, conversations: Sequence[list[str]]) -> np.ndarray:
        found = self.losses([*conversations, *[texts[-1:] for texts in conversations]])
        return found[: len(conversations)] / found[len(conversations) :]


@OPERATORS.register_module("instsel_in_context_influence_filter")
class InstselInContextInfluenceFilter(InstselFilter):
    """Mean over validation samples of the loss of their answers without the sample before them, over that with it."""

    statistic = "in_context_influence"

    def __init__(self, valid_dataset: list[Mapping[str, Any]], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not valid_dataset:
            raise ValueError("valid_dataset: expected at least one sample, got none")
        self.valid = [self.texts(sample) for sample in valid_dataset]

    def scores(self, conversations: Sequence[list[str]]) -> np.ndarray:
        shown = [[*texts, *valid] for texts in conversations for valid in self.valid]
        found = self.losses([*self.valid, *shown])
        alone, after = found[: len(self.valid)], found[len(self.valid) :].reshape(-1, len(self.valid))
        return (alone / after).mean(1)
