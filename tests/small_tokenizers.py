"""Small tokenizers of each common kind, trained on a few sentences, for tests of the token boundary."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

CORPUS = [
    "Describe the process of making bread. First, mix the flour and the water.",
    "What is the answer to the question?\nThe answer is 42.\n\nThe end.",
    "unhappiness playing played replay the theory of the other mother's father",
    "naïve café — 漢字とかな, emoji 🙂🙂 and x² + y² = z²",
    "aa aaa aaaa ab abab ababab bb bbb   many    blanks\t\ttabs\n\n\nlines",
] * 3
BYTES = pre_tokenizers.ByteLevel.alphabet()


@lru_cache
def _trained_byte_level(split: bool) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<bos>", "<eos>"], initial_alphabet=sorted(BYTES), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


@lru_cache
def byte_level(*, bos: bool = False, eos_added: bool = False, trim: bool = False, split: bool = True) -> Any:
    """Byte-level BPE as of GPT-2 and Llama 3; without `split` merges run across words and line ends."""
    tokenizer = Tokenizer.from_str(_trained_byte_level(split))
    steps: list[Any] = [processors.ByteLevel(trim_offsets=trim, add_prefix_space=False)]
    if bos or eos_added:
        template = ("<bos> " if bos else "") + "$A" + (" <eos>" if eos_added else "")
        steps.append(processors.TemplateProcessing(single=template, special_tokens=[("<bos>", 0), ("<eos>", 1)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")


@lru_cache
def _trained_metaspace() -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, limit_alphabet=40, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


@lru_cache
def metaspace(*, bos: bool = True) -> Any:
    """BPE with blanks as U+2581, one put before the text, unknown characters as bytes: as of Llama 2."""
    tokenizer = Tokenizer.from_str(_trained_metaspace())
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@lru_cache
def unigram() -> Any:
    """Unigram with unknown characters as bytes, a run of them with the offsets of one token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=specials, unk_token="<unk>", show_progress=False, initial_alphabet=["▁"]
    )
    tokenizer.train_from_iterator([text.replace("漢字", "") for text in CORPUS], trainer)
    state = json.loads(tokenizer.to_str())
    state["model"]["byte_fallback"] = True
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@lru_cache
def word_piece(*, own_tokens: bool = True) -> Any:
    """Lower-casing WordPiece, which drops blanks and knows neither BOS nor EOS: as of BERT."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]", "[SEP]"], initial_alphabet=list("abcdefghijklmnopqrstuvwxyz"),
        limit_alphabet=40, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    if own_tokens:
        specials = [("[CLS]", 1), ("[SEP]", 2)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@lru_cache
def blank_ending() -> Any:
    """Byte-level BPE that merges a letter with the blank after it, and leaves blanks out of its offsets."""
    vocabulary = {symbol: number for number, symbol in enumerate(sorted(BYTES))} | {"eĠ": 256, "eĠĠ": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("e", "Ġ"), ("eĠ", "Ġ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="a")


@lru_cache
def composing() -> Any:
    """Bytes of NFC text: two characters of the input may become one."""
    vocabulary = {symbol: number for number, symbol in enumerate(sorted(BYTES))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="~")


@lru_cache
def dropping() -> Any:
    """BPE that splits at blanks and drops them, so that any length of text may have few tokens."""
    tokenizer = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>")


class LongestMatch(PreTrainedTokenizer):
    """A tokenizer in Python, so without offsets: always the longest piece that it knows."""

    def __init__(self, pieces: tuple[str, ...] = ("a", "b", "ab", "aab", " ", " b", "\n", "b\n", "é"), **kwargs: Any):
        self.pieces = {piece: number + 3 for number, piece in enumerate(pieces)}
        for number, special in enumerate(("<s>", "</s>", "<unk>")):
            self.pieces[special] = number
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>", **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.pieces)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        out, at = [], 0
        while at < len(text):
            piece = next((text[at : at + n] for n in (3, 2, 1) if text[at : at + n] in self.pieces), text[at])
            out.append(piece)
            at += len(piece)
        return out

    def _convert_token_to_id(self, token: str) -> int:
        return self.pieces.get(token, 2)

    def _convert_id_to_token(self, index: int) -> str:
        return next(piece for piece, number in self.pieces.items() if number == index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: Any = None) -> list[int]:
        return [0, *token_ids_0, 1]
