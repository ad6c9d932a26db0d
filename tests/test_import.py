from __future__ import annotations

import subprocess
import sys

OPTIONAL = [
    "torch",
    "transformers",
    "triton",
    "datasets",
    "faiss",
    "sentence_transformers",
    "flash_attn",
    "pandas",
    "pyarrow",
    "polars",
    "mypy",
    "sklearn",
    "tqdm",
    "tokenizers",
]


def run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_import_loads_neither_torch_nor_any_optional_package() -> None:
    loaded = run("import sys, instsel; print('\\n'.join(m for m in sys.modules if '.' not in m))").split()
    assert "instsel" in loaded
    assert not set(OPTIONAL) & set(loaded)


def test_import_takes_less_than_a_third_of_a_second_beyond_numpy() -> None:
    """Processor time, since other work may run beside the tests; the best of three."""
    program = "import numpy, time; b = time.process_time(); import instsel; print(time.process_time() - b)"
    assert min(float(run(program)) for _ in range(3)) < 0.3


def test_public_names_are_there_when_asked_for_and_say_so_when_not() -> None:
    program = "import instsel; print([n for n in instsel.__all__ if not callable(getattr(instsel, n))])"
    assert run(program) == "['__version__', 'kernels']\n"
    out = run("import instsel\ntry:\n    instsel.nothing\nexcept AttributeError as error:\n    print(error)")
    assert "'instsel'" in out and "'nothing'" in out


def test_the_demo_is_loaded_by_its_command_alone() -> None:
    """Neither the package nor the command line's parsers know of the demo's model and its generator of data."""
    begin = "import sys, instsel.cli; instsel.cli.build_parser()"
    end = "; print([name for name in sys.modules if name.startswith('instsel.demo')])"
    assert run(begin + end) == "[]\n"
    assert "'instsel.demo'" in run(begin + "; import instsel.demo" + end)
