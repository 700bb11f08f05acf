"""Partial non-centring: which sites, the map and its determinant, the centredness; a funnel, a wrong twin."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.handlers import seed, trace
from numpyro.infer.util import potential_energy

from qdesampler.driver import MCMC
from qdesampler.infer import QDE
from qdesampler.infer.model.centering import Centering, find_centering
from qdesampler.infer.model.evaluation import value_and_gradient
from qdesampler.infer.qde.coordinates.device import MoveCoordinates
from qdesampler.infer.qde.coordinates.host import HostCoordinates

SIGMA = jnp.array([0.5, 1.0, 2.0, 4.0])
ROOT = np.array([[1.0, 0.0], [-0.6, 0.8]])  # of a correlation matrix


def found_in(model, *args, **kwargs):
    sites = trace(seed(model, jax.random.key(1))).get_trace(*args, **kwargs)
    return find_centering(model, sites, args, kwargs, {})


def everything(x):
    """Sites that move and sites that do not, of every family and every wrapping."""
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    numpyro.sample("moving location", dist.Normal(mu, 2.0))
    numpyro.sample("scale of data", dist.Normal(mu, 1.0 + x))
    numpyro.sample("not location-scale", dist.Gamma(2.0, tau))
    numpyro.sample("truncated", dist.TruncatedNormal(0.0, tau, low=0.0))
    numpyro.sample("plain", dist.Normal(0.0, tau))
    numpyro.sample("logarithm", dist.LogNormal(mu, jnp.sqrt(tau)))
    numpyro.sample("event", dist.StudentT(4.0, mu, 2 * tau).expand([2, 3]).to_event(2))
    with numpyro.plate("three", 3):
        row = numpyro.sample("rows", dist.Laplace(0.0, tau))
    numpyro.sample("child", dist.Normal(0.0, jnp.exp(row[0])))
    numpyro.sample("vector", dist.MultivariateNormal(jnp.zeros(2), tau * jnp.eye(2)))
    heavy = dist.MultivariateStudentT(4.0, jnp.zeros(2), tau * ROOT)
    numpyro.sample("heavy vector", heavy.expand([3]).to_event(1))
    numpyro.sample("fixed vector", dist.MultivariateNormal(mu * jnp.ones(2), scale_tril=ROOT))
    numpyro.sample("seen", dist.Normal(mu, tau), obs=x)


def test_exactly_the_sites_whose_scale_moves_are_found():
    centering = found_in(everything, jnp.array(0.5))
    assert centering is not None
    assert set(centering.sites) == {
        "plain",
        "logarithm",
        "event",
        "rows",
        "child",
        "vector",
        "heavy vector",
    }
    assert set(centering.parents) == {"tau", "rows"}

    def nothing():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(mu, jnp.ones(2)).to_event(1))

    assert found_in(nothing) is None


def hierarchy(y):
    """Gaussian but for the scale: `theta_j` of mean `m`, `y_j` of known standard error."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.7))
    with numpyro.plate("groups", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, SIGMA), obs=y)


def nested(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.LogNormal(a, jnp.exp(a)))
    c = numpyro.sample("c", dist.StudentT(5.0, a, b).expand([3]).to_event(1))
    numpyro.sample("y", dist.Normal(c.sum(), 1.0), obs=y)


def vectors(y):
    widths = numpyro.sample("widths", dist.LogNormal(0.0, 0.7).expand([2]).to_event(1))
    with numpyro.plate("groups", len(y)):
        pair = numpyro.sample("pair", dist.MultivariateNormal(0.5, scale_tril=widths[:, None] * ROOT))
    numpyro.sample("y", dist.Normal(pair.sum(-1), 0.5), obs=y)


def coordinates_of(model, *args):
    """Coordinates, a point of each model, and its potential."""
    kernel = QDE(model)
    kernel.init(jax.random.key(0), 10, None, args, {})
    potential = kernel.get_potential_fn(args, {})
    sites = trace(seed(model, jax.random.key(3))).get_trace(*args)
    latent = [name for name, s in sites.items() if s["type"] == "sample" and not s["is_observed"]]
    z = {name: jnp.full_like(sites[name]["value"], 0.3) for name in latent}
    return MoveCoordinates(potential, z, found_in(model, *args), args, {}, forward_mode=False), potential, z


@pytest.mark.parametrize("case", ["hierarchy", "vectors", pytest.param("nested", marks=pytest.mark.slow)])
def test_the_map_its_inverse_and_its_determinant(x64, case):
    model, data = {
        "hierarchy": (hierarchy, jnp.array([1.0, -2.0, 3.0, 0.5])),
        "vectors": (vectors, jnp.array([1.0, -2.0])),
        "nested": (nested, jnp.array(1.5)),
    }[case]
    coordinates, potential, prototype = coordinates_of(model, data)
    centering, unravel = coordinates.centering, coordinates.unravel
    assert centering is not None
    mask = centering.mask(prototype)
    assert mask.sum() == 4
    size = mask.size
    for number in range(3):
        key = jax.random.fold_in(jax.random.key(0), number)
        y = jax.random.normal(key, (size,))
        c = jnp.where(mask, jax.random.uniform(jax.random.fold_in(key, 1), (size,)), 1.0)

        def forth(y, c=c):
            return centering.to_sites((data,), {}, y, c, unravel)

        z, change = forth(y)
        back, same, _, scale = centering.from_sites((data,), {}, z, c, unravel)
        np.testing.assert_allclose(back, y, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(same, change, rtol=1e-10)
        sign, volume = jnp.linalg.slogdet(jax.jacfwd(lambda y: forth(y)[0])(y))
        assert sign == 1
        np.testing.assert_allclose(change, volume, rtol=1e-9, atol=1e-10)
        assert np.all(np.asarray(scale)[~mask] == 1)

        # densities and gradients: the way in and out, against the density written down in `y`
        energy, gradient = value_and_gradient(potential, forward_mode=False)(unravel(z))
        inside = coordinates.inside(unravel(z), energy, gradient, c)
        value, score = jax.value_and_grad(lambda y: -potential(unravel(forth(y)[0])) + forth(y)[1])(y)
        for state in (inside, (y, *coordinates.value_and_score(c)(y))):
            for mine, known in zip(state, (y, value, score), strict=True):
                np.testing.assert_allclose(mine, known, rtol=1e-8, atol=1e-8)
        sites, energy_back, gradient_back = coordinates.outside(inside, c)
        np.testing.assert_allclose(ravel_pytree(sites)[0], z, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(energy_back, energy, rtol=1e-10)
        np.testing.assert_allclose(
            ravel_pytree(gradient_back)[0], ravel_pytree(gradient)[0], rtol=1e-8, atol=1e-8
        )
    # all at one is the model as written, all at zero its standardised form
    z, change = centering.to_sites((data,), {}, y, jnp.ones(size), unravel)
    np.testing.assert_allclose(z, y, rtol=1e-12)
    assert change == 0


def test_centredness_is_what_the_data_ask_for(x64):
    """`c_j = k_j s^2 / (1 + k_j s^2)` with `k_j = 1 / sigma_j^2`, averaged over the law of `s`."""
    data = jnp.array([1.0, -2.0, 3.0, 0.5])
    coordinates, _, prototype = coordinates_of(hierarchy, data)
    unravel, mask = coordinates.unravel, coordinates.centering.mask(prototype)
    host = HostCoordinates(coordinates, prototype)
    old = np.where(mask, 0.3, 1.0)
    host.centredness = old
    y = np.random.default_rng(5).normal(size=(200, mask.size))
    _, scores = host.evaluate(y)
    weights = np.random.default_rng(6).random(200)
    weights[0] = 0
    broken = y.copy()
    broken[0] = np.nan  # a row without weight may hold anything
    follow = host.recentre(broken, scores, weights)
    new = host.centredness
    tau = np.exp(unravel(y)["tau"])
    informed = tau[:, None] ** 2 / np.asarray(SIGMA) ** 2
    expected = np.average(informed / (1 + informed), axis=0, weights=weights)
    np.testing.assert_allclose(unravel(new)["theta"], expected, rtol=1e-6)
    assert np.all(new[~mask] == 1)
    # the points follow: the same sites, and the density in the new coordinates
    moved = follow(y)
    sites = host.to_sites(moved)
    np.testing.assert_allclose(host.from_sites(sites), moved, rtol=1e-9, atol=1e-9)
    host.centredness = old
    np.testing.assert_allclose(sites, host.to_sites(y), rtol=1e-9, atol=1e-9)
    # the same weights ask for the same again
    host.centredness = new
    assert host.recentre(moved, host.evaluate(moved)[1], weights) is None


def funnel():
    h = numpyro.sample("h", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.Normal(0.0, jnp.exp(h)).expand([4]).to_event(1))


def test_a_funnel_is_sampled_exactly(run, assert_expectation):
    mcmc = run(QDE(funnel), warmup=150, samples=400)
    samples = mcmc.get_samples(group_by_chain=True)
    assert_expectation(samples["h"], 0.0, min_ess=300)
    assert_expectation(samples["h"] ** 2, 1.0, min_ess=300)
    assert_expectation(samples["x"] / np.exp(samples["h"])[..., None], 0.0, min_ess=300)
    # nothing is known but the prior: the moves stay in the standardised form, and the state in the model's
    centredness = mcmc.last_state.adapt_state.shared.centredness
    assert float(centredness[0]) == 1
    assert np.all(np.asarray(centredness[1:]) < 0.1)
    np.testing.assert_allclose(mcmc.last_state.z["x"], samples["x"][:, -1], rtol=1e-6)


def test_the_scales_of_a_vector_are_those_of_its_marginals(x64):
    """Without data the standardised form has the law of the correlations, whatever the widths are."""

    def free():
        widths = numpyro.sample("widths", dist.LogNormal(0.0, 0.7).expand([2]).to_event(1))
        numpyro.sample("pair", dist.MultivariateNormal(jnp.zeros(2), scale_tril=widths[:, None] * ROOT))

    coordinates, _, prototype = coordinates_of(free)
    standard = jnp.where(coordinates.centering.mask(prototype), 0.0, 1.0)
    pair, log_widths = np.array([0.3, -1.2]), np.array([-0.5, 2.0])
    values, _ = coordinates.value_and_score(standard)(np.concatenate([pair, log_widths]))
    known = -0.5 * np.sum(np.linalg.solve(ROOT, pair) ** 2) - 0.5 * np.sum((log_widths / 0.7) ** 2)
    known -= 2 * np.log(2 * np.pi) + np.log(0.8) + 2 * np.log(0.7)
    np.testing.assert_allclose(values, known, rtol=1e-10)


def test_the_twin_without_the_determinant_is_caught(run, monkeypatch):
    to_sites, from_sites = Centering.to_sites, Centering.from_sites

    def no_change(function):
        def wrong(self, *arguments):
            first, change, *rest = function(self, *arguments)
            return (first, jnp.zeros_like(change), *rest)

        return wrong

    monkeypatch.setattr(Centering, "to_sites", no_change(to_sites))
    monkeypatch.setattr(Centering, "from_sites", no_change(from_sites))
    h = np.asarray(run(QDE(funnel), warmup=150, samples=400).get_samples()["h"])
    assert h.mean() < -1  # the right one: 0 within 0.2


def test_new_data_are_followed_under_jit_of_the_arguments(run, assert_expectation):
    """One known scale `tau = 1` in effect: `theta | y` in closed form."""

    def model(y):
        log_tau = numpyro.sample("log_tau", dist.Normal(0.0, 0.01))
        with numpyro.plate("groups", 3):
            theta = numpyro.sample("theta", dist.Normal(0.0, jnp.exp(log_tau)))
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    kernel = QDE(model)
    for y in (jnp.array([2.0, -2.0, 0.0]), jnp.array([0.0, 10.0, 1.0])):
        mcmc = run(kernel, y, warmup=80, samples=300, jit_model_args=True)
        assert_expectation(mcmc.get_samples(group_by_chain=True)["theta"], np.asarray(y) / 2)
        centredness = mcmc.last_state.adapt_state.shared.centredness
        # standardised at first; the data ask for .5, which is as good where the scale is known
        assert centredness[0] == 1
        assert np.all((np.asarray(centredness[1:]) >= 0) & (np.asarray(centredness[1:]) < 0.62))


def test_a_scale_below_the_rounding_of_its_location_has_no_density():
    """In float32 `theta = 5 + 1e-9 y` is 5 whatever `y` is: the density of `y` would be lost."""
    data = jnp.array([1.0, -2.0, 3.0, 0.5])
    coordinates, _, z = coordinates_of(hierarchy, data)
    centredness = jnp.where(coordinates.centering.mask(z), 0.0, 1.0)
    evaluate = jax.jit(coordinates.value_and_score(centredness))
    for log_tau, known in ((0.0, True), (-5.0, True), (-20.0, False), (-30.0, False)):
        y = ravel_pytree({"mu": jnp.array(5.0), "tau": jnp.array(log_tau), "theta": jnp.full(4, 0.7)})[0]
        value, score = evaluate(y)
        assert (value > -jnp.inf) == known
        assert not np.any(np.isnan(score))


def test_a_recentred_model_runs_under_our_driver():
    """Whose start is compiled: what a copy of the kernel sees of the model must not reach the kernel."""
    data = jnp.array([1.0, -2.0, 3.0, 0.5])
    mcmc = MCMC(
        QDE(hierarchy),
        num_warmup=30,
        num_samples=10,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), data)
    assert mcmc.last_state.adapt_state.shared.centredness.shape == (6,)
    assert np.all(np.isfinite(mcmc.get_samples()["theta"]))
    kernel = QDE(hierarchy)
    twin = copy.copy(kernel)
    z = twin.init(jax.random.key(0), 10, None, (data,), {}).z
    found = twin.get_potential_fn((data,))(z)
    np.testing.assert_allclose(found, potential_energy(hierarchy, (data,), {}, z), rtol=1e-5)
    with pytest.raises(RuntimeError, match="has not seen the model yet"):
        kernel.get_potential_fn((data,))
