"""The token boundary: truth is the number of bytes that each token of the vocabulary spells."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_tokenizers import LongestMatch, blank_ending, byte_level, composing, metaspace, unigram, word_piece

from instsel.prompts import encode_pairs

TEXT = st.text(
    st.one_of(st.sampled_from("ab hte\n.é漢🙂\u0301"), st.characters(exclude_categories=["Cs"])), max_size=12
)
FAST = [
    lambda: byte_level(),
    lambda: byte_level(split=False),
    lambda: byte_level(bos=True, trim=True),
    lambda: byte_level(trim=True, split=False),
    lambda: byte_level(bos=True, eos_added=True, trim=True, split=False),
    lambda: blank_ending(),
    lambda: metaspace(),
    lambda: metaspace(bos=False),
    lambda: unigram(),
]


def spelled_bytes(tokenizer, token: str) -> int:
    if token.startswith("<0x"):
        return 1
    if token in tokenizer.all_special_tokens:
        return len(token)
    return len(token.replace("▁", " ").encode()) if puts_blank(tokenizer) else len(token)  # else one symbol a byte


def puts_blank(tokenizer) -> bool:
    """Whether it puts a blank before the text: those of SentencePiece's kind."""
    return "▁" in tokenizer.get_vocab()


def expected(tokenizer, context: str, continuation: str) -> tuple[list[int], int]:
    """Ids and start by counting bytes, without offsets; [before] stands for an empty context."""
    body = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    full = tokenizer(context + continuation)["input_ids"]
    leading = [full[0]] if len(full) > len(body) and full[0] == tokenizer.bos_token_id else []
    text = context + continuation  # Metaspace puts no second blank before a text that begins with one
    used = -1 if puts_blank(tokenizer) and (tokenizer.backend_tokenizer.normalizer or text[:1] != " ") else 0
    boundary, start = len(context.encode()), len(body)
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(body)):
        if not context:  # all tokens of the text are scored, the blank put before it included
            start = 0
            break
        used += spelled_bytes(tokenizer, token)
        if used > boundary and continuation:
            start = index
            break
    ids, start = leading + body, start + len(leading)
    if start == 0 and continuation and ids:
        ids, start = [tokenizer.bos_token_id, *ids], 1
    return ids, start


@pytest.mark.parametrize("build", FAST)
def test_boundary_counts_bytes(build):
    tokenizer = build()

    @settings(max_examples=40, deadline=None)
    @given(TEXT, TEXT)
    @example("", "")
    @example("", "the")
    @example("a", "")
    @example("th", "e answer")
    @example("the ", " answer")
    @example("the end.", "\n\nThe")
    @example("many  ", "  blanks")
    @example("caf", "é")
    @example("漢", "字")
    @example("a🙂", "🙂b")
    @example("e", "\u0301")
    @example("漢", "漢字 a")
    @example(" the", "  the")
    def check(context, continuation):
        [got] = encode_pairs(tokenizer, [(context, continuation)])
        ids, start = expected(tokenizer, context, continuation)
        assert (got.ids.tolist(), got.start) == (ids, start)
        assert got.ids.dtype == np.int32

    check()


def test_the_corpus_merges_across_the_boundary():
    """Negative control: counting the context's own tokens, or joining two tokenisations, is wrong on these."""
    for build, context, continuation in [
        (lambda: byte_level(), "The answer is 42.\nth", "e end"),
        (lambda: byte_level(trim=True, split=False), "the ", "answer"),
        (lambda: metaspace(), "unhapp", "iness"),
        (lambda: word_piece(), "play", "ing"),
    ]:
        tokenizer = build()
        [got] = encode_pairs(tokenizer, [(context, continuation)])
        alone = tokenizer(context)["input_ids"]
        apart = alone + tokenizer(continuation, add_special_tokens=False)["input_ids"]
        assert got.start < len(alone) or got.ids.tolist() != apart
        if tokenizer.bos_token_id is not None:
            assert len(alone) != expected(tokenizer, context, continuation)[1]


def test_blank_at_the_end_of_a_straddling_token_is_left_out_of_trimmed_offsets():
    tokenizer = blank_ending()
    pairs = [("the", " end"), ("the", "  end"), ("the ", " end"), ("the ", "end"), ("the  ", "end")]
    for pair, start in zip(pairs, (2, 2, 2, 3, 3), strict=True):
        [got] = encode_pairs(tokenizer, [pair])
        assert (got.start, got.start) == (start, expected(tokenizer, *pair)[1]), pair
    offsets = tokenizer("the end", return_offsets_mapping=True)["offset_mapping"]
    assert offsets[2] == (2, 3)  # negative control: by the bare offsets this token would be the context's


def test_word_piece():
    tokenizer = word_piece()
    names = tokenizer.convert_ids_to_tokens
    cases = [
        ("the   ", "  answer", "answer"),  # dropped blanks on both sides
        ("the answer", "\n\n", None),  # nothing of the continuation is left
        ("the ☃", "☃ end", "[UNK]"),  # one unknown token over both
        ("", "the", "the"),
    ]
    for (_, _, first), got in zip(cases, encode_pairs(tokenizer, [case[:2] for case in cases]), strict=True):
        scored = names(got.ids[got.start :].tolist())
        assert names(got.ids.tolist())[0] == "[CLS]" and "[SEP]" not in names(got.ids.tolist())
        assert (scored[0] if scored else None) == first
    [got] = encode_pairs(word_piece(own_tokens=False), [("  ", "the")], empty_context_token=9)
    assert (got.ids[0], got.start) == (9, 1)


def test_composed_character_is_the_continuations():
    """The library's offsets give a composed character to its first part alone; each case is a text and all its cuts."""
    tokenizer = composing()
    for text, composed in (("cafe\u0301 is", (3, 5)), ("\u1112\u1161\u11ab", (0, 3)), ("be\u0301\u0323x", (1, 4))):
        for cut in range(1, len(text)):
            [got] = encode_pairs(tokenizer, [(text[:cut], text[cut:])])
            own = text[: composed[0]] if composed[0] < cut < composed[1] else text[:cut]
            before = [token for token in got.ids[: got.start].tolist() if token != tokenizer.bos_token_id]
            assert tokenizer.decode(before) == unicodedata.normalize("NFC", own), (text, cut)


def test_empty_context_is_one_token():
    """One BOS, whether the tokenizer adds it or not; EOS where there is none; else the given one; else an error."""
    for context in ("", []):
        [own] = encode_pairs(metaspace(), [(context, "the")])
        [put] = encode_pairs(metaspace(bos=False), [(context, "the")])
        assert own.ids.tolist() == put.ids.tolist() and own.start == put.start == 1
        assert own.ids.tolist().count(1) == 1 and own.ids[0] == 1
    for context, continuation in (("", [7, 8]), ([], [7, 8])):
        for tokenizer in (metaspace(), metaspace(bos=False)):
            [got] = encode_pairs(tokenizer, [(context, continuation)])
            assert (got.ids.tolist(), got.start) == ([1, 7, 8], 1)
    tokenizer = byte_level()
    with_eos = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>")
    without = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    assert encode_pairs(with_eos, [("", "the")])[0].ids[0] == 1
    assert encode_pairs(without, [("", "the")], empty_context_token=5)[0].ids[0] == 5
    assert encode_pairs(with_eos, [("", "the")], empty_context_token=5)[0].ids[0] == 1
    for pair in (("", "the"), ([], [3])):
        with pytest.raises(ValueError, match=r"requests\[1\]: no token.*empty_context_token"):
            encode_pairs(without, [("a\n", "b"), pair])
    assert encode_pairs(without, [("", "")])[0].ids.size == 0  # nothing to score needs no context


def test_leading_special_tokens_once():
    """Text that begins with the BOS that the tokenizer adds anyway, as chat templates write it."""
    tokenizer = byte_level(bos=True)
    plain, written = encode_pairs(tokenizer, [("a\n", "the"), ("<bos>a\n", "the")])
    assert plain.ids.tolist() == written.ids.tolist() and plain.start == written.start
    [kept] = encode_pairs(byte_level(), [("<bos>a\n", "the")])
    assert kept.ids.tolist() == plain.ids.tolist()  # a tokenizer that adds none reads the one in the text
    [scored] = encode_pairs(tokenizer, [("", "<bos>the")])
    assert scored.ids.tolist()[:2] == [0, 0] and scored.start == 1  # in the continuation it is text to be scored


def test_ids_are_taken_as_given():
    tokenizer = byte_level(bos=True, eos_added=True)
    pairs = [([5, 6], [7]), ((5, 6), np.array([7], np.uint16)), (np.array([5, 6]), [7]), ([5, 6], [])]
    got = encode_pairs(tokenizer, pairs)
    assert [(g.ids.tolist(), g.start) for g in got] == [([5, 6, 7], 2)] * 3 + [([5, 6], 2)]
    assert all(g.ids.dtype == np.int32 for g in got)
    context = tokenizer("ab", add_special_tokens=False)["input_ids"]
    mixed, other = encode_pairs(tokenizer, [("ab", [7, 8]), ([7, 8], "ab")])
    assert (mixed.ids.tolist(), mixed.start) == ([0, *context, 7, 8], 1 + len(context))
    assert (other.ids.tolist(), other.start) == ([7, 8, *context], 2)
    assert encode_pairs(None, [([1, 2], [3])])[0].ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("pair", "kind", "message"),
    [
        (([1.5], [2]), TypeError, "flat list of integers"),
        (([True], [False]), TypeError, "flat list of integers"),
        (([1], ["a"]), TypeError, "flat list of integers"),
        (([[1]], [[2]]), TypeError, "flat list of integers"),
        (([1, [2]], [3]), TypeError, "flat list of integers"),
        (([None], [2]), TypeError, "flat list of integers"),
        ((None, [2]), TypeError, "text or lists of token ids"),
        (("a", None), TypeError, "text or lists of token ids"),
        ((None, "a"), TypeError, "text or lists of token ids"),
        (("a", b"b"), TypeError, "text or lists of token ids"),
        ((3, 4), TypeError, "text or lists of token ids"),
        (("a",), TypeError, r"pair \(context, continuation\)"),
        ("ab", TypeError, r"pair \(context, continuation\)"),
        (5, TypeError, r"pair \(context, continuation\)"),
        (([2**31], [2]), ValueError, "outside 32 bits: 2147483648"),
        (([2**70], [2]), ValueError, "outside 32 bits"),
        (([-(2**31) - 1], [2]), ValueError, "outside 32 bits"),
    ],
)
def test_wrong_requests_name_their_index(pair, kind, message):
    with pytest.raises(kind, match=rf"requests\[2\].*{message}"):
        encode_pairs(byte_level(), [("a", "b"), ([1], [2]), pair])


def test_text_without_a_tokenizer():
    with pytest.raises(ValueError, match=r"requests\[0\] holds text, but there is no tokenizer"):
        encode_pairs(None, [("a", "b")])


def test_order_and_batches(monkeypatch):
    """A batch equals its pairs one by one, whatever the batch sizes."""
    tokenizer = byte_level(bos=True)
    pairs = [("the " * (n % 7), "answer" * (n % 5)) if n % 3 else ([n], [n + 1]) for n in range(50)]
    whole = encode_pairs(tokenizer, pairs)
    monkeypatch.setattr("instsel.prompts.tokenization.BATCH_PAIRS", 3)
    monkeypatch.setattr("instsel.prompts.tokenization.BATCH_CHARACTERS", 60)
    for pair, one, other in zip(pairs, whole, encode_pairs(tokenizer, pairs), strict=True):
        [alone] = encode_pairs(tokenizer, [pair])
        assert one.ids.tolist() == other.ids.tolist() == alone.ids.tolist()
        assert one.start == other.start == alone.start


def test_lone_surrogates_are_replaced_part_by_part():
    """A high surrogate that ends the context and a low one that begins the continuation must not become a character."""
    tokenizer = byte_level()
    with pytest.warns(UserWarning, match="2 lone surrogates"):
        [got] = encode_pairs(tokenizer, [("a\ud83d", "\ude42b")])
    [want] = encode_pairs(tokenizer, [("a\ufffd", "\ufffdb")])
    assert got.ids.tolist() == want.ids.tolist() and got.start == want.start


def test_truncation_and_padding_of_the_tokenizer_file_are_ignored():
    tokenizer = type(byte_level())(
        tokenizer_object=byte_level().backend_tokenizer, bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=20)
    got = encode_pairs(tokenizer, [("the answer to ", "the question"), ("a", "b")])
    want = encode_pairs(byte_level(), [("the answer to ", "the question"), ("a", "b")])
    assert [g.ids.tolist() for g in got] == [w.ids.tolist() for w in want]


def test_python_tokenizer_without_offsets():
    """Every split of every text: the start by the lengths of the pieces, which LongestMatch tells us."""
    tokenizer = LongestMatch()
    for text in ("aabb aab\nb é", "abab", "aab b\n\n", "éab"):
        for cut in range(len(text) + 1):
            [got] = encode_pairs(tokenizer, [(text[:cut], text[cut:])])
            pieces = tokenizer._tokenize(text)
            ends = np.cumsum([len(piece) for piece in pieces])
            assert got.ids.tolist() == [0] + [tokenizer.pieces[piece] for piece in pieces]
            assert got.start == 1 + int(np.searchsorted(ends, cut, side="right"))
    assert encode_pairs(tokenizer, [("xx ", "xb")])[0].start == 4  # unknown, but the context's own tokens end there
    with pytest.raises(ValueError, match=r"requests\[0\].*no offsets"):
        encode_pairs(tokenizer, [("xa", "ab")])
