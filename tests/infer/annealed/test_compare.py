"""Bayes factors: of runs, of pairs, and of models that are run for it; discrete sites and constants."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from qdesampler import driver
from qdesampler.infer.annealed.compare import compare_evidence
from qdesampler.infer.annealed.evidence import log_evidence
from qdesampler.infer.annealed.kernel import AnnealedQDE

Y = jnp.array([0.4, -0.3, 3.1, 2.7])
KEY = jax.random.key(0)


def outliers(y, shifted=0.5):
    """Each observation has the mean `mu`, or with probability `shifted` the mean `mu + 3`."""
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("data", len(y)):
        which = numpyro.sample("which", dist.Bernoulli(shifted), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(mu + 3 * which, 1), obs=y)


def plain(y):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1).expand([len(y)]).to_event(1), obs=y)


def exact(shift):
    """`log Z` by the sum over all assignments; each is a Gaussian integral."""
    total, y = [], np.asarray(Y)
    cov = np.eye(len(y)) + 1.0
    for number in range(2 ** len(y)):
        which = np.array([(number >> bit) & 1 for bit in range(len(y))])
        if which.any() and not shift:
            continue
        rest = y - 3 * which
        log_normal = -0.5 * (rest @ np.linalg.solve(cov, rest) + np.linalg.slogdet(2 * np.pi * cov)[1])
        total.append(log_normal + (len(y) * np.log(0.5) if shift else 0.0))
    return np.logaddexp.reduce(total)


@pytest.fixture(scope="module")
def rows():
    found = compare_evidence(
        {"plain": plain, "outliers": outliers}, key=KEY, model_args=(Y,), num_warmup=100, num_samples=500
    )
    return {row["model"]: row for row in found}


def test_models_are_run_and_discrete_sites_are_summed_out(rows):
    for name, shift in (("plain", False), ("outliers", True)):
        row = rows[name]
        assert 0 < row["standard_error"] < 0.03
        assert abs(row["log_evidence"] - exact(shift)) < 4 * row["standard_error"] + 1e-4
    assert abs(exact(True) - exact(False)) > 0.5  # the sum matters
    chance = 1 / (1 + np.exp(exact(False) - exact(True)))
    assert rows["outliers"]["probability"] == pytest.approx(chance, abs=0.03)


def test_a_constant_that_the_potential_leaves_out_is_added():
    mcmc = MCMC(
        AnnealedQDE(potential_fn=lambda x: 0.5 * jnp.sum(x**2)),
        num_warmup=50,
        num_samples=100,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(KEY, init_params=jnp.zeros((2, 2)))
    without, whole = log_evidence(mcmc), log_evidence(mcmc, log_constant=-np.log(2 * np.pi))
    assert without.value == pytest.approx(np.log(2 * np.pi), abs=0.02)
    assert whole.value == pytest.approx(0.0, abs=0.02)
    assert whole.standard_error == without.standard_error
    with pytest.raises(ValueError, match="log_constant is nan"):
        log_evidence(mcmc, log_constant=np.nan)
    mcmc.sampler._target.model = plain
    with pytest.raises(ValueError, match="is for a potential_fn"):
        log_evidence(mcmc, log_constant=1.0)


def test_models_need_a_key():
    with pytest.raises(ValueError, match=r"\['plain'\] are models.*give key="):
        compare_evidence({"plain": plain, "known": (-1.0, 0.1)}, model_args=(Y,))


def test_bayes_factors_have_their_errors():
    table = compare_evidence({"a": (-3.0, 0.1), "b": (-1.0, 0.2)})
    assert [row["model"] for row in table] == ["b", "a"]
    np.testing.assert_allclose(table[1]["log_bayes_factor"], -2.0)
    np.testing.assert_allclose(table[1]["log_bayes_factor_error"], np.hypot(0.1, 0.2))
    np.testing.assert_allclose(table[0]["probability"], 1 / (1 + np.exp(-2.0)))
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_evidence({})
    with pytest.raises(ValueError, match="not finite"):
        compare_evidence({"a": (np.nan, 0.1)})


def test_new_data_of_the_same_shape_compile_the_evaluation_only(caplog):
    """With `jit_model_args` the ladder's program takes the data as arguments; the search is made anew."""
    mcmc = driver.MCMC(
        AnnealedQDE(plain),
        num_warmup=100,
        num_samples=500,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )
    compiled = []
    for data in (Y, Y + 1.5):
        caplog.clear()
        with jax.log_compiles():
            mcmc.run(KEY, y=data)
        compiled.append(
            [r.getMessage() for r in caplog.records if "XLA compilation of jit" in r.getMessage()]
        )
        cov = np.eye(4) + 1.0
        rest = np.asarray(data)
        exactly = -0.5 * (rest @ np.linalg.solve(cov, rest) + np.linalg.slogdet(2 * np.pi * cov)[1])
        value, error = log_evidence(mcmc)
        assert abs(value - exactly) < 4 * error + 1e-3
    first, second = (sum("_traced_advance" in line for line in lines) for lines in compiled)
    assert first == 1
    assert second == 0
    assert any("jit(evaluate)" in line for line in compiled[1])
