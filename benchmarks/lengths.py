"""Lengths in tokens of prompts and answers in real instruction data, as `lengths.json` holds them.

    python benchmarks/lengths.py FOLDER

measures them again from a folder with `alpaca_en_demo_999.jsonl`, `gsm8k_candidates_700.jsonl` and
`self_instruct_candidates_252.jsonl`. No tokenizer of a hub model is needed: a text's tokens are its GPT-2 pre-tokens
(the pieces between which a byte-level tokenizer never merges) times a ratio that brings the means of the Alpaca file
to those under SmolLM2's tokenizer, 21 tokens a prompt and 175 an answer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("lengths.json")
ALPACA_PROMPT_TOKENS = 21
ALPACA_ANSWER_TOKENS = 175


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each row: of pairs `(prompt, answer)`, of groups `(prompt, (answer, ...))`."""

    pairs: list[tuple[int, int]]  # Alpaca
    maths: list[tuple[int, tuple[int, ...]]]  # gsm8k, five answers a question
    instructions: list[tuple[int, tuple[int, ...]]]  # self-instruct, eight answers an instruction


def load_lengths() -> Lengths:
    """The lengths of `lengths.json`."""
    data = json.loads(FILE.read_text())
    pairs = list(zip(data["alpaca"]["prompts"], data["alpaca"]["answers"], strict=True))
    maths, instructions = (
        [(prompt, tuple(answers)) for prompt, answers in zip(data[name]["prompts"], data[name]["answers"], strict=True)]
        for name in ("gsm8k_candidates", "self_instruct_candidates")
    )
    return Lengths(pairs, maths, instructions)


def measure(folder: Path) -> dict[str, Any]:
    """The content of `lengths.json` from the files in `folder`."""
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    alpaca = _read(folder / "alpaca_en_demo_999.jsonl")
    prompts, answers = [len(split(_prompt(row))) for row in alpaca], [len(split(row["output"])) for row in alpaca]
    prompt_ratio = ALPACA_PROMPT_TOKENS * len(prompts) / sum(prompts)
    answer_ratio = ALPACA_ANSWER_TOKENS * len(answers) / sum(answers)

    def tokens(counts: Iterable[int], ratio: float) -> list[int]:
        return [max(round(ratio * count), 1) for count in counts]

    def groups(name: str, split: Callable[[str], list[Any]]) -> dict[str, Any]:
        rows = _read(folder / name)
        return {
            "prompts": tokens((len(split(_prompt(row))) for row in rows), prompt_ratio),
            "answers": [
                tokens((len(split(candidate["response"])) for candidate in row["candidates"]), answer_ratio)
                for row in rows
            ],
        }

    return {
        "tokens_per_pre_token": {"prompts": round(prompt_ratio, 4), "answers": round(answer_ratio, 4)},
        "alpaca": {"prompts": tokens(prompts, prompt_ratio), "answers": tokens(answers, answer_ratio)},
        "gsm8k_candidates": groups("gsm8k_candidates_700.jsonl", split),
        "self_instruct_candidates": groups("self_instruct_candidates_252.jsonl", split),
    }


def _prompt(row: dict[str, Any]) -> str:
    """The prompt in the plain template."""
    text = row.get("input") or ""
    return row["instruction"] + "\n" + (text + "\n" if text.strip() else "")


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> None:
    """Measure the files of a folder and write `lengths.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the three JSONL files are")
    data = measure(parser.parse_args().folder)
    body = ",\n".join(f'"{name}": {json.dumps(value, separators=(",", ":"))}' for name, value in data.items())
    FILE.write_text("{\n" + body + "\n}\n")
    for name in ("alpaca", "gsm8k_candidates", "self_instruct_candidates"):
        prompts = data[name]["prompts"]
        answers = [n for item in data[name]["answers"] for n in (item if isinstance(item, list) else [item])]
        print(
            f"{name}: {len(prompts)} prompts of {sum(prompts) / len(prompts):.1f} tokens on average, "
            f"{len(answers)} answers of {sum(answers) / len(answers):.1f}"
        )


if __name__ == "__main__":
    main()
