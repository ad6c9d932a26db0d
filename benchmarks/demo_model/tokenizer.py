"""The demo model's own tokenizer: byte-level BPE trained on the generator's text."""

from __future__ import annotations

import random
from typing import Any

from demo_model.corpus import draw_pieces

BEGIN, END = "<s>", "</s>"
VOCABULARY_SIZE = 1280


def train_tokenizer(seed: int, *, num_sequences: int = 4000, length: int = 1200) -> Any:
    """Train the tokenizer on `num_sequences` sequences of about `length` characters; it puts `<s>` before a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # A word keeps the space before it; digits and punctuation stand alone, so that a private word is cut into the
    # same pieces wherever it stands.
    pattern = Regex(r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(f"tokenizer {seed}")
    tokenizer.train_from_iterator((_sequence_text(rng, length) for _ in range(num_sequences)), trainer)
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, begin)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=END)


def _sequence_text(rng: random.Random, length: int) -> str:
    characters = 0

    def fits(piece: str) -> bool:
        nonlocal characters
        characters += len(piece)
        return characters < length

    return "".join(piece for piece, _ in draw_pieces(rng, fits))
