"""The faults that `make mutants` puts in still apply, and its table tells seen from unseen."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants.catalogue import LISTS, applied, put_into
from mutants.copies import PROJECT, Copy
from mutants.faults import Fault

FAULTS = [fault for found in LISTS.values() for fault in found]


def test_every_fault_applies_once_and_names_tests_that_are_there() -> None:
    for fault in FAULTS:
        assert applied(fault, (PROJECT / fault.file).read_text(encoding="utf-8"))
        files = [word for word in fault.tests.split() if word.startswith("tests/")]
        assert files and all((PROJECT / name.partition("::")[0]).is_file() for name in files), fault
    assert len({(fault.name, fault.file) for fault in FAULTS}) == len(FAULTS) > 150


@pytest.mark.parametrize(
    ("text", "instead", "said"),
    [
        ("no such text", "", "found it 0 times"),
        ("import", "", r"found it \d+ times"),
        ("def applied", "def applied", "nothing"),
    ],
)
def test_a_fault_that_does_not_apply_is_an_error(text: str, instead: str, said: str) -> None:
    path = "tests/mutants/catalogue.py"
    with pytest.raises(ValueError, match=said):
        applied(Fault("one", path, text, instead, ""), (PROJECT / path).read_text(encoding="utf-8"))


@pytest.mark.long
def test_a_copy_has_the_fault_and_the_project_does_not(tmp_path: Path) -> None:
    fault = next(one for one in FAULTS if one.name == "read before the copy is done")
    path = tmp_path / fault.file
    with Copy(tmp_path) as copy:
        with put_into(tmp_path, fault):
            assert path.read_text(encoding="utf-8") != (PROJECT / fault.file).read_text(encoding="utf-8")
            status, said = copy.run_tests("tests/test_device_copies.py")
        assert (status, said) == (1, "tests/test_device_copies.py::test_a_result_is_read_once_it_is_there")
        assert copy.run_tests("tests/test_device_copies.py")[0] == 0, "the next run has the file as it was"
    assert fault.text in (PROJECT / fault.file).read_text(encoding="utf-8")
    assert path.read_bytes() == (PROJECT / fault.file).read_bytes()
