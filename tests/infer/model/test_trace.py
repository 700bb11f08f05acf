"""What a model says about itself, and what cannot be computed from it."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from numpyro.handlers import scale
from scipy.stats import norm

from qdesampler.infer.model.trace import (
    Plate,
    argument_arrays,
    leaf_names,
    model_sites,
    pointwise_log_likelihood,
    posterior_predictive_draws,
    prior_draws,
)


def regression(x, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    numpyro.factor("penalty", -(slope**2))
    with numpyro.plate("case", len(x)):
        line = numpyro.deterministic("line", slope * x)
        numpyro.sample("y", dist.Normal(line), obs=y)


X, Y = np.arange(3.0), np.array([0.5, 1.5, 1.0])
DRAWS = {"slope": jnp.array([[0.0, 1.0], [2.0, -1.0]])}


def test_the_sites_of_a_model():
    sites = model_sites(regression, (X,), {"y": Y}, {"slope": jnp.array(2.0)})
    assert {name: site.kind for name, site in sites.items()} == {
        "slope": "latent",
        "penalty": "factor",
        "line": "deterministic",
        "y": "observed",
    }
    assert sites["y"].plates == (Plate("case", -1, 3),)
    assert np.array_equal(sites["line"].value, 2 * X)  # computed from the draw given
    assert np.array_equal(sites["y"].value, Y)
    assert (sites["slope"].event_ndim, sites["line"].event_ndim) == (0, None)


def test_improper_sites_have_a_value_too():
    def model():
        numpyro.sample("x", dist.ImproperUniform(constraints.real, (), (2,)))

    assert jnp.shape(model_sites(model, (), {}, {})["x"].value) == (2,)


def test_the_pointwise_log_likelihood_leaves_out_scales_and_factors():
    scaled = scale(regression, 10.0)
    sites = model_sites(scaled, (X,), {"y": Y}, {})
    values = pointwise_log_likelihood(scaled, DRAWS, (X,), {"y": Y}, sites)
    assert list(values) == ["y"]
    expected = norm.logpdf(Y, DRAWS["slope"][..., None] * X)
    np.testing.assert_allclose(values["y"], expected, rtol=1e-5)


def discrete(y):
    which = numpyro.sample("which", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    shift = numpyro.sample("shift", dist.Normal())
    numpyro.sample("y", dist.Normal(which + shift), obs=y)


def test_a_site_that_was_summed_out_is_named():
    sites = model_sites(discrete, (Y,), {}, {"shift": jnp.array(0.0)})
    draws = {"shift": jnp.zeros((2, 2))}
    with pytest.raises(ValueError, match="log_likelihood needs draws .* none of 'which'"):
        pointwise_log_likelihood(discrete, draws, (Y,), {}, sites)
    with pytest.raises(ValueError, match="posterior_predictive needs draws .* none of 'which'"):
        posterior_predictive_draws(discrete, jax.random.key(0), draws, (Y,), {}, sites)


def test_predictions_do_not_read_the_data():
    sites = model_sites(regression, (X,), {"y": Y}, {})
    draws = {"slope": jnp.full((4, 500), 3.0)}
    values = posterior_predictive_draws(regression, jax.random.key(0), draws, (X,), {"y": Y}, sites)
    assert list(values) == ["y"]
    error = (values["y"] - 3.0 * X).mean((0, 1)) * np.sqrt(2000)  # standard normal for each case
    assert np.max(np.abs(error)) < 5
    assert np.max(np.abs((Y - 3.0 * X) * np.sqrt(2000))) > 5  # the data themselves would be seen


def test_draws_of_the_prior():
    sites = model_sites(regression, (X,), {"y": Y}, {})
    parameters, data = prior_draws(regression, jax.random.key(0), 400, (X,), {"y": Y}, sites)
    assert set(parameters) == {"slope", "line"}
    assert data["y"].shape == (400, 3)
    noise = data["y"] - parameters["line"]
    assert abs(float(noise.std()) - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(float(parameters["slope"].std()) - 1) < 5 / np.sqrt(2 * 400)


def test_an_improper_prior_has_no_draws():
    def model():
        numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))

    with pytest.raises(ValueError, match="prior of this model cannot be drawn"):
        prior_draws(model, jax.random.key(0), 3, (), {}, model_sites(model, (), {}, {}))


def test_arguments_are_named_by_the_signature():
    key = jax.random.key(0)
    kwargs = {"y": None, "_gibbs_sites": {"a": np.ones(2)}, "more": {"a": jnp.ones(1), "label": "b"}}

    def model(x, count, y=None, *, key=None, **rest):
        pass

    found = argument_arrays(scale(model, 2.0), (X, 3), {**kwargs, "key": key})
    assert set(found) == {"x", "more.a"}
    assert found["x"] is X
    assert np.array_equal(found["more.a"], [1.0])
    assert set(argument_arrays(lambda *data: None, (X, Y), {})) == {"data.0", "data.1"}


def test_leaves_are_named_by_their_path():
    tree = {"a": [1, 2], "b": (3, {"c": 4})}
    assert leaf_names(tree, "z") == {"z.a.0": 1, "z.a.1": 2, "z.b.0": 3, "z.b.1.c": 4}
    assert leaf_names(5, "z") == {"z": 5}
    assert leaf_names(tree, "") == {"a.0": 1, "a.1": 2, "b.0": 3, "b.1.c": 4}
