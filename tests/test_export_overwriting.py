"""What an export writes over: what an export wrote and nobody changed; never a user's file, a link or a run's file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_folders import write_influence
from tiny_model import load_models_once, tiny_model_folder

from instsel.cli import main
from instsel.export import export
from instsel.export.written_files import RECORD

ROWS = [{"instruction": "Add 1 and 2.", "output": "3"}]
OTHERS = [{"instruction": "Add 2 and 2.", "output": "4"}]


def test_only_what_an_export_wrote_is_written_over(tmp_path: Path) -> None:
    [path] = export(ROWS, "trl", tmp_path)
    first = path.read_bytes()
    with pytest.raises(ValueError, match=r"instsel\.jsonl exists"):
        export(OTHERS, "trl", tmp_path)
    assert path.read_bytes() == first
    export(OTHERS, "trl", tmp_path, overwrite=True)
    assert path.read_bytes() != first
    path.write_bytes(first + b"a row that a user added\n")
    with pytest.raises(ValueError, match="no export wrote it, or it was changed since"):
        export(OTHERS, "trl", tmp_path, overwrite=True)
    assert path.read_bytes().startswith(first) and path.read_bytes().endswith(b"added\n")


@pytest.mark.parametrize("to, name", [("trl", "instsel.jsonl"), ("axolotl", "instsel.axolotl.yaml")])
@pytest.mark.parametrize("record", [None, "{}", "[]", "not JSON", '{"NAME": [5]}', '{"NAME": "x"}', '{"NAME": null}'])
def test_a_users_file_stays(tmp_path: Path, to: str, name: str, record: str | None) -> None:
    (tmp_path / name).write_text("mine")
    if record is not None:
        (tmp_path / RECORD).write_text(record.replace("NAME", name))
    with pytest.raises(ValueError, match="no export wrote it"):
        export(ROWS, to, tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1 + (record is not None)


def test_a_link_to_what_an_export_wrote_is_not_replaced(tmp_path: Path) -> None:
    [path] = export(ROWS, "trl", tmp_path)
    os.rename(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is not overwritten"):
        export(OTHERS, "trl", tmp_path, overwrite=True)
    assert path.is_symlink()


def test_other_data_sets_of_the_trainers_list_stay(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"theirs": {"file_name": "x.json"}}')
    export(ROWS, "llama-factory", tmp_path, name="a")
    export(ROWS, "llama-factory", tmp_path, name="b")
    export(OTHERS, "llama-factory", tmp_path, name="a", overwrite=True)
    known = json.loads((tmp_path / "dataset_info.json").read_text())
    assert list(known) == ["theirs", "a", "b"] and known["theirs"] == {"file_name": "x.json"}


def test_an_export_that_was_stopped_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the record and the first of its two files: both are still known as an export's."""
    export(ROWS, "axolotl", tmp_path)
    from instsel.export import written_files

    written: list[str] = []
    real = written_files.write_text

    def stops(path: Path, text: str) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        real(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(written_files, "write_text", stops)
        with pytest.raises(KeyboardInterrupt):
            export(OTHERS, "axolotl", tmp_path, overwrite=True)
    assert written == [RECORD, "instsel.jsonl"]
    export(OTHERS, "axolotl", tmp_path, overwrite=True)
    assert "Add 2 and 2." in (tmp_path / "instsel.jsonl").read_text()


def test_a_file_of_a_run_is_not_an_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_influence(tmp_path / "run", 8)
    before = sorted(path.name for path in run.iterdir())
    assert main(["export", str(run), "--to", "trl", "--output", str(run), "--name", "scores"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "scores.jsonl is a file of the run there" in line
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize("to", ["llama-factory", "alpaca"])
def test_the_data_never_have_the_name_of_the_trainers_list(tmp_path: Path, to: str) -> None:
    """Both would be one file, of which the later written stays."""
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"name: dataset_info\.json is where trainers look"):
            export(ROWS, to, tmp_path, name="dataset_info", overwrite=overwrite)
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "dataset_info.json").write_text('{"theirs": {"file_name": "x.json"}}')
    with pytest.raises(ValueError, match="give another name"):
        export(ROWS, to, tmp_path, name="dataset_info", overwrite=True)
    assert "theirs" in (tmp_path / "dataset_info.json").read_text()


@pytest.mark.parametrize("named", ["data/instsel.jsonl", "data"])
def test_the_pool_of_a_run_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: str
) -> None:
    """An export wrote it, so that another may replace it: but not one of what was selected from it."""
    load_models_once(monkeypatch)
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"Name thing {i}.", "output": f"It is {i * i}."} for i in range(12)]
    export(rows, "trl", "data")
    pool = Path("data/instsel.jsonl").read_bytes()
    assert main(["ifd", named, "--model", tiny_model_folder(), "--device", "cpu", "--output", "run", "--quiet"]) == 0
    assert main(["select", "run", "--budget", "3", "--output", "chosen", "--quiet"]) == 0
    for source in ("run", "chosen"):
        assert main(["export", source, "--to", "trl", "--output", "data", "--overwrite", "--quiet"]) == 2
        assert "data/instsel.jsonl is an input" in capsys.readouterr().err
        assert Path("data/instsel.jsonl").read_bytes() == pool
    assert main(["export", "chosen", "--to", "trl", "--output", "other", "--quiet"]) == 0
    assert main(["export", "chosen", "--to", "trl", "--output", "other", "--overwrite", "--quiet"]) == 0
