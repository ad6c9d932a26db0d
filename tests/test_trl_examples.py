"""The examples with TRL run: from a pool to training steps, exported pairs in DPO, a likelihood as GRPO's reward."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from tiny_model import tiny_model_folder, write_alpaca

import instsel

pytest.importorskip("trl")
EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_from_a_pool_to_training_steps(tmp_path, monkeypatch, capsys):
    import select_and_tune

    pool = write_alpaca(tmp_path / "pool.jsonl", 40)
    command = f"x --model {tiny_model_folder()} --pool {pool} --budget 0.3 --steps 3 --output {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", [*command.split(), "--learning-rate", "1e-3"])
    select_and_tune.main()
    said = capsys.readouterr().out.splitlines()[-1]
    losses = [float(number) for number in said.split("by step: ")[1].split(", ")]
    assert said.startswith("kept ") and len(losses) == 3 and losses[-1] < losses[0]
    trained = instsel.Scorer(str(tmp_path / "out" / "model"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "instsel.jsonl").read_text().splitlines()]
    pair = [(rows[0]["prompt"][0]["content"], rows[0]["completion"][0]["content"])]
    assert instsel.score_batch(trained, pair).mean_logprob[0] != pytest.approx(
        instsel.score_batch(instsel.Scorer(tiny_model_folder()), pair).mean_logprob[0], abs=1e-3
    )


def test_exported_pairs_train_in_dpo(tmp_path):
    from datasets import load_dataset
    from select_and_tune import TEMPLATE
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from instsel.export import export

    rows = [{"prompt": f"say {i}", "chosen": f"thing {i}", "rejected": "no"} for i in range(8)]
    [data] = export(rows, "trl", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template, tokenizer.pad_token = TEMPLATE, tokenizer.eos_token
    settings = DPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, logging_steps=1,
        learning_rate=1e-3, save_strategy="no", report_to=[], bf16=False, use_cpu=True,
    )  # fmt: skip
    trainer = DPOTrainer(
        tiny_model_folder(), args=settings, train_dataset=load_dataset("json", data_files=str(data), split="train"),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-3) and len(losses) == 2


def test_likelihood_as_a_reward(tmp_path):
    from likelihood_reward import LikelihoodReward, train

    reward = LikelihoodReward(instsel.Scorer(tiny_model_folder()))
    given = reward(["the thing", "the thing"], [" is", ""], extra=[1, 2])
    assert given[0] == instsel.score_batch(reward.judge, [("the thing", " is")]).mean_logprob[0] and given[1] is None
    rewards = train(tiny_model_folder(), reward, ["say the thing number one and so on"] * 4, str(tmp_path), 1)
    assert len(rewards) == 1 and -20 < rewards[0] < 0 and reward.sharing > 1.3
