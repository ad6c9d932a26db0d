"""A random Llama of a few thousand parameters with a byte-level tokenizer, as a folder that any command can load."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = 256


@functools.lru_cache(maxsize=1)
def tiny_model_folder() -> str:
    """The folder, made once a process. Weights are spread wide, so that a wrong mask or a wrong row moves scores."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-model-"))
    make_tiny_model(folder)
    return str(folder)


def make_tiny_model(folder: Path, *, seed: int = 0) -> None:
    """Write the model and its tokenizer to a folder."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    transformers.utils.logging.disable_progress_bar()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("i", "n"), ("Ġ", "a"), ("Ġ", "the"), ("in", "g")]
    words = ["<s>", "</s>", *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.15,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_alpaca(path: Path, rows: int, *, first: int = 0) -> Path:
    """A JSONL file of short rows, every one different, with a column of its own; some have no answer or a long one."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(first, first + rows):
            answer = (
                "" if i % 17 == 5 else f"the thing number {i * i % 97} is {'long ' * (80 if i % 23 == 7 else i % 5)}"
            )
            row = {"id": f"row-{i}", "instruction": f"say the thing {i}", "input": "in " * (i % 3), "output": answer}
            file.write(json.dumps(row) + "\n")
    return path


_loaded: dict[str, Any] = {}


def load_models_once(monkeypatch: Any) -> None:
    """Keep models and tokenizers from one command in this process to the next: loading would be most of its time."""
    import instsel.engine.scorer as scorer

    def cached(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def once(source: Any) -> Any:
            key = f"{load.__name__} {source}"
            if key not in _loaded:
                _loaded[key] = load(source)
            return _loaded[key]

        return once

    monkeypatch.setattr(scorer, "load_model", cached(scorer.load_model))
    monkeypatch.setattr(scorer, "load_tokenizer", cached(scorer.load_tokenizer))
    monkeypatch.delenv("INSTSEL_TRACEBACK", raising=False)
