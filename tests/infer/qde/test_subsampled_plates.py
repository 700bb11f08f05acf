"""Plates with `subsample_size`: refused if the rows would be drawn once, accepted if they are fixed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import substitute
from numpyro.infer import HMCECS, MCMC, NUTS
from numpyro.infer.util import log_density

from qdesampler.infer import QDE, AnnealedQDE, compare_with_reference, find_modes, load_model

DATA = jnp.asarray(np.random.default_rng(0).normal(1.0, 1.0, 50))
CLICKS = Path(__file__).parents[3] / "models" / "clicks_subsampled"


def model(data, size=None):
    mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(data), subsample_size=size) as rows:
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=data[rows])


def init(kernel, *args):
    return kernel.init(jax.random.key(0), 40, None, args, {})


@pytest.mark.parametrize("kernel", [QDE, AnnealedQDE])
def test_rows_left_to_chance_are_refused(kernel):
    with pytest.raises(ValueError, match=r"subsamples the plates 'row' \(5 of 50 rows\).*HMCECS"):
        init(kernel(model), DATA, 5)
    with pytest.raises(ValueError, match="subsamples the plates 'row'"):
        jax.jit(lambda key: kernel(model).init(key, 40, None, (DATA, 5), {}).z)(jax.random.key(0))


def test_a_search_for_modes_refuses_them_too():
    with pytest.raises(ValueError, match="subsamples the plates 'row'"):
        find_modes(model, key=jax.random.key(0), model_args=(DATA, 5))


def test_all_rows_are_no_subsample():
    z = {"mean": jnp.array(0.3)}
    energies = []
    for args in ((DATA,), (DATA, 50)):
        kernel = QDE(model)
        init(kernel, *args)
        energies.append(float(kernel.get_potential_fn(args)(z)))
    assert energies[0] == energies[1]


def test_rows_that_are_fixed_are_taken():
    """The likelihood of the chosen rows, scaled up to all: what NumPyro makes of them."""
    rows, z = jnp.array([3, 4, 40, 41, 42]), {"mean": jnp.array(0.3)}
    chosen = substitute(model, data={"row": rows})
    kernel = QDE(chosen)
    init(kernel, DATA, 5)
    found = float(kernel.get_potential_fn((DATA, 5))(z))
    y = DATA[rows]
    known = dist.Normal(0.0, 1.0).log_prob(0.3) + 10 * dist.Normal(0.3, 1.0).log_prob(y).sum()
    assert found == pytest.approx(-float(known), rel=1e-6)
    assert found == pytest.approx(-float(log_density(chosen, (DATA, 5), {}, z)[0]), rel=1e-6)


@pytest.mark.slow
def test_hmcecs_samples_the_clicks_from_subsamples():
    """NumPyro's kernel for subsamples on the model of the zoo: 500 of 50,000 rows at a time."""
    case = load_model(CLICKS)
    assert case.reference is not None
    means: dict[str, list[float]] = {}
    for name, entry in case.reference["parameters"].items():
        means.setdefault(name.split("[")[0], []).append(entry["mean"])
    center = {name: jnp.asarray(value if len(value) > 1 else value[0]) for name, value in means.items()}
    kernel = HMCECS(NUTS(case.model), num_blocks=100, proxy=HMCECS.taylor_proxy(center))
    mcmc = MCMC(kernel, num_warmup=500, num_samples=1000, progress_bar=False)
    mcmc.run(jax.random.key(0), **case.data, subsample_size=500)
    draws = {name: value[None] for name, value in mcmc.get_samples().items()}
    found = compare_with_reference(draws, case.reference)
    print(f"\n{np.abs(found.error).max():.2f} standard errors, ESS {found.ess.min():.0f}")
    assert found.ess.min() > 100
    assert np.abs(found.error).max() < 4
