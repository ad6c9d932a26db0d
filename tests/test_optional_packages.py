"""A missing optional package names the extra to install, and one of another version the range that works."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import runpy
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.specifiers import SpecifierSet

from instsel.kernels import backends, varlen_attention
from instsel.kernels.attention_kinds import AttentionKind
from instsel.optional_packages import need_package

ROOT = Path(__file__).parents[1]
ADAPTERS = {  # each with its host's distribution and module, and the extra
    "data_juicer": ("py-data-juicer", "data_juicer", "data-juicer"),
    "datasets": ("datasets", "datasets", "datasets"),
    "distilabel": ("distilabel", "distilabel", "distilabel"),
    "lm_eval": ("lm-eval", "lm_eval", "lm-eval"),
    "ray_data": ("ray", "ray", "ray"),
}


def test_a_package_that_is_there_in_a_fitting_version_is_fine() -> None:
    need_package("numpy", "numpy", ">=1", extra="arrays")


def test_an_absent_package_names_the_extra() -> None:
    with pytest.raises(ImportError, match=r"no-such-host is not installed: pip install 'instsel\[some\]'"):
        need_package("no-such-host", "no_such_host", ">=1", extra="some")


def test_another_version_names_the_range_that_works() -> None:
    with pytest.raises(ImportError, match=r"instsel works with numpy >=99,<100, found \d.*instsel\[some\]"):
        need_package("numpy", "numpy", ">=99,<100", extra="some")


def test_a_package_without_a_version_is_taken_as_it_is() -> None:
    need_package("the-tests-themselves", "pytest", ">=99", extra="some")


def pretend(monkeypatch: pytest.MonkeyPatch, module: str, distribution: str, version: str | None) -> None:
    """As if a module were absent, or there in a version."""
    real_spec, real_version = importlib.util.find_spec, importlib.metadata.version
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: (real_spec("json") if version else None) if name == module else real_spec(name, *a),
    )
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: str(version) if name == distribution else real_version(name)
    )


def test_every_adapter_is_tested_here() -> None:
    found = {path.stem for path in (ROOT / "instsel/integrations").glob("[a-z]*.py")}
    assert found == set(ADAPTERS)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_without_its_host_or_with_another_version(adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution, module, extra = ADAPTERS[adapter]
    pretend(monkeypatch, module, distribution, None)
    with pytest.raises(ImportError, match=rf"^{distribution} is not installed: pip install 'instsel\[{extra}\]'$"):
        runpy.run_module(f"instsel.integrations.{adapter}")
    monkeypatch.undo()
    pretend(monkeypatch, module, distribution, "0.0.1")
    with pytest.raises(ImportError, match=rf"^instsel works with {distribution} >=\d\S*, found 0.0.1: .*\[{extra}\]'$"):
        runpy.run_module(f"instsel.integrations.{adapter}")


@pytest.mark.long
def test_the_harness_command_line_says_so_in_one_line() -> None:
    code = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'lm_eval' else real(name, *a)\n"
        "import runpy; runpy.run_module('instsel.integrations.lm_eval', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "pip install 'instsel[lm-eval]'" in done.stderr and "Traceback" not in done.stderr


def asked_for() -> Iterator[tuple[str, str, str]]:
    """Each call of `need_package` in the sources: distribution, versions, extra."""
    for path in sorted((ROOT / "instsel").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "need_package":
                distribution, _, versions = (ast.literal_eval(one) for one in node.args)
                [extra] = [ast.literal_eval(one.value) for one in node.keywords if one.arg == "extra"]
                yield distribution, versions, extra


def test_the_ranges_are_those_that_the_extras_install() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = [*asked_for(), ("triton", backends.TRITON_VERSIONS, "triton")]
    found.append(("flash-attn", varlen_attention.FLASH_ATTN_VERSIONS, "flash"))
    for distribution, versions, extra in found:
        line = re.search(rf"^{extra} = \[(.*)\]$", project, re.MULTILINE)
        assert line is not None, extra
        stated = re.search(rf'"{distribution}(?:\[\w+\])?([<>=][^";]*)', line[1])
        assert stated is not None and SpecifierSet(stated[1]) == SpecifierSet(versions), (distribution, versions)
    extras = {extra for _, _, extra in found}
    assert extras == {
        "lm-eval", "datasets", "ray", "data-juicer", "distilabel", "tables", "embeddings", "index", "triton", "flash",
        "gguf", "peft", "duplicates",
    }  # fmt: skip


FUNCTION = "flash_attn_varlen_func"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the kernels have found of optional packages, found anew."""
    kept = (backends.triton_error, varlen_attention.has_flash_attn, backends._say_slower)
    capability: Any = lambda device=None: (9, 0)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    for one in kept:
        one.cache_clear()
    yield
    for one in kept:
        one.cache_clear()


@pytest.mark.parametrize(("version", "says"), [(None, "not installed"), ("3.1.0", r">=3.5,<3.10, found 3.1.0")])
def test_triton_that_is_absent_or_of_another_version(
    version: str | None, says: str, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "triton", "triton", version)
    with pytest.raises(ValueError, match=rf"'triton' cannot be used: .*{says} \(pip install 'instsel\[triton\]'\)"):
        backends.choose_backend("triton", torch.device("cuda"))
    with pytest.warns(UserWarning, match=rf"slower: .*{says}"):
        assert backends.choose_backend("auto", torch.device("cuda")) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert backends.choose_backend("auto", torch.device("cuda")) == "reference"


def test_triton_of_a_fitting_version_is_taken(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "triton", "triton", "3.6.0+git1")
    assert backends.choose_backend("auto", torch.device("cuda")) == "triton"


def test_flash_attention_of_another_version_is_not_taken(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(version: str | None, function: str = FUNCTION) -> Any:
        varlen_attention.has_flash_attn.cache_clear()
        pretend(monkeypatch, "flash_attn", "flash-attn", version)
        monkeypatch.setattr(varlen_attention, "has_torch_varlen", lambda: False)
        monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(**{function: None}))
        kind = AttentionKind(torch.device("cuda"), torch.bfloat16, 64, 4, False, False, False)
        return varlen_attention.varlen_error(kind)

    assert error("2.7.4") is None
    for version, function in ((None, FUNCTION), ("2.5.0", FUNCTION), ("4.0.0", "flash_attn_func")):
        assert "neither flash-attn >=2.6 (pip install 'instsel[flash]')" in error(version, function)


def test_a_gpu_from_before_the_kernels(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "triton", "triton", "3.7.1")
    assert backends.choose_backend("auto", torch.device("cuda:0")) == "triton"
    backends.triton_error.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    with pytest.raises(ValueError, match=r"compute capability 8\.0 or later, and cuda:0 has 7\.5"):
        backends.choose_backend("triton", torch.device("cuda:0"))
    with pytest.warns(UserWarning, match=r"slower: .*has 7\.5"):
        assert backends.choose_backend("auto", torch.device("cuda:0")) == "reference"


def test_older_packages_in_the_middle_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    import instsel
    from instsel.neighbors.nearest import nearest_neighbors

    result = instsel.ScoreBatch(*(np.zeros(1) for _ in range(4)), np.array(["ok"]), None, instsel.ScoreStats())
    for distribution, name, say in (("pandas", "to_pandas", ">=2"), ("polars", "to_polars", ">=1")):
        pretend(monkeypatch, distribution, distribution, "0.1")
        with pytest.raises(ImportError, match=rf"works with {distribution} {say}, found 0.1.*instsel\[tables\]"):
            getattr(result, name)()
        monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "faiss", sys)  # there, whatever it is
    pretend_version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: "1.0" if n == "faiss-cpu" else pretend_version(n))
    with pytest.raises(ImportError, match=r"works with faiss-cpu >=1.8, found 1.0.*instsel\[index\]"):
        nearest_neighbors(np.random.default_rng(0).normal(size=(50, 4)), 3, exact_limit=20)
