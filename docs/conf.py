"""The documentation site: `make docs` builds it into build/docs, without a network.

Pages are the Markdown files of this folder; README.md, DESIGN.md and the notebooks are shown where
they are, and the reference is made from conf/ and from docstrings (src/documentation).
"""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

import latex2mathml.converter
from docutils import nodes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from src.documentation.docstrings import as_rst  # noqa: E402
from src.documentation.pages import SHOWN, copy_notebooks, page  # noqa: E402

project = "bilevel"
author = "the authors of bilevel"
project_copyright = ""
version = release = version_of("bilevel")

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
add_module_names = False

highlight_language = "none"  # most blocks are command lines and formulas
html_theme = "sphinx_book_theme"
html_title = "bilevel"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # one search field is enough
    "footer_content_items": [],
}
html_math_renderer = "mathml"


def formula(writer, node, display):
    """LaTeX as MathML, which browsers draw themselves."""
    html = latex2mathml.converter.convert(node.astext(), display=display)
    writer.body.append(html if display == "inline" else f'<div class="formula">{html}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml",
        (lambda writer, node: formula(writer, node, "inline"), None),
        (lambda writer, node: formula(writer, node, "block"), None),
    )
    app.connect("config-inited", lambda app, config: copy_notebooks(Path(app.srcdir)))
    app.connect("env-get-outdated", lambda *_: [*SHOWN, "vocabulary", "keys", "api"])
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", plain_docstring)


def read_page(app, name, content):
    if not name.startswith("tutorial/"):
        content[0] = page(name, content[0])


def plain_docstring(app, what, name, thing, options, lines):
    lines[:] = as_rst(lines)
