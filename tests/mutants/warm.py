"""Runs pytest in forks of a process that has imported what all tests import: a run begins at once, not after seconds.

Reads lines [arguments, file for what is written] as JSON, and prints pytest's exit status for each.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

PACKAGES = ("numpy", "torch", "triton", "transformers.models.llama.modeling_llama", "pytest")


def serve() -> None:
    for name in PACKAGES:  # never the project itself, which each run imports with the fault it is about
        importlib.import_module(name)
    assert "instsel" not in sys.modules
    for line in sys.stdin:
        arguments, path = json.loads(line)
        child = os.fork()
        if not child:
            output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            import pytest

            status = int(pytest.main(arguments))
            sys.stdout.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
