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
