"""One process's work: the trials of one pool, a line of JSON each, those that are there already left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims import plan
from claims.plan import PoolKey, Trial
from claims.pools import Pool, demo_pool
from claims.scores import pool_scores, sentence_embeddings
from claims.subsets import selected_rows

from instsel.demo.tuning import HeldOut, Pair, encode_rows, held_out, product_attention, tune


@dataclass(frozen=True)
class Setting:
    """Where results go, which model is tuned and which sentence model stands beside its own embeddings."""

    folder: Path
    model: str
    sentence_model: str = ""
    learning_rate: float = 0.0
    template: str = "plain"
    device: str = "cpu"
    lora_rank: int = 0  # 0: all weights are tuned
    short_rows: bool = False  # causal attention as plain matrix products: faster on a CPU where rows are short


class Bench:
    """One pool with its scores and a model to tune on parts of it."""

    def __init__(self, setting: Setting, key: PoolKey, pool: Pool | None = None) -> None:
        import torch

        from instsel.engine.scorer import Scorer

        torch.set_num_threads(1)
        self.setting, self.key = setting, key
        self.pool = demo_pool(key, plan.POOL_SIZE, plan.HELD_OUT) if pool is None else pool
        self.name = key.name
        cache = setting.folder / "scores" / f"{self.name}.npz"
        scorer = None if cache.is_file() else Scorer(setting.model, device=setting.device)
        self.scores = pool_scores(
            scorer, self.pool, key.seed, cache, demonstrations=key.seed in plan.EXPLORING
        )  # fmt: skip
        self.model, self.tokenizer = load_model(setting)
        self.weights = {name: weight.detach().clone() for name, weight in self._tuned_weights()}
        self.pairs, self.fresh = (
            encode_rows(self.tokenizer, rows, setting.template) for rows in (self.pool.rows, self.pool.held_out)
        )
        self.num_tokens = np.array([len(answer) + len(prompt) for prompt, answer in self.pairs])

    def embedding(self, name: str) -> np.ndarray:
        """Embeddings by the scoring model or by the sentence model."""
        if name == "model":
            return self.scores["embedding"]
        cache = self.setting.folder / "scores" / f"{self.name}-{name}.npy"
        return sentence_embeddings(self.setting.sentence_model, self.pool.rows, cache)

    def outcome(self, rows: Sequence[int], nominal: int, learning_rate: float) -> HeldOut:
        """Tune the model as it was on these rows; `nominal` rows give the number of steps."""
        pairs = [self.pairs[row] for row in rows]
        steps = max(1, round(plan.EPOCHS * nominal / plan.BATCH))
        return held_out(self.tuned(pairs, steps, learning_rate), self.fresh)

    def tuned(self, pairs: Sequence[Pair], steps: int, learning_rate: float) -> Any:
        """The model as it was, tuned on these pairs."""
        import torch

        with torch.no_grad():
            for name, weight in self._tuned_weights():
                weight.copy_(self.weights[name])
        return tune(
            self.model, pairs, steps=steps, batch_size=plan.BATCH, learning_rate=learning_rate, seed=self.key.seed
        )  # fmt: skip

    def _tuned_weights(self) -> list[tuple[str, Any]]:
        return [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]


def load_model(setting: Setting) -> tuple[Any, Any]:
    """The model to tune, in float32 and with LoRA where that was asked for, and its tokenizer."""
    import torch
    from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32).to(setting.device)
    if setting.short_rows:
        AttentionInterface.register("product", product_attention)
        model.set_attn_implementation("product")
    if setting.lora_rank:
        import peft

        torch.manual_seed(0)
        model = peft.get_peft_model(model, peft.LoraConfig(r=setting.lora_rank, target_modules="all-linear"))
    return model, AutoTokenizer.from_pretrained(setting.model)


def run_unit(setting: Setting, key: PoolKey, trials: Sequence[Trial]) -> None:
    """Run the trials of one of the demo's pools that have no line yet."""
    path = setting.folder / "trials" / f"{trials[0].part}-{key.name}.jsonl"
    if len(read_lines(path)) < len(trials):
        run_trials(Bench(setting, key), trials, path, setting.learning_rate)


def run_trials(bench: Bench, trials: Sequence[Trial], path: Path, learning_rate: float) -> None:
    """Run the trials that have no line in `path` yet, and write one for each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {line["name"] for line in read_lines(path)}
    pool = bench.pool
    with path.open("a") as file:
        for trial in trials:
            if trial.name in done:
                continue
            rows = selected_rows(trial, bench.scores[trial.score], bench.embedding(trial.embeddings))
            nominal = round(trial.budget * len(pool.rows))
            found = bench.outcome(rows.tolist(), nominal, learning_rate)
            line = {
                "name": trial.name, **asdict(trial), **asdict(found), "learning_rate": learning_rate,
                "rows": len(rows), "tokens": int(bench.num_tokens[rows].sum()),
                "truth_classes": dict(Counter(pool.truth[rows].tolist())),
                "num_families": len(set(pool.family[rows].tolist())),
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")
            file.flush()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file of results; a last one that was cut by a kill does not count."""
    if not path.is_file():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]
