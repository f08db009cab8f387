"""Sphinx's settings: Markdown pages in this folder, and what is read off the code by `_ext`."""

import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

project = "aaexport"
author = "the authors of aaexport"
release = version = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "from_code",
]
exclude_patterns = ["_build", "_ext", "results"]
source_suffix = {".md": "markdown"}
root_doc = "index"

# What `code` is in a docstring: code, without a link; links are written out.
default_role = "code"
nitpicky = True
# Types of other packages, and our own rooms' that are not part of the public names.
nitpick_ignore_regex = [(r"py:.*", r"(?!aaexport\.[A-Za-z_]+$).*")]

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["myst.xref_ambiguous"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes"]
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = f"aaexport {version}"
html_static_path = ["_static"]
html_css_files = ["aaexport.css"]
html_show_sourcelink = html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}
html_sidebars = {page: [] for page in ("tutorial", "results", "gallery", "troubleshooting", "glossary", "comparison")}


def setup(app):
    """The gallery's pages are taken as they are, beside the page that links them."""
    app.connect("build-finished", lambda app, error: error or _copy_gallery(Path(app.outdir)))


def _copy_gallery(out):
    shutil.copytree(HERE / "gallery", out / "gallery", dirs_exist_ok=True)
