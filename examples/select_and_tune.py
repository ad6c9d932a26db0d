"""From a pool to a tuned model: score with IFD, keep the best tenth, export for TRL, train a few steps on it.

    python examples/select_and_tune.py --model Qwen/Qwen2.5-0.5B --pool alpaca.jsonl --output runs/tuned

Needs `pip install 'instsel[trl]'`. What is trained on are the files that `instsel export --to trl` writes too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import instsel
from instsel.export import export

# For models that bring no chat template of their own.
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def choose(scorer: instsel.Scorer, rows: list[dict[str, Any]], budget: int | float) -> list[dict[str, Any]]:
    """The rows of the highest difficulty at which the prompt still helps (an IFD of at most 1)."""
    found = instsel.ifd(scorer, rows, template="plain")
    return [rows[i] for i in instsel.select(found.ifd, budget, selectable=found.status == "ok", max_score=1.0)]


def tune(model: str, data: Path, output: Path, steps: int, learning_rate: float) -> list[float]:
    """Train on an exported file; gives the loss of each step."""
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    settings = SFTConfig(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=learning_rate,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
    rows = load_dataset("json", data_files=str(data), split="train")
    trainer = SFTTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pool", type=Path, required=True, help="JSONL of instruction, input, output")
    parser.add_argument("--budget", type=float, default=0.1, help="share of the pool to keep")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="of all weights; smaller for larger models")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.pool.read_text(encoding="utf-8").splitlines()]
    kept = choose(instsel.Scorer(args.model), rows, args.budget)
    [data] = export(kept, "trl", args.output, overwrite=True)
    losses = tune(args.model, data, args.output / "model", args.steps, args.learning_rate)
    print(f"kept {len(kept)} of {len(rows)} rows; loss by step: {', '.join(f'{loss:.3f}' for loss in losses)}")


if __name__ == "__main__":
    main()
