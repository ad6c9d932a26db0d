"""Train the demo's tokenizer and model from scratch: in benchmarks/ `python -m demo_model.train --output FOLDER`."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from demo_model.corpus import draw_pieces
from demo_model.in_context import in_context_gain
from demo_model.tokenizer import train_tokenizer

from instsel.demo.tuning import product_attention

LENGTHS = 7 * (256,) + (512,)  # tokens a sequence; most are short, but all positions up to 512 are trained
TOKENS_PER_STEP = 4096
PROMPT_WEIGHT = 0.2  # of a prompt's token in the loss, an answer's being 1: a prompt's content is drawn at random
CHARACTERS_PER_TOKEN = 3.0  # more than the text has, so that a sequence fills its length


def build_model(vocabulary_size: int, seed: int) -> Any:
    """Build the untrained Llama model: 4 layers of width 256, 3.5 million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


def draw_batch(rng: random.Random, tokenizer: Any, length: int, count: int) -> tuple[Any, Any]:
    """Draw `count` sequences: token ids int64 [count, length + 1] and loss weights float32 [count, length]."""
    import torch

    ids = torch.full((count, length + 1), tokenizer.eos_token_id)
    weights = torch.zeros(count, length + 1)
    ids[:, 0] = tokenizer.bos_token_id
    for row in range(count):
        room = length * CHARACTERS_PER_TOKEN

        def fits(piece: str) -> bool:
            nonlocal room
            room -= len(piece)
            return room > 0

        pieces = draw_pieces(rng, fits)
        ends = np.cumsum([len(text) for text, _ in pieces])
        importance = np.array([1.0 if is_answer else PROMPT_WEIGHT for _, is_answer in pieces])
        encoding = tokenizer.backend_tokenizer.encode("".join(text for text, _ in pieces), add_special_tokens=False)
        size = min(length, len(encoding.ids))
        starts = [start for start, _ in encoding.offsets[:size]]
        ids[row, 1 : 1 + size] = torch.tensor(encoding.ids[:size])
        weights[row, 1 : 1 + size] = torch.from_numpy(importance[ends.searchsorted(starts, "right")])
    return ids, weights[:, 1:]


def build_optimizers(weights: dict[str, Any], learning_rate: float) -> list[Any]:
    """Build Muon for the layers' matrices and AdamW for the embedding and the norms."""
    import torch

    matrices = [weight for name, weight in weights.items() if weight.ndim == 2 and "embed" not in name]
    rest = [weight for name, weight in weights.items() if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=learning_rate / 2, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def schedule(step: int, progress: float) -> float:
    """Learning rate as a share of the highest: up over 100 steps, level, down to nothing over the last 40 %."""
    return min(1.0, (step + 1) / 100, (1 - progress) / 0.4)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights (bfloat16), configuration and tokenizer as transformers loads them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weighted_loss(model: Any, ids: Any, importance: Any) -> Any:
    """Mean negative log-likelihood in nats of `ids[:, 1:]` int64 [count, length], weighted by `importance`."""
    import torch

    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * importance.flatten()).sum() / importance.sum()


def add_gradients(loss_function: Any, model: Any, weights: dict[str, Any], batch: tuple[Any, Any]) -> float:
    """Compute the gradients of a batch's loss in bfloat16, put them into the float32 weights, and return the loss."""
    loss = loss_function(model, *batch)
    loss.backward()
    for name, parameter in model.named_parameters():
        weights[name].grad = parameter.grad.float()
        parameter.grad = None
    return float(loss.detach())


def share_between_processes(weights: dict[str, Any], numbers: list[float]) -> list[float]:
    """Average the gradients, and some numbers with them, over all processes; returns the averaged numbers."""
    import torch
    import torch.distributed as dist

    gradients = [weight.grad for weight in weights.values()]
    flat = torch.cat([torch.tensor(numbers), *(gradient.flatten() for gradient in gradients)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    place = len(numbers)
    for gradient in gradients:
        gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
        place += gradient.numel()
    return [float(number) for number in flat[: len(numbers)]]


@dataclass(frozen=True, slots=True)
class Options:
    """What a training run is made of."""

    output: Path
    steps: int
    minutes: float
    seed: int
    learning_rate: float
    processes: int
    report_every: int


def train(rank: int, options: Options, meeting: str) -> None:
    """Be one of the training processes, each of which has one thread and its own part of every batch.

    One thread a process, because two threads of one process wait for each other thousands of times a step wherever
    other programs use the processors too. Rank 0 reports, one JSON line each time, and saves.
    """
    import torch
    import torch.distributed as dist
    from transformers import AttentionInterface

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=options.processes)
    tokenizer = train_tokenizer(options.seed)
    model = build_model(len(tokenizer), options.seed)
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    model.to(torch.bfloat16)
    AttentionInterface.register("product", product_attention)
    model.set_attn_implementation("product")
    # Compiled for the two lengths: half of an eager step is spent between the matrix products.
    loss_function = torch.compile(weighted_loss, dynamic=False)
    optimizers = build_optimizers(weights, options.learning_rate)
    rng = random.Random(f"training text {options.seed} {rank}")
    started, running, progress, step = time.perf_counter(), float("nan"), 0.0, 0
    while progress < 1:
        length = LENGTHS[step % len(LENGTHS)]
        count = TOKENS_PER_STEP // length // options.processes
        loss = add_gradients(loss_function, model, weights, draw_batch(rng, tokenizer, length, count))
        elapsed = (time.perf_counter() - started) / 60
        progress = max((step + 1) / options.steps, elapsed / options.minutes)
        loss, progress = share_between_processes(weights, [loss, progress])
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group.setdefault("highest", group["lr"])
                group["lr"] = group["highest"] * max(0.0, schedule(step, progress))
            optimizer.step()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        step += 1
        running = loss if step == 1 else 0.95 * running + 0.05 * loss
        if rank == 0 and (step % options.report_every == 0 or progress >= 1):
            report(model, tokenizer, options.seed, {"step": step, "minutes": elapsed, "training_loss": running})
            save(model, tokenizer, options.output)
    dist.destroy_process_group()


def report(model: Any, tokenizer: Any, seed: int, numbers: dict[str, float]) -> None:
    """Print numbers and the in-context gain on held-out families as one line of JSON."""
    gain = in_context_gain(model, tokenizer, seed=seed, exercises=5)
    numbers |= {f"loss_{name}": value for name, value in asdict(gain).items()}
    print(json.dumps({name: round(value, 4) for name, value in numbers.items()}), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m demo_model.train", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write weights and tokenizer to")
    parser.add_argument("--steps", type=int, default=4214, help="of 4,096 tokens (default: as the packaged weights)")
    parser.add_argument("--minutes", type=float, default=120.0, help="finish by then, with fewer steps if need be")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=6e-3, help="Muon's; AdamW has half of it")
    parser.add_argument("--processes", type=int, default=2, help="how many processes share each step")
    parser.add_argument("--report-every", type=int, default=250, help="steps between reports and checkpoints")
    options = Options(**vars(parser.parse_args(arguments)))
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (options, f"file://{folder}/meeting"), nprocs=options.processes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
