"""Problems of working size: their marginals at a small size by enumeration, and one line of the table."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

from qdesampler.backends.exact_enumeration import all_bits
from qdesampler.bench.annealers import at_size
from qdesampler.bench.annealers.at_size import main, marginal_error, same_error
from qdesampler.bench.targets.discrete import enumerated_inclusion, spike_and_slab_data
from qdesampler.bench.targets.discrete_large import (
    LargeProblem,
    change_points,
    inclusion_by_flips,
    mixture_labels,
    network_structure,
)


@pytest.mark.parametrize(
    ("make", "sizes"), [(change_points, {"n": 12, "jumps": 2}), (network_structure, {"nodes": 4})]
)
def test_exact_marginals_are_those_of_the_model(make, sizes):
    problem = make(0, **sizes)
    bits = all_bits(problem.truth.size)
    values = jax.vmap(lambda z: log_density(problem.model, (), {}, {"z": z})[0])(jnp.asarray(bits))
    np.testing.assert_allclose(jax.nn.softmax(values) @ bits, problem.truth, atol=1e-5)


def test_inclusion_by_flips_is_that_of_all_states():
    """Six predictors with near copies, all 64 states enumerated; `K^-1` kept for five changes, or for all."""
    data = spike_and_slab_data(6, seed=1, active=1, noise=2.0)
    exact = enumerated_inclusion(data)
    found = inclusion_by_flips(data, 0, steps=1000, chains=16, fresh=5)
    np.testing.assert_allclose(found, exact, atol=0.01)
    np.testing.assert_allclose(inclusion_by_flips(data, 0, steps=1000, chains=16), found, atol=1e-6)
    assert np.ptp(exact) > 0.05
    assert np.mean(np.abs(exact - data.inclusion)) > 0.05  # not the prior


@pytest.mark.slow
def test_shared_labels_are_those_of_the_model():
    """Six points by enumeration: Gibbs sampling with running sums finds who shares a label."""
    problem = mixture_labels(0, n=6, k=3)
    labels = np.array(list(itertools.product(range(3), repeat=6)), np.int32)
    values = jax.vmap(lambda z: log_density(problem.model, (), {}, {"z": z})[0])(jnp.asarray(labels))
    p = np.asarray(jax.nn.softmax(values), float)
    p /= p.sum()
    np.testing.assert_allclose(p @ (labels == 1), 1 / 3, atol=1e-5)
    exact = p @ (labels[:, 1:] == labels[:, :-1])
    assert problem.same is not None
    np.testing.assert_allclose(problem.same, exact, atol=0.04)
    assert np.max(np.abs(1 / 3 - exact)) > 0.2  # the prior alone is another law
    draws = labels[np.random.default_rng(0).choice(len(p), (3, 4000), p=p)]
    assert same_error(draws, problem) < 0.04 < same_error((draws + np.arange(6)) % 3, problem)


def test_errors_of_labels_and_bits():
    draws = np.tile([[0, 1]], (3, 20, 1))
    bits = LargeProblem(lambda: None, np.array([0.0, 0.5]))
    assert marginal_error(draws, bits) == np.sqrt(0.125)
    labels = LargeProblem(lambda: None, np.full((2, 4), 0.25), 4)
    assert np.isclose(marginal_error(draws, labels), np.sqrt((0.75**2 + 3 * 0.25**2) / 4))


@pytest.mark.slow  # it compiles the moves of two methods
def test_the_command_prints_errors_of_both_methods(capsys, monkeypatch):
    monkeypatch.setitem(at_size.LARGE_PROBLEMS, "change points", partial(change_points, n=12, jumps=2))
    arguments = ["--problems", "change points", "--moves", "scan", "--seeds", "1", "--share", "0.1"]
    assert main([*arguments, "--chains", "2"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| 0 |")]
    assert [row[2].strip() for row in rows] == ["single-site Gibbs", "scan"]
    assert all(0 < float(row[3]) < 0.2 for row in rows)
