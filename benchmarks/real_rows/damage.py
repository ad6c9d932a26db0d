"""Damage as it stands in real pools, done to a share of the rows, and what was done to each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

Row = dict[str, str]
CLEAN = "clean"
LOOP_WORDS, LOOP_TIMES = 12, (5, 10)
TRUNCATED = (0.3, 0.7)  # of the words
FEWEST_WORDS = 12  # of an answer that can be truncated

# Sentences of no meaning in particular are put together from beginnings, middles and ends.
OTHER_LANGUAGES = (
    (
        ("Zunächst sollte man", "In den meisten Fällen kann man", "Wer Erfahrung hat, wird", "Am Ende muss jeder",
         "Nach dem Frühstück wollen viele", "Im Winter darf niemand"),
        ("die Fenster im Haus", "das alte Fahrrad", "einen Brief an die Schwester", "die Bücher auf dem Tisch",
         "den Garten hinter der Schule", "zwei Karten für das Theater"),
        ("sorgfältig prüfen.", "in Ruhe vergleichen.", "ohne Hilfe verkaufen.", "am Abend vergessen.",
         "den Nachbarn zeigen.", "noch einmal suchen."),
    ),
    (
        ("D'abord, il faut", "En général, on peut", "Avant de partir, elle voulait", "Mon voisin préfère",
         "Depuis hier, nous devons", "Chaque dimanche, ils aiment"),
        ("ranger les livres", "acheter du pain frais", "fermer la porte de la cave", "écrire une longue lettre",
         "peindre les murs du salon", "garder les enfants"),
        ("près de la rivière.", "sans perdre de temps.", "avec beaucoup de soin.", "jusqu'à la fin du mois.",
         "comme le disait ma grand-mère.", "dans la petite ville."),
    ),
    (
        ("Primero conviene", "Muchas veces es mejor", "El profesor quiere", "Desde la mañana tenemos que",
         "Mis amigos suelen", "Nadie debería"),
        ("abrir las ventanas", "leer el periódico", "cocinar para toda la familia", "limpiar el coche viejo",
         "aprender una canción nueva", "guardar las llaves"),
        ("antes de la lluvia.", "en la plaza del pueblo.", "con mucha paciencia.", "durante todo el verano.",
         "sin hacer ruido.", "cerca de la estación."),
    ),
)  # fmt: skip


def damaged_rows(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[str]]:
    """Rows of which `share` are damaged, in equal parts over `KINDS`, and the kind of each, "clean" for the others.

    Swapped answers are handed round among the rows so damaged; a duplicate stands in the place of another row.
    """
    rng = random.Random(f"damage {seed}")
    found, kinds = [dict(row) for row in rows], [CLEAN] * len(rows)
    order = list(range(len(rows)))
    rng.shuffle(order)
    total = round(share * len(rows))
    for place, kind in enumerate(KINDS):
        count = total // len(KINDS) + (place < total % len(KINDS))
        fits = [row for row in order if kinds[row] == CLEAN and (kind != "truncated" or _long(rows[row]))]
        for row in fits[:count]:
            kinds[row] = kind
    for kind, change in KINDS.items():
        change([row for row, what in enumerate(kinds) if what == kind], found, kinds, rng)
    return found, kinds


def swap(places: list[int], rows: list[Row], kinds: list[str], rng: random.Random) -> None:
    """Each answer goes to the next of the places."""
    answers = [rows[place]["output"] for place in places]
    for place, answer in zip(places, answers[1:] + answers[:1], strict=True):
        rows[place]["output"] = answer


def truncate(places: list[int], rows: list[Row], kinds: list[str], rng: random.Random) -> None:
    """Answers end after a part of their words, within a sentence."""
    for place in places:
        words = rows[place]["output"].split(" ")
        kept = " ".join(words[: max(1, round(rng.uniform(*TRUNCATED) * len(words)))])
        rows[place]["output"] = kept.rstrip(".,;:!? \n")


def loop(places: list[int], rows: list[Row], kinds: list[str], rng: random.Random) -> None:
    """The first words of an answer again and again."""
    for place in places:
        words = rows[place]["output"].split()[:LOOP_WORDS]
        rows[place]["output"] = " ".join(words * rng.randint(*LOOP_TIMES))


def duplicate(places: list[int], rows: list[Row], kinds: list[str], rng: random.Random) -> None:
    """Copies of a third as many clean rows, every other one with a word more before its instruction."""
    clean = [row for row, what in enumerate(kinds) if what == CLEAN]
    sources = rng.sample(clean, min(len(clean), -(-len(places) // 3)))
    for number, place in enumerate(places):
        rows[place] = dict(rows[sources[number % len(sources)]])
        if number % 2:
            rows[place]["instruction"] = "Please answer: " + rows[place]["instruction"]


def translate(places: list[int], rows: list[Row], kinds: list[str], rng: random.Random) -> None:
    """Answers of as many words in German, French or Spanish, which say nothing about the instruction."""
    for place in places:
        parts, wanted, written = rng.choice(OTHER_LANGUAGES), len(rows[place]["output"].split()), []
        while sum(len(sentence.split()) for sentence in written) < wanted or not written:
            written.append(" ".join(rng.choice(part) for part in parts))
        rows[place]["output"] = " ".join(written)


def _long(row: Row) -> bool:
    return len(row["output"].split(" ")) >= FEWEST_WORDS


KINDS: dict[str, Callable[[list[int], list[Row], list[str], random.Random], None]] = {
    "swapped": swap, "truncated": truncate, "looping": loop, "duplicate": duplicate, "other language": translate,
}  # fmt: skip
