"""The second trial under QDE: bent densities are sampled by global moves, and nothing else changes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro.infer import MCMC
from scipy import stats

from qdesampler.diagnostics import diagnose
from qdesampler.infer import QDE
from qdesampler.infer.qde import second_trial
from qdesampler.numerics import laplace_map, triangular_map
from qdesampler.numerics.laplace_map import LaplaceMap
from qdesampler.numerics.triangular_map import TriangularMap, to_device

CHAINS = 10_000
FAMILY_RATE = 1e-3  # p-value below which a correct kernel is called wrong, Bonferroni over the functionals


def potential(z):
    """A banana without location-scale sites: `x / 10` and `y - .03 (x^2 - 100)` are standard normal."""
    return 0.5 * (z["x"] / 10) ** 2 + 0.5 * (z["y"] - 0.03 * (z["x"] ** 2 - 100)) ** 2


def sampled(kernel, draws=1000):
    mcmc = MCMC(
        kernel, num_warmup=500, num_samples=draws, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(0), init_params=start(), extra_fields=("num_evals",))
    return mcmc


def frozen_of(mcmc) -> Any:
    return mcmc.last_state.adapt_state.shared


def start():
    return {"x": jnp.zeros(4), "y": jnp.zeros(4)}


@pytest.fixture(scope="module")
def bent():
    return sampled(QDE(potential_fn=potential))


def test_a_banana_is_sampled_by_candidates(bent):
    frozen = frozen_of(bent)
    assert frozen.law is not None
    assert frozen.acceptance > 0.9
    assert frozen.global_probability > 0.5
    assert int(np.sum(bent.last_state.warmup_evals)) < 3_000
    draws = {name: np.asarray(value, float) for name, value in bent.get_samples(group_by_chain=True).items()}
    x, rest = draws["x"] / 10, draws["y"] - 0.03 * (draws["x"] ** 2 - 100)
    for value, mean in ((x, 0), (rest, 0), (x**2, 1), (rest**2, 1), (x * rest, 0), (x**4, 3)):
        size = numpyro.diagnostics.effective_sample_size(value)
        assert size > 800
        assert abs(np.mean(value) - mean) < 4.5 * np.std(value) / np.sqrt(size)


def test_a_bent_run_is_sound_for_diagnose(bent):
    assert diagnose(bent) == []


def test_without_the_second_trial_it_costs_several_times_as_much(bent, monkeypatch):
    monkeypatch.setattr("qdesampler.infer.qde.warmup.second_trial", lambda *_: None)
    plain = sampled(QDE(potential_fn=potential))
    assert frozen_of(plain).law is None
    per_draw = []
    for mcmc in (bent, plain):
        x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"], float)
        evals = np.sum(np.asarray(mcmc.get_extra_fields()["num_evals"]))
        per_draw.append(evals / numpyro.diagnostics.effective_sample_size(x**2))
    assert 3 * per_draw[0] < per_draw[1]


def gaussian(z):
    return 0.5 * (z["x"] / 10) ** 2 + 0.5 * (z["y"] - 0.3 * z["x"]) ** 2


def test_a_gaussian_pays_nothing(monkeypatch):
    def unexpected(*_):
        raise AssertionError("the Gaussian was good")

    monkeypatch.setattr("qdesampler.infer.qde.warmup.second_trial", unexpected)
    assert frozen_of(sampled(QDE(potential_fn=gaussian), draws=10)).law is None


def test_a_metric_that_the_user_shapes_is_kept(monkeypatch):
    def unexpected(*_):
        raise AssertionError("the metric is the user's")

    monkeypatch.setattr("qdesampler.infer.qde.warmup.second_trial", unexpected)
    mcmc: Any = sampled(QDE(potential_fn=potential, dense_mass=True), draws=10)
    assert mcmc.last_state.adapt_state.inverse_mass_matrix[("x", "y")].shape == (4, 2, 2)


def test_chains_that_leave_the_candidates_are_believed(monkeypatch):
    monkeypatch.setattr(second_trial, "time_at", lambda *_: 1e3)
    assert frozen_of(sampled(QDE(potential_fn=potential), draws=10)).law is None


# --------------------------------------------------------------------------- exactness


def any_map():
    """A map that has nothing to do with the target: it bends and funnels in other directions."""
    return TriangularMap(
        centre=np.array([1.0, 2.0]),
        order=np.array([1, 0]),
        factor=np.array([[6.0, 0.0], [2.0, 9.0]]),
        inverse=np.linalg.inv(np.array([[6.0, 0.0], [2.0, 9.0]])),
        shifts=np.array([0.1, -0.2]),
        log_widths=np.array([0.0, 0.1]),
        shift_terms=np.array([[1, 0, 0]]),
        shift_slopes=np.array([0.2]),
        width_terms=np.array([[1, 0]]),
        width_slopes=np.array([0.5]),
        prior_terms=np.array([[1, 0]]),
        prior_slopes=np.array([-0.3]),
        centredness=np.array([1.0, 0.9]),
        data_shifts=np.array([0.0, 0.4]),
        depth=2,
    )


def any_laplace_map():
    """The same for Laplace's map and the line below: it scales `y` by `x`, with data that nobody has seen."""
    return LaplaceMap(
        scales=np.array([0]),
        field=np.array([1]),
        rest=np.array([0]),
        back=np.array([0, 1]),
        exponents=np.array([[0.8]]),
        prior=np.array([0.5]),
        data=np.array([[0.5]]),
        pull=np.array([-0.3]),
    )


def exact(key):
    x, rest = jax.random.normal(key, (2, CHAINS))
    return {"x": 10 * x, "y": 0.03 * ((10 * x) ** 2 - 100) + rest}


def functionals(z):
    x, y = np.asarray(z["x"], float), np.asarray(z["y"], float)
    rest = y - 0.03 * (x**2 - 100)
    return [x, y, rest, (x / 10) ** 2 + rest**2]


def line(z):
    """`x` and `y - .3 x` are standard normal."""
    return 0.5 * z["x"] ** 2 + 0.5 * (z["y"] - 0.3 * z["x"]) ** 2


def exact_line(key):
    x, rest = jax.random.normal(key, (2, CHAINS))
    return {"x": x, "y": 0.3 * x + rest}


def functionals_of_line(z):
    x, y = np.asarray(z["x"], float), np.asarray(z["y"], float)
    return [x, y, y - 0.3 * x, x**2 + y**2]


class Target(NamedTuple):
    """A target, its exact draws, what is compared of them, and the map that is tried."""

    potential: Callable
    exact: Callable
    functionals: Callable
    law: Any


BANANA = Target(potential, exact, functionals, any_map())
LINE = Target(line, exact_line, functionals_of_line, any_laplace_map())


def smallest_p(target, steps=3, *, on_host=False):
    """The least p-value of a Kolmogorov-Smirnov test after a few iterations from exact draws."""
    potential, exact, functionals, law = target
    kernel = QDE(potential_fn=potential)
    keys = jax.random.split(jax.random.key(1), CHAINS)
    state = kernel.init(keys, 500, jax.tree.map(lambda leaf: jnp.zeros(CHAINS), start()), (), {})
    shared: Any = state.adapt_state.shared
    trial = shared.mixture.trial
    mixture = shared.mixture._replace(
        trial=trial._replace(shift=0 * trial.shift, width=0 * trial.width + 1.3, skew=0 * trial.skew),
        step_size=jnp.asarray(0.3),
        probability=jnp.asarray(0.5),
    )
    shared = shared._replace(law=to_device(law), mixture=mixture)
    state = state._replace(
        z=exact(jax.random.key(2)),
        i=jnp.full(CHAINS, 500),
        adapt_state=state.adapt_state._replace(shared=shared),
    )
    state = kernel.refresh(state, (), {})
    step: Any = jax.jit(partial(kernel.sample, model_args=(), model_kwargs={}))
    if on_host:
        sampler: Any = kernel.host_sampler(state, 0, (), {})
        step = lambda state: sampler.advance(state, 1)[0]  # noqa: E731
    accepted = []
    for _ in range(steps):
        state = step(state)
        accepted.append(float(jnp.mean(state.accept_prob)))
    fresh = functionals(exact(jax.random.key(3)))
    after = functionals(state.z)
    test: Any = stats.ks_2samp
    return min(test(a, b).pvalue for a, b in zip(after, fresh, strict=True)) * len(fresh), accepted


MAPS = pytest.mark.parametrize("target", [BANANA, LINE], ids=["triangular", "Laplace"])
WAYS = pytest.mark.parametrize("on_host", [False, True], ids=["program", "host"])


@MAPS
@WAYS
def test_exact_draws_stay_exact_in_the_coordinates_of_any_map(target, on_host):
    p, accepted = smallest_p(target, on_host=on_host)
    assert p > FAMILY_RATE
    assert 0.05 < min(accepted) <= max(accepted) < 0.99  # power: moves are accepted and rejected


@MAPS
@WAYS
def test_the_twin_without_the_change_of_volume_is_caught(monkeypatch, target, on_host):
    def without(change):
        return lambda law, points: (change(law, points)[0], 0.0)

    monkeypatch.setattr(triangular_map, "_placed", without(triangular_map._placed))
    from_sites = triangular_map._from_sites
    monkeypatch.setattr(
        triangular_map, "_from_sites", lambda law, x: (from_sites(law, x)[0], 0.0, from_sites(law, x)[2])
    )
    monkeypatch.setattr(laplace_map, "_log_volume", lambda xp, given: xp.zeros_like(given.growth[..., 0]))
    assert smallest_p(target, on_host=on_host)[0] < 1e-6
