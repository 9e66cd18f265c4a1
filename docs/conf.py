"""Sphinx configuration: MyST pages, API from docstrings, reference tables from code (`tables.py`), no network."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from verl_visionr1 import __version__

project = "verl-visionr1"
author = "the verl-visionr1 authors"
release = version = __version__
html_title = f"verl-visionr1 {release}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_repository": "", "navigation_with_keys": True}
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "example", "pictures", "tutorials/README.rst", "reference/generated"]
suppress_warnings = ["toc.empty_glob", "toc.not_included"]
default_role = "code"  # docstrings write `code` in single backticks

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block", "attrs_inline"]
myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "tutorial",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "default_thumb_file": str(HERE / "pictures" / "thumb.png"),
    "write_computation_times": False,
    "capture_repr": ("_repr_html_", "__repr__"),
    "plot_gallery": "True",
}


def setup(app: Sphinx) -> None:
    """Write the tables that come from code before Sphinx reads its pages."""
    import tables

    app.connect("builder-inited", lambda _: tables.write(HERE / "reference" / "generated"))
    app.connect("autodoc-process-docstring", lambda *arguments: _escape(arguments[-1]))


def _escape(lines: list[str]) -> None:
    """Docstrings are plain text with `code`: what else reStructuredText would read as markup is escaped, in place."""
    for i, line in enumerate(lines):
        parts = re.split(r"(?<!`)(`[^`]+`)(?!`)", line.replace("```", "triple-backtick"))
        lines[i] = "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)
