"""Clicks on advertisements: fifty thousand rows in a plate that can be subsampled."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist


def prepare(data):
    """One row for each time that an advertisement was shown, or the table as it is where ``rows`` is 0."""
    if not data.pop("rows", 1):
        return data
    cell = np.repeat(np.arange(len(data["shown"])), data["shown"])
    place = np.arange(len(cell)) - np.repeat(np.cumsum(data["shown"]) - data["shown"], data["shown"])
    rows = {name: data[name][cell] for name in ("ad", "mobile", "weekend")}
    return rows | {"clicked": (place < data["clicked"][cell]).astype(int)}


def model(ad, mobile, weekend, clicked, shown=None, subsample_size=None):
    """Whether a row was clicked, with an effect of the advertisement.

    Args:
        ad: from 0, shape ``(rows,)``.
        mobile: 1 on a telephone, else 0, shape ``(rows,)``.
        weekend: 1 or 0, shape ``(rows,)``.
        clicked: 1 or 0, shape ``(rows,)``; or of ``shown``, how many.
        shown: how often each row was shown, shape ``(rows,)``; None: once.
        subsample_size: rows to take at random, their likelihood scaled up to stand for all; None takes all.
    """
    mean = numpyro.sample("mean", dist.Normal(-2, 1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    beta_mobile = numpyro.sample("beta_mobile", dist.Normal(0, 1))
    beta_weekend = numpyro.sample("beta_weekend", dist.Normal(0, 1))
    with numpyro.plate("advertisement", 20):
        effect = jnp.asarray(numpyro.sample("effect", dist.Normal(mean, tau)))
    with numpyro.plate("row", len(ad), subsample_size=subsample_size) as row:
        place, phone, day, hit = (jnp.asarray(column)[row] for column in (ad, mobile, weekend, clicked))
        logit = effect[place] + beta_mobile * phone + beta_weekend * day
        law = (
            dist.Bernoulli(logits=logit)
            if shown is None
            else dist.Binomial(jnp.asarray(shown)[row], logits=logit)
        )
        numpyro.sample("clicked", law, obs=hit)
