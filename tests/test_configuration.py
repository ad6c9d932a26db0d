"""`--config`: flags from a file, overridden by flags that are given; a run's manifest repeats the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder, write_alpaca

from instsel.cli import build_parser, main
from instsel.commands.configuration import with_configuration

pytestmark = pytest.mark.usefixtures("one_loading")


def parsed(path, *words):
    parser = build_parser()
    return vars(parser.parse_args(with_configuration([*words, "--config", str(path)], lambda words: parser)))


def test_flags_of_a_yaml_file(tmp_path):
    pytest.importorskip("yaml")
    path = tmp_path / "run.yaml"
    path.write_text(
        "command: wici\ninput: [a.jsonl, b.jsonl]\nmodel: some/model\nnum-neighbors: 7\nnum_probes: 3\n"
        "columns: {instruction: question, response: answer}\noverwrite: true\nquiet: false\nrevision: null\n"
    )
    found = parsed(path)
    assert found["input"] == ["a.jsonl", "b.jsonl"] and found["model"] == "some/model" and found["overwrite"] is True
    assert (found["num_neighbors"], found["num_probes"], found["quiet"]) == (7, 3, False)
    assert found["columns"] == {"instruction": "question", "response": "answer"}
    other = parsed(path, "wici", "c.jsonl", "--model", "other/model", "--num-pro", "2")
    assert (other["input"], other["model"], other["num_probes"]) == (["c.jsonl"], "other/model", 2)
    assert other["num_neighbors"] == 7


def test_devices_may_be_a_list_as_a_manifest_has_them(tmp_path, capsys):
    path = tmp_path / "run.json"
    for devices in (["cuda:0", "cuda:1"], "cuda:0,cuda:1"):
        path.write_text(json.dumps({"devices": devices}))
        assert parsed(path, "ifd", "a.jsonl", "--model", "m")["devices"] == ["cuda:0", "cuda:1"]
    for devices, said in (
        ({"cuda:0": 1}, "a text of names with commas between them, or a list of names, got dict"),
        ([["cuda:0"]], "or a list of names, got list in it"),
        ([], "expected NAME,..., got ''"),
    ):
        path.write_text(json.dumps({"devices": devices}))
        assert main(["ifd", "a.jsonl", "--model", "m", "--config", str(path)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    path.write_text(json.dumps({"limit": [1, 2]}))
    with pytest.raises(ValueError, match="limit must be one text or number, got a list"):
        parsed(path, "ifd", "a.jsonl", "--model", "m")


def test_a_flag_overrides_the_one_it_excludes(tmp_path):
    path = tmp_path / "select.json"
    path.write_text(json.dumps({"input": "x", "budget": 0.1, "output": "y"}))
    found = parsed(path, "select", "--budget-tokens", "100")
    assert found["budget"] is None and found["budget_tokens"] == 100
    assert parsed(path, "select")["budget"] == 0.1


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"modle": "x"}', "ifd has no modle; did you mean model?"),
        ('{"frobnicate": 1}', "ifd has no frobnicate; it has input, "),
        ('{"overwrite": "yes"}', "overwrite must be true or false, got 'yes'"),
        ("[1, 2]", "expected keys and values, got list"),
        ("{", "is neither YAML nor JSON: "),
        ('{"method": "ifd", "input_digest": "0"}', "this manifest is of a version that did not record its arguments"),
        ('{"limit": 0}', "expected a whole number of at least 1, got '0'"),
    ],
)
def test_errors_name_the_file_and_the_key(text, said, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_text(text)
    assert main(["ifd", "pool.jsonl", "--model", "x", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_errors_of_the_option_itself(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    for words, said in (
        (["ifd", "--config"], "--config: expected the path"),
        (["--config", str(tmp_path / "run.json")], "which command? give one of perplexity, ifd"),
        (["ifd", "--config", "gone.json"], "gone.json: No such file or directory"),
        (["ifd", "--config=a.json", "--config=b.json"], "--config is given twice"),
        (["ifd", "p.jsonl", "--model", "x", "--conf", "a.json"], "write --config out"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("name", ["ifd", "plain", "length", "cpu", "auto", "parquet"])
def test_a_word_stays_a_word_where_a_file_has_its_name(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_alpaca(tmp_path / "pool.jsonl", 6)
    told = f"ifd pool.jsonl --model {tiny_model_folder()} --template plain --device cpu --quiet --output"
    assert main([*told.split(), name]) == 0 and main([*told.split(), name, "--overwrite", "--limit", "4"]) == 0
    assert main([*told.split(), "beside"]) == 0  # with a folder of that name there
    arguments = json.loads((tmp_path / "beside/manifest.json").read_text())["arguments"]
    files = {"input": [str(tmp_path / "pool.jsonl")], "output": str(tmp_path / "beside")}
    assert {key: value for key, value in arguments.items() if str(tmp_path) in str(value)} == files
    monkeypatch.chdir("/")
    assert (
        main(["--config", str(tmp_path / "beside/manifest.json"), "--output", str(tmp_path / "again"), "--quiet"]) == 0
    )


def test_files_are_recorded_from_the_root_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_alpaca(tmp_path / "pool.jsonl", 8)
    np.save(tmp_path / "order.npy", np.arange(8.0))
    Path("own.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    Path("model").symlink_to(tiny_model_folder())
    told = (
        "wici pool.jsonl --model model --template own.jinja --complexity order.npy --num-probes 1 --quiet --output one"
    )
    assert main(told.split()) == 0
    arguments = json.loads(Path("one/manifest.json").read_text())["arguments"]
    names = {"model": "model", "template": "own.jinja", "complexity": "order.npy", "output": "one"}
    assert {name: arguments[name] for name in names} == {name: str(tmp_path / file) for name, file in names.items()}
    assert main([*told.split()[:-1], "order.npy"]) == 2, "what it reads is not written over"


@pytest.mark.long
def test_a_run_is_repeated_from_its_own_manifest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_alpaca(tmp_path / "pool.jsonl", 12)
    first = f"ifd pool.jsonl --model {tiny_model_folder()} --template alpaca --limit 9 --output one --quiet"
    assert main(first.split()) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["--config", "../one/manifest.json", "--output", "two"]) == 0
    assert pq.read_table("two/scores.parquet").equals(pq.read_table("../one/scores.parquet"))
    one, two = (json.loads((folder / "manifest.json").read_text()) for folder in (tmp_path / "one", elsewhere / "two"))
    assert all(one[name] == two[name] for name in one["compared"]) and two["limit"] == 9
    assert main(["ifd", "--config", "../one/manifest.json", "--template", "plain"]) == 2  # another run in that folder
    assert "template (alpaca there, plain now)" in capsys.readouterr().err
    assert main(["select", "two", "--budget", "2", "--output", "chosen"]) == 0
    assert main(["--config", "chosen/manifest.json", "--output", "again"]) == 0
    assert pq.read_table("again/selected.parquet").equals(pq.read_table("chosen/selected.parquet"))
