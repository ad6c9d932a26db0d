"""Folders with the versions of Triton that users get, those that torch pins; installed when first asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# As torch's packages for CUDA say in their metadata (Requires-Dist).
PINNED_BY = {
    "3.6.0": "torch 2.10 and 2.11",
    "3.7.0": "torch 2.12.0",
    "3.7.1": "torch 2.12.1 and 2.13",
    "3.8.0": "torch 2.14",
    "3.9.0": "torch 2.15",
}
FOLDER = Path(__file__).parent.parent / "build" / "tritons"


def triton_folder(version: str) -> Path:
    """The folder to put on the path for one version; whole or absent, also where processes ask at the same time."""
    folder = FOLDER / version
    if folder.is_dir():
        return folder
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=FOLDER))
    options = ["--quiet", "--no-deps", "--target", str(made), f"triton=={version}"]
    try:
        subprocess.run([sys.executable, "-m", "pip", "install", *options], check=True)
        os.rename(made, folder)
    except OSError:  # another process was faster
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder
