"""The NumPyro kernels on the bench, each counting its own log-density evaluations."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel

from qdesampler.bench.harness.outcome import Outcome, Runner
from qdesampler.bench.harness.record import Settings
from qdesampler.infer import QDE, AnnealedQDE, ModelCase
from qdesampler.infer.counted_nuts import CountedNUTS

__all__ = ["ABLATIONS", "KERNELS", "numpyro_runner"]


# Each with its package's default settings, except what the name says.
KERNELS: dict[str, Callable[[Callable], MCMCKernel]] = {
    "qde": QDE,
    "qde-isokinetic": lambda model: QDE(model, dynamics="isokinetic", integrator="mn2"),
    "nuts": CountedNUTS,
    "nuts-dense": lambda model: CountedNUTS(model, dense_mass=True),
}

# Run by name only: QDE with parts of it left out, and what looking for many modes costs where there is one.
ABLATIONS: dict[str, Callable[[Callable], MCMCKernel]] = {
    "qde-local": lambda model: QDE(model, solve=False),
    "annealed": AnnealedQDE,
    "annealed-64": lambda model: AnnealedQDE(model, num_particles=64),
    "qde-local-no-metric": lambda model: QDE(model, solve=False, adapt_mass_matrix=False),
}


def numpyro_runner(make_kernel: Callable[[Callable], MCMCKernel]) -> Runner:
    """Run a NumPyro kernel on a model: all chains vectorized in one program.

    The kernel's state has `num_evals`, `warmup_evals` and `diverging`, and collects them unasked.
    """

    def run(case: ModelCase, seed: int, settings: Settings) -> Outcome:
        mcmc = MCMC(
            make_kernel(case.model),
            num_warmup=settings.warmup,
            num_samples=settings.draws,
            num_chains=settings.chains,
            chain_method="vectorized",
            progress_bar=False,
        )
        mcmc.run(jax.random.key(seed), **case.data)
        samples = mcmc.get_samples(group_by_chain=True)
        fields = mcmc.get_extra_fields(group_by_chain=True)
        state: Any = mcmc.last_state
        return Outcome(
            samples={site: np.asarray(values) for site, values in samples.items()},
            sites=tuple(state.z),
            dim=sum(leaf.size for leaf in jax.tree.leaves(state.z)) // settings.chains,
            warmup_evals=int(np.sum(np.asarray(state.warmup_evals), dtype=np.int64)),
            draw_evals=np.asarray(fields["num_evals"], np.int64),
            divergences=int(np.sum(np.asarray(fields["diverging"]))),
        )

    return run
