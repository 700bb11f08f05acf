"""Run vectorized chains with NumPyro's MCMC."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from numpyro.infer import MCMC
from numpyro.infer.mcmc import MCMCKernel


def run_chains(
    kernel: MCMCKernel,
    data: Mapping[str, Any],
    *,
    key: jax.Array,
    num_chains: int = 4,
    num_samples: int = 1000,
    num_warmup: int = 500,
    extra_fields: Sequence[str] = (),
    progress_bar: bool = False,
) -> MCMC:
    """Warm up and draw, all chains in step, and wait for the result.

    Args:
        kernel: any kernel that knows batches of keys (QDE, NUTS, HMC, ...).
        data: the model's keyword arguments.
        key: JAX random key.
        num_chains: how many chains.
        num_samples: draws of each chain.
        num_warmup: iterations before the first draw of each chain.
        extra_fields: state fields to collect beside the kernel's own.
        progress_bar: show NumPyro's.

    Returns:
        The finished run.

    Raises:
        ValueError: a number is out of range.
        RuntimeError: no valid start was found.
    """
    if num_chains < 1:
        raise ValueError(f"num_chains is {num_chains}; expected at least 1.")
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=progress_bar,
    )
    mcmc.run(key, extra_fields=tuple(extra_fields), **data)
    jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
    return mcmc
