"""Every kernel compiled by every Triton that a supported torch brings: they allot registers differently."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")
import triton_versions
from test_triton_kernels import ARCHITECTURES, SHARED, check, compiled
from triton_versions import PINNED_BY, triton_folder

GROUPS = "small,linear,linear_variants,attention,attention_variants"


def test_a_folder_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes ask at once, and one finds the other's folder in its way."""
    monkeypatch.setattr(triton_versions, "FOLDER", tmp_path)

    def install(command: list[str], check: bool) -> None:
        Path(command[command.index("--target") + 1], "triton").mkdir()
        (tmp_path / "3.6.0").mkdir()
        (tmp_path / "3.6.0" / "of another").touch()

    monkeypatch.setattr(triton_versions.subprocess, "run", install)
    assert triton_folder("3.6.0") == tmp_path / "3.6.0"
    assert [one.name for one in tmp_path.iterdir()] == ["3.6.0"]

    def fail(command: list[str], check: bool) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(triton_versions.subprocess, "run", fail)
    with pytest.raises(OSError, match="no space"):
        triton_folder("3.8.0")
    assert [one.name for one in tmp_path.iterdir()] == ["3.6.0"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("version", PINNED_BY)
def test_compiled_by(version: str, architecture: str) -> None:
    folder = triton_folder(version)
    rows = compiled(architecture, GROUPS, triton=folder)
    check(rows, architecture)
    recurrences = compiled(architecture, script="compiled_recurrences.py", triton=folder)
    assert len(recurrences) == 9
    for row in recurrences:
        assert row["spill_bytes"] == 0 or architecture == "gfx942", row
        assert row["shared_bytes"] <= 1024 * SHARED[architecture], row  # type: ignore[operator]
    assert {row["triton"] for row in [*rows, *recurrences]} == {version}
