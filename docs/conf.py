"""How Sphinx builds these pages: `make docs`."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import instsel
from instsel import optional_packages

project = "instsel"
author = "the authors of instsel"
copyright = author
version = release = instsel.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "directives"]
exclude_patterns = ["extensions"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# The adapters' hosts are not needed to read what the adapters say.
autodoc_mock_imports = ["lm_eval", "data_juicer", "distilabel", "pydantic", "datasets", "ray"]
optional_packages.need_package = lambda *asked, **options: None
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
# Types of other packages, whose pages are not here, and of what a user only passes on.
nitpick_ignore_regex = [
    ("py:.*", r"(?!instsel\.).*"),
    (
        "py:class",
        r".*\.(OwnTemplate|CausalModel|ChatSettings|WorkerBackend|ModelSession|PreparedRequests|Layout|Execution|PlannedTree"
        r"|MethodFunction)",
    ),
]

smartquotes = False

html_theme = "furo"
html_title = "instsel"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
suppress_warnings = ["myst.strikethrough"]
