"""Growth of thirty rats: intercepts and slopes that are correlated, with an LKJ prior."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """Weights in 10 g, time in weeks from the middle of the study."""
    return {"y": data["weight"] / 10, "week": (data["day"] - 22) / 7}


def model(y, week):
    """A line for each rat; lines are normal with an unknown correlation of height and slope.

    Args:
        y: weights, shape ``(rats, times)``.
        week: times, shape ``(times,)``.
    """
    mean = numpyro.sample("mean", dist.Normal(jnp.array([24.0, 4.0]), jnp.array([5.0, 2.0])).to_event(1))
    tau = jnp.asarray(numpyro.sample("tau", dist.HalfNormal(jnp.array([2.0, 1.0])).to_event(1)))
    factor = jnp.asarray(numpyro.sample("factor", dist.LKJCholesky(2, 2.0)))
    numpyro.deterministic("correlation", factor[1, 0])
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rat", len(y)):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([2]).to_event(1))
    line = jnp.asarray(numpyro.deterministic("line", mean + z @ (tau[:, None] * factor).T))
    numpyro.sample("y", dist.Normal(line[:, :1] + line[:, 1:] * week, sigma).to_event(2), obs=y)
