"""The paper's examinations run as scripts, at small size, and reach their bars; each leaves a figure."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import stats

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(run_script, tmp_path):
    """Run an example at small size; return what it printed. It leaves its figure."""

    def script(name: str) -> str:
        text = run_script(EXAMPLES / name, "--quick", "--out", str(tmp_path / "figures"))
        assert (tmp_path / "figures" / name.replace(".py", ".png")).exists()
        return text

    return script


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text, re.MULTILINE)]


def test_softmax_drawn_is_the_closed_form(run):
    text = run("paper_softmax.py")
    rows = np.array([line.split() for line in text.splitlines()[1:26]], float)
    assert rows[:, 0].min() == 0.1
    assert rows[:, 0].max() == 10
    np.testing.assert_allclose(rows[:, 3], rows[:, 2], atol=1e-3)  # the square of the lowest eigenvector
    np.testing.assert_allclose(rows[:, 4], rows[:, 2], atol=0.03)
    (worst,) = numbers(r"standard errors: (\S+)$", text)
    assert 0 < worst < 3
    (share,) = numbers(r"exact draws: (\S+)% of runs$", text)
    assert 5 < share < 95
    (einstein,) = numbers(r"against -grad E: (\S+)$", text)
    assert einstein < 1e-4


@pytest.mark.slow
def test_softmax_drawn_at_full_size_with_ten_keys():
    """A million draws a temperature: every frequency, and the spread of keys around them by chi-square."""
    example = runpy.run_path(str(EXAMPLES / "paper_softmax.py"))
    energies, temperatures = np.asarray(example["ENERGIES"], float), np.array(example["TEMPERATURES"])
    exact = np.exp(-energies / temperatures[:, None])
    exact /= exact.sum(1, keepdims=True)
    chains, draw = 100_000, jax.jit(example["draw"], static_argnames="chains")
    counts = np.array(
        [
            [
                np.bincount(np.asarray(draw(key, temperature, chains)), minlength=energies.size)
                for key, temperature in zip(
                    jax.random.split(jax.random.key(run), 5), temperatures, strict=True
                )
            ]
            for run in range(10)
        ]
    )
    expected = chains * exact
    spread = np.sqrt(expected * (1 - exact))
    off = (counts.sum(0) - 10 * expected) / (np.sqrt(10) * spread)
    print(f"\nlargest of 25 differences, ten keys together: {np.abs(off).max():.2f} standard errors")
    assert np.abs(off).max() < 3
    seen = expected > 5  # the highest state at T = .1 is never seen
    terms = np.where(seen, (counts - expected) ** 2 / expected, 0).sum((0, 2))
    p = stats.chi2.sf(terms, 10 * (seen.sum(1) - 1))
    print(f"chi-square over cells and keys: p {p.round(3)}")
    assert p.min() > 1e-3
    assert p.max() < 1 - 1e-3


@pytest.mark.slow
def test_sigmoid_drawn_is_the_closed_form_and_logistic_regression_has_its_reference(run):
    text = run("paper_sigmoid.py")
    (worst,) = numbers(r"standard errors: (\S+)$", text)
    assert 0 < worst < 3
    table = re.findall(r"^(?:alpha|beta\S+) +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE)
    mean, reference, sd = np.array(table, float).T
    assert mean.size == 7
    np.testing.assert_array_less(np.abs(mean - reference) / sd, 0.25)  # 1000 draws: 0.03 to 0.1 is noise
    assert np.ptp(reference / sd) > 5  # which another order of the parameters would not pass


@pytest.mark.slow
def test_energies_of_real_and_imaginary_time_agree(run):
    text = run("paper_wick_rotation.py")
    exact, real = np.array(re.findall(r"^E_\d +(\S+) +(\S+)$", text, re.MULTILINE), float).T
    np.testing.assert_allclose(real, exact, atol=5e-3)
    assert np.all(np.diff(exact) > 0.5)
    (lowest,) = numbers(r"^imaginary time: E_0 (\S+),", text)
    assert lowest == pytest.approx(exact[0], abs=1e-3)
    found, gap = numbers(r"gap (\d+\.\d+)", text)
    assert found == pytest.approx(gap, abs=5e-3)
    low, high = re.findall(r"real time (\S+) to (\S+);", text)[0]
    start, end = re.findall(r"falls from (\S+) to (\S+)$", text, re.MULTILINE)[0]
    assert float(high) - float(low) < 5e-3
    assert float(start) - float(end) > 0.3
    assert float(end) == pytest.approx(exact[0], abs=1e-3)


@pytest.mark.slow
def test_quantum_annealing_passes_a_thin_barrier_and_thermal_annealing_a_low_one(run):
    text = run("paper_quantum_annealing.py")
    tall = np.array(re.findall(r"^tall and thin +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE), float)
    broad = np.array(re.findall(r"^low and broad +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE), float)
    assert tall[-1, 1] > 0.95  # quantum, through
    assert tall[-1, 2] < 0.01  # thermal, stuck
    assert broad[-1, 2] > 0.1  # and not stuck where the barrier is low
    assert np.all(np.diff(broad[:, 2]) > 0)


@pytest.mark.slow
def test_a_diffusion_model_is_as_near_to_held_out_data_as_real_data_are(run):
    text = run("paper_diffusion_model.py")
    (ratio,) = numbers(r"ratio (\S+)$", text)
    assert 0.7 < ratio < 1.2  # far below 1 it would have seen the held-out set
    made, gaussian, real = (float(x) for x in re.findall(r"(\d\.\d+)", text.splitlines()[1]))
    assert made < 2 * real
    assert made < 0.6 * gaussian


@pytest.mark.slow
def test_taylor_orders_recover_their_laws_and_two_loops_find_the_minimum(run):
    text = run("paper_iteration.py")
    moved, variance, heat = numbers(r" (\d\.\d{4})(?:,|$)", text.splitlines()[0])
    assert moved == 0
    assert variance == pytest.approx(heat, abs=1e-4)
    (descent,) = numbers(r"gradient step (\S+)$", text)
    assert descent < 1e-6
    mean, spread, harmonic = numbers(r" (-?\d\.\d{5})(?:,|$)", text.splitlines()[2])
    assert abs(mean) < 1e-4
    assert spread == pytest.approx(harmonic, abs=1e-4)
    alone = numbers(r"lowest of a walker (\S+),", text)
    together = numbers(r" (\S+)$", "\n".join(text.splitlines()[3:5]))
    assert len(alone) == len(together) == 2
    assert all(best < median for best, median in zip(together, alone, strict=True))
    assert max(together) < 4  # of a start at 30
    (packet,) = numbers(r"^packet, D lowered: (\S+) after", text)
    assert abs(packet) < 1e-3  # the global minimum, where a single walker is not
    assert min(alone) > 0.01
