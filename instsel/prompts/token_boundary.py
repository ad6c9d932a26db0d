"""Where in a tokenised text the continuation begins, and what a tokenizer does that bears on it."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import normalize

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

PROBES = ("a", "0", "the", "á")
KEEPS_CHARACTERS = {"ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "UnicodeScripts", "Sequence"}
COMPOSED = 32  # more characters than a composed one is made of
NORMALIZERS = {"Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD", "ByteLevel", "Sequence"}


def special_token_counts(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """The special tokens that the tokenizer puts before a text, and how many it puts after it."""
    for probe in PROBES:
        whole = list(tokenizer(probe, verbose=False)["input_ids"])
        bare = list(tokenizer(probe, add_special_tokens=False, verbose=False)["input_ids"])
        for leading in range(len(whole) - len(bare) + 1):
            if bare and whole[leading : leading + len(bare)] == bare:
                return whole[:leading], len(whole) - leading - len(bare)
    return [], 0


@dataclass(frozen=True, slots=True)
class Offsets:
    """What the offsets of a fast tokenizer do not say of the characters that a token carries.

    trims_blanks: those of byte-level post-processors may leave out blanks at a token's ends.
    composes: the Unicode normal form that joins characters; the offsets of a joined one cover its first part alone.
    joins_bytes: a run of unknown characters is written as bytes, each with the offsets of the whole run.
    """

    trims_blanks: bool
    composes: Literal["NFC", "NFKC"] | None
    joins_bytes: bool

    @classmethod
    def of(cls, tokenizer: Any) -> Offsets:
        """Those of a transformers tokenizer over the tokenizers library."""
        backend = tokenizer.backend_tokenizer
        forms: dict[str, Literal["NFC", "NFKC"]] = {"NFC": "NFC", "NFKC": "NFKC", "Precompiled": "NFKC"}
        found = [forms[part["type"]] for part in _state(backend.normalizer) if part["type"] in forms]
        return cls(
            any(part.get("trim_offsets", False) for part in _state(backend.post_processor)),
            found[0] if found else None,
            type(backend.model).__name__ == "Unigram",
        )

    def continuation_start(self, encoding: Encoding, context: str, continuation: str, leading: int, end: int) -> int:
        """Index of the first token that carries a character of the continuation; ``end`` where there is none.

        encoding: of both together, special tokens included; the text's own tokens are ``[leading, end)``.
        """
        boundary = len(context)
        if self.composes and continuation[0] > "\u02ff":  # no character before it joins the one before
            boundary = before_composition(self.composes, context, continuation)
        token = encoding.char_to_token(boundary)
        if token is None:
            return self._search(encoding, boundary, leading, end)
        if self.joins_bytes:
            characters = encoding.token_to_chars(token)
            assert characters is not None  # it is no special token
            first, stop = characters
            text = (context + continuation)[first:stop]
            run = encoding.tokens[token : token + len(text.encode())]
            if first < boundary and run == [f"<0x{byte:02X}>" for byte in text.encode()]:
                return int(token) + len(context[first:boundary].encode())
        return int(token)

    def _search(self, encoding: Encoding, boundary: int, leading: int, end: int) -> int:
        """For a character that no token claims: the tokenizer dropped it, or left it out of a token's offsets."""
        offsets, tokens = encoding.offsets, encoding.tokens
        for index in range(leading, end):
            start, stop = offsets[index]
            if self.trims_blanks and start < stop <= boundary:
                stop += _blanks_at_end(tokens[index])
            if stop > boundary:
                return index
        return end


def _blanks_at_end(token: str) -> int:
    return len(token) - len(token.rstrip("\u0120 \t\n\r"))  # U+0120 is the blank of byte-level vocabularies


def before_composition(form: Literal["NFC", "NFKC"], context: str, continuation: str) -> int:
    """Length of the context without the characters that become one with the continuation's first.

    The offsets of a composed character cover its first part alone, so that it would seem to be the context's.

    >>> before_composition("NFC", "cafe", "\\u0301 is")
    3
    """
    tail, head = context[-COMPOSED:], continuation[:COMPOSED]
    whole = normalize(form, tail + head)
    for kept in range(len(tail), -1, -1):
        if normalize(form, tail[:kept]) + normalize(form, tail[kept:] + head) == whole:
            return len(context) - len(tail) + kept
    return len(context)


def continuation_start_without_offsets(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    alone: Callable[[str], list[int]],
    context: str,
    continuation: str,
    request: int,
) -> int:
    """As :meth:`Offsets.continuation_start` for tokenizers that give no offsets.

    Where the context's own tokens begin the joint ones, they end at the boundary. Otherwise the tokens are decoded, and
    the boundary searched in the decoded text, which must then be the text that went in.
    """
    if not context or not continuation:
        return len(ids) if context else 0
    before = alone(context)
    if ids[: len(before)] == before:
        unknown = bool(before) and before[-1] == getattr(tokenizer, "unk_token_id", None)
        if not unknown or ids[len(before) :] == alone(continuation):
            return len(before)
    text = context + continuation

    def decoded(count: int) -> str:
        return str(tokenizer.decode(ids[:count], skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def characters(count: int) -> int:
        part = decoded(count)
        return len(part) if text.startswith(part) else len(part.rstrip("\ufffd")) + 1

    if decoded(len(ids)) != text:
        raise ValueError(
            f"requests[{request}]: this tokenizer gives no offsets and does not decode to the text it was given, so "
            "the boundary between context and continuation cannot be found; use a fast tokenizer or pass token ids"
        )
    return bisect_right(range(1, len(ids) + 1), len(context), key=characters)


def longest_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most characters of text that one token can stand for, or None where there is no limit.

    There is none where characters may be dropped, or any number of unknown ones become one token.
    """
    backend = tokenizer.backend_tokenizer
    normalizers, splitters = _state(backend.normalizer), _state(backend.pre_tokenizer)
    vocabulary = tokenizer.get_vocab()
    if not all(part["type"] in NORMALIZERS for part in normalizers):
        return None
    if not all(part["type"] in KEEPS_CHARACTERS and part.get("behavior") != "Removed" for part in splitters):
        return None
    replaced = [part for part in normalizers if part["type"] == "Replace"]
    if any(len(part["content"]) < len(part["pattern"].get("String", part["content"] + "x")) for part in replaced):
        return None
    if any(token.lstrip or token.rstrip for token in tokenizer.added_tokens_decoder.values()):
        return None
    bytes_first = any(part["type"] == "ByteLevel" for part in normalizers + splitters)
    if bytes_first:
        from tokenizers.pre_tokenizers import ByteLevel

        complete = set(ByteLevel.alphabet()) <= vocabulary.keys()
    else:
        byte_names = (f"<0x{byte:02X}>" for byte in range(256))
        complete = bool(getattr(backend.model, "byte_fallback", False)) and vocabulary.keys() >= set(byte_names)
    if type(backend.model).__name__ != "BPE" or not complete:
        return None
    composing = any(part["type"].startswith("NF") for part in normalizers)
    return max(map(len, vocabulary)) * (4 if composing else 1)  # at most 4 characters compose into one


def _state(component: Any) -> list[dict[str, Any]]:
    """The settings of a normalizer, pre-tokenizer or post-processor, sequences flattened."""
    if component is None:
        return []
    parts, pending = [], [json.loads(component.__getstate__())]
    while pending:
        part = pending.pop()
        if isinstance(part, dict) and "type" in part:
            parts.append(part)
            for name in ("normalizers", "pretokenizers", "processors"):
                pending += part.get(name, [])
    return parts
