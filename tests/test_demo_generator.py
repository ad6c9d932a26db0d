"""The demo's data: what was done to each candidate, and that nothing held out is in the training text."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from demo_model.corpus import draw_pieces, prompt_text

from instsel.demo import generator, lexicon
from instsel.demo.convention import draw_convention
from instsel.demo.corruption import CORRUPTED_CLASSES, TRUTH_CLASSES
from instsel.demo.families import (
    FAMILIES,
    HELD_OUT_FAMILIES,
    HELD_OUT_QUESTIONS,
    QUESTIONS,
    TRAINING_FAMILIES,
    TRAINING_QUESTIONS,
)
from instsel.demo.families.questions import OWN_STYLE, STYLES
from instsel.prompts import prompt_and_answer
from instsel.records import Example

SIZE = 1000


@pytest.fixture(scope="module")
def pool() -> list[dict[str, str]]:
    return generator.make_pool(3, SIZE)


def test_there_are_enough_families_and_phrasings() -> None:
    assert len(FAMILIES) + len(QUESTIONS) >= 24
    assert len(HELD_OUT_FAMILIES) >= 8
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert len(set(family.phrasings)) >= 6, family.name
        assert any("{}" in phrasing for phrasing in family.phrasings), family.name
        assert any("{}" not in phrasing for phrasing in family.phrasings), family.name


def test_held_out_families_and_questions_are_not_trained_on() -> None:
    assert not set(HELD_OUT_FAMILIES) & set(TRAINING_FAMILIES)
    assert not set(HELD_OUT_QUESTIONS) & set(TRAINING_QUESTIONS)
    rng = random.Random(0)
    text = "".join(piece for _ in range(300) for piece, _ in draw_pieces(rng, _fits(1000)))

    def occur(families) -> list[bool]:
        openings = {phrasing.split("{}")[0].strip(" :.,") for family in families for phrasing in family.phrasings}
        return [opening in text for opening in openings]

    assert not any(occur(HELD_OUT_FAMILIES)) and not any(occur(HELD_OUT_QUESTIONS))
    # Negative control: the same search finds the families that are trained on.
    assert all(any(occur([family])) for family in TRAINING_FAMILIES)


def _fits(characters: int):
    left = [characters]

    def fits(piece: str) -> bool:
        left[0] -= len(piece)
        return left[0] > 0

    return fits


def test_held_out_conventions_have_other_words_and_other_layouts() -> None:
    words: dict[bool, set[str]] = {True: set(), False: set()}
    layouts: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    for held_out in (True, False):
        rng = random.Random(0)
        for _ in range(400):
            convention = draw_convention(rng, ("a", "b", "c"), held_out=held_out)
            words[held_out] |= {word.lower() for word in convention.words.values()}
            layout = convention.layout
            layouts[held_out].add((layout.opening, layout.pairing, layout.joint, layout.closing))
    assert not words[True] & words[False]
    assert not layouts[True] & layouts[False]
    assert len(words[True]) > 500 and len(layouts[True]) > 50
    # Negative control: two sets of seen conventions do overlap.
    rng = random.Random(1)
    again = {word.lower() for _ in range(400) for word in lexicon.code_words(rng, 3, held_out=False)}
    assert again & words[False]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_wrong_answer_is_wrong_throughout_and_keeps_the_form(family) -> None:
    rng = random.Random(5)
    for _ in range(20):
        convention = family.draw_convention(rng, held_out=True)
        exercise = family.draw(rng, convention)
        layout = convention.layout
        assert exercise.answer.endswith("\n") and exercise.answer.count("\n") == 1
        right, wrong = (
            text.removeprefix(layout.opening + layout.lead).removesuffix(layout.closing + "\n").split(layout.joint)
            for text in (exercise.answer, exercise.wrong_answer)
        )
        # A space as the joint also stands within pairs; then only the number of pieces can be compared.
        assert len(right) == len(wrong)
        if layout.joint.strip() and layout.joint.strip() != layout.pairing.strip():
            assert all(one != other for one, other in zip(right, wrong, strict=True)), exercise


def test_the_pool_has_the_classes_it_promises(pool) -> None:
    counts = Counter(row["truth"] for row in pool)
    assert set(counts) == set(TRUTH_CLASSES) and sum(counts.values()) == SIZE
    assert all(counts[name] == 80 for name in (*CORRUPTED_CLASSES, "duplicate")) and counts["clean"] == 600
    assert {row["family"] for row in pool} == {family.name for family in HELD_OUT_FAMILIES}


def test_each_corruption_does_what_its_name_says(pool) -> None:
    clean = {(row["instruction"], row["input"]): row for row in pool if row["truth"] == "clean"}
    answers_by_family: dict[str, set[str]] = {}
    for row in pool:
        if row["truth"] == "clean":
            answers_by_family.setdefault(row["family"], set()).add(row["output"])
    for row in pool:
        text = (row["instruction"], row["input"])
        if row["truth"] == "duplicate":
            assert clean[text]["output"] == row["output"]
        elif row["truth"] == "truncated":
            assert not row["output"].endswith("\n") and len(row["output"]) > 0
        elif row["truth"] == "other instruction":
            assert row["output"] not in answers_by_family[row["family"]]
        elif row["truth"] == "wrong answer":
            assert row["output"].endswith("\n") and text not in clean
    assert len(clean) == sum(row["truth"] == "clean" for row in pool)
    words = {word for row in pool if row["truth"] == "clean" for word in row["instruction"].split()}
    noisy = [row for row in pool if row["truth"] == "noisy text"]
    strange = [sum(word not in words for word in row["instruction"].split()) for row in noisy]
    assert sum(count > 0 for count in strange) > 0.9 * len(noisy)


def test_the_same_seed_gives_the_same_data_and_another_seed_does_not() -> None:
    for make, size in ((generator.make_pool, 200), (generator.make_groups, 9)):
        one, two, three = (generator.json_lines(make(seed, size)) for seed in (4, 4, 5))
        assert one == two != three
        lines = [json.loads(line) for line in one.splitlines()]
        assert len(lines) == size and all(line["instruction"] for line in lines)


@pytest.mark.long
def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 50"):
        generator.make_pool(0, 20)
    with pytest.raises(ValueError, match="families must be at least two"):
        generator.make_pool(0, families=FAMILIES[:1])
    few = [family for family in FAMILIES if family.name in ("double and half", "neighbouring numbers")]
    with pytest.raises(ValueError, match="size must be smaller"):
        generator.make_pool(0, 2_000, families=few)
    with pytest.raises(ValueError, match="size must be smaller"):
        generator.make_groups(0, 100, questions=[question for question in QUESTIONS if question.name == "next month"])


def test_groups_have_one_right_answer_in_every_style() -> None:
    groups = generator.make_groups(1, 200)
    assert len({group["instruction"] for group in groups}) == 200
    for group in groups:
        responses = [candidate["response"] for candidate in group["candidates"]]
        assert len(set(responses)) == len(responses) == len(STYLES)
        before, after = STYLES[OWN_STYLE].split("{}")
        own = [text for text in responses if text.startswith(before) and text.endswith(after)]
        assert responses[group["own"]] == own[0] and len(own) == 1
        bare = own[0].removeprefix(before).removesuffix(after)
        assert all(bare in text for text in responses)


def test_training_text_has_the_prompts_that_the_package_scores() -> None:
    """Otherwise the model would be measured on another template than it was trained on."""
    for instruction, input_text in (("Sort them.", "pear, fig"), ("Sort pear, fig.", ""), ("Sort.", "  ")):
        expected, _ = prompt_and_answer("plain", Example(instruction, input_text, "x"))
        assert prompt_text(instruction, input_text) == expected
