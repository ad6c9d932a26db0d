"""The demo: a small trained model, data whose truth is known, and a page that shows what the methods find."""

from __future__ import annotations

from pathlib import Path


def run_demo(output: Path, *, quiet: bool, seed: int) -> int:
    """Run the demo into the folder `output`; see `instsel.demo.run.run_demo`."""
    from instsel.demo import run

    return run.run_demo(output, quiet=quiet, seed=seed)


__all__ = ["run_demo"]
