"""Nothing that is read from a file is unpickled, which could run code: not in the sources, and not when it is given."""

from __future__ import annotations

import ast
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import make_tiny_model, write_alpaca

from instsel.cli import main

SOURCES = Path(__file__).parents[1] / "instsel"
UNPICKLERS = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}


def faults(source: str, is_parallel: bool) -> list[str]:
    """Calls that unpickle a file, or, outside the package of workers, unpickle at all."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
            found += [name for name in names if name in UNPICKLERS and not (is_parallel and name == "pickle")]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            allowed = [ast.unparse(k.value) for k in node.keywords if k.arg == "allow_pickle"]
            if called in ("pickle.load", "pickle.Unpickler", "torch.load", "torch.hub.load") or "True" in allowed:
                found.append(called)
    return found


@pytest.mark.long
def test_no_source_unpickles_a_file() -> None:
    paths = sorted(SOURCES.rglob("*.py"))
    assert len(paths) > 100
    assert {
        str(path): found for path in paths if (found := faults(path.read_text(), path.parent.name == "parallel"))
    } == {}
    for text in ("import pickle", "torch.load('x')", "np.load('x', allow_pickle=True)", "from joblib import load"):
        assert faults(text, False), "the control"
    assert faults("import pickle\npickle.load(f)", True) == ["pickle.load"]


class Trace:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("flag", ["--embedder", "--similarity", "--probes"])
def test_an_array_of_objects_is_refused(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, array = tmp_path / "trace", tmp_path / "given.npy"
    np.save(array, np.array([Trace(trace)] * 4, object), allow_pickle=True)
    make_tiny_model(tmp_path / "model")
    command = [
        "wici",
        str(write_alpaca(tmp_path / "pool.jsonl", 4)),
        "--model",
        str(tmp_path / "model"),
        flag,
        str(array),
    ]
    assert main([*command, "--output", str(tmp_path / "run"), "--quiet"]) == 2
    assert "given.npy" in capsys.readouterr().err and not trace.exists()
    with open(array, "rb") as file, pytest.raises(FileExistsError if trace.exists() else ValueError):
        file.seek(128)
        pickle.load(file)
        raise ValueError
    assert trace.exists(), "the control"


def test_pickled_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, model = tmp_path / "trace", tmp_path / "model"
    make_tiny_model(model)
    (model / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Trace(trace)}, model / "pytorch_model.bin")
    pool = str(write_alpaca(tmp_path / "pool.jsonl", 4))
    assert main(["perplexity", pool, "--model", str(model), "--output", str(tmp_path / "run"), "--quiet"]) == 2
    assert "weights only in a pickle format" in capsys.readouterr().err and not trace.exists()
