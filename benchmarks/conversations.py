"""Cost of scoring every answer of conversations beside scoring the last alone, from rows to scores.

    python benchmarks/conversations.py --output benchmarks/results/amd-avx512-bf16
    python benchmarks/conversations.py --model FOLDER --rows 60 --output benchmarks/results/amd-avx512-bf16

The model "tiny" has random weights and takes next to no time, so that all else shows; "demo" is the demo's own. One
without a chat template gets ChatML. Conversations are of random words, each turn as many as an instruction of Alpaca's
or its answer has tokens, at most 48. The two are measured in pairs, one after the other and in the opposite order next
time, by the clock and in time of the processors, which other processes beside change less; the ratio is the median of
the pairs'.

Before that the numbers are compared: the last answer's sum and that of the turns before it, scored as conversations
that end there, must be that of all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from lengths import load_lengths
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import instsel
from instsel.demo.generator import make_pool

DEMO_MODEL = Path(instsel.__file__).parent / "demo" / "model"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LONGEST = 48  # words of a turn
WHICH = ("last", "all")


def make_rows(count: int, turns: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations of so many turns, the user's and the assistant's in turn."""
    rng, lengths = np.random.default_rng(seed), load_lengths().pairs
    words = sorted({word for row in make_pool(seed, 200) for word in row["instruction"].split()})

    def exchange() -> list[dict[str, str]]:
        sizes = zip(("user", "assistant"), lengths[rng.integers(len(lengths))], strict=True)
        return [{"role": role, "content": " ".join(rng.choice(words, min(size, LONGEST)))} for role, size in sizes]

    return [{"messages": [turn for _ in range(turns // 2) for turn in exchange()]} for _ in range(count)]


def make_scorer(model: str, dtype: str) -> instsel.Scorer:
    """A model by its name or its folder, with a chat template."""
    source: Any = {"tiny": DEMO_MODEL, "demo": DEMO_MODEL}.get(model, model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = tokenizer.chat_template or CHATML
    if model == "tiny":
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(DEMO_MODEL, hidden_size=32, intermediate_size=48, head_dim=8)
        source = AutoModelForCausalLM.from_config(config)
    return instsel.Scorer(source, tokenizer=tokenizer, dtype=dtype, context_length=8192)


def score(scorer: instsel.Scorer, rows: list[dict[str, Any]], which: str) -> Any:
    """The perplexities of the rows, all statuses ok."""
    found = instsel.perplexity(scorer, rows, template="chat", score_turns=which)
    assert (found.status == "ok").all()
    return found


def largest_difference(scorer: instsel.Scorer, rows: list[dict[str, Any]]) -> float:
    """Between all answers' mean log-probability and that of each scored as the last of a conversation, nats."""
    ends = [range(2, len(row["messages"]) + 1, 2) for row in rows]
    shorter = [{"messages": row["messages"][:end]} for row, found in zip(rows, ends, strict=True) for end in found]
    each, every = score(scorer, shorter, "last"), score(scorer, rows, "all")
    starts = np.cumsum([0, *(len(found) for found in ends[:-1])])
    tokens = np.add.reduceat(each.num_tokens, starts)
    assert (tokens == every.num_tokens).all()
    return float(np.abs(np.add.reduceat(each.sum_logprob, starts) / tokens - every.mean_logprob).max())


def measure(scorer: instsel.Scorer, rows: list[dict[str, Any]], runs: int) -> dict[str, Any]:
    """Seconds of each in pairs, by the clock and of the processors, their ratios, and what went through the model."""
    clocks = {"seconds": time.perf_counter, "processor_seconds": time.process_time}
    taken: dict[str, dict[str, list[float]]] = {clock: {which: [] for which in WHICH} for clock in clocks}
    forwarded: dict[str, int] = {}
    for run in range(runs):
        for which in WHICH if run % 2 == 0 else WHICH[::-1]:
            starts = {name: clock() for name, clock in clocks.items()}
            forwarded[which] = score(scorer, rows, which).stats.tokens_forwarded
            for name, clock in clocks.items():
                taken[name][which].append(clock() - starts[name])
    ratios = {
        name: [every / last for last, every in zip(*(found[which] for which in WHICH), strict=True)]
        for name, found in taken.items()
    }
    return {**taken, "ratios": ratios, "tokens_forwarded": forwarded}


def main() -> None:
    """Compare, measure and print; with `--output` write one JSON file into that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, demo, or a folder (default: tiny)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--rows", type=int, default=2000, help="conversations")
    parser.add_argument("--turns", type=int, default=6, help="of a conversation, the user's and the assistant's")
    parser.add_argument("--runs", type=int, default=5, help="pairs of measurements")
    parser.add_argument("--output", type=Path, help="folder for the result file")
    options = parser.parse_args()
    name = Path(options.model).name
    scorer, rows = make_scorer(options.model, options.dtype), make_rows(options.rows, options.turns)
    result = {"benchmark": "conversations", "model": name, "dtype": options.dtype, "rows": options.rows}
    result |= {"turns": options.turns, "largest_difference": largest_difference(scorer, rows[:50])}
    result |= measure(scorer, rows, options.runs)
    print(
        f"{name}, {options.rows:,} conversations of {options.turns} turns, largest difference "
        f"{result['largest_difference']:.1e} nats a token"
    )
    for clock, ratios in result["ratios"].items():
        last, every = (statistics.median(result[clock][which]) for which in WHICH)
        print(f"{clock}: last {last:.2f}, all {every:.2f}, {statistics.median(ratios):.2f} times as much", end=" ")
        print(f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})", flush=True)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        result["environment"] = environment("cpu")
        path = options.output / f"conversations_{name}_{options.dtype}_{options.rows}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
