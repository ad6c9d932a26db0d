"""Puts each fault into a copy of the project and says which test sees it.

    python -m mutants [--only WORD] [--list NAME] [--processes N]

Fails if a fault is not seen, if one no longer applies, or if the tests fail without any.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from .catalogue import LISTS, put_into
from .copies import Copy
from .faults import Fault

# A test fails, or a fault reads or writes memory that is not its own, which ends the process of its tests.
SEEN = (1, -signal.SIGSEGV, -signal.SIGABRT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a regular expression of names")
    parser.add_argument("--list", choices=list(LISTS), help="the faults of one list")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    faults = [one for name, found in LISTS.items() if given.list in (None, name) for one in found]
    faults = [one for one in faults if re.search(given.only, one.name)]
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants"))
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(given.processes):
            copies.put(stack.enter_context(Copy(Path(scratch) / str(number))))
        pool = stack.enter_context(ThreadPoolExecutor(given.processes))

        def sound(tests: str) -> tuple[str, int, str]:
            copy = copies.get()
            try:
                return tests, *copy.run_tests(tests)
            finally:
                copies.put(copy)

        def seen(fault: Fault) -> tuple[Fault, int, str]:
            copy = copies.get()
            try:
                with put_into(copy.folder, fault):
                    return fault, *copy.run_tests(fault.tests)
            finally:
                copies.put(copy)

        for tests, status, said in pool.map(sound, dict.fromkeys(one.tests for one in faults)):
            if status:
                print(f"without any fault: {tests}: {said}")
                return 1
        missed = 0
        for fault, status, said in pool.map(seen, faults):
            missed += status not in SEEN
            said = said if status in SEEN else f"NOT SEEN by {fault.tests} (pytest ends with {status})"
            print(f"{fault.file:40} {fault.name:60} {said}", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults are seen")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
