"""`instsel curate`: the other commands one after the other, each as it is printed, continued where it was stopped."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_model import load_models_once, make_tiny_model

import instsel.export
import instsel.report
import instsel.selection.folder_selection
from instsel.cli import build_parser, main
from instsel.runs.interrupts import Interrupted

WORDS = ["curate", "pool.jsonl", "--model", "model", "--device", "cpu", "--budget", "10%", "--to", "llama-factory"]
WORDS += ["--template", "Do this:\\n{instruction}\\n", "--output", "chosen"]
TWO_QUESTIONS = {
    "messages": [
        {"role": "user", "content": "Name it."},
        {"role": "user", "content": "Now."},
        {"role": "assistant", "content": "It is red."},
    ]
}
COLOURS = ("red", "green", "blue", "black")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curate")
    make_tiny_model(folder / "model")
    rows = [
        {"instruction": f"Name thing {i}.", "input": "", "output": f"It is {COLOURS[i % 4]} and number {i * i % 97}."}
        for i in range(40)
    ]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_models_once(monkeypatch)
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(said: str) -> list[list[str]]:
    """The commands that were said, as words."""
    return [shlex.split(line.removeprefix("$ ")) for line in said.splitlines() if line.startswith("$ ")]


def files(folder: Path) -> dict[str, bytes]:
    """What a user takes from it: scores, selected rows and the trainer's files; the page tells the time."""
    names = ("scores/scores.parquet", "selection/selected.parquet", "data/instsel.json", "data/dataset_info.json")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.long
def test_the_commands_that_it_prints_give_the_same_by_hand(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    said = capsys.readouterr().out
    commands = printed(said)
    assert [words[:2] for words in commands] == [
        ["instsel", name] for name in ("inspect", "ifd", "select", "export", "report")
    ]
    assert "40 rows, read as alpaca" in said and "4 of 40 rows by recommended" in said, "as each command says it"
    made = files(place / "chosen")
    assert len(json.loads(made["data/instsel.json"])) == 4
    assert "<html" in (place / "chosen/report.html").read_text()
    shutil.move("chosen", "by_curate")
    for words in commands:
        assert main(words[1:]) == 0, words
    assert files(place / "chosen") == made
    for name in ("scores", "selection"):
        one, other = (json.loads((place / f / name / "manifest.json").read_text()) for f in ("chosen", "by_curate"))
        assert one["arguments"] == other["arguments"] and one["parameters"] == other["parameters"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "function"),
    [
        (instsel.selection.folder_selection, "select_into_folder"), (instsel.export, "export"),
        (instsel.report, "build_page"),
    ],
)  # fmt: skip
def test_stopped_between_two_steps_it_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: object, function: str
) -> None:
    def stop(*args: object, **options: object) -> None:
        raise Interrupted(2)

    with monkeypatch.context() as patched:
        patched.setattr(module, function, stop)
        assert main(WORDS) == 130
    assert not (place / "chosen/report.html").exists()
    kept = {path: path.stat().st_mtime_ns for path in (place / "chosen").rglob("*.parquet")}
    assert place / "chosen/scores/scores.parquet" in kept
    capsys.readouterr()
    assert main(WORDS) == 0
    said = capsys.readouterr().out
    assert "already finished: chosen/scores/scores.parquet" in said and "instsel inspect" not in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what is finished is not made again"
    before = files(place / "chosen")
    assert main(WORDS) == 0 and files(place / "chosen") == before, "nor by the same command once more"


@pytest.mark.long
def test_another_budget_needs_overwrite_and_keeps_the_scores(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    scored = (place / "chosen/scores/scores.parquet").stat().st_mtime_ns
    other = [word if word != "10%" else "8" for word in WORDS]
    assert main([*other, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "chosen/selection holds a run with other settings" in said and said.count("\n") == 1
    assert main([*other, "--quiet", "--overwrite", "--seed", "4"]) == 0
    assert pq.read_table("chosen/selection/selected.parquet").num_rows == 8
    assert len(json.loads(Path("chosen/data/instsel.json").read_text())) == 8
    assert (place / "chosen/scores/scores.parquet").stat().st_mtime_ns == scored


def test_a_dry_run_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert [words[1] for words in printed(said)] == ["inspect", "ifd"] and "plan for 40 rows" in said
    assert not Path("chosen").exists()


@pytest.mark.long
def test_wici_with_flags_from_a_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"command": "curate", "input": "pool.jsonl", "model": "model", "method": "wici", "to": "trl"}
    settings |= {"budget_tokens": 300, "output": "chosen", "columns": {"instruction": "instruction"}}
    Path("flags.json").write_text(json.dumps(settings))
    assert main(["--config", "flags.json", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert printed(said)[1][1] == "wici" and "of 300 tokens" in said and "by the run's own embeddings" in said
    assert (
        len(Path("chosen/data/instsel.jsonl").read_text().splitlines())
        == pq.read_table("chosen/selection/selected.parquet").num_rows
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*WORDS[:8], "--output", "chosen"], "--to"),
        ([*WORDS[:6], *WORDS[8:]], "--budget"),
        ([*WORDS, "--method", "grape"], "invalid choice: 'grape'"),
        ([*WORDS[:1], "-", *WORDS[2:]], "name a file in place of -"),
        ([*WORDS[:1], "nowhere.jsonl", *WORDS[2:], "--quiet"], "nowhere.jsonl"),
        ([*WORDS[:7], "50", *WORDS[8:]], "budget must be at most the 40 rows there are, got 50"),
        ([*WORDS[:6], "--budget-tokens", "0", *WORDS[8:]], "expected a whole number of at least 1, got '0'"),
        ([*WORDS, "--name", "a/b"], "name: expected a file's name without its ending, got 'a/b'"),
        ([*WORDS[:-1], "pool.jsonl"], "pool.jsonl is no folder"),
        ([*WORDS[:-1], "pool.jsonl/in/it"], "pool.jsonl is no folder"),
        ([*WORDS[:-1], "foreign"], "foreign/data/instsel.json is not overwritten: no export wrote it"),
        (
            [*WORDS[:1], "turns.jsonl", *WORDS[2:]],
            "llama-factory reads turns of user and assistant in turn, got user, user",
        ),
    ],
)
def test_wrong_use_is_one_line(place: Path, capfd: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    """Before anything is scored, or even looked at."""
    Path("foreign/data").mkdir(parents=True)
    Path("foreign/data/instsel.json").write_text("[]")
    Path("turns.jsonl").write_text(json.dumps(TWO_QUESTIONS) + "\n")
    assert main(words) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and says in said.err, said.err
    assert not Path("chosen").exists()


@pytest.mark.parametrize("taken", ["selection", "selection/mine.txt", "report.html", "report.html/mine.txt"])
def test_what_a_later_step_may_not_replace_is_told_before_scoring(
    place: Path, capsys: pytest.CaptureFixture[str], taken: str
) -> None:
    Path("chosen", taken).parent.mkdir(parents=True)
    Path("chosen", taken).write_text("mine")
    assert main([*WORDS, "--quiet"]) == 2
    assert "chosen/" + taken.split("/")[0] in capsys.readouterr().err
    assert Path("chosen", taken).read_text() == "mine" and not Path("chosen/scores").exists()


@pytest.mark.parametrize("named", ["data/instsel.jsonl", "data", "da*/*.jsonl"])
def test_the_pool_is_not_written_over_by_what_is_selected_from_it(
    place: Path, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    """Also where an export wrote the pool, which another export may otherwise replace."""
    instsel.export.export(
        [json.loads(line) for line in Path("pool.jsonl").read_text().splitlines()], "messages", "data"
    )
    pool = Path("data/instsel.jsonl").read_bytes()
    words = ["curate", named, *WORDS[2:-1], ".", "--to", "messages", "--quiet"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "would be written: name another --output" in said
    assert Path("data/instsel.jsonl").read_bytes() == pool and not Path("scores").exists()
    assert main([*words, "--name", "chosen"]) == (2 if named == "data" else 0), "a folder's files are all read again"
    assert Path("data/instsel.jsonl").read_bytes() == pool


@pytest.mark.long
def test_what_is_said_of_other_scores_is_true_of_curate(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--quiet"]) == 0
    for more in ([], ["--overwrite"], ["--overwrite", "--dry-run"]):
        assert main([*WORDS, "--quiet", "--limit", "20", *more]) == 2
        said = capsys.readouterr().err
        assert "chosen/scores holds a run with other settings: limit" in said and "again with --overwrite" not in said
    assert "remove chosen/scores yourself" in said
    shutil.rmtree("chosen/scores")
    assert main([*WORDS, "--quiet", "--limit", "20", "--overwrite"]) == 0, "as it was told"


def test_a_row_that_the_trainer_refuses_is_told_before_scoring(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"messages": [{"role": "user", "content": "Name it."}, {"role": "assistant", "content": "It is red."}]}
    unanswered, unreadable = {"messages": one["messages"][:1]}, {"messages": [{"role": "nobody"}]}
    lines = [one, TWO_QUESTIONS, unanswered, unreadable, *[one] * 8]
    Path("turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    words = [*WORDS[:1], "turns.jsonl", *WORDS[2:], "--template", "chat", "--dry-run", "--quiet"]
    main(words)
    said = capsys.readouterr().err
    assert "1 of the first 12 rows cannot be exported to llama-factory" in said and "row 1 (counting from 0)" in said
    main(["trl" if word == "llama-factory" else word for word in words])
    assert "cannot be exported" not in capsys.readouterr().err, "the control: it takes turns in any order"


@pytest.mark.parametrize("name", ["select", "curate"])
def test_help_names_every_default(name: str) -> None:
    (commands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    needed = {action for group in commands[name]._mutually_exclusive_groups for action in group._group_actions}
    for action in commands[name]._actions:
        if action.option_strings and action.nargs != 0 and not action.required and action not in needed:
            said = commands[name]._get_formatter()._expand_help(action)
            assert action.dest == "config" or "default" in said.lower(), action.option_strings


@pytest.mark.long
def test_a_selection_that_takes_anothers_place_names_what_is_left_of_that(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WORDS) == 0
    (place / "chosen/data/own.json").write_text("a user's")
    other = ["25%" if word == "10%" else "trl" if word == "llama-factory" else word for word in WORDS]
    assert main(other) == 2, "another selection is there"
    assert (place / "chosen/data/instsel.json").exists()
    capsys.readouterr()
    assert main([*other, "--overwrite"]) == 0
    said = capsys.readouterr().err
    assert "chosen/data/instsel.json stays as an earlier export wrote it" in said
    assert "own.json" not in said and "instsel.jsonl" not in said
    assert len(json.loads((place / "chosen/data/instsel.json").read_text())) == 4, "nothing is taken away"


def test_a_dry_run_says_that_too_many_rows_cannot_be_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (place / "pool.jsonl").read_text().splitlines()
    (place / "pool.jsonl").write_text("\n".join([*rows[:8], json.dumps({"instruction": 3}), rows[8]]) + "\n")
    assert main([*WORDS, "--dry-run", "--no-timing"]) == 1
    assert "1 unreadable of 10 rows: more than --max-failures 5.0%" in capsys.readouterr().err
    assert main([*WORDS, "--dry-run", "--no-timing", "--max-failures", "10%"]) == 0
    assert not (place / "chosen").exists()


def test_which_part_of_an_answer_is_scored_is_said_to_every_step(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "--score-turns", "all", "--dry-run", "--no-timing"]) == 0
    inspected, scored = printed(capsys.readouterr().out)
    for words in (inspected, scored):
        assert words[words.index("--score-turns") + 1] == "all"
