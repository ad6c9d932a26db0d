"""A copy of the project in a folder of its own, and running tests of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

PROJECT = Path(__file__).resolve().parents[2]
# The installed package's finder stands before the path: it is taken out, so that the copy is imported.
CUSTOMIZE = """\
import sys
sys.meta_path[:] = [one for one in sys.meta_path if "instsel" not in getattr(one, "known_source_files", {})]
"""


class Copy:
    """The files that git knows or would add, and the C++ module that is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._warm: dict[bool, subprocess.Popen[str]] = {}  # by whether Triton's kernels are interpreted
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(listed, cwd=PROJECT, capture_output=True, check=True).stdout.decode().split("\0")
        for name in names:
            if (PROJECT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, folder / name)
        from instsel.kernels import _native

        assert _native.__file__ is not None
        shutil.copy2(_native.__file__, folder / "kernels")
        (folder / "instsel/kernels").symlink_to("../kernels")
        (folder / "sitecustomize.py").write_text(CUSTOMIZE, encoding="utf-8")

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._warm.values():
            process.kill()
            process.communicate()

    def run_tests(self, tests: str) -> tuple[int, str]:
        """Pytest's exit status, and the first test that failed (or the last lines that were written)."""
        arguments = [*shlex.split(tests), "-p", "no:cacheprovider", "-p", "no:benchmark", "-x"]
        arguments += ["-m", "", "--tb=no", "-rfE", "--timeout", "300"]
        process, written = self._process("tests/interpreted" in tests), self.folder / ".written"
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([arguments, str(written)]) + "\n")
        process.stdin.flush()
        status, said = int(process.stdout.readline()), written.read_text(encoding="utf-8")
        failed = re.search(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", said, re.MULTILINE)
        return status, failed[1] if failed else "\n".join(said.splitlines()[-6:])

    def _process(self, interpreted: bool) -> subprocess.Popen[str]:
        if interpreted not in self._warm:
            environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
            environment |= {"PYTHONPATH": os.pathsep.join([str(self.folder), str(self.folder / "tests")])}
            environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb", "COLUMNS": "200"}
            environment |= {"TRITON_CACHE_DIR": str(self.folder / ".triton")}
            if interpreted:
                environment["TRITON_INTERPRET"] = "1"
            self._warm[interpreted] = subprocess.Popen(
                [sys.executable, "-m", "mutants.warm"], cwd=self.folder, env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self._warm[interpreted]
