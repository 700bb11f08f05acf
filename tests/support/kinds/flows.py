"""Control flow, chains in time, and linear algebra inside a model."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import cond, scan
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from tests.support.kinds.kind import Table

FLOWS = Table()
add = FLOWS.add
SERIES = np.array([1.0, 2.0, 4.0], np.float32)
NOISE = 0.5  # standard deviation of an observation of the walk

_STEPS = np.eye(3) - np.eye(3, k=-1)
WALK = np.linalg.solve(_STEPS.T @ _STEPS + np.eye(3) / NOISE**2, SERIES / NOISE**2)
HALVED = (np.eye(3) - 0.5 * np.eye(3, k=-1)).T @ (np.eye(3) - 0.5 * np.eye(3, k=-1))
AUTOREGRESSION = np.linalg.solve(HALVED + np.eye(3) / NOISE**2, SERIES / NOISE**2)


# ---- chains in time ----------------------------------------------------------------------------------------


@add("scan of sites", args=(SERIES,), expected={"x": WALK})
def _(y):
    def transition(before, value):
        x = numpyro.sample("x", dist.Normal(before, 1.0))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=value)
        return x, x

    scan(transition, jnp.array(0.0), y)


@add("scan, decentred", args=(SERIES,), expected={"x": WALK})
def _(y):
    def transition(before, value):
        with reparam(config={"x": LocScaleReparam(0.0)}):
            x = numpyro.sample("x", dist.Normal(before, 1.0))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=value)
        return x, x

    scan(transition, jnp.array(0.0), y)


@add("scan, transform of a base", args=(SERIES,), expected={"x": AUTOREGRESSION})
def _(y):
    def transition(before, value):
        with reparam(config={"x": TransformReparam()}):
            shift = dist.transforms.AffineTransform(0.5 * before, 1.0)
            x = numpyro.sample("x", dist.TransformedDistribution(dist.Normal(0.0, 1.0), shift))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=value)
        return x, x

    scan(transition, jnp.array(0.0), y)


@add("scan backwards over a tree", args=(SERIES,), expected={"x": WALK})
def _(y):
    def transition(carry, data):
        x = numpyro.sample("x", dist.Normal(carry["before"], 1.0))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=data["value"])
        return {"before": x}, None

    scan(transition, {"before": jnp.array(0.0)}, {"value": y[::-1]}, reverse=True)


@add("scan in a plate", args=(SERIES,), expected={"x": np.stack([WALK, WALK], 1)})
def _(y):
    def transition(before, value):
        with numpyro.plate("copies", 2):
            x = numpyro.sample("x", dist.Normal(before, 1.0))
            numpyro.sample("y", dist.Normal(x, NOISE), obs=value)
        return x, None

    scan(transition, jnp.zeros(2), y)


@add("scan with a parameter of the chain", args=(SERIES,), grid={"slope": (-3.0, 5.0)})
def _(y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))

    def transition(before, value):
        numpyro.sample("y", dist.Normal(slope * before, 1.0), obs=value)
        return value, None

    scan(transition, jnp.array(1.0), y)


@add("random walk as a law", args=(SERIES,), expected={"x": WALK})
def _(y):
    x = numpyro.sample("x", dist.GaussianRandomWalk(1.0, num_steps=3))
    numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=y)


@add("state space as a law", args=(SERIES,), expected={"x": AUTOREGRESSION})
def _(y):
    law = dist.GaussianStateSpace(3, jnp.array([[0.5]]), covariance_matrix=jnp.eye(1))
    x = numpyro.sample("x_of_one", law)
    x = numpyro.deterministic("x", x[..., 0])
    numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=y)


@add("autoregression unrolled", args=(SERIES,), expected={"x2": AUTOREGRESSION[2]})
def _(y):
    x = jnp.array(0.0)
    for i, value in enumerate(y):
        x = numpyro.sample(f"x{i}", dist.Normal(0.5 * x, 1.0))
        numpyro.sample(f"y{i}", dist.Normal(x, NOISE), obs=value)


@add("innovations summed by lax.scan", args=(SERIES,), expected={"x": WALK})
def _(y):
    noise = numpyro.sample("noise", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    _, x = jax.lax.scan(lambda before, step: (before + step,) * 2, 0.0, noise)
    numpyro.deterministic("x", x)
    numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=y)


@add("Kalman filter by hand", args=(SERIES,), grid={"spread": (0.0, 12.0)})
def _(y):
    spread = numpyro.sample("spread", dist.HalfNormal(2.0))

    def step(belief, value):
        mean, variance = belief
        variance = variance + spread**2
        total = variance + NOISE**2
        log_p = dist.Normal(mean, jnp.sqrt(total)).log_prob(value)
        gain = variance / total
        return (mean + gain * (value - mean), (1 - gain) * variance), log_p

    _, log_p = jax.lax.scan(step, (0.0, 0.0), y)
    numpyro.factor("y", jnp.sum(log_p))


@add("forward algorithm by hand", args=(SERIES,), grid={"gap": (0.0, 12.0)})
def forward_algorithm(y):
    gap = numpyro.sample("gap", dist.HalfNormal(3.0))
    change = jnp.log(jnp.array([[0.8, 0.2], [0.2, 0.8]]))

    def step(log_belief, value):
        log_belief = jax.nn.logsumexp(log_belief[:, None] + change, 0)
        return log_belief + dist.Normal(jnp.stack([0 * gap, gap]), 1.0).log_prob(value), None

    last, _ = jax.lax.scan(step, jnp.array([0.0, -jnp.inf]), y)
    numpyro.factor("y", jax.nn.logsumexp(last))


@add(
    "two states, enumerated in a scan",
    args=(SERIES,),
    grid={"gap": (0.0, 12.0)},
    density=forward_algorithm,
    needs="funsor",
)
def _(y):
    gap = numpyro.sample("gap", dist.HalfNormal(3.0))

    def transition(before, value):
        state = numpyro.sample("state", dist.Bernoulli(0.2 + 0.6 * before), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(gap * state, 1.0), obs=value)
        return state, None

    scan(transition, 0, y)


# ---- branches and loops ------------------------------------------------------------------------------------


@add("branch of sites", expected={"x": 1.0, "y": 3.0})
def _():
    x = numpyro.sample("x", dist.Normal(1.0, 1.0))
    cond(
        True,
        lambda _: numpyro.sample("y", dist.Normal(3.0, 1.0)),
        lambda _: numpyro.sample("y", dist.Normal(0.0, 1.0)),
        x,
    )


def _pulled(x):
    """A slope of another sign on each side of 0: `log p = |x|` less a Gaussian, symmetric."""
    return jax.lax.cond(x > 0, lambda x: x, lambda x: -x, x)


@add("lax.cond", expected={"x": 0.0})
def _():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("pulled", 0.5 * _pulled(x))


@add("lax.switch over rows", expected={"x": np.array([1.0, 0.5, 0.0])})
def _():
    x = numpyro.sample("x", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    for i in range(3):
        kinds = [lambda v: -0.5 * (v - 2) ** 2, lambda v: 0.5 * v, lambda v: 0.0 * v]
        numpyro.factor(f"row {i}", jax.lax.switch(jnp.array(i), kinds, x[i]))


@add("jump of the density", args=(np.array([4.0, 5.0, 1.0, 0.0], np.float32),), grid={"at": (0.0, 4.0)})
def _(y):
    at = numpyro.sample("at", dist.Uniform(0.0, 4.0))
    rate = jnp.where(jnp.arange(4) < at, 3.0, 2.0)
    numpyro.sample("y", dist.Poisson(rate).to_event(1), obs=y)


@add("fori_loop of known length", expected={"x": 2.0})
def _():
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    total = jax.lax.fori_loop(0, 4, lambda _, total: total + x / 4, jnp.zeros_like(x))
    numpyro.sample("y", dist.Normal(total, 1.0), obs=4.0)


@add("vmap, jit and checkpoint inside", args=(SERIES,), expected={"x": SERIES / 2})
def _(y):
    x = numpyro.sample("x", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    same = jax.jit(jax.checkpoint(lambda v: jnp.log(jnp.exp(v))))
    numpyro.sample("y", dist.Normal(jax.vmap(same)(x), 1.0).to_event(1), obs=y)


@add("lax.map with a batch size", args=(SERIES,), expected={"x": np.sum(SERIES) / 4})
def _(y):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    log_p = jax.lax.map(lambda value: dist.Normal(x, 1.0).log_prob(value), y, batch_size=2)
    numpyro.factor("y", jnp.sum(log_p))


@add("associative scan", args=(SERIES,), expected={"x": WALK})
def _(y):
    noise = numpyro.sample("noise", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    x = numpyro.deterministic("x", jax.lax.associative_scan(jnp.add, noise))
    numpyro.sample("y", dist.Normal(x, NOISE).to_event(1), obs=y)


@jax.custom_jvp
def _positive_part(x):
    return jnp.logaddexp(0.0, x)


@_positive_part.defjvp
def _(primals, tangents):
    (x,), (dx,) = primals, tangents
    return _positive_part(x), jax.nn.sigmoid(x) * dx


@add("custom_jvp", grid={"x": (-12.0, 12.0)})
def _():
    x = numpyro.sample("x", dist.Normal(0.0, 2.0))
    numpyro.sample("y", dist.Normal(_positive_part(x), 0.5), obs=1.0)


@jax.custom_vjp
def _squared(x):
    return x**2


_squared.defvjp(lambda x: (_squared(x), x), lambda x, slope: (2 * x * slope,))


@add("custom_vjp", grid={"x": (-10.0, 10.0)})
def _():
    x = numpyro.sample("x", dist.Normal(1.0, 1.0))
    numpyro.sample("y", dist.Normal(_squared(x), 2.0), obs=1.0)


@add("a model in a model", expected={"x": 0.8, "inner": 1.6})
def _():
    def inner(mean):
        return numpyro.sample("inner", dist.Normal(mean, 1.0))

    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(inner(x), 0.5**0.5), obs=2.0)


# ---- linear algebra ----------------------------------------------------------------------------------------


@add("linear system", expected={"x": np.array([1.0, -1.0])})
def _():
    x = numpyro.sample("x", dist.Normal(jnp.zeros(2), 10.0).to_event(1))
    matrix = jnp.array([[2.0, 1.0], [1.0, 3.0]])
    numpyro.sample(
        "y", dist.Normal(jnp.linalg.solve(matrix, x), 1e-2).to_event(1), obs=jnp.array([0.8, -0.6])
    )


@add("eigenvalue and determinant", grid={"r": (-1.0, 1.0)})
def _():
    r = numpyro.sample("r", dist.Uniform(-1.0, 1.0))
    matrix = jnp.eye(2) + 0.9 * r * (1 - jnp.eye(2))
    smallest = jnp.linalg.eigvalsh(matrix + jnp.diag(jnp.array([0.0, 1e-3])))[0]
    numpyro.factor("spectrum", -2 * smallest + 0.5 * jnp.linalg.slogdet(matrix)[1])


@add("Fourier transform", args=(SERIES,), expected={"x": SERIES / 2})
def _(y):
    x = numpyro.sample("x", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
    back = jnp.fft.irfft(jnp.fft.rfft(x), 3)
    numpyro.sample("y", dist.Normal(back, 1.0).to_event(1), obs=y)
