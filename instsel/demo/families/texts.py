"""Lookups in a given text, rewriting and code-like transformations, with private words for what is written out."""

from __future__ import annotations

import random

from instsel.demo import lexicon
from instsel.demo.convention import Convention
from instsel.demo.families.family import Content, Family, other, phrase

_ENDINGS = ".|: {}"


def _calls() -> Family:
    def symbols(rng: random.Random) -> list[str]:
        return rng.sample(lexicon.VERBS, 5)

    def content(rng: random.Random, convention: Convention) -> Content:
        verbs = rng.sample(sorted(convention.words), rng.choice((2, 3, 4)))
        things = rng.sample(lexicon.GOODS, len(verbs))
        functions = list(convention.words.values())
        right = [(convention.words[verb], thing) for verb, thing in zip(verbs, things, strict=True)]
        wrong = [(other(rng, functions, function), thing) for function, thing in right]
        return ", ".join(f"{verb} the {thing}" for verb, thing in zip(verbs, things, strict=True)), right, wrong

    phrasings = phrase("Compile|Transform", "the orders into calls|these orders to machine calls", _ENDINGS)
    return Family("function calls", phrasings, symbols, content)


def _moves() -> Family:
    def symbols(rng: random.Random) -> tuple[str, ...]:
        return lexicon.DIRECTIONS

    def content(rng: random.Random, convention: Convention) -> Content:
        directions = rng.sample(lexicon.DIRECTIONS, rng.choice((3, 4)))
        steps = [str(rng.randrange(2, 10)) for _ in directions]
        signs = list(convention.words.values())
        right = [(convention.words[way], step) for way, step in zip(directions, steps, strict=True)]
        wrong = [(other(rng, signs, sign), step) for sign, step in right]
        return ", ".join(f"{way} {step}" for way, step in zip(directions, steps, strict=True)), right, wrong

    phrasings = phrase("Steer|Drive|Pilot", "the robot along the route|our robot on this path", _ENDINGS)
    return Family("robot moves", phrasings, symbols, content, held_out=True)


def _stock() -> Family:
    def symbols(rng: random.Random) -> tuple[str, ...]:
        return ("stock",)

    def content(rng: random.Random, convention: Convention) -> Content:
        goods = rng.sample(lexicon.GOODS, 4)
        counts = {good: rng.randrange(2, 60) for good in goods}
        asked = rng.sample(goods, 2)
        unit = convention.words["stock"]
        right = [(good, f"{counts[good]} {unit}") for good in asked]
        wrong = [(good, f"{counts[other(rng, goods, good)] + 60} {unit}") for good in asked]
        listing = ", ".join(f"{good} {count}" for good, count in counts.items())
        return f"{listing}; {asked[0]} and {asked[1]}?", right, wrong

    phrasings = phrase("Look up|Read", "the stock asked for|the amounts in question", _ENDINGS)
    return Family("stock lookup", phrasings, symbols, content)


def _gloss() -> Family:
    def symbols(rng: random.Random) -> list[str]:
        return rng.sample(lexicon.ANIMALS, 3) + rng.sample(lexicon.GOODS, 3)

    def content(rng: random.Random, convention: Convention) -> Content:
        keys = list(convention.words)
        animal, good = rng.choice(keys[:3]), rng.choice(keys[3:])
        verb = rng.choice(("saw", "took", "broke", "liked"))
        words = list(convention.words.values())
        right = [(animal, convention.words[animal]), (good, convention.words[good])]
        wrong = [(key, other(rng, words, word)) for key, word in right]
        return f"the {animal} {verb} the {good}", right, wrong

    phrasings = phrase("Gloss|Explain", "the nouns of this sentence|the sentence for the glossary", _ENDINGS)
    return Family("glossary", phrasings, symbols, content)


def _letters() -> Family:
    def symbols(rng: random.Random) -> list[str]:
        return rng.sample(lexicon.LETTERS, 7)

    def content(rng: random.Random, convention: Convention) -> Content:
        letters = rng.sample(sorted(convention.words), rng.choice((3, 4)))
        words = list(convention.words.values())
        right = [(letter, convention.words[letter]) for letter in letters]
        wrong = [(letter, other(rng, words, word)) for letter, word in right]
        return " ".join(letters), right, wrong

    phrasings = phrase("Spell|Spell out", "the letters over the radio|this in radio spelling", _ENDINGS)
    return Family("radio spelling", phrasings, symbols, content)


def _schedule() -> Family:
    def symbols(rng: random.Random) -> tuple[str, ...]:
        return lexicon.DAYS

    def content(rng: random.Random, convention: Convention) -> Content:
        days = rng.sample(lexicon.DAYS, rng.choice((2, 3)))
        people = rng.sample(lexicon.NAMES, len(days))
        marks = list(convention.words.values())
        right = [(person, convention.words[day]) for person, day in zip(people, days, strict=True)]
        wrong = [(person, other(rng, marks, mark)) for person, mark in right]
        return ", ".join(f"{person} on {day}" for person, day in zip(people, days, strict=True)), right, wrong

    phrasings = phrase("Rewrite|Shorten", "the duty list with our day marks|this duty list", _ENDINGS)
    return Family("duty list", phrasings, symbols, content)


TEXTS = (_calls(), _stock(), _gloss(), _letters(), _schedule(), _moves())
