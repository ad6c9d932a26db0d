"""Configurations from anybody: bounded, of plain values, and no code of theirs runs unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from instsel.cli import build_parser, main
from instsel.commands.configuration import with_configuration

PARSER = build_parser()
PLUGIN = "from pathlib import Path\nPath(r'{}').write_text('run')\n"
LEVELS = "\n".join(
    [
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)),
    ]
)


def refusal(path: Path, *words: str) -> str:
    with pytest.raises(ValueError) as caught:
        with_configuration([*words, "--config", str(path)], lambda words: PARSER)
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("aliases.yaml", f"{LEVELS}\nmodel: *a9\n", "has an anchor or alias ('a0')"),
        ("merge.yaml", "<<: {model: x}\n", "has a merge key"),
        ("twice.yaml", "model: x\nmodel: y\n", "gives the key 'model' twice"),
        ("inner.yaml", "columns: {a: x, a: y}\n", "gives the key 'a' twice"),
        ("spelt.yaml", "max-length: 5\nmax_length: 6\n", "gives the key max_length twice"),
        ("deep.yaml", "model: " + "[" * 40 + "]" * 40, "is nested too deeply"),
        ("large.yaml", "model: " + "x" * 300_000, "larger than the 262,144 bytes"),
        ("tag.yaml", "model: !!python/object/apply:os.getcwd []\n", "neither YAML nor JSON"),
        ("latin.yaml", b"model: \xff\n", "neither YAML nor JSON"),
        ("number.yaml", "1: x\n", "a key must be a text, got int"),
        ("binary.yaml", "model: !!binary aGk=\n", "model must be one text or number, got bytes"),
        ("deep.json", '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply"),
        ("twice.json", '{"model": "x", "model": "y"}', "gives the key 'model' twice"),
        ("nan.json", '{"max_length": NaN}', "max_length must be one text or number, got a number out of all bounds"),
        ("huge.json", '{"max_length": 1' + "0" * 4000 + "}", "got a number out of all bounds"),
        ("list.json", '{"model": ["x", "y"]}', "model must be one text or number, got a list"),
        ("table.json", '{"model": {"x": 1}}', "model must be one text or number, got dict"),
        ("true.json", '{"model": true}', "model must be one text or number, got bool"),
        ("inside.json", '{"input": ["x", ["y"]]}', "input must be a text or number, or a list of them, got list in it"),
        ("plugin.json", '{"plugin": 5}', "plugin must be the path of a Python file, or a list of them"),
        ("arguments.json", '{"method": "ifd", "input_digest": "0", "arguments": 5}', "arguments must be keys"),
        ("flag.json", '{"input": ["pool.jsonl", "--trust-remote-code"]}', "input must be a name that does not begin"),
        ("command.json", '{"command": ["ifd"]}', "neither"),
    ],
)  # fmt: skip
def test_what_is_no_plain_configuration_is_one_line(name: str, text: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if name == "command.json":
        assert "which command?" in refusal(path)
    else:
        assert said in refusal(path, "ifd")


def test_a_plug_in_runs_only_where_the_command_line_names_it(tmp_path: Path, capsys: Any) -> None:
    plugin, trace = tmp_path / "plugin.py", tmp_path / "trace"
    plugin.write_text(PLUGIN.format(trace))
    path = tmp_path / "manifest.json"
    for named in (str(plugin), [str(plugin)]):
        found = {
            "method": "ifd",
            "input_digest": "0",
            "arguments": {"command": "status", "folder": "x", "plugin": named},
        }
        path.write_text(json.dumps(found))
        said = (
            f"this configuration names the plug-in {plugin}; it was not run: give --plugin {plugin} or --trust-plugins"
        )
        assert said in refusal(path) and said in refusal(path, "--plugin", "other.py")
        assert main(["--config", str(path)]) == 2 and said in capsys.readouterr().err and not trace.exists()
        for trusted in (["--trust-plugins"], ["--plugin", str(plugin)], [f"--plugin={plugin}"]):
            assert main([*trusted, "--config", str(path)]) == 2
            assert "holds no method" in capsys.readouterr().err and trace.read_text() == "run", "the control"
            trace.unlink()
    path.write_text(json.dumps({"command": "status", "folder": "x", "trust_plugins": True, "plugin": [str(plugin)]}))
    assert "it was not run" in refusal(path), "a file cannot trust itself"


@pytest.mark.parametrize(("key", "value", "given"), [("trust_remote_code", True, []), ("ray", "far:1", ["far:1"])])
def test_code_of_others_is_asked_for_on_the_command_line(
    key: str, value: Any, given: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"input": "pool.jsonl", "model": "x", key: value}))
    flag = [f"--{key.replace('_', '-')}", *given]
    assert f"asks for {key}" in refusal(path, "ifd") and " ".join(flag) in refusal(path, "ifd")
    words = with_configuration(["ifd", *flag, "--config", str(path)], lambda words: PARSER)
    assert getattr(PARSER.parse_args(words), key) == value
    path.write_text(json.dumps({key: False if value is True else "local"}))
    assert with_configuration(["ifd", "--config", str(path)], lambda words: PARSER) in (["ifd"], ["ifd", "--ray=local"])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(
    ["--plugin", "-", "--trust-remote-code", "ifd", "chat", "\0", "1e400"]
)  # fmt: skip
KEYS = st.text(max_size=8) | st.sampled_from(
    ["command", "plugin", "input", "model", "columns", "max-length", "max_length", "ray", "trust_remote_code", "method",
     "input_digest", "arguments", "trust_plugins", "config", "help", "models", "quiet", "devices", "embedder"]
)  # fmt: skip
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=5).map(json.dumps) | st.text(max_size=60) | st.text(
    alphabet="[]{}:,&*!<-? \n\t'\"|>ab0%@", max_size=60
)  # fmt: skip


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(document=DOCUMENTS, suffix=st.sampled_from(["json", "yaml"]), command=st.sampled_from(["ifd", "select", ""]))
@example(document=LEVELS, suffix="yaml", command="ifd")
def test_any_document_gives_flags_or_one_line(document: str, suffix: str, command: str, tmp_path: Path) -> None:
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(document.encode("utf-8", "surrogatepass"))
    try:
        words = with_configuration([*command.split(), "--config", str(path)], lambda words: PARSER)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 2000
        return
    assert not {"--plugin", "--trust-plugins", "--trust-remote-code"} & set(words)
    assert not any(
        word.startswith(("--plugin", "--ray")) and word not in ("--ray=auto", "--ray=local") for word in words
    )
