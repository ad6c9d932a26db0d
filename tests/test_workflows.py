"""The workflows that cannot be run here: every Python that is admitted, and commands that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
LOWEST = int(re.findall(r'^requires-python = ">=3\.(\d+)"$', PROJECT, re.MULTILINE)[0])
ADMITTED = [f"3.{minor}" for minor in range(LOWEST, 14)]


def jobs(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))["jobs"]
    return found


def unknown_targets(command: str, makefile: str) -> set[str]:
    """What a command asks of make that the Makefile does not have."""
    words = " ".join(re.findall(r"\bmake ([\w =-]+)", command)).split()
    asked = {word for word in words if not word.startswith("--")}
    return asked - set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_every_admitted_python_gets_a_wheel() -> None:
    built = re.findall(r'^build = "(.+)"$', PROJECT, re.MULTILINE)
    assert built[0].split() == [f"cp{version.replace('.', '')}-*" for version in ADMITTED]
    wheels = jobs("wheels.yml")
    assert {entry["name"] for entry in wheels["wheels"]["strategy"]["matrix"]["include"]} == {
        "linux x86-64", "linux aarch64", "macos arm64",
    }  # fmt: skip
    assert set(wheels["without-compiler"]["strategy"]["matrix"]["python"]) <= set(ADMITTED)


def test_a_pull_request_runs_all_checks_and_the_quick_tests_on_every_admitted_python() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    runs = jobs("checks.yml")["make"]["strategy"]["matrix"]["include"]
    pythons: dict[str, list[str]] = {}
    for run in runs:
        assert run["python"] in ADMITTED
        assert not unknown_targets(f"make {run['targets']}", makefile)
        for target in run["targets"].split():
            pythons.setdefault(target, []).append(run["python"])
    assert pythons["test-quick"] == ADMITTED
    assert set(pythons) == {"lint", "types", "docs", "test-quick", "test", "sanitize", "fuzz"}
    assert [step["run"] for step in jobs("checks.yml")["make"]["steps"] if "run" in step] == [
        "make ${{ matrix.targets }}"
    ]
    assert unknown_targets("make lint tset", makefile) == {"tset"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_its_jobs_are_whole(path: Path) -> None:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found["permissions"] == {"contents": "read"}
    assert "pull_request" in found[True], "YAML reads the key `on` as true"
    for name, job in found["jobs"].items():
        assert job["runs-on"] and set(job.get("needs", "").split()) <= set(found["jobs"]), name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"] == {"persist-credentials": False}, name


@pytest.mark.skipif(not (ROOT / ".ci").is_dir(), reason="not part of the source archive")
def test_the_check_of_a_clean_clone_runs_targets_that_there_are() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "\nmake test\n" in script
    assert not unknown_targets(script, (ROOT / "Makefile").read_text(encoding="utf-8"))
