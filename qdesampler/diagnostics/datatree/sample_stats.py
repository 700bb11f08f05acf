"""The statistics that a kernel reported with each draw, under ArviZ's names, and counts of evaluations."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.infer.model.field_names import statistic_names
from qdesampler.infer.model.trace import leaf_names

__all__ = ["evaluations", "kernel_settings", "sample_stats"]


def sample_stats(mcmc: Any) -> dict[str, np.ndarray]:
    """Collected fields of a run, shape `(chains, draws, ...)`, except the draws themselves.

    Fields known to ArviZ get its names at any depth of the state (`adapt_state.step_size` becomes
    `step_size`), unless two fields would share a name; `potential_energy` becomes `lp` with its sign changed.
    Other fields keep their path, and a field that is a pytree gives one entry for each leaf. PRNG keys are
    left out.
    """
    fields = mcmc.get_extra_fields(group_by_chain=True)
    names = statistic_names(fields)
    stats = {}
    for path, value in fields.items():
        flipped = path != "lp" == names[path]
        for name, leaf in leaf_names(value, prefix=names[path]).items():
            if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                array = np.asarray(leaf)
                stats[name] = -array if flipped else array
    return stats


def evaluations(mcmc: Any, stats: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Log-density evaluations of all chains: `warmup_evals` and `sampling_evals`, each only if it is known.

    Draws report `num_evals`. NumPyro's HMC and NUTS report `num_steps`, one gradient each, if it is
    collected. The counts of draws that thinning drops are lost, so the others are scaled up and
    `sampling_evals_exact` is 0.
    """
    found = {}
    warmup = getattr(mcmc.last_state, "warmup_evals", None)
    if warmup is not None:
        found["warmup_evals"] = _total(warmup)
    counts = stats.get("num_evals", stats.get("n_steps"))
    if counts is not None:
        found["sampling_evals"] = _total(counts) * mcmc.thinning
        found["sampling_evals_exact"] = int(mcmc.thinning == 1)
    return found


def kernel_settings(kernel: Any) -> str:
    """Settings of a kernel that differ from the defaults of its constructor, as `name=value`.

    The value of a parameter `p` of the constructor is the attribute `p` or `_p` of the kernel. Arrays,
    functions and values under other names are left out.
    """
    words = []
    for name, parameter in inspect.signature(type(kernel).__init__).parameters.items():
        value = getattr(kernel, name, getattr(kernel, f"_{name}", None))
        if isinstance(value, bool | int | float | str) and value != parameter.default:
            words.append(f"{name}={value!r}")
    return ", ".join(words)


def _total(counts: Any) -> int:
    return int(np.sum(np.asarray(jax.device_get(counts)), dtype=np.int64))
