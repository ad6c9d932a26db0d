"""The papers' questions that need tunings of their own: does influence predict what tuning gains, and whose style?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from claims import plan
from claims.plan import PoolKey
from claims.trials import Bench, Setting, read_lines

from instsel.demo.generator import make_groups
from instsel.demo.tuning import encode_rows, held_out

PREDICTORS = ("gain", "wici paper", "wici release, all", "ifd", "ifd of losses", "loss", "length")


def small_subsets(setting: Setting, key: PoolKey) -> None:
    """Tune on many random subsets of 30 rows, and keep each one's held-out loss beside its mean scores."""
    path = setting.folder / "subsets" / f"{key.seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {line["subset"] for line in read_lines(path)}
    left = [subset for subset in range(plan.SMALL_SUBSETS) if subset not in done]
    bench = Bench(setting, key) if left else None
    for subset in left:
        assert bench is not None
        rng = np.random.default_rng([key.seed, subset])
        rows = rng.choice(len(bench.pool.rows), plan.SMALL_SIZE, replace=False)
        found = bench.outcome(rows.tolist(), plan.SMALL_SIZE, setting.learning_rate)
        _append(path, {
            "seed": key.seed, "subset": subset, "held_out_loss": found.loss, "exact": found.exact,
            **{name: float(np.nanmean(bench.scores[name][rows])) for name in PREDICTORS},
            "clean": float(np.isin(bench.pool.truth[rows], ("clean", "duplicate")).mean()),
        })  # fmt: skip


def styles(setting: Setting, seed: int) -> None:
    """Tune on the same questions answered in the style that GRAPE picks, and in the others.

    `own` takes of each group the response that the model finds most probable a token, `strongest` the least probable
    one (what the model is furthest from, as a stronger model's answers would be), `longest` the longest, `random` one
    at random, `mixed` all of them with as many examples in all. Held out are other questions: the share of answers
    whose words are right in whatever style, and the loss on the demo's held-out rows, which is what tuning forgets.
    """
    import instsel
    from instsel.engine.scorer import Scorer

    path = setting.folder / "styles" / f"{seed}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {line["style"] for line in read_lines(path)}
    if len(done) == 5:
        return
    groups = make_groups(seed, 2 * plan.STYLE_ROWS)
    train, fresh = groups[: plan.STYLE_ROWS], groups[plan.STYLE_ROWS :]
    picked = instsel.grape(Scorer(setting.model, device=setting.device), [_without_truth(group) for group in train])
    texts = [[candidate["response"] for candidate in group["candidates"]] for group in train]
    rng = np.random.default_rng(seed)
    chosen = {
        "own": picked.best.tolist(),
        "strongest": [int(np.argmin(one)) for one in picked.scores],
        "longest": [int(np.argmax([len(text) for text in one])) for one in texts],
        "random": [int(rng.integers(len(one))) for one in texts],
        "mixed": [index % len(one) for index, one in enumerate(texts)],
    }
    bench = Bench(setting, PoolKey(seed))
    for name, best in chosen.items():
        if name in done:
            continue
        rows = [
            {"instruction": group["instruction"], "input": group["input"], "output": one[index]}
            for group, one, index in zip(train, texts, best, strict=True)
        ]
        steps = plan.EPOCHS * len(rows) // plan.BATCH
        model = bench.tuned(encode_rows(bench.tokenizer, rows), steps, setting.learning_rate)
        _append(path, {
            "seed": seed, "style": name, "right": share_right(model, bench.tokenizer, fresh),
            "other_loss": held_out(model, bench.fresh).loss,
            "own_share": float(np.mean([group["own"] == index for group, index in zip(train, best, strict=True)])),
        })  # fmt: skip


def share_right(model: Any, tokenizer: Any, groups: list[dict[str, Any]], longest: int = 40) -> float:
    """Share of questions to which the model, decoding greedily, writes the right answer in one of the styles."""
    import torch

    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    tuned_with = model.config._attn_implementation
    model.set_attn_implementation("sdpa")  # what rows are tuned with knows no cache of keys and values
    prompts = tokenizer([f"{group['instruction']}\n" for group in groups], return_tensors="pt", padding=True)
    with torch.no_grad():
        written = model.generate(
            input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"], max_new_tokens=longest,
            do_sample=False, pad_token_id=tokenizer.eos_token_id,
        )[:, prompts["input_ids"].shape[1] :]  # fmt: skip
    model.set_attn_implementation(tuned_with)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return float(np.mean([
        any(text.startswith(candidate["response"]) for candidate in group["candidates"])
        for group, text in zip(groups, texts, strict=True)
    ]))  # fmt: skip


def _without_truth(group: dict[str, Any]) -> dict[str, Any]:
    return {key: group[key] for key in ("instruction", "input", "candidates")}


def _append(path: Any, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
