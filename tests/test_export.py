"""`instsel export`: what trainers' own code makes of the files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from row_tables import loaded
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.export import TRAINERS, export

SINGLE = [{"instruction": f"say {i}", "input": "it" * (i % 2), "output": f"thing {i}"} for i in range(6)]
TURNS = [
    {
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "good day"},
            {"role": "user", "content": f"say {i}"},
            {"role": "assistant", "content": f"thing é {i}"},
        ]
    }
    for i in range(6)
]
PAIRS = [{"prompt": f"say {i}", "chosen": f"thing {i}", "rejected": "no"} for i in range(6)]
ANSWERS = (("assistant", "a"), ("assistant", "b"))
ROWS = {"single": SINGLE, "turns": TURNS, "pairs": PAIRS}


@pytest.mark.parametrize("to", TRAINERS)
@pytest.mark.parametrize("kind", ROWS)
def test_nothing_is_lost(to, kind, tmp_path):
    """Read again as rows of a known format, an export holds the turns and answers that went in."""
    from instsel.records import to_examples, to_groups

    read = to_groups if kind == "pairs" else to_examples
    data = export(ROWS[kind], to, tmp_path)[0]
    before, after = read(ROWS[kind]), read(loaded(data))
    for one, other in zip(before, after, strict=True):
        assert other.history == one.history
        joined = one.instruction if to == "alpaca" or not one.input else f"{one.instruction}\n{one.input}"
        assert other.instruction == joined and other.input == (one.input if to == "alpaca" else "")
        assert (other.responses == one.responses) if kind == "pairs" else (other.response == one.response)


def llama_factory_row(row: dict, entry: dict) -> tuple[str, list, list]:
    """LLaMA-Factory 0.9's reading of a row of its "sharegpt" formatting: system, prompt, response; empty if refused."""
    tags, columns = entry["tags"], entry["columns"]
    role, content = tags["role_tag"], tags["content_tag"]
    turns, system = row[columns["messages"]], ""
    if turns[0][role] == tags["system_tag"]:
        system, turns = turns[0][content], turns[1:]
    expected = (tags["user_tag"], tags["assistant_tag"])
    if any(turn[role] != expected[i % 2] for i, turn in enumerate(turns)) or len(turns) % 2 != entry["ranking"]:
        return system, [], []
    if entry["ranking"]:
        answers = [row[columns[name]] for name in ("chosen", "rejected")]
        return (system, turns, answers) if all(a[role] == expected[1] for a in answers) else (system, [], [])
    return system, turns[:-1], turns[-1:]


@pytest.mark.parametrize("kind", ROWS)
def test_llama_factory(kind, tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"other": {"file_name": "other.json"}}')
    data, info = export(ROWS[kind], "llama-factory", tmp_path, name="mine")
    entries = json.loads(info.read_text())
    assert entries["other"] == {"file_name": "other.json"} and entries["mine"]["file_name"] == data.name
    for i, row in enumerate(loaded(data)):
        system, prompt, response = llama_factory_row(row, entries["mine"])
        assert response[0]["content"].endswith(str(i)) and prompt[-1]["content"].startswith(f"say {i}")
        assert (system, len(prompt)) == (("be kind", 3) if kind == "turns" else ("", 1))


@pytest.mark.parametrize("kind", ROWS)
def test_axolotl(kind, tmp_path):
    yaml = pytest.importorskip("yaml")
    data, settings = export(ROWS[kind], "axolotl", tmp_path)
    found = yaml.safe_load(settings.read_text())
    [entry] = found["datasets"]
    assert entry["path"] == data.name and entry["ds_type"] == "json" and ("rl" in found) == (kind == "pairs")
    names = {name for name in entry if name.startswith("field_")}
    assert all({entry[name] for name in names} == set(row) for row in loaded(data))
    assert entry["type"] == ("chat_template.default" if kind == "pairs" else "chat_template")


def test_from_a_selection(tmp_path, capsys):
    write_alpaca(tmp_path / "pool.jsonl", 9)
    rows = [{**row, "score": float(i)} for i, row in enumerate(loaded(tmp_path / "pool.jsonl")) if row["output"]]
    (tmp_path / "scored.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["select", str(tmp_path / "scored.jsonl"), "--budget", "3", "--output", str(tmp_path / "chosen")]) == 0
    command = ["export", str(tmp_path / "chosen"), "--to", "trl", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    chosen = pq.read_table(tmp_path / "chosen" / "selected.parquet")["output"].to_pylist()
    made = loaded(tmp_path / "out" / "instsel.jsonl")
    assert [row["completion"][0]["content"] for row in made] == chosen and len(made) == 3
    capsys.readouterr()
    assert main(command) == 2 and "instsel.jsonl exists" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--quiet"]) == 0 and not capsys.readouterr().out


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_from_a_selection_of_which_no_row_has_a_key_that_others_have(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "score": i} for i, row in enumerate(SINGLE)]
    rows[0]["note"] = "of this row alone"
    Path("scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["select", "scored.jsonl", "--budget", "2", "--format", kind, "--output", "chosen"]) == 0
    assert main(["export", "chosen", "--to", "messages", "--output", "out"]) == 0
    assert [row["messages"][1]["content"] for row in loaded(Path("out/instsel.jsonl"))] == ["thing 5", "thing 4"]
    assert main(["report", "chosen"]) == 0


def test_a_selection_of_no_rows_is_said_to_be_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("scored.jsonl").write_text("".join(json.dumps({**row, "score": None}) + "\n" for row in SINGLE))
    assert main(["select", "scored.jsonl", "--budget", "2", "--output", "chosen"]) == 0
    assert main(["export", "chosen", "--to", "messages", "--output", "out"]) == 2
    assert "selected.parquet holds no rows" in capsys.readouterr().err


def test_the_best_of_a_group(tmp_path):
    rows = [{"instruction": "say", "candidates": [{"response": "a"}, {"response": "b"}], "best": 1}]
    assert loaded(export(rows, "messages", tmp_path)[0])[0]["messages"][-1]["content"] == "b"
    with pytest.raises(ValueError, match=r"row 0 .*'best' names no candidate, got None"):
        export([{**rows[0], "best": None}], "messages", tmp_path, overwrite=True)


@pytest.mark.parametrize("to", TRAINERS)
def test_the_best_of_preference_pairs(to, tmp_path):
    """As grape scores them: of texts, of turns after a prompt, and of conversations that hold the prompt."""
    asked, answers = {"role": "user", "content": "say"}, [{"role": "assistant", "content": one} for one in "ab"]
    for row in (
        {"prompt": "say", "chosen": "a", "rejected": "b"},
        {"prompt": [asked], "chosen": [answers[0]], "rejected": [answers[1]]},
        {"chosen": [asked, answers[0]], "rejected": [asked, answers[1]]},
    ):
        for place, want in enumerate("ab"):
            made = export([{**row, "best": place}], to, tmp_path, overwrite=True)[0]
            alone = export([{"instruction": "say", "output": want}], to, tmp_path / "alone", overwrite=True)[0]
            assert loaded(made) == loaded(alone)


@pytest.mark.parametrize("to", ["trl", "axolotl", "messages"])
def test_the_best_of_candidates_that_are_turns_keeps_all_that_they_hold(to, tmp_path):
    """Reasoning, calls, and the turns between the question and the answer, which were scored with it."""

    def turns_of(row, folder):
        made = loaded(export([row], to, tmp_path / folder, overwrite=True)[0])[0]
        return made["prompt"] + made["completion"] if to == "trl" else made["messages"]

    asked = {"role": "user", "content": "say"}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    called = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "3"}]
    for best, other in (
        ([{"role": "assistant", "content": "a", "reasoning_content": "why"}], [{"role": "assistant", "content": "b"}]),
        (called[:1], [{"role": "assistant", "content": "b"}]),
        ([*called, {"role": "assistant", "content": "a"}], [*called, {"role": "assistant", "content": "b"}]),
    ):
        want = turns_of({"prompt": [asked], "completion": best}, "alone")
        for prompt in ({"instruction": "say"}, {"messages": [asked]}):
            for held in (best, [asked, *best]):
                row = {**prompt, "candidates": [other if held is best else [asked, *other], held], "best": 1}
                assert turns_of(row, "group") == want


@pytest.mark.parametrize("to", TRAINERS)
def test_turns_in_a_dict_of_lists(to, tmp_path):
    """As a `Sequence` of Hugging Face's datasets holds them."""
    asked, answer, other = ({"role": [role], "content": [text]} for role, text in (("user", "say"), *ANSWERS))
    whole = {"role": ["user", "assistant"], "content": ["say", "a"]}
    want = loaded(export([{"instruction": "say", "output": "a"}], to, tmp_path / "alone")[0])
    for row in (
        {"messages": whole},
        {"prompt": asked, "completion": answer},
        {"prompt": asked, "candidates": [other, answer], "best": 1},
    ):
        assert loaded(export([row], to, tmp_path, overwrite=True)[0]) == want


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_groups_without_an_answer_are_left_out_of_the_best_of_a_run(tmp_path, monkeypatch, capsys, kind):
    load_models_once(monkeypatch)
    groups = [["a b", "c d", "e f"], ["", " "], ["only"], [], ["z" * 3000], ["", "x y"], ["same", "same"], None]
    rows = [{"instruction": f"say {i}", "candidates": group} for i, group in enumerate(groups)]
    rows.append({"instruction": ["no text"], "candidates": ["x"]})
    pool, run = tmp_path / "groups.jsonl", tmp_path / "run"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["grape", str(pool), "--model", tiny_model_folder(), "--device", "cpu", "--output", str(run), "--quiet"]
    assert main([*words, "--format", kind, "--max-failures", "0.5"]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--to", "messages", "--output", str(tmp_path / "out"), "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "1 of 9 rows are left out: their status is unreadable" in said
    assert "4 of 9 rows are left out: none of their candidates was scored" in said
    taken = {
        row["messages"][0]["content"]: row["messages"][1]["content"] for row in loaded(tmp_path / "out/instsel.jsonl")
    }
    assert list(taken) == ["say 0", "say 2", "say 5", "say 6"]
    assert taken["say 2"] == "only" and taken["say 5"] == "x y" and taken["say 6"] == "same"
    scores = instsel.grape(instsel.Scorer(tiny_model_folder(), device="cpu"), rows[:1]).scores[0]
    assert taken["say 0"] == groups[0][int(scores.argmax())]


def test_what_a_trainer_would_drop_is_refused(tmp_path):
    twice = [{"messages": [{"role": r, "content": "x"} for r in ("user", "user", "assistant")]}]
    for to in ("llama-factory", "alpaca"):
        with pytest.raises(ValueError, match=f"row 0 .*{to} reads turns of user and assistant in turn"):
            export(twice, to, tmp_path)
    assert len(loaded(export(twice, "trl", tmp_path)[0])[0]["prompt"]) == 2
    with pytest.raises(ValueError, match=r"row 1 .* has no answer to train on"):
        export([SINGLE[0], {**SINGLE[1], "output": " "}], "trl", tmp_path / "other")
    with pytest.raises(ValueError, match=r"to: expected one of llama-factory.*got 'unknown'"):
        export(SINGLE, "unknown", tmp_path)
    with pytest.raises(ValueError, match="name: expected a file's name"):
        export(SINGLE, "trl", tmp_path, name="../x")


@pytest.mark.parametrize("to", ["llama-factory", "trl", "axolotl", "messages"])
def test_the_prompt_is_the_one_that_was_scored(to, tmp_path):
    """Trained on by the template that scored them, rows with material of their own are asked as they were."""
    from instsel.prompts.templates import prompt_and_answer
    from instsel.records import to_examples

    rows = [{"instruction": "Add up.", "input": "2, 3", "output": "5"}, {"instruction": "Go.", "output": "Gone."}]
    after = to_examples(loaded(export(rows, to, tmp_path)[0]))
    for one, other in zip(to_examples(rows), after, strict=True):
        assert prompt_and_answer("plain", other) == prompt_and_answer("plain", one)


def test_a_file_that_is_there_is_named_with_the_way_to_replace_it(tmp_path, monkeypatch, capsys):
    from instsel.cli import main

    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(json.dumps(SINGLE[0]) + "\n")
    assert main(["export", "rows.jsonl", "--to", "alpaca", "--output", "data"]) == 0
    assert main(["export", "rows.jsonl", "--to", "alpaca", "--output", "data"]) == 2
    assert capsys.readouterr().err.startswith("instsel: error: data/instsel.json exists: name another output, or over")
    assert main(["export", "rows.jsonl", "--to", "alpaca", "--output", "data", "--overwrite"]) == 0
