"""An ordinary differential equation by diffrax in a NumPyro model: a species that spreads along a river.

The density `u(x, t)` grows and diffuses, `du/dt = D d2u/dx2 + r u (1 - u)` (Fisher and Kolmogorov), from a
first settlement at the left end. Cells along the river make it a system of ordinary equations, which diffrax
solves with steps of its own choice; gradients go through the solver. Counts at some places and times tell of
`D`, `r` and the size of the first settlement. An evaluation is dear, and QDE asks for few.

python examples/spread_by_diffrax.py          (pip install diffrax)
"""

import argparse
from time import perf_counter

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from qdesampler import MCMC, QDE, diagnose, summary, to_datatree

TRUTH = {"diffusion": 0.02, "growth": 5.0, "settled": 0.5}
TIMES = np.array([0.5, 1.0, 1.5, 2.0])
TRAPPED = 40.0  # expected in a trap where the river is full
PLACES = 8


def spread(cells: int, diffusion, growth, settled):
    """Densities at the places and times of the traps, shape `(times, places)`."""
    x = (jnp.arange(cells) + 0.5) / cells

    def slope(t, u, args):
        diffusion, growth = args
        flow = jnp.concatenate([jnp.zeros(1), jnp.diff(u), jnp.zeros(1)]) * cells
        return diffusion * jnp.diff(flow) * cells + growth * u * (1 - u)

    found = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        t0=0.0,
        t1=float(TIMES[-1]),
        dt0=1e-4,
        y0=settled * jnp.exp(-((x / 0.1) ** 2)),
        args=(diffusion, growth),
        saveat=diffrax.SaveAt(ts=jnp.asarray(TIMES)),
        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-6),
        max_steps=4096,
        throw=False,  # a solve that ends early is infinite: no density, and the point is rejected
    )
    assert found.ys is not None
    return found.ys[:, (np.arange(PLACES) * 2 + 1) * cells // (2 * PLACES)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a coarse river and few draws")
    quick = parser.parse_args().quick
    cells = 24 if quick else 160
    rates = TRAPPED * np.clip(np.asarray(spread(cells, *TRUTH.values())), 0, None)
    counts = np.random.default_rng(0).poisson(rates)

    def model():
        diffusion = numpyro.sample("diffusion", dist.LogNormal(np.log(0.02), 1))
        growth = numpyro.sample("growth", dist.LogNormal(np.log(5.0), 0.5))
        settled = numpyro.sample("settled", dist.Beta(2, 2))
        density = jnp.maximum(spread(cells, diffusion, growth, settled), 1e-6)  # the solver errs below 0
        numpyro.sample("counts", dist.Poisson(TRAPPED * density).to_event(2), obs=counts)

    evaluate = jax.jit(jax.value_and_grad(lambda row: jnp.sum(spread(cells, *row))))
    point = jnp.array(list(TRUTH.values()))
    jax.block_until_ready(evaluate(point))
    began = perf_counter()
    jax.block_until_ready(evaluate(point))
    print(f"one evaluation takes {1000 * (perf_counter() - began):.0f} ms")
    mcmc = MCMC(
        QDE(model),
        num_warmup=200,
        num_samples=100 if quick else 250,
        num_chains=4,
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    tree = to_datatree(mcmc)
    print(summary(tree))
    for finding in diagnose(tree):
        print(finding.message, finding.advice)
    warmup, draws = (int(tree.attrs[name]) for name in ("warmup_evals", "sampling_evals"))
    print(f"{warmup} evaluations in the warm-up, {draws} for the draws")
    found = mcmc.get_samples()
    off = [(np.mean(found[name]) - true) / np.std(found[name]) for name, true in TRUTH.items()]
    print(f"from the truth, in standard deviations: {np.array2string(np.array(off), precision=1)}")


if __name__ == "__main__":
    main()
