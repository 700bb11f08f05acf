"""Every example runs as a script, from another folder, and says what it is there to say."""

import re
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(run_script):
    """Run an example; return what it printed."""
    return lambda name, *arguments: run_script(EXAMPLES / name, *arguments)


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text, re.MULTILINE)]


def test_eight_schools(run):
    text = run("eight_schools.py")
    (mean,) = numbers(r"^mu +(\S+)", text)
    assert 4.0 < mean < 4.8  # the posterior mean is 4.4
    assert "theta[7]" in text
    (warmup,) = numbers(r"^(\d+) log-density evaluations in the warm-up", text)
    (draws,) = numbers(r"(\d+) for the draws$", text)
    assert 100 < warmup < 4 * 500  # solved early, the warm-up rests: less than one evaluation an iteration
    assert draws > 4 * 1000


def test_ground_state(run):
    text = run("ground_state.py")
    energies = numbers(r"energy (\S+) ", text)
    assert energies == pytest.approx([1.137786, 0.738952, 0.533182], abs=2e-5)
    exact, kernel = numbers(r"draws: mean of .* of x\^2 (\S+)", text)
    assert kernel == pytest.approx(exact, abs=0.1)


def test_imaginary_time(run):
    text = run("imaginary_time.py")
    energies = numbers(r"^ +[\d.]+ +(\S+) +\S+e-\d+", text)
    assert len(energies) == 9
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] == pytest.approx(1.0603621, abs=1e-4)
    rates = numbers(r"e-\d+ +(\S+)$", text)
    (gap,) = numbers(r"gap (\S+)$", text)
    assert rates[-1] == pytest.approx(gap, rel=1e-3)
    assert abs(rates[0] - gap) > 0.3  # at first the higher states are still there


@pytest.mark.slow
def test_hydrogen_by_walkers(optimised, run):
    text = run("hydrogen_by_walkers.py")
    (energy,) = numbers(r"^extrapolated: energy (\S+) ", text)
    (error,) = numbers(r"^extrapolated: energy \S+ \+- (\S+),", text)
    assert energy == pytest.approx(-0.5, abs=4 * error)
    assert error < 1e-3
    (radius,) = numbers(r"^mean radius (\S+),", text)
    assert radius == pytest.approx(1.5, abs=0.05)


def test_annealing(optimised, run):
    text = run("annealing.py")
    (descent,) = numbers(r"^descent from the start: (\S+)$", text)
    assert descent > 5
    (value,) = numbers(r"^annealed: (\S+) after", text)
    assert abs(value) < 1e-3
    energies = numbers(r"energy +(\S+)$", text)
    assert energies == sorted(energies, reverse=True)


@pytest.mark.slow
def test_discrete_latents(run):
    text = run("discrete_latents.py")
    exact, found = np.array(re.findall(r"^x\[\d\] +(\S+) +(\S+)$", text, re.MULTILINE), float).T
    assert exact.size == 10
    assert 0.05 < exact[1] < 0.95  # one of two near copies is in, and it is not certain which
    np.testing.assert_allclose(found, exact, atol=0.06)
    (spent,) = numbers(r"^evaluations in the warm-up, surrogate included: (\d+)$", text)
    assert 1000 < spent < 10000


@pytest.mark.slow
def test_flow_as_coordinates(run):
    rates = numbers(r"evaluations, (\S+) a thousand$", run("flow_as_coordinates.py"))
    nuts, _, flow = rates
    assert flow > 50 * nuts
    assert flow > 100


def far_from_the_truth(text):
    """Largest distance of a posterior mean from the truth, in posterior standard deviations."""
    (row,) = re.findall(r"^from the truth, in standard deviations: \[(.*)\]$", text, re.MULTILINE)
    return np.max(np.abs(np.array(row.split(), float)))


@pytest.mark.slow
def test_heat_by_callback(run):
    text = run("heat_by_callback.py", "--quick")
    assert far_from_the_truth(text) < 3.5
    ((warmup, draws),) = re.findall(
        r"^(\d+) evaluations in the warm-up, (\d+) for the draws$", text, re.MULTILINE
    )
    assert int(warmup) < 1000
    assert int(draws) < 4 * 100 * 5
    assert 0.015 < numbers(r"^noise +(\S+)", text)[0] < 0.025  # it was 0.02


@pytest.mark.slow
def test_spread_by_diffrax(run):
    pytest.importorskip("diffrax")
    text = run("spread_by_diffrax.py", "--quick")
    assert far_from_the_truth(text) < 3.5
    ((warmup, draws),) = re.findall(
        r"^(\d+) evaluations in the warm-up, (\d+) for the draws$", text, re.MULTILINE
    )
    assert int(warmup) < 1000
    assert int(draws) < 4 * 100 * 5
    assert numbers(r"^diffusion +\S+ +(\S+)", text)[0] < 0.006  # the prior has 0.04


def test_every_example_is_tested_here():
    here = Path(__file__)
    texts = [path.read_text(encoding="utf-8") for path in (here, here.with_name("test_paper_examples.py"))]
    tested = set(re.findall(r'run\("(\w+\.py)"', "".join(texts)))
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}
