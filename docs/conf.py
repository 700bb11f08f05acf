"""Sphinx: pages in Markdown, the API from docstrings. `make docs` builds them, with warnings as errors."""

import inspect
import re
import sys
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

import qdesampler

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

from cells import as_markdown, as_notebook  # noqa: E402
from gallery import with_pictures  # noqa: E402

project = "qdesampler"
author = "The qdesampler authors"
release = qdesampler.__version__
# Formulas as MathML, which browsers show by themselves; without the package MathJax is fetched by the reader.
MATHML = find_spec("latex2mathml") is not None
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += [] if MATHML else ["sphinx.ext.mathjax"]
html_math_renderer = "mathml" if MATHML else "mathjax"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_static_path = ["_static"]  # the theme reads custom.css
html_theme_options = {
    "description": "Posterior sampling for NumPyro by imaginary time",
    "page_width": "1180px",
    "body_max_width": "900px",  # a line of code of 98 characters
    "fixed_sidebar": True,
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchfield.html"]}

default_role = "literal"  # docstrings write code in single backquotes, as Markdown does
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # the signature's own words; aliases unfolded by Sphinx are unreadable
autodoc_preserve_defaults = True
napoleon_use_ivar = True

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note|Notes):$")


def write(path: Path, text: str) -> None:
    """Write what differs, so that Sphinx reads again only what has changed."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def gather(app) -> None:
    """Make pages of what lives elsewhere: tutorials, measurements, the architecture, the public names."""
    del app
    for path in sorted((ROOT / "examples" / "tutorials").glob("*.py")):
        script, name = path.read_text(encoding="utf-8"), path.stem
        write(DOCS / "tutorials" / f"{name}.ipynb", as_notebook(script))
        files = f"Script: `examples/tutorials/{path.name}`. Notebook: {{download}}`{name}.ipynb`."
        write(DOCS / "tutorials" / f"{name}.md", f"{as_markdown(script)}\n{files}\n")
    for path in [ROOT / "ARCHITECTURE.md", *sorted((ROOT / "qdesampler/bench/results").glob("*.md"))]:
        text = path.read_text(encoding="utf-8").replace("](docs/", "](../")
        write(
            DOCS / "measured" / path.name,
            text if text.startswith("#") else f"# {path.stem.capitalize()}\n\n{text}",
        )
    write(DOCS / "api" / "names.md", public_names())


def name_row(name: str, value: object) -> str:
    """A row of a table of names; it links to the page of the room whose face documents the name."""
    room = ".".join(value.__module__.split(".")[:2])
    first = inspect.cleandoc(value.__doc__ or "").splitlines()[0].replace("|", "\\|")
    return f"| {{py:obj}}`{name} <{room}.{name}>` | {first} |"


def public_names() -> str:
    """The page of public names: those of the top, then those of the modules that only collect names."""
    top = {name: getattr(qdesampler, name) for name in qdesampler.__all__}
    rows = [
        "# Public names\n",
        "`from qdesampler import NAME`; each is imported on first use. A module of the last tables, or a room"
        " on the other pages, is imported by its name: `from qdesampler.plots import plot_ladder`.\n",
        "| name | |\n| --- | --- |",
    ]
    rows += [name_row(name, value) for name, value in top.items() if not inspect.ismodule(value)]
    for module in (qdesampler.plots, qdesampler.annealers, qdesampler.evidence):
        rows += [f"\n## {module.__name__}\n", f"{module.__doc__}\n", "| name | |\n| --- | --- |"]
        rows += [name_row(name, value) for name, value in vars(module).items() if not name.startswith("_")]
    return "\n".join(rows) + "\n"


def prepare_page(app, name: str, source: list[str]) -> None:
    """Links that lead to a file of the repository lead to its page; the gallery gets its pictures."""
    del app
    if name == "gallery":
        source[0] = with_pictures(source[0])
    if "/" not in name:
        source[0] = re.sub(r"\]\(\.\./(?:[\w/]+/)?(\w+\.md)\)", r"](measured/\1)", source[0])


def keep_formulas(app, what, name, obj, options, lines):
    """Show indented lines and tables before the first section as written: they are formulas or code."""
    del app, what, name, obj, options
    seen: list[str] = []
    inside = False
    for place, line in enumerate(lines):
        if SECTION.match(line):
            seen.extend(lines[place:])
            break
        if line.startswith("|"):
            line = f"    {line}"  # a table in Markdown
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


def show_formula(translator, node):
    """Write a formula, in a line or on its own, as MathML."""
    from latex2mathml.converter import convert

    display = "block" if isinstance(node, nodes.math_block) else "inline"
    formula = convert(node.astext(), display=display)
    translator.body.append(f'<div class="math">{formula}</div>' if display == "block" else formula)
    raise nodes.SkipNode


def setup(app):
    """Called by Sphinx."""
    if MATHML:
        app.add_html_math_renderer("mathml", (show_formula, None), (show_formula, None))
    app.connect("builder-inited", gather)
    app.connect("source-read", prepare_page)
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_aliases)
