"""Which global moves diverge: those that meet an edge, or leap, in the compiled mixture and on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from qdesampler.kernels.mcmc import host_trajectories
from qdesampler.kernels.mcmc.host_mixture import HostMixture, Schedule, walk
from qdesampler.kernels.mcmc.integrators import INTEGRATORS, canonical
from qdesampler.kernels.mcmc.mixture import Mixture, MovePlan, mixture_move, move_noise
from qdesampler.kernels.mcmc.trajectory import TrajectoryState
from qdesampler.numerics.host_trial import host_trial
from qdesampler.numerics.metric import identity_metric
from qdesampler.numerics.numpy_metric import HostMetric
from qdesampler.numerics.trial import gaussian_trial

CHAINS = 4000
CANDIDATES = 2
LEAPFROG = INTEGRATORS["leapfrog"]
START = np.full((CHAINS, 2), 0.5)


def share_of_the_compiled(log_density):
    """The share of global moves from `START` that diverge; the trial is a standard one of two dimensions."""
    evaluate = jax.value_and_grad(log_density)
    trial = gaussian_trial(jnp.zeros(2), identity_metric(2, 2))
    used = Mixture(trial, *map(jnp.asarray, (0.6, 1.8, 1.0, CANDIDATES, 1)))

    def move(key, x):
        start, plan = TrajectoryState(x, *evaluate(x)), MovePlan(*map(jnp.asarray, (True, CANDIDATES)))
        return mixture_move(move_noise(key, 2), start, evaluate, plan, used, canonical, LEAPFROG)[1].diverging

    keys = jax.random.split(jax.random.key(8), CHAINS)
    return float(np.mean(jax.jit(jax.vmap(move))(keys, jnp.asarray(START))))


def share_on_the_host(log_density):
    """As `share_of_the_compiled`."""
    metric = HostMetric(np.ones(2), np.zeros((2, 0)), np.ones(0))
    used = HostMixture(
        host_trial(np.zeros(2), metric),
        step_size=0.6,
        length=1.8,
        probability=1.0,
        candidates=CANDIDATES,
        moves=1,
        most_steps=10,
        dynamics=host_trajectories.DYNAMICS["canonical"],
        integrator=LEAPFROG,
    )
    batch = jax.jit(jax.vmap(jax.value_and_grad(log_density)))

    def evaluate(points):
        values, scores = batch(points)
        return np.asarray(values, float), np.asarray(scores, float)

    schedule = Schedule(0, 1, lambda _: True, lambda index, move: np.random.default_rng([7, index, move]))
    chains = host_trajectories.Chains(START, *evaluate(START))
    return float(np.mean(walk(evaluate, lambda points: points, chains, used, schedule).diverging))


def normal(x):
    return -0.5 * x @ x


@pytest.mark.parametrize("share", [share_of_the_compiled, share_on_the_host])
def test_global_moves_diverge_at_edges_and_leaps_and_nowhere_else(share):
    # Well fitted, with longer tails, half as wide, and with a cliff that is none to a trajectory either.
    assert share(normal) == 0
    assert share(lambda x: -2.5 * jnp.log1p(x @ x / 3)) == 0
    assert share(lambda x: normal(2 * x)) == 0
    assert share(lambda x: normal(x) - jnp.where(x[0] > 1, 100.0, 0.0)) == 0
    # A sixth of the candidates is beyond 1; of moves with two of them, within five standard errors.
    beyond = 1 - stats.t(30).cdf(1) ** CANDIDATES
    for nats in (-jnp.inf, -2000.0, 40.0):
        found = share(lambda x, nats=nats: normal(x) + jnp.where(x[0] > 1, nats, 0.0))
        assert abs(found - beyond) < 0.036
