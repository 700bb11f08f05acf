"""Models that JAX cannot differentiate as it likes: adjoints of one's own, NumPy behind a callback, loops.

NUTS asks for gradients only, and so may everything here: curvature comes from differences of scores.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from qdesampler.infer import QDE, AnnealedQDE, find_modes

KEY = jax.random.key(0)


def mean_on_grid(log_p, *axes):
    """Means of the coordinates of a density, by sums over a grid."""
    grids = np.meshgrid(*axes, indexing="ij")
    log_density = log_p(*grids)
    p = np.exp(log_density - log_density.max())
    return np.array([np.sum(p * grid) / np.sum(p) for grid in grids])


# ---- a decay z' = -k z by Runge-Kutta steps, differentiated by sensitivities ------------------------

DECAY = np.array([2.9, 1.9, 1.0, 0.75], np.float32)
NOISE, STEPS = 0.15, 8  # standard deviation of an observation, steps between two


def runge_kutta(field, start, rate):
    """Values at times 0, 1, 2, ..., one for each observation."""
    h = 1 / STEPS

    def step(_, z):
        a = field(z, rate)
        b = field(z + h * a / 2, rate)
        c = field(z + h * b / 2, rate)
        return z + h * (a + 2 * b + 2 * c + field(z + h * c, rate)) / 6

    def to_next(z, _):
        return jax.lax.fori_loop(0, STEPS, step, z), z

    return jax.lax.scan(to_next, start, length=len(DECAY))[1]


@jax.custom_vjp
def decay(rate, start):
    return runge_kutta(lambda z, k: -k * z, start, rate)


def decay_slopes(given, slope):
    """The sensitivities `dz/dk` and `dz/dz(0)` solve equations of their own."""
    rate, start = given
    first = jnp.stack([start, jnp.zeros_like(start), jnp.ones_like(start)])
    solved = runge_kutta(lambda z, k: jnp.stack([-k * z[0], -z[0] - k * z[1], -k * z[2]]), first, rate)
    return slope @ solved[:, 1], slope @ solved[:, 2]


decay.defvjp(lambda rate, start: (decay(rate, start), (rate, start)), decay_slopes)


def ode():
    rate = numpyro.sample("a", dist.LogNormal(-1.0, 0.5))
    start = numpyro.sample("b", dist.Normal(3.0, 1.0))
    numpyro.sample("y", dist.Normal(decay(rate, start), NOISE).to_event(1), obs=DECAY)


def ode_means():
    def log_p(rate, start):
        seen = start[..., None] * np.exp(-rate[..., None] * np.arange(len(DECAY)))
        prior = -2 * (np.log(rate) + 1) ** 2 - np.log(rate) - (start - 3) ** 2 / 2
        return prior - np.sum((DECAY - seen) ** 2, -1) / NOISE**2 / 2

    return mean_on_grid(log_p, np.linspace(0.05, 1.5, 600), np.linspace(1.0, 5.0, 600))


# ---- a regression whose likelihood and slope are computed by NumPy -----------------------------------------

DESIGN = np.random.default_rng(1).normal(size=(20, 2))
OUTCOME = DESIGN @ np.array([1.0, -2.0]) + np.random.default_rng(2).normal(size=20)


def by_numpy(x):
    """Log likelihood and its slope for rows of coefficients."""
    x = np.asarray(x, np.float64)
    residual = OUTCOME - x @ DESIGN.T
    value = np.concatenate([-0.5 * np.sum(residual**2, -1, keepdims=True), residual @ DESIGN], -1)
    return value.astype(np.float32)


def called(x):
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    return jax.pure_callback(by_numpy, shape, x, vmap_method="broadcast_all")


@jax.custom_vjp
def likelihood(x):
    return called(x)[0]


def likelihood_forward(x):
    both = called(x)
    return both[0], both[1:]


likelihood.defvjp(likelihood_forward, lambda known, slope: (slope * known,))


def callback():
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    b = numpyro.sample("b", dist.Normal(0.0, 3.0))
    numpyro.factor("regression", likelihood(jnp.stack([a, b])))


def callback_means():
    return np.linalg.solve(DESIGN.T @ DESIGN + np.eye(2) / 9, DESIGN.T @ OUTCOME)


# ---- a root found by Newton's steps in a loop, differentiated as an implicit function ----------------------


@jax.custom_vjp
def root(a):
    """The `x` with `x^3 + x = a`."""

    def newton(state):
        x, _ = state
        move = (x**3 + x - a) / (3 * x**2 + 1)
        return x - move, jnp.abs(move)

    start = (jnp.clip(a, -2.0, 2.0), jnp.ones_like(a))
    return jax.lax.while_loop(lambda state: state[1] > 1e-5, newton, start)[0]


root.defvjp(lambda a: (root(a),) * 2, lambda x, slope: (slope / (3 * x**2 + 1),))


def implicit():
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(root(a) + b, 0.5), obs=1.5)


def implicit_means():
    x = np.linspace(-4, 4, 2001)  # the root itself: a = x^3 + x

    def log_p(x, b):
        return np.log(3 * x**2 + 1) - (x**3 + x) ** 2 / 50 - b**2 / 2 - (1.5 - x - b) ** 2 / 0.5

    b = np.linspace(-6, 6, 601)
    p = np.exp(log_p(*np.meshgrid(x, b, indexing="ij")))
    return np.array([np.sum(p * (x**3 + x)[:, None]), np.sum(p * b)]) / np.sum(p)


# ---- a loop of unknown length, without any reverse mode ----------------------------------------------------


def forward_only():
    """The loop adds `a / 4` four times: `y ~ Normal(a + b, 1)`."""
    a = numpyro.sample("a", dist.Normal(2.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    start = (jnp.zeros_like(a), jnp.array(4))
    total, _ = jax.lax.while_loop(lambda s: s[1] > 0, lambda s: (s[0] + a / 4, s[1] - 1), start)
    numpyro.sample("y", dist.Normal(total + b, 1.0), obs=5.0)


def forward_only_means():
    return np.array([3.0, 1.0])


MODELS = {
    "ode": (ode, ode_means),
    "callback": (callback, callback_means),
    "implicit": (implicit, implicit_means),
    "forward only": (forward_only, forward_only_means),
}


def derivatives(name):
    return {"forward_mode_differentiation": name == "forward only"}


def check(samples, name, assert_expectation, **gate):
    for site, mean in zip(("a", "b"), MODELS[name][1](), strict=True):
        assert_expectation(samples[site], mean, **gate)


@pytest.mark.parametrize(
    "name", [name if name == "callback" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_qde_has_the_means(run, assert_expectation, name):
    mcmc = run(QDE(MODELS[name][0], **derivatives(name)), warmup=200, samples=300)
    check(mcmc.get_samples(group_by_chain=True), name, assert_expectation)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_annealed_qde_has_the_means(run, assert_expectation, name):
    kernel = AnnealedQDE(MODELS[name][0], num_particles=64, max_rungs=4, **derivatives(name))
    mcmc = run(kernel, warmup=100, samples=500)
    check(mcmc.get_samples(group_by_chain=True), name, assert_expectation)


@pytest.mark.parametrize(
    "name", [pytest.param("ode", marks=pytest.mark.slow), *(name for name in MODELS if name != "ode")]
)
def test_find_modes_ends_where_the_density_is_highest(name):
    found = find_modes(MODELS[name][0], key=KEY, num_starts=2, num_rounds=2, **derivatives(name))
    assert len(found.log_masses) == 1
    assert np.isfinite(found.log_masses[0])
    sites = {site: value[0] for site, value in found.sites.items()}
    nearby = [
        numpyro.infer.util.log_density(numpyro.handlers.seed(MODELS[name][0], 0), (), {}, moved)[0]
        for moved in ({**sites, site: sites[site] + h} for site in ("a", "b") for h in (-0.1, 0.1))
    ]
    assert max(nearby) < numpyro.infer.util.log_density(MODELS[name][0], (), {}, sites)[0] + 0.02


@pytest.mark.parametrize(
    "search",
    [
        lambda m: QDE(potential_fn=lambda z: numpyro.infer.util.potential_energy(m, (), {}, z)).init(
            KEY, 10, {"a": jnp.array(0.1), "b": jnp.array(0.1)}, (), {}
        ),
        lambda m: QDE(m).init(KEY, 10, None, (), {}),
        lambda m: find_modes(m, key=KEY),
    ],
)
def test_what_to_do_without_a_reverse_mode_is_said(search):
    with pytest.raises(ValueError, match="Reverse-mode") as raised:
        search(forward_only)
    assert "forward_mode_differentiation=True" in "".join(raised.value.__notes__)
