from __future__ import annotations

import json
import subprocess
import sys

import pytest


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_import_loads_no_package_but_numpy() -> None:
    """Neither torch nor any optional package, and so it takes a third of a second and not seconds."""
    find = "list({m.partition('.')[0] for m in sys.modules} - before - set(sys.stdlib_module_names))"
    loaded = run(f"import json, sys; before = {{*sys.modules}}; import instsel; print(json.dumps({find}))")
    found = {name for name in json.loads(loaded) if not name.startswith("_")}
    assert "instsel" in found and found <= {"instsel", "numpy"}


@pytest.mark.slow
def test_import_takes_less_than_a_third_of_a_second_beyond_numpy() -> None:
    """Processor time, since other work may run beside the tests; the best of three."""
    program = "import numpy, time; b = time.process_time(); import instsel; print(time.process_time() - b)"
    assert min(float(run(program)) for _ in range(3)) < 0.3


@pytest.mark.long
def test_public_names_are_there_when_asked_for_and_say_so_when_not() -> None:
    program = "import instsel; print([n for n in instsel.__all__ if not callable(getattr(instsel, n))])"
    assert run(program) == "['__version__', 'kernels']\n"
    out = run("import instsel\ntry:\n    instsel.nothing\nexcept AttributeError as error:\n    print(error)")
    assert "'instsel'" in out and "'nothing'" in out


@pytest.mark.long
def test_the_demo_is_loaded_by_its_command_alone() -> None:
    """Neither the package nor the command line's parsers know of the demo's model and its generator of data."""
    begin = "import sys, instsel.cli; instsel.cli.build_parser()"
    end = "; print([name for name in sys.modules if name.startswith('instsel.demo')])"
    assert run(begin + end) == "[]\n"
    assert "'instsel.demo'" in run(begin + "; import instsel.demo" + end)
