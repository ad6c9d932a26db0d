"""The table of public templates in docs/conversations.md is what the templates do."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL carries the templates"),
    pytest.mark.filterwarnings("ignore:not part of the prompt"),
]


def test_the_page_says_what_templates_do() -> None:
    import template_table

    found = template_table.BLOCK.search(template_table.PAGE.read_text(encoding="utf-8"))
    assert found is not None
    version = metadata.version("trl")
    if f"of TRL {version} " not in found[1]:
        pytest.skip(f"the page's table is of another version of TRL than {version}")
    assert found[1] == template_table.table()
