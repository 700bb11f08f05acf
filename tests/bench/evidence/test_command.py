"""Truths of the evidence targets by quadrature and exact draws, and the arithmetic of the table."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qdesampler.bench.evidence.__main__ import evaluations_to_target, main, row
from qdesampler.bench.evidence.methods import METHODS
from qdesampler.bench.evidence.result import Result, Sizes
from qdesampler.bench.targets.evidence import EVIDENCE_TARGETS
from qdesampler.bench.targets.evidence_posteriors import MODELS, MULTIMODAL_POSTERIORS


def grid_integral(log_density, in_mode, half_width, points):
    axis = np.linspace(-half_width, half_width, points)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    weight = np.exp(np.asarray(jax.vmap(log_density)(grid), float))
    inside = np.asarray(jax.vmap(in_mode)(grid))
    total = weight.sum()
    return np.log(total * (axis[1] - axis[0]) ** 2), weight[inside].sum() / total


@pytest.mark.parametrize(("name", "half_width"), [("double-well", 8), ("mixture-40", 48)])
def test_truths_in_two_dimensions_by_quadrature(name, half_width):
    target = EVIDENCE_TARGETS[name]()
    log_z, mass = grid_integral(target.log_density, target.in_mode, half_width, 600)
    assert target.mass is not None
    # A mode that straddles the edge of the half plane is resolved to half a cell of the grid.
    np.testing.assert_allclose([log_z, mass], [target.log_evidence, target.mass], atol=2e-3)


def test_products_have_the_truth_of_their_factors():
    one, many = EVIDENCE_TARGETS["double-well"](), EVIDENCE_TARGETS["wells-32"]()
    np.testing.assert_allclose(many.log_evidence, 16 * one.log_evidence, rtol=1e-7)
    x = np.linspace(-5, 5, 20001)
    factor = np.log(np.sum(np.exp(-((x**2 - 4) ** 2))) * (x[1] - x[0]))
    np.testing.assert_allclose(EVIDENCE_TARGETS["many-wells-5"]().log_evidence, 5 * factor, atol=1e-5)


def test_the_conjugate_model_has_the_evidence_of_a_gaussian():
    """Of a quadratic log density, exactly: its mode, times the volume that its curvature gives."""
    target = EVIDENCE_TARGETS["conjugate-normal-4"]()
    curvature = -jax.hessian(target.log_density)(jnp.zeros(4))
    mode = jnp.linalg.solve(curvature, jax.grad(target.log_density)(jnp.zeros(4)))
    log_det = jnp.linalg.slogdet(curvature)[1]
    log_z = target.log_density(mode) + 2 * jnp.log(2 * jnp.pi) - 0.5 * log_det
    np.testing.assert_allclose(float(log_z), target.log_evidence, atol=1e-3)


@pytest.mark.slow
def test_posteriors_of_several_modes_have_their_truth_by_another_route():
    """The models' own references; importance sampling from the prior for the spike and slab."""
    for name, folder in (("label-switching-2", "label_switching"), ("sinusoid-period-4", "sinusoid_period")):
        reference = json.loads((MODELS / folder / "reference.json").read_text(encoding="utf-8"))
        truth = reference["log_evidence"]["value"]
        np.testing.assert_allclose(MULTIMODAL_POSTERIORS[name]().log_evidence, truth, atol=1e-3)
    target = MULTIMODAL_POSTERIORS["spike-and-slab-8"]()
    rng = np.random.default_rng(0)
    slab = np.array([0.6, 0.6, 0.2, 0.2, 0.9, 0.2, 0.2, 0.2])  # of the proposal
    width = np.where(rng.uniform(size=(400_000, 8)) < slab, 1.0, 0.02)
    beta = jnp.asarray(width * rng.standard_normal(width.shape))
    x, log_proposal = np.asarray(beta, float), 0.0
    for k in range(8):
        bumps = (np.log(slab[k]) - x[:, k] ** 2 / 2, np.log((1 - slab[k]) / 0.02) - (x[:, k] / 0.02) ** 2 / 2)
        log_proposal += np.logaddexp(*bumps) - 0.5 * np.log(2 * np.pi)
    weights = np.asarray(jax.vmap(target.log_density)(beta), float) - log_proposal
    share = np.exp(weights - weights.max())
    log_z = np.log(share.mean()) + weights.max()
    error = share.std() / share.mean() / np.sqrt(share.size)
    inside = np.asarray(jax.vmap(target.in_mode)(beta))
    mass = share[inside].sum() / share.sum()
    mass_error = np.sqrt(np.sum((share * (inside - mass)) ** 2)) / share.sum()
    assert max(error, mass_error) < 0.04
    assert abs(log_z - target.log_evidence) < 4 * error
    assert abs(mass - target.mass) < 4 * mass_error
    assert 0.2 < target.mass < 0.8


@pytest.mark.slow
def test_eight_schools_have_their_evidence_by_importance_sampling():
    """Draws from the reference, weighted; the posterior is wide enough for that."""
    target = EVIDENCE_TARGETS["eight-schools"]()
    count, scale = 400_000, jnp.asarray(target.reference, float)
    noise = jax.random.normal(jax.random.key(0), (count, target.dim))
    log_q = -0.5 * jnp.sum(noise**2, 1) - jnp.sum(jnp.log(scale)) - 0.5 * target.dim * jnp.log(2 * jnp.pi)
    weights = jax.vmap(target.log_density)(noise * scale) - log_q
    log_z = float(jax.nn.logsumexp(weights) - jnp.log(count))
    error = np.exp(np.asarray(weights, float) - log_z).std() / np.sqrt(count)
    assert error < 0.05
    assert abs(target.log_evidence - log_z) < 5 * error + 1e-3


def test_evaluations_to_target_scale_draws_by_the_squared_excess():
    target = EVIDENCE_TARGETS["double-well"]()
    twice = [Result(target.log_evidence + 0.1, 0.1, 0.155692903, 1000, 500)] * 3
    np.testing.assert_allclose(evaluations_to_target(twice, target), 1000 + 4 * 500, rtol=1e-6)
    mass = [Result(target.log_evidence, 0.1, 0.155692903 + 0.06, 1000, 500)]
    np.testing.assert_allclose(evaluations_to_target(mass, target), 1000 + 9 * 500, rtol=1e-5)
    line = row("double-well", target, "some", twice, 3.0)
    assert "0/3" in line
    assert "3/3" in line


def test_bad_arguments_are_refused(capsys):
    for arguments in (["--targets", "nowhere"], ["--methods", "magic"], ["--draws", "3"]):
        with pytest.raises(SystemExit):
            main(arguments)
        assert "expected" in capsys.readouterr().err


@pytest.mark.slow
def test_the_peer_finds_the_double_well():
    target = EVIDENCE_TARGETS["double-well"]()
    (result,) = METHODS["tempering"](target, Sizes(200, 1500, 1))
    assert abs(result.log_evidence - target.log_evidence) < 4 * result.error
    assert result.error < 0.1
