"""The NumPyro kernels on the bench, each counting its own log-density evaluations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS
from numpyro.infer.mcmc import MCMCKernel

from qdesampler.bench.harness.outcome import Outcome, Runner
from qdesampler.bench.harness.record import Settings
from qdesampler.infer import QDE, AnnealedQDE, ModelCase

__all__ = ["ABLATIONS", "KERNELS", "CountedNUTS", "CountedState", "numpyro_runner"]


class CountedState(NamedTuple):
    """State of `CountedNUTS`.

    Attributes:
        z: unconstrained position.
        diverging: whether this draw's trajectory diverged.
        num_evals: gradients spent on this draw.
        warmup_evals: gradients spent in the warm-up so far, the start included.
        iteration: draws so far, warm-up included.
        nuts: NUTS's own state.
    """

    z: Any
    diverging: jax.Array
    num_evals: jax.Array
    warmup_evals: jax.Array
    iteration: jax.Array
    nuts: Any


class CountedNUTS(MCMCKernel):
    """NumPyro's NUTS with a bill: the same draws from the same key, and the warm-up's gradients summed.

    A draw costs `num_steps` gradients. The start is charged one gradient a chain; NumPyro does not report how
    often it retried a start, so the count is a lower bound there. NUTS is run as it is: its state resets the
    iteration number after the warm-up, hence the number kept here.

    Args:
        model: NumPyro model.
        **settings: keyword arguments of `numpyro.infer.NUTS`.
    """

    def __init__(self, model: Callable, **settings: Any):
        self._nuts = NUTS(model, **settings)
        self._num_warmup = 0
        self._sample_fn = None

    @property
    def sample_field(self) -> str:
        """The field of the draws."""
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What NumPyro collects unasked."""
        return ("z", "diverging", "num_evals")

    @property
    def model(self) -> Callable | None:
        """The NumPyro model."""
        return self._nuts.model

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: tuple = (),
        model_kwargs: dict | None = None,
    ) -> CountedState:
        """NUTS's start, charged with one evaluation a chain."""
        nuts = self._nuts.init(rng_key, num_warmup, init_params, model_args, model_kwargs or {})
        self._num_warmup = num_warmup
        self._sample_fn = self._nuts.sample
        none = jnp.zeros_like(nuts.num_steps)
        return CountedState(nuts.z, nuts.diverging, none, none + 1, none, nuts)

    def sample(self, state: CountedState, model_args: tuple, model_kwargs: dict | None) -> CountedState:
        """One draw of NUTS."""
        nuts = self._nuts.sample(state.nuts, model_args, model_kwargs)
        spent = jnp.where(state.iteration < self._num_warmup, nuts.num_steps, 0)
        return CountedState(
            nuts.z, nuts.diverging, nuts.num_steps, state.warmup_evals + spent, state.iteration + 1, nuts
        )

    def postprocess_fn(self, model_args: tuple, model_kwargs: dict) -> Callable:
        """Constrained values and deterministic sites."""
        return self._nuts.postprocess_fn(model_args, model_kwargs)


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
    "annealed-64": lambda model: AnnealedQDE(model, num_walkers=64),
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
