"""Mirror images that the draws leave out: their mass by the density, inside supports, on simplices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler.diagnostics import diagnose
from qdesampler.infer.model.scores import log_densities

RNG = np.random.default_rng(0)
SHAPE = (4, 500)


def exchangeable(x):
    """A mixture of two components on two points, its labels free."""
    y = jnp.array([-2.0, 4.0])
    return jnp.sum(x**2) / 20 - jnp.sum(jax.nn.logsumexp(-2 * (y[:, None] - x) ** 2, axis=1))


def lopsided(x):
    """Two wells a barrier apart, the left one with a share of 1 / (1 + e)."""
    return -jnp.sum(jnp.logaddexp(-((x - 8) ** 2) / 2, -((x + 8) ** 2) / 2 - 1))


def test_images_that_the_draws_leave_out_are_weighed(ended):
    def row(run):
        (check,) = [check for check in diagnose(run).checks if check.name.startswith("Mirror images")]
        return check

    draws = RNG.normal(size=(*SHAPE, 2)) / 2
    labels = row(ended(exchangeable, draws + np.array([-2.0, 4.0])))
    assert labels.value == "Swapping the components 0 and 1 of x: 50% of the mass, 0% of the draws"
    left = row(ended(lopsided, draws[..., :1] + 8))
    assert left.value == "Flipping the sign of x: 27% of the mass, 0% of the draws"
    # every chain in both places as often as it should, and a density without such places
    both = draws + np.array([-2.0, 4.0])
    assert row(ended(exchangeable, np.where(RNG.random((*SHAPE, 1)) < 0.5, both, both[..., ::-1]))).passed
    side = np.where(RNG.random((*SHAPE, 1)) < 1 / (1 + np.e), -1, 1)
    assert row(ended(lopsided, RNG.normal(size=(*SHAPE, 1)) + 8 * side)).passed
    assert row(ended(lambda x: jnp.sum((x - 3) ** 2) / 2, RNG.normal(size=(*SHAPE, 2)) + 3)).passed


def test_swaps_reach_simplices_and_flips_stay_inside_supports(ended):
    """Weights of a mixture go with its means; a scale has no mirror image, a half normal density or not."""

    def model():
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        means = numpyro.sample("means", dist.Normal(0, 5).expand([2]).to_event(1))
        scale = numpyro.sample("scale", dist.HalfNormal(1))
        law = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, scale))
        numpyro.sample("y", law, obs=jnp.array([-3.0, -2.5, -2.0, -3.2, 3.0, 2.0]))

    w = RNG.beta(5, 3, size=SHAPE)
    means = RNG.normal(size=(*SHAPE, 2)) / 4 + np.array([-2.7, 2.5])
    samples = {"weights": np.stack([w, 1 - w], -1), "means": means, "scale": 0.5 + 0.1 * RNG.random(SHAPE)}
    samples = {name: jnp.asarray(value) for name, value in samples.items()}
    run = ended(jnp.sum, samples["means"])
    run.sampler = SimpleNamespace(model=model, sample_field="z")
    run.last_state = SimpleNamespace(
        z={"weights": jnp.zeros((4, 1)), "means": jnp.zeros((4, 2)), "scale": jnp.zeros(4)}
    )
    run.get_samples = lambda group_by_chain: samples
    (check,) = [check for check in diagnose(run).checks if check.name.startswith("Mirror images")]
    assert check.value.startswith("Swapping the components 0 and 1 of weights and of means: 50%") or (
        check.value.startswith("Swapping the components 0 and 1 of means and of weights: 50%")
    ), check
    draws = {name: np.asarray(value)[:, 0] for name, value in samples.items()}
    here = log_densities(run, draws)
    swapped = draws | {name: draws[name][:, ::-1] for name in ("weights", "means")}
    np.testing.assert_allclose(log_densities(run, swapped), here, rtol=1e-4)
    assert np.all(np.abs(log_densities(run, draws | {"weights": draws["weights"][:, ::-1]}) - here) > 0.01)
    assert np.all(log_densities(run, draws | {"scale": -draws["scale"]}) == -np.inf)
    assert np.all(log_densities(run, draws | {"weights": -draws["weights"]}) == -np.inf)
