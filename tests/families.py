"""The table of families: what the engine does with each causal architecture of transformers, as a page says it.

    python tests/families.py --write

Each architecture is built as a small random model with the lengths of its own defaults (windows, chunks, contexts),
opened by a `Scorer` in float32 on a CPU, and asked for what was found at load. Without `--write` it says where the page
differs. One minute.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import transformers
from architectures import ARCHITECTURES, NotSmallError, build_model

import instsel
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.model_session import ModelSession

PAGE = Path(__file__).parents[1] / "docs/reference/families.md"
ENOUGH = 2048  # tokens: more than requests usually have
_HEADER = "| family | shares prefixes | whole layers | falls back |\n| --- | --- | --- | --- |\n"
_TEXT = """# Families of models

What was found of each causal architecture of transformers {version} when a small random model of it was opened in
float32 on a CPU, with the lengths of the family's own defaults (a checkpoint may state others). Of {scored} families
{shared} share prefixes at all lengths up to {enough:,} tokens or more, and {whole} run layers whole. Scores are exact
in all rows; what falls back only takes longer. The engine goes by no such list: each model is held against its own
numbers when it is loaded.

*Shares prefixes*: whether tokens that requests have in common are computed once: in sequences of any length, up to a
number of tokens (longer ones are scored one at a time), or not. *Whole layers*: how many of the layers one run of
kernels computes, of all. *Falls back*: what is not done, and why.

Written by `python tests/families.py --write`; a test fails where a family lost something.

{table}"""


@dataclass(frozen=True, slots=True)
class Family:
    """What was found of a family.

    shared  up to which length prefixes are shared: None for any, 0 for none
    whole   layers that run whole
    layers  all of them
    reason  what falls back, and why
    """

    name: str
    shared: int | None
    whole: int
    layers: int
    reason: str

    @property
    def row(self) -> str:
        """Its line of the table."""
        shared = "any length" if self.shared is None else f"to {self.shared} tokens" if self.shared else "no"
        return f"| {self.name} | {shared} | {self.whole} of {self.layers} | {self.reason} |"

    @classmethod
    def of_row(cls, row: str) -> Family:
        """The family that a line of the table describes."""
        name, shared, whole, reason = (cell.strip() for cell in row.strip().strip("|").split("|"))
        length = None if shared == "any length" else int(re.sub(r"\D", "", shared) or 0)
        ran, layers = map(int, whole.split(" of "))
        return cls(name, length, ran, layers, reason)

    @property
    def shares(self) -> bool:
        """Whether sequences of the usual lengths share prefixes."""
        return self.shared is None or self.shared >= ENOUGH

    def lost(self, before: Family) -> str:
        """What it had before and has no more; empty where it lost nothing."""
        shorter = self.shared is not None and (before.shared is None or self.shared < before.shared)
        found = [f"shares prefixes up to {self.shared} tokens"] if shorter else []
        found += [f"runs {self.whole} layers whole"] if self.whole < before.whole else []
        found += (
            ["computes its own logits"] if "own logits" in self.reason and "own logits" not in before.reason else []
        )
        return f"{self.name}: {', '.join(found)} (before: {before.row})" if found else ""


def measured(name: str) -> Family | None:
    """What is found of a family; None where no small causal model can be made of it."""
    try:
        model = build_model(name, default_lengths=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = instsel.Scorer(model, device="cpu", dtype="float32").model
    except NotSmallError:
        return None
    except ValueError as error:
        if "expected a causal" in str(error):
            return None
        raise
    session = ModelSession(loaded)
    whole = len(session.whole_layers)
    session.close()
    said = [str(w.message).partition("slower: ")[2] for w in caught if issubclass(w.category, ScoringWarning)]
    return Family(name, loaded.shareable_length, whole, loaded.config.num_hidden_layers, _short("; ".join(said)))


def _short(said: str) -> str:
    """A warning's reasons without what the other columns say."""
    own_logits = "own logits computed" if "own logits" in said else ""
    why = re.search(r"(?:prefixes cannot be shared|share prefixes) \((.*?)\):", said)
    # How much sharing moved depends on random numbers.
    reason = re.sub(r" by [\d.]+%", "", why[1]) if why else ""
    return "; ".join(part for part in (reason, own_logits) if part)


def page_families(text: str) -> dict[str, Family]:
    """The families of a page, by name."""
    rows = text[text.index(_HEADER) + len(_HEADER) :].splitlines()
    return {family.name: family for family in map(Family.of_row, rows)}


def page_version(text: str) -> str:
    """The version of transformers that a page was written with."""
    found = re.search(r"transformers ([\w.]+)", text)
    assert found is not None
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    write = parser.parse_args().write
    transformers.utils.logging.set_verbosity_error()
    found = [family for name in ARCHITECTURES if (family := measured(name)) is not None]
    text = _TEXT.format(
        version=transformers.__version__,
        scored=len(found),
        enough=ENOUGH,
        shared=sum(family.shares for family in found),
        whole=sum(family.whole > 0 for family in found),
        table=_HEADER + "".join(family.row + "\n" for family in found),
    )
    if write:
        PAGE.write_text(text, encoding="utf-8")
    elif text != PAGE.read_text(encoding="utf-8"):
        known = page_families(PAGE.read_text(encoding="utf-8"))
        print(*(family.row for family in found if known.get(family.name) != family), sep="\n")
        sys.exit("the page differs: python tests/families.py --write")


if __name__ == "__main__":
    main()
