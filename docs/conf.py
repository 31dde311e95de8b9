"""How the site is built: `sphinx-build -W -n -b html docs docs/_build/html`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parent.parent)]

from cnxman import __version__  # noqa: E402 (the checkout's own)

project = "cnxman"
author = "The cnxman developers"
copyright = "the cnxman developers"  # noqa: A001 (Sphinx reads this name)
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "cnxman_docs"]
exclude_patterns = ["_build", "examples"]
default_role = "soft"
highlight_language = "python"
suppress_warnings = ["config.cache"]

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|enum|threading|typing|types|logging|automat|serial|asyncio|io|os|abc)\..*"),
    (
        "py:.*",
        r"Until|P|FrameT_co|LineT|RS485Settings|cnxman\.\w+\.(_\w+|P|\w+T|\w+T_co)|cnxman\.reading\.(Readable|StreamSignals)",
    ),
    ("py:.*", r"cnxman\._.*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_admonition_for_examples = False
python_maximum_signature_line_length = 110
smartquotes_action = "D"  # dashes alone: quotes are those of code more often than not
toc_object_entries_show_parents = "hide"  # "On this page" has no room for the class before each method

html_theme = "furo"
html_title = f"cnxman {version}"
html_static_path = ["_static"]
html_css_files = ["cnxman.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"sidebar_hide_name": False}
