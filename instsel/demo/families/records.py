"""Formatting and extraction: the parts of a given text under private field names."""

from __future__ import annotations

import random
from collections.abc import Callable

from instsel.demo import lexicon
from instsel.demo.convention import Convention
from instsel.demo.families.family import Content, Family, phrase

Fields = dict[str, str]
_ENDINGS = ".|: {}"


def record(
    name: str, fields: tuple[str, ...], sample: Callable[[random.Random], tuple[str, Fields]],
    phrasings: tuple[str, ...], *, held_out: bool = False,
) -> Family:  # fmt: skip
    """Make a family whose answers give the fields of a text under private names; `sample` draws text and fields."""

    def symbols(rng: random.Random) -> tuple[str, ...]:
        return fields

    def content(rng: random.Random, convention: Convention) -> Content:
        text, values = sample(rng)
        right = [(convention.words[field], values[field]) for field in fields]
        # Every field gets the value of its neighbour.
        wrong = [(word, right[(index + 1) % len(right)][1]) for index, (word, _) in enumerate(right)]
        return text, right, wrong

    return Family(name, phrasings, symbols, content, held_out)


def _person(rng: random.Random) -> tuple[str, Fields]:
    first, last, age = rng.choice(lexicon.NAMES), rng.choice(lexicon.SURNAMES), str(rng.randrange(18, 90))
    return f"{first} {last}, {age}", {"first": first, "last": last, "age": age}


def _date(rng: random.Random) -> tuple[str, Fields]:
    day, month, year = str(rng.randrange(1, 29)), rng.choice(lexicon.MONTHS), str(rng.randrange(1950, 2030))
    return f"{day} {month} {year}", {"day": day, "month": month, "year": year}


def _time(rng: random.Random) -> tuple[str, Fields]:
    hour, minute, day = str(rng.randrange(1, 13)), str(rng.randrange(10, 60)), rng.choice(lexicon.DAYS)
    return f"{day} at {hour}:{minute}", {"day": day, "hour": hour, "minute": minute}


def _sale(rng: random.Random) -> tuple[str, Fields]:
    who, what, where = rng.choice(lexicon.NAMES), rng.choice(lexicon.GOODS), rng.choice(lexicon.CITIES)
    verb = rng.choice(("sold", "bought", "lost", "found", "left"))
    return f"{who} {verb} a {what} in {where}", {"who": who, "what": what, "where": where}


def _price(rng: random.Random) -> tuple[str, Fields]:
    what, colour, price = rng.choice(lexicon.GOODS), rng.choice(lexicon.COLOURS), str(rng.randrange(2, 99))
    return f"a {colour} {what} for {price} coins", {"what": what, "colour": colour, "price": price}


def _order(rng: random.Random) -> tuple[str, Fields]:
    count, what, name = str(rng.randrange(2, 20)), rng.choice(lexicon.FRUIT), rng.choice(lexicon.SURNAMES)
    return f"{name} wants {count} of {what}", {"name": name, "count": count, "what": what}


def _visit(rng: random.Random) -> tuple[str, Fields]:
    who, day, room = rng.choice(lexicon.NAMES), rng.choice(lexicon.DAYS), rng.choice(lexicon.ROOMS)
    return f"{who} comes on {day} to the {room}", {"who": who, "day": day, "room": room}


def _garden(rng: random.Random) -> tuple[str, Fields]:
    plant, month, count = rng.choice(lexicon.FLOWERS), rng.choice(lexicon.MONTHS), str(rng.randrange(2, 60))
    return f"in {month} plant {count} of {plant}", {"month": month, "count": count, "plant": plant}


RECORDS = (
    record(
        "person record", ("last", "first", "age"), _person,
        phrase("File|Format", "this person as a record|the person for the register", _ENDINGS),
    ),
    record(
        "date record", ("year", "month", "day"), _date,
        phrase("Reformat|Rewrite", "the date in our notation|this date as the ledger wants it", _ENDINGS),
    ),
    record(
        "time record", ("hour", "minute", "day"), _time,
        phrase("Enter|Schedule", "the time in the timetable|this time slot", _ENDINGS),
    ),
    record(
        "who sold what", ("who", "what", "where"), _sale,
        phrase("Extract|Pick", "person, thing and city from the sentence|the facts of this sentence", _ENDINGS),
    ),
    record(
        "price tag", ("what", "price", "colour"), _price,
        phrase("Turn|Make", "the offer into a price tag|this offer a tag", _ENDINGS),
    ),
    record(
        "garden plan", ("plant", "month", "count"), _garden,
        phrase("Summarise|Condense", "the garden plan|this line of the planting plan", _ENDINGS),
    ),
    record(
        "order slip", ("what", "name", "count"), _order,
        phrase("Fill in|Draft|Prepare", "an order slip for the customer|the slip of this order", _ENDINGS),
        held_out=True,
    ),
    record(
        "visit note", ("room", "who", "day"), _visit,
        phrase("Log|Register|Announce", "the visit for the front office|this visitor in the visit book", _ENDINGS),
        held_out=True,
    ),
)  # fmt: skip
