"""Documented names that have others now: programs and plug-ins which import them run, and are told the new one."""

from __future__ import annotations

import importlib

import pytest

FORMER = {  # module, name, and where it is now
    "WorkersError": ("instsel.parallel.crew", "instsel.parallel.worker_backend.WorkersError"),
    "Slice": ("instsel.methods.stages", "instsel.methods.stages.StageSlice"),
}


@pytest.mark.parametrize("name", FORMER)
def test_a_former_name_is_the_new_one_with_a_warning(name: str) -> None:
    module, now = FORMER[name]
    holder, _, new = now.rpartition(".")
    with pytest.warns(DeprecationWarning, match=new if new != name else holder) as caught:
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(holder), new)
    assert caught[0].filename == __file__, "the warning names the line that imports"


@pytest.mark.parametrize("module", [module for module, _ in FORMER.values()])
def test_no_other_name_is_there(module: str) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = importlib.import_module(module).no_such_name
