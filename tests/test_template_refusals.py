"""A chat template that refuses one row: every method and command names that row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slices import slice_of
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder
from transformers import AutoTokenizer

import instsel
from instsel.cli import main
from instsel.methods import in_memory
from instsel.methods.complexity import complexity_columns
from instsel.methods.parameters import Parameters
from instsel.records import to_examples

# Refuses a turn that speaks of a spider, and a demonstration of a snail before a question of a bee.
TEMPLATE = (
    "{% for m in messages %}{% if 'spider' in m.content %}{{ raise_exception('No spiders here') }}{% endif %}"
    "{% if m.role == 'user' and 'bee' in m.content and loop.index0 > 0 and 'snail' in messages[0].content %}"
    "{{ raise_exception('Not after a snail') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
REFUSED = r"row 5 \(counting from 0\): template 'chat': .* refuses the turns user, assistant .*: No spiders here$"
SHOWN = r"row 2 after the demonstration of row 6 \(counting from 0\): template 'chat': .*: Not after a snail$"


def rows(*, spider: bool = True) -> list[dict[str, str]]:
    animals = ["ant", "fly", "bee", "moth", "wasp", "spider" if spider else "tick", "snail", "slug"]
    return [{"instruction": f"say the {one}", "output": f"the {one} king"} for one in animals]


def groups() -> list[dict[str, Any]]:
    return [{"instruction": row["instruction"], "candidates": [{"response": row["output"]}] * 2} for row in rows()]


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = TEMPLATE
    return instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer, device="cpu", dtype="float32")


def ring() -> np.ndarray:
    """Every row is shown to the one four places on, so row 6 to row 2."""
    return (np.arange(8)[:, None] + 4) % 8


def test_a_template_of_ones_own_is_not_called_the_tokenizers(scorer: instsel.Scorer, tmp_path: Path) -> None:
    for text, says in (("{% for", "refuses the turns"), ("{{ messages[0].content }}", "leaves out or changes")):
        (tmp_path / f"{len(text)}.jinja").write_text(text)
        with pytest.raises(ValueError, match=rf"row 0 \(counting from 0\): template: the Jinja chat template {says}"):
            instsel.ifd(scorer, rows(), template=str(tmp_path / f"{len(text)}.jinja"))


@pytest.mark.parametrize(
    "call",
    [
        lambda scorer: instsel.ifd(scorer, rows(), template="chat"),
        lambda scorer: instsel.wici(scorer, rows(), template="chat", num_neighbors=3, num_probes=2),
        lambda scorer: instsel.wici(scorer, rows(), template="chat", probes=ring(), similarity=ring() * 0.1),
        lambda scorer: instsel.grape(scorer, groups(), template="chat"),
        lambda scorer: instsel.grape(scorer, groups(), template="chat", include_eos=True),
    ],
)
def test_the_row_that_is_refused_is_named(
    scorer: instsel.Scorer, call: Callable[[instsel.Scorer], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The number counts from the first slice on.
    monkeypatch.setattr(in_memory, "rows_at_a_time", lambda stage, length, *rest: length if stage.whole else 2)
    with pytest.raises(ValueError, match=REFUSED):
        call(scorer)


@pytest.mark.parametrize("cut", [False, True])
def test_a_pair_that_is_refused_is_named_by_both_rows(scorer: instsel.Scorer, cut: bool) -> None:
    pool = rows(spider=False)
    arguments: dict[str, Any] = {"similarity": ring() * 0.1, "template": "chat", "cut_demonstration": cut}
    with pytest.raises(ValueError, match=SHOWN):
        instsel.wici(scorer, pool, probes=ring(), **arguments)
    unlucky = ring().copy()
    unlucky[6] = 3
    assert (instsel.wici(scorer, pool, probes=unlucky, **arguments).status == "ok").all(), "the control"


@pytest.mark.parametrize("ordering", ["length", "ifd"])
def test_rows_of_a_slice_keep_their_numbers(scorer: instsel.Scorer, ordering: str) -> None:
    part = slice_of(scorer, to_examples(rows()), range(4, 8), Parameters(template="chat"))
    with pytest.raises(ValueError, match=REFUSED):
        complexity_columns(part, ordering)


def test_a_tokenizer_without_a_template_is_no_fault_of_a_row() -> None:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with pytest.raises(ValueError, match=r"^template 'chat': the tokenizer has no chat template"):
        instsel.ifd(scorer, rows(), template="chat")


@pytest.mark.parametrize("command", ["score", "ifd", "wici", "grape"])
def test_commands_name_the_row_and_go_on_from_there(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_models_once(monkeypatch)
    model = tmp_path / "model"
    make_tiny_model(model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (groups() if command == "grape" else rows())))
    options = ["--model", str(model), "--template", "chat", "--shard-rows", "2", "--quiet"]
    for extra in (["--output", str(tmp_path / "run")], ["--dry-run"]):
        if command == "wici" and extra == ["--dry-run"]:
            continue  # its probes are not known before it has run
        assert main([command, str(path), *options, *extra]) == 2
        said = capsys.readouterr().err
        assert "row 5 (counting from 0): template 'chat'" in said and "No spiders here" in said
        assert "Traceback" not in said
    assert command == "wici" or len(list((tmp_path / "run/shards").glob("*.parquet"))) == 2, "what was before it"
