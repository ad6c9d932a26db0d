"""How probable a frozen model finds each completion, as a reward in TRL's GRPOTrainer.

    python examples/likelihood_reward.py --model Qwen/Qwen2.5-0.5B --judge Qwen/Qwen2.5-1.5B

Completions of one prompt share its tokens, which go through the judge once a group: GRPO's groups of 8 or 16 are what
a prefix tree is for. `LikelihoodReward` is a plain function to TRL. Needs `pip install 'instsel[trl]'`.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import instsel


class LikelihoodReward:
    """The mean log-probability of a completion given its prompt under a frozen model, in nats a token."""

    __name__ = "likelihood"  # what TRL logs it as

    def __init__(self, judge: instsel.Scorer) -> None:
        self.judge = judge
        self.sharing = 1.0

    def __call__(self, prompts: list[str], completions: list[str], **others: Any) -> list[float | None]:
        """A reward for each completion, None where there is nothing to score."""
        batch = instsel.score_batch(self.judge, list(zip(prompts, completions, strict=True)))
        self.sharing = batch.stats.sharing_factor
        pairs = zip(batch.mean_logprob.tolist(), batch.status, strict=True)
        return [value if status == "ok" else None for value, status in pairs]


def train(model: str, reward: LikelihoodReward, prompts: list[str], output: str, steps: int) -> list[float]:
    """Train a few steps; gives the mean reward of each."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    settings = GRPOConfig(
        output_dir=output,
        max_steps=steps,
        per_device_train_batch_size=8,
        num_generations=8,
        max_completion_length=16,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
    rows = Dataset.from_dict({"prompt": prompts})
    trainer = GRPOTrainer(model, reward_funcs=[reward], args=settings, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the model to train")
    parser.add_argument("--judge", required=True, help="the frozen model")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", default="runs/grpo")
    args = parser.parse_args()
    reward = LikelihoodReward(instsel.Scorer(args.judge))
    prompts = [f"Name {thing}:" for thing in ("a colour", "a town", "a river", "a number")] * 4
    rewards = train(args.model, reward, prompts, args.output, args.steps)
    print("mean reward by step:", ", ".join(f"{value:.3f}" for value in rewards))
    print(f"tokens saved by sharing prompts in the last step: factor {reward.sharing:.1f}")


if __name__ == "__main__":
    main()
