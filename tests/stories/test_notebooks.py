"""Notebooks are made from the tutorials, and run in a kernel of Jupyter without noise."""

import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "examples" / "tutorials").glob("*.py"))
made_by = runpy.run_path(str(ROOT / "docs" / "cells.py"))
SMALL = '''"""Not a cell: for the command line."""

# %% [markdown]
# # A title
#
# And text.

# %%
import jax, numpyro, numpyro.distributions as dist
from qdesampler import MCMC, QDE

mcmc = MCMC(QDE(lambda: numpyro.sample("x", dist.Normal())), num_warmup=50, num_samples=200, num_chains=2)
mcmc.run(jax.random.key(0))

# %%

# %%
mcmc.report.ended_by
'''


def notebook(script: str) -> nbformat.NotebookNode:
    found = nbformat.reads(made_by["as_notebook"](script), as_version=4)
    nbformat.validate(found)
    return found


def executed(script: str, folder: Path, first: str = "") -> nbformat.NotebookNode:
    """The notebook after its cells have run, with a further cell before them."""
    found = notebook(script)
    found.cells.insert(0, nbformat.v4.new_code_cell(first))
    NotebookClient(found, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return found


def outputs(found: nbformat.NotebookNode, kind: str) -> list:
    cells = (cell for cell in found.cells if cell.cell_type == "code")
    return [output for cell in cells for output in cell.outputs if output.output_type == kind]


def test_the_cells_are_those_of_the_script():
    text, code, last = notebook(SMALL).cells
    assert (text.cell_type, text.source) == ("markdown", "# A title\n\nAnd text.")
    assert code.source.startswith("import jax")
    assert code.source.endswith("key(0))")
    assert (last.cell_type, last.source) == ("code", "mcmc.report.ended_by")
    assert made_by["as_notebook"](SMALL) == made_by["as_notebook"](SMALL)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_keeps_its_code(path):
    script = path.read_text(encoding="utf-8")
    found = notebook(script)
    assert found.cells[0].source.startswith("# ")  # a title
    code = "\n".join(cell.source for cell in found.cells if cell.cell_type == "code")
    lines = [line for line in script.splitlines() if line and not line.startswith("#")]
    kept = [line for line in code.splitlines() if line and not line.startswith("#")]
    assert kept == lines[lines.index('"""', 1) + 1 :]  # all but the docstring


def test_a_notebook_runs_and_shows_one_bar(tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)  # where there are no bars
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    found = executed(SMALL, tmp_path)
    assert outputs(found, "stream") == []  # no warning, and no line of a bar as text
    (result,) = outputs(found, "execute_result")
    assert result.data["text/plain"] == "'num_samples'"
    widgets = found.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    bars = [w["state"] for w in widgets if w["model_name"] == "FloatProgressModel"]
    assert [(bar["value"], bar["max"], bar["bar_style"]) for bar in bars][-1] == (250, 250, "success")


@pytest.mark.slow
def test_a_tutorial_runs_as_a_notebook(tmp_path):
    script = (ROOT / "examples/tutorials/from_nuts_to_qde.py").read_text(encoding="utf-8")
    script += "\n# %%\nsummary(qde)\n\n# %%\ndiagnose(qde)\n"
    found = executed(script, tmp_path, first="import sys; sys.argv = ['notebook', '--quick']")
    printed = "".join(output.text for output in outputs(found, "stream") if output.name == "stdout")
    assert "Good: nothing speaks against these draws." in printed
    table, findings = outputs(found, "execute_result")
    assert "<td>" in table.data["text/html"]
    assert "<strong>" in findings.data["text/html"]
