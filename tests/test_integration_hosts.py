"""An adapter says what to install where its host is absent or of another version."""

from __future__ import annotations

import subprocess
import sys

import pytest

from instsel.integrations.hosts import need_host


def test_a_host_that_is_there_in_a_fitting_version_is_fine():
    need_host("numpy", "numpy", ">=1", extra="arrays")


def test_an_absent_host_names_the_extra():
    with pytest.raises(ImportError, match=r"no-such-host is not installed: pip install 'instsel\[some\]'"):
        need_host("no-such-host", "no_such_host", ">=1", extra="some")


def test_another_version_names_the_range_that_works():
    with pytest.raises(ImportError, match=r"instsel works with numpy >=99,<100, found \d.*instsel\[some\]"):
        need_host("numpy", "numpy", ">=99,<100", extra="some")


@pytest.mark.parametrize("module, host, extra", [("lm_eval", "lm_eval", "lm-eval")])
def test_an_adapter_without_its_host(module, host, extra):
    code = (
        f"import importlib.util as u; real = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {host!r} else real(name, *a)\n"
        f"import runpy; runpy.run_module('instsel.integrations.{module}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: ")
    assert f"pip install 'instsel[{extra}]'" in done.stderr and "Traceback" not in done.stderr
