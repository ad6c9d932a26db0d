"""Methods from outside the package: the documentation's own example, and what goes wrong in other people's files."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from one_by_one import OneByOne, plain
from tiny_model import load_models_once, make_tiny_model

import instsel
from instsel.cli import main
from instsel.methods.registry import BUILT_IN, find_methods

PAGE = (Path(__file__).parents[1] / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
EXAMPLE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]


def renamed(name: str) -> str:
    return EXAMPLE.replace('"independence",\n    help', f'"{name}",\n    help')


BROKEN = {
    "raises": ("raise RuntimeError('not today')", "cannot be loaded: RuntimeError: not today"),
    "syntax": ("def broken(:", "cannot be loaded: SyntaxError"),
    "nothing": ("x = 1", "holds no method"),
    "taken": (renamed("wici"), "registers the method 'wici', which instsel has"),
    "older": (renamed("score"), "registers the method 'score', which instsel has"),
    "command": (renamed("select"), "'select', which is a command of instsel"),
    "exits": ("raise SystemExit(0)", "cannot be loaded: SystemExit: 0"),
    "unread": (EXAMPLE.replace("requests=requests)", 'reads=("other",))'), "reads 'other', which no earlier stage"),
}
SCORING = "batch = part.score(requests(part))"
RESULT = '    return {"score": alone - asked,'
FAULTS = [
    (RESULT, RESULT.replace("alone - asked", "(alone - asked)[1:]"), "column 'score' must have an entry"),
    (RESULT, "    return 7\n" + RESULT, "expected columns, a mapping of arrays, got int"),
    (
        RESULT,
        RESULT.replace("alone - asked", "np.full(len(asked), object())"),
        "column 'score' must be numbers or texts",
    ),
    ('"status": np.where((status', '"state": np.where((status', 'the last stage must give a column "status"'),
    (SCORING, "raise ZeroDivisionError('by nought')", "ZeroDivisionError: by nought"),
    (SCORING, "raise KeyError('colour')", "KeyError: 'colour'"),
    (SCORING, "assert False, 'never'", "AssertionError: never"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    load_models_once(monkeypatch)
    make_tiny_model(tmp_path / "model")
    rows = [*example_rows(5), {"instruction": "say", "input": "", "output": ""}]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "independence.py").write_text(EXAMPLE)
    return tmp_path


def command(folder: Path, *flags: str, plugin: str = "independence.py") -> list[str]:
    model = ["--model", str(folder / "model"), "--dtype", "float32", "--quiet"]
    return ["--plugin", str(folder / plugin), "independence", str(folder / "pool.jsonl"), *model, *flags]


def example_module(name: str) -> Any:
    """The example as an imported module."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(EXAMPLE, module.__dict__)
    return module


def test_the_example_is_short() -> None:
    assert len([line for line in EXAMPLE.splitlines() if line.strip()]) <= 40


def test_the_example_has_a_command_that_continues(
    folder: Path, truth: OneByOne, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--output", str(folder / "run"), "--shard-rows", "2"]
    assert main([*command(folder, *run)]) == 0
    table = pq.read_table(folder / "run" / "scores.parquet").to_pydict()
    assert table["status"] == ["ok"] * 5 + ["empty_target"]
    for row, score in zip(example_rows(5), table["score"], strict=False):
        asked = truth.token_logprobs(plain(row), row["output"]).mean()
        assert score == pytest.approx(truth.token_logprobs("", row["output"]).mean() - asked, abs=1e-4)
    assert table["score"][5] is None
    shards = sorted((folder / "run" / "shards").glob("*.parquet"))
    shards[1].unlink()
    (folder / "run" / "scores.parquet").unlink()
    assert main(command(folder, *run)) == 0
    again = sorted((folder / "run" / "shards").glob("*.parquet"))
    assert [path in again for path in shards] == [True, False, True], "what was whole stays"
    assert pq.read_table(folder / "run" / "scores.parquet").to_pydict() == table
    capsys.readouterr()
    assert main(command(folder, "--no-per-token", *run)) == 2
    assert "parameters.per_token (true there, false now)" in capsys.readouterr().err
    assert main(command(folder, "--dry-run")) == 0
    assert "independence: plan for 6 rows" in capsys.readouterr().out


def test_a_run_goes_on_from_its_manifest_where_the_plug_in_is_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(folder, "--output", str(folder / "run"), "--shard-rows", "2")) == 0
    plugin, manifest = str(folder / "independence.py"), str(folder / "run/manifest.json")
    whole = pq.read_table(folder / "run/scores.parquet")
    for trusted in (["--plugin", plugin], ["--trust-plugins"]):
        shard = sorted((folder / "run/shards").glob("*.parquet"))[1]
        shard.unlink()
        (folder / "run/scores.parquet").unlink()
        capsys.readouterr()
        assert main(["--config", manifest]) == 2
        assert f"give --plugin {plugin} or --trust-plugins" in capsys.readouterr().err and not shard.exists()
        assert main([*trusted, "--config", manifest]) == 0
        assert pq.read_table(folder / "run/scores.parquet").equals(whole)


def test_the_example_is_a_function(folder: Path, scorer: instsel.Scorer) -> None:
    independence = example_module("independence_example").independence
    whole, each = (independence(scorer, example_rows(4), per_token=flag)["score"] for flag in (False, True))
    assert np.isfinite(whole).all() and np.abs(whole).sum() > np.abs(each).sum()
    with pytest.raises(TypeError, match="per_token must be True or False, got 2"):
        independence(scorer, example_rows(1), per_token=2)
    with pytest.raises(
        TypeError, match=r"independence\(\) has no keyword 'pertoken' \(did you mean per_token\?\); it has per_token"
    ):
        independence(scorer, example_rows(1), pertoken=True)


@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_broken_file_is_one_line(folder: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = BROKEN[fault]
    (folder / "broken.py").write_text(text)
    assert main(command(folder, "--output", str(folder / "run"), plugin="broken.py")) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(("there", "instead", "message"), FAULTS)
def test_a_stage_that_fails_is_named(
    folder: Path, there: str, instead: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert there in EXAMPLE
    (folder / "faulty.py").write_text(EXAMPLE.replace(there, instead))
    assert main(command(folder, "--output", str(folder / "run"), plugin="faulty.py")) in (1, 2)
    said = capsys.readouterr().err
    assert message in said and "independence" in said and "Traceback" not in said


def test_entry_points_of_installed_packages(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    example_module("other_package")
    entry = importlib.metadata.EntryPoint("independence", "other_package:independence", "instsel.methods")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == "instsel.methods" else [])
    assert list(find_methods()) == [*BUILT_IN, "independence"]
    with pytest.raises(ValueError, match="registers the method 'independence', which the installed plug-in"):
        find_methods([folder / "independence.py"])
