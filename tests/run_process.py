"""Commands in processes of their own that can be stopped at any moment.

PyTorch and transformers take seconds to import, so one process imports them and every command runs in a fork of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_SERVER = """
import json, os, sys, time
import torch, transformers, pyarrow.parquet
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
import instsel.cli, instsel.engine.scorer, instsel.commands.method_command, instsel.runner.scored_run
import instsel.runs.shards

torch.set_num_threads(1)  # a pool of threads would not survive the fork
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{job['log']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        write = instsel.runs.shards.ShardFolder.write
        computed = os.open(f"{job['log']}.computed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        def noted(self, stage, number, *rest):
            os.write(computed, f"{stage.name} {number}\\n".encode())
            return write(self, stage, number, *rest)
        instsel.runs.shards.ShardFolder.write = noted
        if job.get("prepare"):
            exec(compile(job["prepare"], "prepare", "exec"))
        code = 70
        try:
            code = instsel.cli.main(job["arguments"])
        finally:
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class CommandServer:
    """Runs commands in forks of a process that has the imports done."""

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("INSTSEL_TRACEBACK", None)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._line() == "ready"

    def start(self, arguments: Sequence[object], *, prepare: str = "") -> int:
        """Start a command and return its process id; `prepare` is Python run in the process before it."""
        assert self._process.stdin is not None
        job = {"arguments": [str(part) for part in arguments], "log": str(self.log), "prepare": prepare}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit code of the command that was started; minus the signal where one ended it."""
        return int(self._line())

    def run(self, arguments: Sequence[object], *, prepare: str = "") -> int:
        """Run a command to its end."""
        self.start(arguments, prepare=prepare)
        return self.wait()

    def wait_for(self, child: int, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds; an error if the command ends before, or does not get there in two minutes."""
        deadline = time.monotonic() + 120
        while not condition():
            assert not self._has_ended(child), self.errors
            if time.monotonic() > deadline:  # ended, so that the next command does not wait for it
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"the command did not get there in two minutes: {self.errors}, {self.wait()}")
            time.sleep(0.005)

    @property
    def errors(self) -> str:
        """What the last command wrote to standard error."""
        return Path(f"{self.log}.err").read_text(encoding="utf-8", errors="replace")

    @property
    def output(self) -> str:
        """What the last command wrote to standard output."""
        return Path(f"{self.log}.out").read_text(encoding="utf-8", errors="replace")

    @property
    def computed(self) -> list[str]:
        """Every shard that was computed since the server began, as "stage number"."""
        path = Path(f"{self.log}.computed")
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that runs the commands has ended"
        return line.strip()

    @staticmethod
    def _has_ended(child: int) -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


@contextlib.contextmanager
def command_server(folder: Path) -> Iterator[CommandServer]:
    """A server that is ended at the end of the block."""
    server = CommandServer(folder / "command")
    try:
        yield server
    finally:
        server.close()
