"""A chat template that refuses one row: the row gets a status and its reason, and the others what they have anyway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder
from transformers import AutoTokenizer

import instsel
from instsel.cli import main
from instsel.methods import in_memory

# Refuses a turn that speaks of a spider, and a demonstration of a snail before a question of a bee.
TEMPLATE = (
    "{% for m in messages %}{% if 'spider' in m.content %}{{ raise_exception('No spiders here') }}{% endif %}"
    "{% if m.role == 'user' and 'bee' in m.content and loop.index0 > 0 and 'snail' in messages[0].content %}"
    "{{ raise_exception('Not after a snail') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
REFUSED = r"1 of \d rows .* row 5 \(counting from 0\): template 'chat': .* the turns user, assistant: No spiders here$"


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
        lambda scorer, pool: instsel.ifd(scorer, pool, template="chat"),
        lambda scorer, pool: instsel.wici(scorer, pool, template="chat", num_neighbors=3, num_probes=2),
        lambda scorer, pool: instsel.miwv(scorer, pool, template="chat"),
        lambda scorer, pool: instsel.nuggets(scorer, pool, template="chat", num_anchors=2),
    ],
)
def test_the_others_have_what_they_have_without_it(
    scorer: instsel.Scorer, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_memory, "rows_at_a_time", lambda stage, length, *rest: length if stage.whole else 2)
    pool = rows()[:6]  # without the snail
    with pytest.warns(UserWarning, match=REFUSED):
        found = call(scorer, pool).to_dict()
    alone = call(scorer, [*pool[:5]]).to_dict()
    assert found["status"][5] == "unreadable" and found["status"][:5] == alone["status"]
    name = "ifd" if "ifd" in alone else "score"
    np.testing.assert_allclose(
        np.array(found[name], float), np.array([*alone[name], None], float), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("include_eos", [False, True])
def test_of_a_group_the_answers_that_it_takes_are_scored(scorer: instsel.Scorer, include_eos: bool) -> None:
    pool = groups()
    pool[0]["candidates"].append({"response": "a spider"})
    with pytest.warns(UserWarning, match=REFUSED):
        found = instsel.grape(scorer, pool, template="chat", include_eos=include_eos)
    assert found.status.tolist() == ["unreadable" if row == 5 else "ok" for row in range(8)]
    assert np.isnan(found.scores[0]).tolist() == [False, False, True] and np.isnan(found.scores[5]).all()


@pytest.mark.parametrize("cut", [False, True])
def test_a_pair_that_is_refused_has_a_status(scorer: instsel.Scorer, cut: bool) -> None:
    pool = rows(spider=False)
    arguments: dict[str, Any] = {"similarity": ring() * 0.1, "template": "chat", "cut_demonstration": cut}
    status = instsel.wici(scorer, pool, probes=ring(), **arguments).status
    assert status.tolist() == ["unreadable" if row == 6 else "ok" for row in range(8)]
    unlucky = ring().copy()
    unlucky[6] = 3
    assert (instsel.wici(scorer, pool, probes=unlucky, **arguments).status == "ok").all(), "the control"


def test_an_anchor_that_it_refuses_is_an_error(scorer: instsel.Scorer) -> None:
    with pytest.raises(ValueError, match="No spiders here"):
        instsel.nuggets(scorer, rows(spider=False), rows()[5:6], template="chat")


def test_what_writes_its_own_prompts_does_not_ask_it(scorer: instsel.Scorer) -> None:
    assert "unreadable" not in instsel.selectit(scorer, rows(), template="chat").status


def test_a_tokenizer_without_a_template_is_no_fault_of_a_row() -> None:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with pytest.raises(ValueError, match=r"^template 'chat': the tokenizer has no chat template"):
        instsel.ifd(scorer, rows(), template="chat")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_models_once(monkeypatch)
    make_tiny_model(tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


def command(name: str, folder: Path, pool: list[Any], *more: str) -> int:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool))
    options = ["--model", str(folder / "model"), "--template", "chat", "--shard-rows", "2", "--quiet"]
    return main([name, str(folder / "rows.jsonl"), *options, "--output", str(folder / "run"), *more])


@pytest.mark.long
@pytest.mark.parametrize("name", ["perplexity", "wici", "grape"])
def test_commands_go_on_and_say_why(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = groups() if name == "grape" else rows()
    for more in ([], ["--max-failures", "0.2"]):  # one of eight is more than 5 %
        code = command(name, folder, pool, "--dry-run", "--no-timing", *more)
        assert code == (0 if more else 1) or name == "wici"  # whose probes are not known before it has run
    capsys.readouterr()
    assert command(name, folder, pool) == 1
    said = capsys.readouterr().err
    assert f"1 of 8 rows cannot be read and get the status unreadable; {folder}/rows.jsonl, line 6: template" in said
    table = pq.read_table(folder / "run/scores.parquet").to_pydict()
    assert [status == "unreadable" for status in table["status"]] == [row == 5 for row in range(8)]
    assert ["No spiders here" in (reason or "") for reason in table["status_reason"]] == [row == 5 for row in range(8)]
    assert command(name, folder, pool, "--max-failures", "0.2") == 0
    assert main(["merge", str(folder / "run"), "--output", str(folder / "again.parquet"), "--quiet"]) == 0
    assert pq.read_table(folder / "again.parquet").to_pydict() == table
    (folder / "run/scores.parquet").unlink()
    for shard in list((folder / "run/shards").glob("*.parquet"))[:2]:
        shard.unlink()
    workers = ["--workers", "2"] if name == "wici" else []  # processes that import everything
    assert command(name, folder, pool, *workers) == 1
    assert pq.read_table(folder / "run/scores.parquet").to_pydict()["status_reason"] == table["status_reason"]


def test_none_may_be_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("perplexity", folder, rows(), "--strict") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"instsel: error: {folder}/rows.jsonl, line 6: template 'chat'") and said.count("\n") == 1


def test_a_template_that_takes_no_row_is_one_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model/chat_template.jinja").write_text("{{ raise_exception('never') }}")
    assert command("perplexity", folder, rows()) == 2
    said = capsys.readouterr().err
    assert "the template takes no row of the input; the first, " in said and "never" in said and said.count("\n") == 1


def test_a_folder_begun_before_this_was_looked_for_goes_on(folder: Path) -> None:
    command("perplexity", folder, rows())
    expected = pq.read_table(folder / "run/scores.parquet")
    manifest = json.loads((folder / "run/manifest.json").read_text())
    manifest["unreadable"] = {"rows": 0, "read_as": "example", "first": []}
    del manifest["read_by"]
    (folder / "run/manifest.json").write_text(json.dumps({**manifest, "state": "failed", "output": None}))
    (folder / "run/scores.parquet").unlink()
    sorted((folder / "run/shards").glob("*.parquet"))[2].unlink()
    command("perplexity", folder, rows())
    assert pq.read_table(folder / "run/scores.parquet").equals(expected)
