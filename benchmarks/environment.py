"""What a result was measured on: hardware and versions.

    python benchmarks/environment.py [DEVICE]

prints the name of this machine's folder in `benchmarks/results`, such as "intel-amx" or "amd-avx512-bf16".
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

# Instruction sets from the fastest down, as /proc/cpuinfo and folder names call them.
UNITS = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}
PACKAGES = ("torch", "transformers", "instsel", "lm-eval", "triton", "flash-attn")


def environment(device: str = "cpu") -> dict[str, Any]:
    """Hardware and versions as a dictionary for a result file."""
    found: dict[str, Any] = {
        "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    held_to = os.environ.get("INSTSEL_INSTRUCTION_SET")
    if held_to:
        found["held_to"] = held_to
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name, and whether it has matrix instructions for bfloat16."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = fields.get("flags", "").split()
    units = [flag for flag in UNITS if flag in flags]
    return f"{fields.get('model name', platform.processor())} ({', '.join(units)})"


def machine_name(found: dict[str, Any]) -> str:
    """The kind of machine of a result's environment: its GPU, or its processor's make and best instruction set.

    One that was held to a lesser set by INSTSEL_INSTRUCTION_SET is another kind.
    """
    if "gpu" in found:
        return re.sub(r"[^a-z0-9]+", "-", str(found["gpu"]).lower()).strip("-")
    processor = str(found["processor"])
    make = next((name for name in ("intel", "amd", "arm") if name in processor.lower()), "cpu")
    name = "-".join([make, *[name for flag, name in UNITS.items() if flag in processor][:1]])
    return name + (f"-held-to-{found['held_to']}" if "held_to" in found else "")


def _commit() -> str:
    """The commit that was measured, with a plus sign where files differ from it."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "../instsel", "../kernels", "../csrc"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


if __name__ == "__main__":
    print(machine_name(environment(sys.argv[1] if len(sys.argv) > 1 else "cpu")))
