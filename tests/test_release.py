"""The version stands in one place, and what else names it agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import instsel

ROOT = Path(__file__).parents[1]


def test_the_version_is_written_once() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project and not re.search(r"^version\s*=", project, re.MULTILINE)
    source = re.search(r'provider = "scikit_build_core.metadata.regex"\ninput = "(.+)"', project)
    assert source and f'__version__ = "{instsel.__version__}"' in (ROOT / source[1]).read_text(encoding="utf-8")


def test_the_changelog_and_the_citation_are_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    released = re.findall(r"^## (\d\S*) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert released[0] == (instsel.__version__, str(cited["date-released"])) == (cited["version"], released[0][1])


def test_every_admitted_python_gets_a_wheel() -> None:
    yaml = pytest.importorskip("yaml")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    built = re.search(r'^build = "(.+)"$', project, re.MULTILINE)
    lowest = re.search(r'^requires-python = ">=3\.(\d+)"$', project, re.MULTILINE)
    assert built and lowest and built[1].split() == [f"cp3{minor}-*" for minor in range(int(lowest[1]), 14)]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8"))["jobs"]
    assert {entry["name"] for entry in jobs["wheels"]["strategy"]["matrix"]["include"]} == {
        "linux x86-64", "linux aarch64", "macos arm64",
    }  # fmt: skip
    assert set(jobs["without-compiler"]["strategy"]["matrix"]["python"]) <= {"3.10", "3.11", "3.12", "3.13"}
