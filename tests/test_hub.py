"""A hub that cannot be reached is said at once; what the cache holds is used; nothing of the client stays changed."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from tiny_model import tiny_model_folder, write_alpaca

import instsel
from instsel import hub
from instsel.cli import main

pytestmark = pytest.mark.usefixtures("tries")
_tries: list[object] = []  # addresses that a connection was tried to, from whatever library


def _note_tries(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        _tries.append(arguments[1])


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_note_tries)  # there is no way to take one out again


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """A hub at a port that nobody listens at, an empty cache, and no setting or proxy in the way; the tries at it."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "INSTSEL_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_TRUST", float("inf"))  # however long a test takes on a busy machine
    _tries.clear()
    return _tries


def cache_model(name: str) -> None:
    """Put the tiny model into the cache under a hub name, as the client does."""
    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    shutil.copytree(tiny_model_folder(), folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)


def test_a_model_out_of_reach_is_said_after_one_try(monkeypatch: pytest.MonkeyPatch, tries: list[object]) -> None:
    scorer = instsel.Scorer("no/such", device="cpu")
    for use in (lambda: scorer.model, lambda: scorer.tokenizer, lambda: scorer.outline):
        with pytest.raises(ValueError, match=r"no/such.*127\.0\.0\.1.*cannot be reached.*cache holds no model"):
            use()
    assert len(tries) == 1, "the client's own retries take more than twenty seconds"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"no/such.*HF_HUB_OFFLINE is set.*cache holds no model"):
        instsel.Scorer("no/such", device="cpu").model  # noqa: B018
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("setting", [None, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_a_cached_model_is_used_without_a_retry(
    monkeypatch: pytest.MonkeyPatch, setting: str | None, tries: list[object]
) -> None:
    cache_model("some/model")
    pairs = [("a", "b"), ("the", " thing")]
    want = instsel.score_batch(instsel.Scorer(tiny_model_folder(), device="cpu"), pairs).mean_logprob.tolist()
    if setting is not None:
        monkeypatch.setenv(setting, "1")
    scorer = instsel.Scorer("some/model", device="cpu")
    if setting is None:
        with pytest.warns(UserWarning, match=r"cannot be reached.*'some/model' is taken from the local cache"):
            scorer.model  # noqa: B018
    assert instsel.score_batch(scorer, pairs).mean_logprob.tolist() == want
    assert len(tries) == (1 if setting is None else 0)
    assert not constants.HF_HUB_OFFLINE, "the client's own setting is as it was"


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], tries: list[object]
) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", 5)
    assert main(["ifd", str(rows), "--model", "no/such", "--output", str(tmp_path / "run")]) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "cannot be reached" in said.err, said.err
    assert len(tries) == 1 and not (tmp_path / "run").exists()


def test_a_hub_that_answers_or_stands_behind_a_proxy_is_left_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str) -> bool:
        with hub.cache_alone_if_out_of_reach(name):
            return bool(constants.HF_HUB_OFFLINE)

    with pytest.raises(ConnectionError):
        offline("no/such")
    assert not offline(tiny_model_folder()), "a folder needs no hub"
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert not offline("no/such")
    monkeypatch.delenv("HTTP_PROXY")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert not offline("no/such")


def test_errors_within_the_block_put_the_client_back() -> None:
    cache_model("some/model")
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning), hub.cache_alone_if_out_of_reach("some/model"):
        assert constants.HF_HUB_OFFLINE
        raise KeyboardInterrupt
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_swallows_connections_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(address: Any, timeout: float) -> socket.socket:
        released.wait(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(hub, "SECONDS", 0.05)
    with pytest.raises(ConnectionError, match="timed out"), hub.cache_alone_if_out_of_reach("no/such"):
        pass
