"""A curved ridge, sampled by NUTS, by QDE, and by QDE in the coordinates of a trained flow.

A flow trial is trained by minimising the energy, which is the Fisher divergence to the posterior. As a
NumPyro guide it gives the kernel its base coordinates (NeuTra). In these the ridge is nearly round, global
moves are accepted, and every draw stays exact. The evaluations of training, warm-up and draws are all
counted. The example needs the extra `flow`.

    python examples/flow_as_coordinates.py
"""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.reparam import NeuTraReparam

from qdesampler import QDE, FlowTrial
from qdesampler.infer import AutoGroundState


def ridge():
    """A parabola, a tenth as wide as long."""
    x = numpyro.sample("x", dist.Normal(0, 10))
    numpyro.sample("y", dist.Normal(0.03 * (x**2 - 100), 1))


def sample(kernel, field):
    mcmc = MCMC(
        kernel, num_warmup=400, num_samples=1000, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    mcmc.warmup(jax.random.key(1), collect_warmup=True, extra_fields=(field,))
    evaluations = int(np.sum(mcmc.get_extra_fields()[field]))
    mcmc.run(jax.random.key(2), extra_fields=(field,))
    evaluations += int(np.sum(mcmc.get_extra_fields()[field]))
    draws = mcmc.get_samples(group_by_chain=True)
    ess = min(effective_sample_size(np.asarray(draws[name]) ** k) for name in "xy" for k in (1, 2))
    return float(ess), evaluations


def report(name, ess, evaluations):
    rate = 1000 * ess / evaluations
    print(f"{name}: {ess:.0f} effective draws for {evaluations} evaluations, {rate:.1f} a thousand")


def main():
    report("NUTS", *sample(NUTS(ridge), "num_steps"))
    report("QDE", *sample(QDE(ridge), "num_evals"))
    guide = AutoGroundState(ridge, FlowTrial())
    svi = SVI(ridge, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(0)))
    assert guide.ground_state is not None  # solved by svi.init
    trained = guide.ground_state.diagnostics["evaluations"]
    ess, evaluations = sample(QDE(NeuTraReparam(guide, params).reparam(ridge)), "num_evals")
    report("QDE in the flow's coordinates", ess, evaluations + trained)


if __name__ == "__main__":
    main()
