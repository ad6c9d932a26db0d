"""What the columns of each method say: a name for readers, a unit, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LOGPROB = "nats a token"


@dataclass(frozen=True, slots=True)
class Measure:
    """A number for every row.

    name    the column that it was read from
    label   what readers call it
    unit    of its values; "" where they are ratios or ratings
    about   one sentence on what it says
    values  float64 [n], NaN where there is none
    """

    name: str
    label: str
    unit: str
    about: str
    values: np.ndarray

    @property
    def axis(self) -> str:
        """The label with its unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


# By method and column, or by column alone: label, unit, sentence.
_MEANINGS = {
    ("wici", "score"): (
        "wICI",
        "",
        "Weighted in-context influence: how much easier a row, shown as a demonstration, makes the answers of its "
        "probes; above 0 it helps.",
    ),
    ("wici", "gain"): (
        "gain",
        LOGPROB,
        "How much likelier a row, shown as a demonstration, makes the answers of its probes; above 0 it helps.",
    ),
    ("nuggets", "score"): (
        "NUGGETS score",
        "",
        "What a row, shown as a demonstration, does to the answers of the anchor tasks; higher is better.",
    ),
    ("miwv", "score"): (
        "MIWV",
        LOGPROB,
        "How much the nearest neighbour as a demonstration raises the loss of a row's answer; higher means that the "
        "model learns less of it from what is alike.",
    ),
    ("selectit", "score"): (
        "SelectIT rating",
        "",
        "The model's own rating of a row, lowered where its prompts or models disagree; higher is better.",
    ),
    ("deita", "score"): ("complexity times quality", "", "Product of both ratings, from 1 to 36; higher is better."),
    ("rico", "score"): (
        "RICo contribution",
        "",
        "Mean influence on the assessment tasks against noise of the same length; above 0 it helps.",
    ),
    ("grape", "score"): (
        "best answer's log-probability",
        LOGPROB,
        "How probable the model finds the best of a group's answers; closer to 0 is more probable.",
    ),
    ("grape", "margin"): (
        "lead of the best answer",
        LOGPROB,
        "By how much the best answer is more probable than the second best of its group.",
    ),
    ("miwv", "one_shot"): ("log-probability after the neighbour", LOGPROB, "Mean over the answer's tokens."),
    "ifd": (
        "IFD",
        "",
        "Instruction-following difficulty, the perplexity of the answer with its prompt over that without; above 1 the "
        "prompt does not help.",
    ),
    "direct": ("log-probability without the prompt", LOGPROB, "Mean over the answer's tokens, the answer alone."),
    "conditional": ("log-probability after the prompt", LOGPROB, "Mean over the answer's tokens, after its prompt."),
    "mean_logprob": (
        "mean log-probability",
        LOGPROB,
        "How probable the model finds an answer after its prompt; closer to 0 is more probable.",
    ),
    "sum_logprob": ("log-probability of the answer", "nats", "Sum over the answer's tokens, after its prompt."),
    "perplexity": ("perplexity", "", "exp of minus the mean log-probability of the answer; at least 1."),
    "num_tokens": ("length of the answer", "tokens", "Tokens of the answer, as the model reads it."),
    "similarity": ("cosine to the neighbour", "", "How alike the embeddings are; 1 is the same."),
    "complexity": ("complexity", "rating 1 to 6", "Expected rating of how complex the request is."),
    "quality": ("quality", "rating 1 to 6", "Expected rating of how good the answer is."),
    "num_anchors": ("anchors scored", "anchors", "Anchor tasks that a row's score is the mean over."),
    "significance": ("significance", "-1 to 1", "Sigmoid of the contribution."),
    "consistency": ("consistency", "share of tasks", "Tasks that a row helps."),
    "variance": ("variance", "", "Of the influences over the tasks."),
    "coverage": ("coverage", "share of tasks", "Tasks with an influence above 0.5."),
}  # fmt: skip
_NUGGETS_UNITS = {"wins": "share of anchors", "gain": LOGPROB, "ratio": "ratio of losses"}

# What is set against what: of one method, its two parts; of several, difficulty against influence.
PARTS = {"deita": ("complexity", "quality"), "miwv": ("conditional", "one_shot"), "ifd": ("direct", "conditional")}
DIFFICULTIES = ("ifd", "perplexity")
INFLUENCES = ("wici", "nuggets", "rico")

STATUSES = {
    "ok": "scored",
    "unreadable": "the row is no example; its card says why",
    "empty_target": "there is no answer to score or to show",
    "too_long": "the sequence is longer than the model or --max-length allows; nothing is cut",
    "nonfinite": "the model gave NaN or infinity, as with a dtype that is too narrow",
    "out_of_memory": "the row did not fit into memory even alone",
    "worker_died": "the row's shard ended several workers",
}


def meaning(method: str, column: str, parameters: Mapping[str, object]) -> tuple[str, str, str]:
    """Label, unit and sentence for a column of a method's result; those of a plug-in are called as they are.

    >>> meaning("wici", "score", {"rule": "gain"})[:2]
    ('wICI', 'nats a token')
    """
    label, unit, about = _MEANINGS.get((method, column), _MEANINGS.get(column, (column, "", "")))
    if (method, column) == ("wici", "score") and parameters.get("rule") == "gain":
        unit = LOGPROB
    if (method, column) == ("nuggets", "score"):
        unit = _NUGGETS_UNITS.get(str(parameters.get("measure")), "")
    if method == "grape" and parameters.get("normalize") == "sum":
        unit = "nats"
    return label, unit, about
