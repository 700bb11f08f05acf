"""Sphinx: pages in Markdown, the API from docstrings. `make docs` builds them, with warnings as errors."""

import re

import qdesampler

project = "qdesampler"
author = "The qdesampler authors"
release = qdesampler.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Posterior sampling for NumPyro by imaginary time",
    "page_width": "1060px",
    "fixed_sidebar": True,
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchfield.html"]}

default_role = "literal"  # docstrings write code in single backquotes, as Markdown does
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # the signature's own words; aliases unfolded by Sphinx are unreadable
autodoc_preserve_defaults = True
napoleon_use_ivar = True

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note|Notes):$")


def keep_formulas(app, what, name, obj, options, lines):
    """Show indented lines before the first section as written: in docstrings they are formulas or code."""
    del app, what, name, obj, options
    seen: list[str] = []
    inside = False
    for place, line in enumerate(lines):
        if SECTION.match(line):
            seen.extend(lines[place:])
            break
        indented = line.startswith("    ")
        if indented and not inside and (not seen or not seen[-1].strip()):
            above = next((text for text in reversed(seen) if text.strip()), "")
            seen.extend([above[: len(above) - len(above.lstrip())] + "::", ""])
            inside = True
        inside = inside and (indented or not line.strip())
        seen.append(line)
    lines[:] = seen


def skip_aliases(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples: their class describes them."""
    del app, what, name, options
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else skip


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_aliases)
