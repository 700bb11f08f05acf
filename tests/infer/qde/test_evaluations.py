"""`num_evals` against a count of the evaluations that are made, and how often a model is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from qdesampler.infer.qde.kernel import QDE


class Counter:
    """Counts executions inside compiled programs, one for each mapped chain, and the points among them."""

    def __init__(self):
        self.calls = 0
        self.points = set()

    def __call__(self, x):
        jax.debug.callback(self._count, jnp.sum(x * jnp.arange(1, jnp.size(x) + 1).reshape(jnp.shape(x))))
        return x

    def _count(self, place):
        self.calls += 1
        self.points.add(float(place))

    @property
    def total(self):
        jax.effects_barrier()
        return self.calls


class CountedNormal(dist.Normal):
    counter: Counter

    def log_prob(self, value):
        return super().log_prob(self.counter(value))


def counted(mcmc):
    return int(np.sum(mcmc.last_state.warmup_evals) + np.sum(mcmc.get_extra_fields()["num_evals"]))


OPTIONS = {
    "leapfrog": {},
    "two stages": {"integrator": "mn2", "solve": False},
    "isokinetic": {"dynamics": "isokinetic", "solve": False},
    "forward mode": {"forward_mode_differentiation": True, "solve": False},
    "heuristic": {"find_heuristic_step_size": True, "solve": False},
}


@pytest.mark.parametrize(("chains", "options"), [*((1, name) for name in OPTIONS), (3, "leapfrog")])
def test_evaluations_of_a_potential_are_counted_one_by_one(run, options, chains):
    counter = Counter()

    def potential(z):
        return 0.5 * jnp.sum(counter(z) ** 2)

    kernel = QDE(potential_fn=potential, dense_mass=False, **OPTIONS[options])
    start = jnp.ones(3) if chains == 1 else jnp.ones((chains, 3))
    mcmc = run(kernel, warmup=70, samples=30, chains=chains, init_params=start)
    evals = mcmc.get_extra_fields(group_by_chain=True)["num_evals"]
    assert evals.min() >= 1
    # Blocks of the warm-up are padded with a point that is evaluated anyway; no point is free.
    assert counter.total + chains > counted(mcmc) >= len(counter.points) > 30
    # vectorized chains walk in lockstep: what one pays, all pay
    assert np.all(evals == evals[:1])


def test_evaluations_of_a_solve_that_is_given_up_are_counted(run):
    counter = Counter()

    def rosenbrock(z):
        x, y = counter(z)[::2], z[1::2]
        return jnp.sum((1 - x) ** 2 + 20 * (y - x**2) ** 2)

    start = jnp.zeros(44)  # too many dimensions for a map
    mcmc = run(QDE(potential_fn=rosenbrock), warmup=70, samples=5, chains=1, init_params=start)
    assert mcmc.last_state.adapt_state.shared.acceptance < 0.1  # hopeless
    assert counter.total + 1 > counted(mcmc) >= len(counter.points)


def test_chains_mapped_by_vmap_pay_for_their_own_steps_only(run):
    kernel = QDE(
        potential_fn=lambda z: 0.5 * z @ z,
        step_size=0.3,
        trajectory_length=1.7,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    keys = jax.random.split(jax.random.key(0))
    options = {"warmup": 0, "samples": 40}
    both = run(
        kernel, driver=MCMC, chains=2, method=jax.vmap, key=keys, init_params=jnp.ones((2, 3)), **options
    )
    evals = both.get_extra_fields(group_by_chain=True)["num_evals"]
    assert set(np.unique(evals)) <= set(range(3, 10))  # steps of lengths within 40% of 1.7, and the start
    assert not np.array_equal(evals[0], evals[1])
    for key, counts in zip(keys, evals, strict=True):
        one = run(kernel, driver=MCMC, chains=1, key=key, init_params=jnp.ones(3), **options)
        assert np.array_equal(one.get_extra_fields()["num_evals"], counts)


@pytest.mark.parametrize("chains", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_evaluations_of_a_model_are_counted_with_its_start(run, chains):
    counter = CountedNormal.counter = Counter()

    def model():
        numpyro.sample("scale", dist.HalfNormal(1.0))
        numpyro.sample("x", CountedNormal(0.0, 1.0))
        numpyro.deterministic("replayed", jnp.array(1.0))

    mcmc = run(QDE(model, dense_mass=False, solve=False), warmup=30, samples=20, chains=chains)
    assert counter.total + chains > counted(mcmc) >= len(counter.points)
    given = {"scale": jnp.zeros(chains), "x": jnp.zeros(chains)}
    given = given if chains > 1 else jax.tree.map(lambda x: x[0], given)
    before = counter.total
    counter.points.clear()
    mcmc = run(
        QDE(model, dense_mass=False, solve=False), warmup=30, samples=20, chains=chains, init_params=given
    )
    assert counter.total - before + chains > counted(mcmc) >= len(counter.points)


@pytest.mark.parametrize("chains", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    ("deterministic", "most"), [pytest.param(False, 4, marks=pytest.mark.slow), (True, 6)]
)
def test_a_model_is_traced_a_few_times_only(run, chains, deterministic, most):
    traces = []

    def model(y):
        traces.append(0)
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        if deterministic:
            numpyro.deterministic("twice", 2 * x)
        numpyro.sample("obs", dist.Normal(x, 1.0), obs=y)

    mcmc = MCMC(
        QDE(model, dense_mass=False),
        num_warmup=10,
        num_samples=10,
        num_chains=chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.warmup(jax.random.key(0), 1.0)
    assert len(traces) <= most
    warm = len(traces)
    mcmc.run(jax.random.key(1), 1.0)
    # NumPyro compiles its loop anew; the start is not looked for again
    assert len(traces) - warm <= most - 2
