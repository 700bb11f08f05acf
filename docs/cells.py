"""Scripts in cells, which begin with `# %%`, as pages in Markdown and as notebooks."""

import re
from typing import NamedTuple

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

__all__ = ["Cell", "as_markdown", "as_notebook", "cells"]

_CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)


class Cell(NamedTuple):
    """One cell of a script: its content, without the marks of comments where it is text."""

    text: str
    is_code: bool


def cells(script: str) -> list[Cell]:
    """The cells of a script that are not empty. What stands before the first one is for the command line."""
    parts = _CELL.split(script)[1:]
    found = []
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        text = body.strip()
        if "[markdown]" in head:
            found.append(Cell(re.sub(r"^# ?", "", text, flags=re.MULTILINE), False))
        elif text:
            found.append(Cell(text, True))
    return found


def as_markdown(script: str) -> str:
    """The page: text as it is, code fenced."""
    page = [f"```python\n{cell.text}\n```" if cell.is_code else cell.text for cell in cells(script)]
    return "\n\n".join(page) + "\n"


def as_notebook(script: str) -> str:
    """The notebook in JSON, without outputs.

    The cells are numbered, in place of the random names that nbformat gives: equal scripts give equal files.
    """
    made = []
    for number, cell in enumerate(cells(script)):
        new = new_code_cell if cell.is_code else new_markdown_cell
        made.append(new(cell.text, id=f"cell-{number}"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"
