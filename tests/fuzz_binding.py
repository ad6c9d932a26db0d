"""A fuzzer over the C++ module's binding, compiled with AddressSanitizer and UndefinedBehaviorSanitizer: `make fuzz`.

Calls every function with right arguments, which must be taken and give what float64 gives, and with wrong ones, which
must be taken or refused by ValueError or TypeError. Nothing may be written but what the call is for, and nothing at all
by a call that is refused. Longer by hand: make fuzz FUZZ_SECONDS=3600 FUZZ_SEED=7
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from fuzz_arrays import GuardedMemory
from fuzz_runs import fuzz

PATIENCE = 120  # seconds that a run may take beyond its budget before a call counts as hung


def load_module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_native", folder / "_native.so")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def control(name: str, folder: Path, note: Callable[[int], object]) -> int:
    """A fault on purpose: a memory error, undefined behaviour, or a module whose numbers or errors are wrong."""
    faults = ctypes.CDLL(str(folder / "control.so"))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    rng = np.random.default_rng(0)
    if name == "heap":
        faults.read_past(pointer(np.zeros(3, np.float32).ctypes.data), count(3))
    elif name == "page":
        memory = GuardedMemory()
        arrays = [memory.empty(rng, 16 * 1024, np.dtype(np.float32)) for _ in range(20)]
        for array in arrays:  # half of them lie on the heap, where this read goes unseen
            faults.read_past_unseen(pointer(array.ctypes.data), count(array.size))
    elif name == "alignment":
        faults.read_misaligned(pointer(np.zeros(8, np.uint8).ctypes.data))
    elif name == "overflow":
        faults.overflow(count(2**63 - 1))
    else:
        module = load_module(folder)

        def inexact(**arguments: Any) -> None:
            module.row_logprob(**arguments)
            arguments["logsumexps"][...] += 1e-3

        def careless(**arguments: Any) -> None:
            raise RuntimeError("not checked")

        wrong = {name: getattr(module, name) for name in dir(module) if not name.startswith("__")}
        wrong["row_logprob"] = inexact if name == "numbers" else careless
        return fuzz(SimpleNamespace(**wrong), 60.0, 0, 0, 2000, note)
    return 0


CONTROLS = {
    "heap": "heap-buffer-overflow",
    "page": "AddressSanitizer: SEGV",
    "alignment": "misaligned address",
    "overflow": "signed integer overflow",
    "numbers": "FAILED: row_logprob: logsumexps",
    "errors": "FAILED: row_logprob: RuntimeError",
}


def run_inside(folder: Path, arguments: list[str], seconds: float) -> tuple[int, str]:
    """Run this file with the sanitizers' libraries loaded first, as an interpreter without them needs."""
    if not (folder / "_native.so").exists():
        raise SystemExit(f"no {folder / '_native.so'}; run make fuzz, which compiles it")
    linked = subprocess.run(["ldd", folder / "_native.so"], check=True, capture_output=True, text=True).stdout
    paths = [line.split()[2] for line in linked.splitlines() if "=>" in line]
    order = ("libasan", "libubsan", "libstdc++")
    libraries = [path for prefix in order for path in paths if Path(path).name.startswith(prefix)]
    if not libraries:
        raise SystemExit(f"{folder / '_native.so'} is not compiled with AddressSanitizer; run make fuzz")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_WAIT_POLICY": "passive",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, "--inside", "--folder", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds + PATIENCE
        )
    except subprocess.TimeoutExpired as error:
        return 1, (error.output or b"").decode(errors="replace") + "FAILED: a call did not come back"
    return done.returncode, done.stdout.decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where _native.so and control.so lie")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--calls", type=int, default=2**62, help="how many calls at most")
    parser.add_argument("--prove", action="store_true", help="show first that faults made on purpose are reported")
    parser.add_argument("--control", choices=sorted(CONTROLS), help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    progress = options.folder / "call"
    if options.inside:
        file = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

        def note(number: int) -> None:
            os.pwrite(file, b"%d" % number, 0)

        if options.control:
            return control(options.control, options.folder, note)
        last = options.first + options.calls
        return fuzz(load_module(options.folder), options.seconds, options.seed, options.first, last, note)
    for name, expected in CONTROLS.items() if options.prove else ():
        code, output = run_inside(options.folder, ["--control", name], 60.0)
        if code == 0 or expected not in output:
            print(f'FAILED: the fault "{name}" was not reported as {expected!r} (exit status {code}):\n{output}')
            return 1
        print(f"a fault on purpose, {name}: reported, exit status {code}")
    arguments = [f"--{name}={getattr(options, name)}" for name in ("seconds", "seed", "first", "calls")]
    code, output = run_inside(options.folder, arguments, options.seconds)
    print(output, end="")
    if code != 0:
        number = progress.read_text()
        print(f"exit status {code}; again: python {__file__} --seed {options.seed} --first {number} --calls 1")
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
