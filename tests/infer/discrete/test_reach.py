"""Hard zeros and single sites: a support in pieces is named with the number of positions in reach."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from qdesampler.infer import AnnealerGibbs
from qdesampler.infer.discrete.reach import ReachWarning


def choice(kind, n=6):
    """Bits of which not all numbers of ones are allowed."""

    def model():
        with numpyro.plate("sites", n):
            x = numpyro.sample("x", dist.Bernoulli(0.4))
        total = jnp.sum(x)
        allowed = {"one": total == 1, "at most two": total <= 2, "two or four": (total == 2) | (total == 5)}[
            kind
        ]
        numpyro.factor("hard", jnp.where(allowed, 0.0, -jnp.inf))

    return model


def run(model, start=None, **options):
    mcmc = MCMC(AnnealerGibbs(model, **options), num_warmup=0, num_samples=4, progress_bar=False)
    mcmc.run(jax.random.key(0), extra_fields=("num_evals",), init_params=start)
    return mcmc


def test_a_support_in_pieces_is_counted():
    with pytest.warns(ReachWarning, match="reach 1 of the 6 positions"):
        run(choice("one"), move="local")
    with pytest.warns(ReachWarning, match="changes of one site at the start have density zero"):
        run(choice("one", 13), move="local")


def test_no_warning_for_one_piece_and_for_moves_of_several_sites():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReachWarning)
        mcmc = run(choice("at most two"), {"x": jnp.array([1, 1, 0, 0, 0, 0])}, move="local")
        run(choice("one"), move="local", taylor_order=0)
    evals = np.asarray(mcmc.get_extra_fields()["num_evals"])
    assert evals[0] - evals[1] >= 6 + 64  # what the search took is counted


def test_the_wrong_twin_stays_where_it_is():
    """The warning is right: the chain never moves, while permutations reach all positions."""
    with pytest.warns(ReachWarning):
        still = np.asarray(run(choice("one"), move="local").get_samples()["x"])
    assert len(np.unique(still, axis=0)) == 1
    mcmc = MCMC(
        AnnealerGibbs(choice("one"), move="permutation"), num_warmup=0, num_samples=200, progress_bar=False
    )
    mcmc.run(jax.random.key(1))
    assert len(np.unique(np.asarray(mcmc.get_samples()["x"]), axis=0)) == 6
