"""What the command line says of models that cannot be used and of wrong use: one line, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import make_tiny_model, tiny_model_folder, write_alpaca

from instsel.cli import main

pytestmark = pytest.mark.usefixtures("one_loading")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_alpaca(tmp_path_factory.mktemp("input") / "rows.jsonl", 90)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders of which none can be used."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models")
    for name in ("no_weights", "pickled", "no_config", "no_tokenizer", "cut", "nan", "bad_config", "other_shapes"):
        make_tiny_model(folder / name)
    weights = folder / "nan/model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    (folder / "no_weights/model.safetensors").unlink()
    (folder / "pickled/model.safetensors").rename(folder / "pickled/pytorch_model.bin")
    (folder / "no_config/config.json").unlink()
    for path in (folder / "no_tokenizer").glob("tokenizer*"):
        path.unlink()
    cut = folder / "cut/model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1000])
    (folder / "bad_config/config.json").write_text("{")
    config = json.loads((folder / "other_shapes/config.json").read_text())
    (folder / "other_shapes/config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("no_weights", 2, "has no weights"),
        ("pickled", 2, "pickle format"),
        ("no_config", 2, "no config.json"),
        ("no_tokenizer", 2, "tokenizer"),
        ("cut", 2, "cannot load"),
        ("nan", 1, "NaN weights"),
        ("bad_config", 2, "cannot load"),
        ("other_shapes", 2, "cannot load"),
        ("empty", 2, "no config.json"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(
    rows: Path, models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, code: int, says: str
) -> None:
    arguments = ["score", str(rows), "--model", str(models / name), "--output", str(tmp_path / "run"), "--quiet"]
    assert main(arguments) == code
    said = capfd.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("instsel: error: ")]
    assert len(errors) == 1 and says in errors[0], said.err
    assert all(line.startswith("instsel: ") for line in said.err.splitlines()) and said.out == ""
    assert (tmp_path / "run").exists() == (code == 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "invalid choice"),
        (["score"], "required: INPUT, --model"),
        (["score", "{rows}", "--model", "{model}"], "--output is needed"),
        (["score", "{rows}", "--model", "{model}", "--limit", "0", "--output", "x"], "at least 1, got '0'"),
        (["score", "{rows}", "--model", "{model}", "--columns", "a", "--output", "x"], "FIELD=COLUMN"),
        (["score", "{rows}", "--model", "{model}", "--columns", "wizard=id", "--output", "{out}"], "wizard"),
        (["score", "{rows}", "--model", "{model}", "--columns", "response=nope", "--output", "{out}"], "nope"),
        (["score", "{rows}", "--model", "{model}", "--backend", "abacus", "--output", "{out}"], "backend"),
        (["score", "{rows}", "--model", "{model}", "--device", "cuda:7", "--output", "{out}"], "device"),
        (["score", "{rows}", "--model", "{model}", "--device", "toaster", "--output", "{out}"], "device"),
        (["score", "{rows}", "--model", "{model}", "--template", "chat", "--output", "{out}"], "chat template"),
        *(
            (["score", "{rows}", "--model", name, "--output", "{out}"], f"model: expected a folder, {says}")
            for name, says in [
                ("./no", "a GGUF file or a hub id, got './no', which does not exist"),
                ("/no", "a GGUF file or a hub id, got '/no', which does not exist"),
                ("~/no", "a GGUF file or a hub id, got '~/no', which does not exist"),
                ("no/such/model", "a GGUF file or a hub id, got 'no/such/model', which does not exist"),
                ("./no.gguf", "a GGUF file or a hub id, got './no.gguf', which does not exist"),
            ]
        ),
        (["score", "{rows}", "--model", "{rows}", "--output", "{out}"], "rows.jsonl', which is a file of another kind"),
        (["score", "{rows}", "--model", "{model}", "--max-failures", "150%", "--output", "x"], "from 0 to 1"),
        (["score", "{rows}", "--model", "{model}", "--output", "{rows}"], "cannot be written"),
        (["grape", "{rows}", "--model", "{model}", "--output", "{out}"], "candidates"),
        (["wici", "{rows}", "--model", "{model}", "--num-probes", "50", "--output", "{out}"], "num_neighbors"),
        (["wici", "{rows}", "--model", "{model}", "--complexity", "wisdom", "--output", "{out}"], "wisdom"),
        (["wici", "{rows}", "--model", "{model}", "--embedder", "{rows}.npy", "--output", "{out}"], ".npy"),
        (["wici", "{rows}", "--model", "{model}", "--probes", "{rows}", "--output", "{out}"], "probes"),
        (
            ["miwv", "{rows}", "--model", "{model}", "--neighbors", "no.npy", "--output", "{out}"],
            "--neighbors no.npy: No",
        ),
        (["selectit", "{rows}", "--model", "{model}", "--rating-prompts", "no", "--output", "{out}"], "prompts no: No"),
        (["select", "{rows}", "--budget", "3", "--output", "{out}"], "name one with --by"),
        (["select", "{rows}", "--budget", "3", "--by", "id", "--output", "{out}"], "not numbers"),
        (["select", "{rows}", "--budget", "0", "--output", "{out}"], "at least 1 row"),
        (["select", "{rows}", "--budget", "110%", "--output", "{out}"], "at most 100 %"),
        (["select", "nowhere", "--budget", "3", "--output", "{out}"], "does not exist"),
        (["status", "nowhere"], "does not exist"),
        (["merge", "nowhere"], "does not exist"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(
    rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    filled = [a.format(rows=rows, model=tiny_model_folder(), out=tmp_path / "out") for a in arguments]
    assert main(filled) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("instsel: error: "), said.err
    assert says in said.err, said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_help_and_status_load_neither_torch_nor_transformers(tmp_path: Path) -> None:
    program = (
        "import sys; from instsel.cli import main\n"
        "code = main(sys.argv[1:]); heavy = {'torch', 'transformers'} & set(sys.modules); print(code, sorted(heavy))"
    )
    for arguments in (["--help"], ["score", "--help"], ["status", str(tmp_path)]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] in ("0 []", "2 []"), done
