"""The public names: what `dir` shows, what is there when asked for, and what a type checker knows of them."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import instsel

ROOT = Path(__file__).parent.parent
NAMES = {
    "Scorer", "score_batch", "plan_batch", "ScoreBatch", "ScoreStats", "Plan", "ifd", "DifficultyResult", "wici",
    "InfluenceResult", "grape", "GrapeResult", "select", "spearman_correlation", "kernels", "__version__",
}  # fmt: skip


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_dir_shows_the_public_names_and_no_module() -> None:
    shown = run("import instsel; print(*dir(instsel)); print(*instsel.__all__)").splitlines()
    assert set(shown[0].split()) >= NAMES and shown[0] == shown[1]
    assert shown[0].split() == sorted(set(shown[0].split()))
    assert not {"Any", "Path", "import_module", "annotations", "engine", "methods", "records"} & set(shown[0].split())


@pytest.mark.long
def test_every_module_loaded_leaves_the_public_names_what_they_are() -> None:
    """A module of a public name's own name would take its place."""
    # In a process of its own: an editable install shows the package's modules under a second name too.
    program = """
import importlib, pkgutil, instsel
public = {name: getattr(instsel, name) for name in instsel.__all__}
for module in pkgutil.walk_packages(instsel.__path__, "instsel."):
    if "__main__" not in module.name and not module.name.startswith("instsel.instsel"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:  # an adapter whose host is not installed
            assert module.name.startswith("instsel.integrations.") and "pip install 'instsel[" in str(error), error
print({name: getattr(instsel, name) for name in instsel.__all__} == public, dir(instsel) == sorted(public))
"""
    assert run(program).split() == ["True", "True"]


def test_the_stub_and_the_package_agree() -> None:
    """A name in the stub alone would pass the type checker and fail at run time, or the other way round."""
    body = ast.parse((ROOT / "instsel/__init__.pyi").read_text()).body
    imported = {alias.asname for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(instsel.__all__)
    for node in body:
        if isinstance(node, ast.ImportFrom):
            (alias,) = node.names
            assert alias.name == alias.asname and node.module is not None
            held = getattr(instsel, alias.name)
            if alias.name != "kernels":
                assert held is getattr(importlib.import_module(node.module), alias.name)
                assert held.__module__ == node.module, "each name is imported from where it is defined"


@pytest.mark.long
def test_a_star_import_gives_the_public_names() -> None:
    assert set(run("from instsel import *; print(*[n for n in dir() if n[:2] != '__' ])").split()) == {
        name for name in instsel.__all__ if name != "__version__"
    }


USER = '''
import instsel

def best(rows: list[dict[str, str]]) -> list[int]:
    """What a user writes, held to the types that the package states."""
    batch = instsel.score_batch(scorer, [("Once upon a", " time"), {"prompt": "a", "completion": "b"}])
    total: int = batch.stats.tokens_forwarded + len(batch)
    difficulty: instsel.DifficultyResult = instsel.ifd(scorer, rows, kind="loss")
    groups: instsel.GrapeResult = instsel.grape(scorer, rows)
    plan: instsel.Plan = instsel.plan_batch(scorer, [([1], [2])])
    rho: float = instsel.spearman_correlation(difficulty.ifd, difficulty.direct).rho
    frame = difficulty.to_pandas()
    table: dict[str, list[object]] = groups.to_dict()
    print(total, rho, frame, table, plan.sharing_factor, instsel.__version__)
    return [int(row) for row in kept]
'''


def readme_lines() -> str:
    """The first block of Python of the README, in which every later line of the user's stands."""
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is installed: its kernels within it."""
    site = tmp_path_factory.mktemp("site")
    (site / "instsel").mkdir()
    for path in (ROOT / "instsel").iterdir():
        (site / "instsel" / path.name).symlink_to(path)
    (site / "instsel/kernels").symlink_to(ROOT / "kernels")
    return site


# Errors within what is imported are not the user's; PyTorch and the like would take minutes to read.
CONFIGURATION = """
[mypy]
strict = true
follow_imports = silent
[mypy-torch.*,transformers.*,pandas.*,polars.*,pyarrow.*,tqdm.*]
follow_imports = skip
"""


def strict_mypy(site: Path, folder: Path, program: str) -> str:
    (folder / "user.py").write_text(program)
    (folder / "mypy.ini").write_text(CONFIGURATION)
    options = ["--config-file=mypy.ini", "--no-error-summary", "--cache-dir", str(site.parent / "mypy")]
    environment = {**os.environ, "MYPYPATH": str(site)}
    command = [sys.executable, "-m", "mypy", *options, "user.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.long
def test_strict_mypy_passes_the_lines_of_a_user_and_knows_their_types(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert strict_mypy(site, tmp_path, readme_lines() + USER) == ""
    found = strict_mypy(
        site,
        tmp_path,
        "import instsel\n"
        "scorer = instsel.Scorer('m', dtyp='float32')\n"
        "instsel.ifd(scorer, [], kind=3)\n"
        "instsel.nothing\n"
        "reveal_type(instsel.wici(scorer, []).score)\n",
    )
    assert all(f"user.py:{line}: error" in found for line in (2, 3, 4)), found
    assert "user.py:5" in found and "ndarray" in found.splitlines()[-1], found
