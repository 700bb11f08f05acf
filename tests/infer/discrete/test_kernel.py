"""AnnealerGibbs on models whose latent sites are all discrete: exact answers, honest counts, refusals."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC
from numpyro.infer.util import log_density

from qdesampler.backends import (
    BackendError,
    Capabilities,
    ExactEnumeration,
    GibbsSurrogate,
    IsingProblem,
    ProblemTooLargeError,
    QuantumDynamics,
    SimulatedAnnealing,
)
from qdesampler.backends.encoding import StateEncoding
from qdesampler.infer.discrete import moves as annealer_moves
from qdesampler.infer.discrete.kernel import AnnealerGibbs
from qdesampler.infer.discrete.moves import MoveSettings, default_backend, draw_moves
from qdesampler.infer.discrete.state import AnnealerAdaptState
from qdesampler.kernels.discrete.bernoulli_mixture import BernoulliMixture
from qdesampler.kernels.discrete.guided import strong_pairs
from qdesampler.kernels.discrete.outcomes import DiscreteState, choose, metropolis_outcomes
from qdesampler.kernels.discrete.scan import fit_scan
from tests.targets import BIT_LAW, BIT_TABLE, BITS, NUM_BITS, bits


def draws(mcmc):
    z = mcmc.get_samples(group_by_chain=True)
    return np.concatenate([z["a"], z["b"]], -1).astype(int)


def check(x, assert_expectation, law=BIT_LAW):
    """Means of sites and of all pairs of them."""
    i, j = np.triu_indices(NUM_BITS, 1)
    assert_expectation(x, law @ BITS)
    assert_expectation(x[..., i] * x[..., j], law @ (BITS[:, i] * BITS[:, j]))


MOVES = ["coset", "scan", "mask", "fitted", "independence", "surrogate", "symmetric", "annealed", "local"]
FAST = ("coset",)  # tests/kernels/discrete/test_scan.py has the law of the scan, with wrong twins


@pytest.mark.parametrize("move", [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in MOVES])
def test_every_move_reaches_the_enumerated_posterior(run, assert_expectation, move):
    steps = 20 if move == "local" else None  # alone it needs many steps: its relaxation takes 15
    mcmc = run(AnnealerGibbs(bits, move=move, num_steps=steps), warmup=50, samples=800)
    x = draws(mcmc)
    check(x, assert_expectation)
    assert not np.any(np.all(x == BITS[7], -1))
    np.testing.assert_array_equal(mcmc.get_samples(group_by_chain=True)["total"], x.sum(-1))


def test_reads_accepted_as_if_symmetric_are_caught(run, assert_expectation, monkeypatch):
    """The wrong twin: propose a read of the pool itself and accept with the ratio of densities."""

    def naive(key, state, log_density, pool, **_):
        key_row, key_choose = jax.random.split(key)
        proposal = pool[jax.random.randint(key_row, (), 0, pool.shape[0])].astype(state.position.dtype)
        return choose(key_choose, metropolis_outcomes(state, proposal, log_density(proposal)), 1)

    monkeypatch.setattr(annealer_moves, "mask_move", naive)
    pool = np.random.default_rng(0).choice(BITS, 400, p=BIT_LAW)
    mcmc = run(AnnealerGibbs(bits, move="mask", pool=pool, taylor_order=0), warmup=50, samples=1500)
    with pytest.raises(AssertionError, match="standard errors"):
        check(draws(mcmc), assert_expectation)


@pytest.mark.parametrize(
    ("move", "order"),
    [("coset", 0), ("scan", 0), ("scan, guided", 0), ("mask", 0), ("local", 1), ("surrogate", 2)]
    + [pytest.param(m, 0, marks=pytest.mark.slow) for m in (*MOVES[3:], "permutation")],
)
def test_every_evaluation_is_counted(move, order):
    """A host counts the positions that are evaluated in one draw of three chains."""
    seen = []

    def count(x):
        seen.append(int(np.prod(x.shape[:-1])))
        return BIT_TABLE[np.sum(x * 2 ** np.arange(NUM_BITS - 1, -1, -1), -1)].astype(np.float32)

    def log_density(x):
        shape = jax.ShapeDtypeStruct((), np.float32)
        return jax.pure_callback(count, shape, x.astype(jnp.int32), vmap_method="expand_dims")

    move, guided = move.split(",")[0], "guided" in move
    settings = MoveSettings(move, default_backend(move), 4, 2, order, None, 0.5, 3, 1.0, None)
    encoding = StateEncoding((2,) * NUM_BITS)
    problem = IsingProblem.from_dense(jnp.zeros(NUM_BITS), jnp.zeros((NUM_BITS, NUM_BITS)))
    density = BernoulliMixture(jnp.zeros(1), jnp.zeros((1, NUM_BITS)))
    if move == "scan":
        density = fit_scan(jnp.asarray(BITS[:9]), (2,) * NUM_BITS)
    adapt = AnnealerAdaptState(jnp.asarray(BITS[:9]), problem, density)
    if guided:  # in vectorized chains too one branch of two is evaluated
        adapt = adapt._replace(tau=jnp.asarray(0.5), pairs=strong_pairs(problem))

    def draw(key, x):
        state = DiscreteState(x, log_density(x))
        return draw_moves(key, state, log_density, settings, encoding, adapt)

    keys = jax.random.split(jax.random.key(0), 3)
    _, info = jax.jit(jax.vmap(draw))(keys, jnp.asarray(BITS[10:13]))
    jax.block_until_ready(info)
    assert sum(seen) - 3 == int(np.sum(info.counts.evals))


class Counted(SimulatedAnnealing):
    """A host: not to be traced; counts its calls and reads, and can break."""

    calls, reads, missing, closed = 0, 0, 0, False

    @property
    def capabilities(self):
        return Capabilities(law="unknown", jittable=False)

    def sample(self, problem, **options):
        if type(self).closed:
            raise BackendError("the backend is closed.")
        assert not isinstance(problem.h, jax.core.Tracer)
        type(self).calls += 1
        type(self).reads += options["num_reads"]
        samples = super().sample(problem, **options)
        return samples._replace(states=samples.states[type(self).missing :])


@pytest.fixture
def host():
    Counted.calls, Counted.reads, Counted.missing, Counted.closed = 0, 0, 0, False
    return Counted(20)


def test_a_host_is_called_once_and_every_evaluation_is_counted(run, host):
    kernel = AnnealerGibbs(bits, backend=host, pool_size=50, num_steps=2, taylor_order=0)
    fields = ("num_calls", "warmup_evals")
    mcmc = run(kernel, warmup=0, samples=20, chains=3, extra_fields=fields)
    found = mcmc.get_extra_fields(group_by_chain=True)
    assert (host.calls, host.reads) == (1, 50)
    assert (found["num_calls"].sum(), found["num_reads"].sum()) == (1, 50)
    steady = 2 * 3 + 1
    assert np.all(found["num_evals"][:, 1:] == steady)
    # third differences, the climb of eight walkers, six rounds of 64 reads; and each chain's start
    assert found["num_evals"][:, 0].sum() == 3 * (steady + 1) + 128 + 8 * (1 + 8 * NUM_BITS) + 6 * 64
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(TypeError, match="pool="):
        jax.vmap(lambda key: kernel.init(key, 0))(keys)
    pool = {"a": BITS[:9, :3], "b": BITS[:9, 3:]}
    kernel = AnnealerGibbs(bits, backend=host, pool=pool)
    state = jax.vmap(lambda key: kernel.init(key, 0))(keys)
    np.testing.assert_array_equal(state.adapt_state.pool[2], BITS[:9])
    assert host.calls == 1


def test_faults_of_a_backend_are_told(host):
    kernel = AnnealerGibbs(bits, backend=host, pool_size=50)
    Counted.missing = 3
    with pytest.raises(BackendError, match=r"asked for 50 reads of 5 variables and returned \(47, 5\)"):
        kernel.init(jax.random.key(0), 0)
    Counted.closed = True
    with pytest.raises(BackendError, match="closed"):
        kernel.init(jax.random.key(0), 0)

    def large():
        numpyro.sample("z", dist.Bernoulli(0.5).expand([17]))

    with pytest.raises(ProblemTooLargeError, match="17 bits, ExactEnumeration takes 16"):
        AnnealerGibbs(large, backend=ExactEnumeration()).init(jax.random.key(0), 0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"move": "independence", "backend": SimulatedAnnealing()}, TypeError, "divides by the probability"),
        ({"move": "surrogate", "backend": SimulatedAnnealing()}, TypeError, "reversible"),
        ({"move": "symmetric", "backend": GibbsSurrogate()}, TypeError, "symmetric"),
        ({"move": "annealed", "backend": QuantumDynamics()}, TypeError, "weights"),
        ({"move": "coset", "backend": "dwave"}, TypeError, "annealing backend"),
        ({"move": "flip"}, ValueError, "no move 'flip'"),
        ({"surrogate": "cubic"}, ValueError, "cubic"),
        ({"taylor_order": 3}, ValueError, "taylor_order"),
        ({"num_masks": 0}, ValueError, "num_masks"),
        ({"num_steps": 1.5}, TypeError, "num_steps"),
        ({"local_share": 0.0}, ValueError, "local_share"),
        ({"tau": -1.0}, ValueError, "tau"),
        ({"pool_size": 0}, ValueError, "pool_size"),
    ],
)
def test_wrong_settings_are_refused_with_the_reason(options, error, match):
    with pytest.raises(error, match=match):
        AnnealerGibbs(bits, **options)


def poisson():
    numpyro.sample("k", dist.Poisson(3.0))


def continuous():
    numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("x", dist.Normal())


def nothing():
    numpyro.sample("k", dist.Categorical(jnp.ones(1)))


def nowhere():
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.factor("none", jnp.where(k == 2, 0.0, jnp.nan))


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        (poisson, ValueError, "'k' .Poisson. cannot be enumerated"),
        (continuous, ValueError, r"\['x'\] are continuous. Make it a block"),
        (nothing, ValueError, "nothing to move"),
        (nowhere, RuntimeError, "100 draws from the prior had no position"),
    ],
)
def test_models_that_do_not_fit_are_refused(model, error, match):
    with pytest.raises(error, match=match):
        AnnealerGibbs(model, move="local").init(jax.random.key(0), 0)


def test_bad_starts_and_pools_are_refused():
    key, kernel = jax.random.key(0), AnnealerGibbs(bits, move="local")
    with pytest.raises(ValueError, match=r"init_params\['a'\] has values outside"):
        kernel.init(key, 0, {"a": jnp.array([0, 1, 2])})
    with pytest.raises(ValueError, match="names"):
        kernel.init(key, 0, {"c": jnp.array(0)})
    with pytest.raises(RuntimeError, match="init_params have no position"):
        kernel.init(key, 0, {"a": jnp.array([0, 0, 1]), "b": jnp.array([1, 1])})
    for pool, match in (
        (BITS[:, :3], r"\(R, 5\)"),
        (2 * BITS - 1, "states 0"),
        ({"a": BITS[:, :3]}, "no values of"),
    ):
        with pytest.raises(ValueError, match=match):
            AnnealerGibbs(bits, pool=pool).init(key, 0)
    problem = IsingProblem.from_dense(jnp.zeros(3), jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="3 spins, the sites take 5 bits"):
        AnnealerGibbs(bits, surrogate=problem).init(key, 0)
    with pytest.raises(RuntimeError, match="initialised first"):
        AnnealerGibbs(bits).get_potential_fn()


def test_a_warm_up_goes_on_after_pickling_and_new_data_count(run):
    kernel = pickle.loads(pickle.dumps(AnnealerGibbs(bits, pool=BITS[::3], num_steps=2)))
    mcmc = MCMC(
        kernel, num_warmup=10, num_samples=20, num_chains=2, chain_method="vectorized", progress_bar=False,
        jit_model_args=True,
    )  # fmt: skip
    mcmc.warmup(jax.random.key(0), 0.0)
    assert np.all(mcmc.last_state.i == 10)
    warm = mcmc.post_warmup_state
    mcmc.run(warm.rng_key, 0.0)
    first = draws(mcmc)
    assert np.all(mcmc.last_state.i == 30)
    assert np.all(mcmc.last_state.warmup_evals == warm.warmup_evals)
    assert first[..., 0].mean() < 0.9
    mcmc.run(warm.rng_key, 0.0)
    np.testing.assert_array_equal(draws(mcmc), first)
    mcmc.run(warm.rng_key, 30.0)  # the shift makes the first bit a one
    assert np.all(draws(mcmc)[:, 2:, 0] == 1)


def chain_of_spins():
    """Quadratic in 100 spins, too many for finite differences: derivatives find the posterior."""
    x = numpyro.sample("x", dist.Bernoulli(0.4).expand([100]).to_event(1))
    numpyro.factor("neighbours", 1.5 * jnp.sum((2.0 * x[1:] - 1) * (2.0 * x[:-1] - 1)))


def indexed():
    """The same spins, but looked up by index: there are no derivatives."""
    x = numpyro.sample("x", dist.Bernoulli(0.4).expand([100]).to_event(1))
    s = jnp.array([-1.0, 1.0])[x]
    numpyro.factor("neighbours", 1.5 * jnp.sum(s[1:] * s[:-1]))


def chain_law():
    """P(x_i = 1) of the chain of spins by transfer matrices."""
    field = np.array([0.6, 0.4])
    T = np.exp(1.5 * np.array([[1, -1], [-1, 1]]))
    left, right = [field], [np.ones(2)]
    for _ in range(99):
        left.append(field * (T @ left[-1]) / (T @ left[-1]).sum())
        right.append(T @ (field * right[-1]) / (field * right[-1]).sum())
    p = np.array(left) * np.array(right[::-1])
    return p[:, 1] / p.sum(1)


@pytest.mark.slow
def test_a_quadratic_posterior_is_found_and_every_draw_is_nearly_independent(run, assert_expectation):
    kernel = AnnealerGibbs(chain_of_spins, move="scan")
    mcmc = run(kernel, warmup=0, samples=400)
    assert mcmc.last_state.adapt_state.tau is None
    assert mcmc.last_state.adapt_state.problem.J.shape == (99,)
    assert int(np.asarray(mcmc.last_state.num_evals)[0]) == 1
    assert_expectation(mcmc.get_samples(group_by_chain=True)["x"], chain_law())
    looked_up = AnnealerGibbs(indexed, move="scan").init(jax.random.key(0), 0).adapt_state
    assert looked_up.tau > 0
    assert looked_up.problem.J.shape == (100, 100)


@pytest.mark.slow
def test_chains_of_the_scan_start_where_their_exploration_ended():
    """Sites that are nearly certain, and a cubic term: no draw from the prior is near them."""

    def model():
        z = numpyro.sample("z", dist.Bernoulli(0.5).expand([80]).to_event(1))
        numpyro.factor("odds", 8.0 * jnp.sum(z) + z[0] * z[1] * z[2])

    keys = jax.random.split(jax.random.key(0), 20)  # more chains than explore
    state = AnnealerGibbs(model).init(keys, 0)
    assert np.all(np.asarray(state.z["z"]).sum(1) > 75)
    energies = jax.vmap(lambda z: -log_density(model, (), {}, {"z": z})[0])(state.z["z"])
    np.testing.assert_allclose(state.potential_energy, energies, rtol=1e-4)
    given = {"z": jnp.zeros((20, 80), jnp.int32)}
    kept = AnnealerGibbs(model).init(keys, 0, init_params=given)
    assert not np.any(np.asarray(kept.z["z"]))  # a start that was given stays
