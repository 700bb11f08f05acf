"""New surrogates and pools between the warm-up and the run of an `MCMC`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.infer import MCMC, Gibbs
from numpyro.infer.gibbs import with_conditioning

from qdesampler.infer.discrete.kernel import AnnealerGibbs

__all__ = ["renew_pools"]


def renew_pools(mcmc: MCMC, key: jax.Array, *model_args: Any, **model_kwargs: Any) -> None:
    """Fit new surrogates and fill new pools from where the warm-up ended, for `AnnealerGibbs` in `mcmc`.

        mcmc.warmup(key, y)
        renew_pools(mcmc, key, y)
        mcmc.run(key, y)

    A pool made at the start of the chains depends on their first positions, and inside `Gibbs` on the first
    values of the other sites. The evaluations and reads that this takes are counted with the next draw.

    Args:
        mcmc: after `warmup`; its kernel is an `AnnealerGibbs`, or a `Gibbs` with one among its blocks.
        key: JAX key.
        *model_args: as given to `warmup`.
        **model_kwargs: as given to `warmup`.

    Raises:
        ValueError: no warm-up was made.
        TypeError: the kernel has no `AnnealerGibbs`.
    """
    state = mcmc.post_warmup_state
    if state is None:
        raise ValueError("there is no warm-up to renew pools after: call mcmc.warmup(key, ...) first.")
    renew = _renewal(mcmc.sampler, model_args, model_kwargs)
    if mcmc.num_chains == 1 or mcmc.chain_method == "vectorized":
        mcmc.post_warmup_state = renew(state, key)
        return
    # Each chain has its own pools.
    chains = range(mcmc.num_chains)
    renewed = [
        renew(jax.tree.map(lambda leaf, c=c: leaf[c], state), jax.random.fold_in(key, c)) for c in chains
    ]
    mcmc.post_warmup_state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *renewed)


def _renewal(kernel: Any, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]) -> Callable:
    """`(state, key) -> state` for a kernel."""
    if isinstance(kernel, AnnealerGibbs):
        return lambda state, key: kernel.renew(state, model_args, model_kwargs, key=key)
    blocks = [block for block, _ in kernel.blocks] if isinstance(kernel, Gibbs) else []
    if not any(isinstance(block, AnnealerGibbs) for block in blocks):
        raise TypeError(
            f"renew_pools takes an MCMC of AnnealerGibbs, or of Gibbs with such a block; its kernel is "
            f"{type(kernel).__name__}."
        )

    def renew(state, key):
        own = [
            getattr(each, block.sample_field) for block, each in zip(blocks, state.block_states, strict=True)
        ]
        values = []
        for block, z in zip(blocks, own, strict=True):
            constrained = block.get_constrain_fn(model_args, model_kwargs)(z)
            values.append({name: constrained[name] for name in z})
        new = list(state.block_states)
        for k, block in enumerate(blocks):
            if isinstance(block, AnnealerGibbs):
                others = {name: v for j, each in enumerate(values) if j != k for name, v in each.items()}
                kwargs = with_conditioning(model_kwargs, others)
                new[k] = block.renew(new[k], model_args, kwargs, key=jax.random.fold_in(key, k))
        return state._replace(block_states=tuple(new))

    return renew
