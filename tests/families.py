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
from transformers import PreTrainedModel

import instsel
from instsel.engine.model import CausalModel
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.model_session import ModelSession
from instsel.layers.fused_layers import FusedLayers
from instsel.layers.replica import Replica

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
kernels computes, of all; those of a family that shares nothing run as they are. *Falls back*: what is not done, and
why; a mixture's experts, for which there is a kernel in bfloat16 alone, were tried in that.

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
        for what, said in (("computes its own logits", "own logits"), ("runs its own experts", "Experts: ")):
            found += [what] if said in self.reason and said not in before.reason else []
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
    reasons = [_short("; ".join(said)), *_own_code(loaded, whole), *_own_experts(model)]
    layers = loaded.config.num_hidden_layers
    return Family(name, loaded.shareable_length, whole, layers, "; ".join(filter(None, reasons)))


def _own_code(loaded: CausalModel, whole: int) -> list[str]:
    """Why layers do not run whole, of a model that shares prefixes: no others are ever run in packs."""
    if loaded.shareable_length == 0 or whole == loaded.config.num_hidden_layers or loaded.fused_layers is None:
        return []
    reasons = [f"{layer}: {why}" for layer, why in loaded.fused_layers.reasons.items()]
    return reasons if reasons or whole else ["layers are given or give more than hidden states"]


def _own_experts(model: PreTrainedModel) -> list[str]:
    """Why experts run their own code in bfloat16, in which alone there is a kernel for them."""
    found = FusedLayers(Replica(model.bfloat16())).own_experts
    return [f"{experts}: {why}" for experts, why in found.items()]


def _short(said: str) -> str:
    """A warning's reasons without what the other columns say."""
    own_logits = "own logits computed" if "own logits" in said else ""
    why = re.search(r"(?:prefixes cannot be shared|share prefixes) \((.*?)\):", said)
    # How much sharing moved depends on random numbers.
    unlike = re.search(r"its layers run their own code \(.*?\)", said)
    found = (why[1] if why else "", unlike[0] if unlike else "", own_logits)
    return re.sub(r" by [\d.]+%", "", "; ".join(part for part in found if part))


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
