"""The tutorials run from top to bottom, at small size, and find what is known."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

TUTORIALS = Path(__file__).parents[2] / "examples" / "tutorials"


@pytest.fixture
def run(run_script):
    """Run a tutorial at small size; return what it printed."""
    return lambda name: run_script(TUTORIALS / name, "--quick")


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text, re.MULTILINE)]


@pytest.mark.slow
def test_your_own_hamiltonian(run):
    text = run("own_hamiltonian.py")
    (grid,) = numbers(r"^energy (\S+) ", text)
    assert grid == pytest.approx(0.8878, abs=1e-4)
    (gaussian,) = numbers(r"^Gaussian: energy (\S+),", text)
    assert grid < gaussian < grid + 0.2
    energy, error = re.findall(r"^walkers: energy (\S+) \+- (\S+)$", text, re.MULTILINE)[0]
    assert float(energy) == pytest.approx(grid, abs=5 * float(error))
    assert 0 < float(error) < 0.05
    (left,) = numbers(r"left of 0 (\S+)%$", text)
    assert 93 < left < 99


@pytest.mark.slow
def test_discrete_latents_by_two_annealers(run, no_network):
    text = run("discrete_latents_and_annealers.py")
    rows = [numbers(r"(\d\.\d*)", line) for line in re.findall(r"\[(.*)\]", text)]
    exact, local, machine = np.array(rows)
    assert 0.1 < exact[1] < 0.3  # one of two near copies
    np.testing.assert_allclose(local, exact, atol=0.09)
    np.testing.assert_allclose(machine, exact, atol=0.09)
    assert text.count("one job of 100 reads") == 1


def test_from_nuts_to_qde(run):
    text = run("from_nuts_to_qde.py")
    costs = re.findall(r": +(\d+) evaluations in the warm-up, +(\d+) for (\d+) eff", text)
    nuts, qde = np.array(costs, float)
    assert qde[0] < nuts[0] / 10
    assert qde[1] / qde[2] < nuts[1] / nuts[2] / 10
    means = np.array(re.findall(r"slopes \[ *(\S+) +(\S+) *\], sd", text), float)
    np.testing.assert_allclose(means.sum(1), 1.5, atol=0.1)  # the direction that the data determine
    assert "Good: nothing speaks against these draws." in text


@pytest.mark.slow
def test_many_modes(run):
    text = run("many_modes.py")
    apart, together = numbers(r"^QDE, .* (\S+)% of the draws", text)
    assert apart == together == 0
    assert text.count("descents ended far outside") == 1  # where the chains started apart
    masses = numbers(r"by the density (\d+)% of the mass", text)
    assert masses == pytest.approx([15.6, 15.6], abs=3)
    (left,) = numbers(r"^AnnealedQDE: (\S+)%", text)
    assert left == pytest.approx(15.6, abs=5)
    value, error = re.findall(r"log Z (\S+) \+- (\S+),", text)[0]
    assert float(value) == pytest.approx(10.293, abs=5 * float(error))
    assert "findings: []" in text


@pytest.mark.slow
def test_evidence_and_model_choice(run):
    text = run("evidence_and_model_choice.py")
    found = np.array(re.findall(r"evidence (\S+) \+- (\S+), closed form (\S+)$", text, re.MULTILINE), float)
    assert len(found) == 2
    np.testing.assert_array_less(np.abs(found[:, 0] - found[:, 2]), 5 * found[:, 1])
    assert re.search(r"^parabola +log Bayes factor +0\.000", text, re.MULTILINE)


@pytest.mark.slow
def test_long_runs(run):
    text = run("long_runs.py")
    assert "ended by callback before all 300 draws: True" in text
    assert "300 draws, the same as without a break: True" in text
    (ess,) = numbers(r"ended by until at \d+ draws: ESS (\d+)", text)
    assert ess >= 400


@pytest.mark.slow
def test_many_chains(run):
    few, many = numbers(r"within (\S+)%$", run("many_chains.py"))
    assert many < 12
    assert many < few


@pytest.mark.slow
def test_kernels_elsewhere(tmp_path):
    """In a process of its own: PyMC's JAX backend switches to float64."""
    done = subprocess.run(
        [sys.executable, str(TUTORIALS / "kernels_elsewhere.py"), "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = np.array(re.findall(r"means (\S+) (\S+), correlation (\S+)$", done.stdout, re.MULTILINE), float)
    assert len(rows) == 1 + (find_spec("blackjax") is not None)
    np.testing.assert_allclose(rows, np.broadcast_to([1, -1, 0.8], rows.shape), atol=0.35)
    (mu,) = numbers(r"^PyMC's eight schools: mu (\S+),", done.stdout)
    assert mu == pytest.approx(4.4, abs=0.6)


def test_every_tutorial_is_tested_and_shown():
    here, index = Path(__file__), TUTORIALS.parents[1] / "docs" / "index.md"
    names = {path.stem for path in TUTORIALS.glob("*.py")}
    assert names == set(re.findall(r'"(\w+)\.py"', here.read_text(encoding="utf-8")))
    assert names == set(re.findall(r"^tutorials/(\w+)$", index.read_text(encoding="utf-8"), re.MULTILINE))
