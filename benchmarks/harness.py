"""Time of lm-evaluation-harness with `--model hf` and with `--model instsel`, for questions after a few-shot header.

    python benchmarks/harness.py --model smollm2-135m --dtype float32 --output harness.json

Both are asked through the harness's own `loglikelihood`, tokenising included, in turns on the same weights; their
log-probabilities and greedy flags are compared before any time is written. Beside the time stands that of the
processor, all threads together, which a busy machine lengthens less.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from environment import environment
from models import NAMES, make_model, vocabulary

HEADER_EXAMPLES, QUESTION_TOKENS, OPTIONS, OPTION_TOKENS = 10, (30, 90), 4, (2, 6)
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}  # nats a token


def make_requests(size: int, questions: int, seed: int = 0) -> list[tuple[str, str]]:
    """Pairs of texts in which each word is one token: ten examples, a question, one of four options."""
    draw = random.Random(seed)

    def words(low: int, high: int) -> str:
        return " ".join(str(draw.randrange(2, size)) for _ in range(draw.randint(low, high)))

    header = " ".join(f"{words(*QUESTION_TOKENS)} {words(*OPTION_TOKENS)}" for _ in range(HEADER_EXAMPLES))
    asked = [f"{header} {words(*QUESTION_TOKENS)}" for _ in range(questions)]
    return [(question, f" {words(*OPTION_TOKENS)}") for question in asked for _ in range(OPTIONS)]


def word_tokenizer(size: int) -> Any:
    """A tokenizer whose tokens are the numbers below `size`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", *map(str, range(2, size))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def check(theirs: list[Any], ours: list[Any], requests: list[tuple[str, str]], dtype: str) -> float:
    """The largest difference in nats a token; ValueError where it is more than rounding, or a float32 flag differs."""
    largest = max(
        abs(a - b) / len(text.split()) for (a, _), (b, _), (_, text) in zip(theirs, ours, requests, strict=True)
    )
    if largest > TOLERANCE[dtype]:
        raise ValueError(f"log-probabilities differ by {largest} nats a token")
    if dtype == "float32" and [flag for _, flag in theirs] != [flag for _, flag in ours]:
        raise ValueError("greedy flags differ")
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NAMES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8], help="of the harness's own model")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="a JSON file; results are added to it")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from instsel.integrations.lm_eval import InstselLM

    model, tokenizer = make_model(args.model, args.dtype, device=args.device), word_tokenizer(vocabulary(args.model))
    requests = make_requests(vocabulary(args.model), args.questions)
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(requests)]
    # By itself the harness takes the log-softmax in the model's dtype, which in bfloat16 gives other numbers.
    ways = {
        f"hf, batch {size}": HFLM(
            copy.deepcopy(model), tokenizer=tokenizer, batch_size=size, add_bos_token=False, softmax_dtype="float32"
        )
        for size in args.batch_size
    }
    ways["instsel"] = InstselLM(model, tokenizer=tokenizer, add_bos_token=False)
    ways["instsel"].loglikelihood(asked[:4], disable_tqdm=True)  # checks the model, which loading counts
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    worked: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for _ in range(args.rounds):
        for name, way in ways.items():
            began, worked_before = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                answers[name] = way.loglikelihood(asked, disable_tqdm=True)
            seconds[name].append(time.perf_counter() - began)
            worked[name].append(time.process_time() - worked_before)
    differences = {
        name: check(found, answers["instsel"], requests, args.dtype)
        for name, found in answers.items()
        if name != "instsel"
    }
    best = min(statistics.median(times) for name, times in seconds.items() if name != "instsel")
    result = {
        "model": args.model,
        "dtype": args.dtype,
        "questions": args.questions,
        "requests": len(requests),
        "header_tokens": len(requests[0][0].split()),
        "seconds": seconds,
        "processor_seconds": worked,
        "ratio_to_the_fastest": best / statistics.median(seconds["instsel"]),
        "largest_difference": differences,
        "environment": environment(args.device),
    }
    known = json.loads(args.output.read_text())["results"] if args.output.exists() else []
    args.output.write_text(json.dumps({"benchmark": "harness", "results": [*known, result]}, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "environment"}, indent=1))


if __name__ == "__main__":
    main()
