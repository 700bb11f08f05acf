"""What a kernel reported about each draw, under ArviZ's names, and the bill of the run."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.infer.model.field_names import statistic_names
from qdesampler.infer.model.trace import leaf_names
from qdesampler.kernels.adaptation.imaginary_time import OUTCOMES


def sample_stats(mcmc: Any) -> dict[str, np.ndarray]:
    """Collected fields of a run, shape `(chains, draws, ...)`, except the draws themselves.

    Fields known to ArviZ get its names wherever they sit in the state (`adapt_state.step_size` becomes
    `step_size`), unless two fields would share one; `potential_energy` becomes `lp` with its sign changed.
    Others keep their path, and fields that are pytrees give one entry per leaf. PRNG keys are left out.
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
    """Log-density evaluations of all chains: `warmup_evals`, `sampling_evals`, each only where it is known.

    Draws report `num_evals`; NumPyro's HMC and NUTS report `num_steps`, one gradient each, when collected.
    Thinning drops the counts of the draws it drops, so the kept ones are scaled up and
    `sampling_evals_exact` is 0.
    """
    bill = {}
    warmup = getattr(mcmc.last_state, "warmup_evals", None)
    if warmup is not None:
        bill["warmup_evals"] = _total(warmup)
    counts = stats.get("num_evals", stats.get("n_steps"))
    if counts is not None:
        bill["sampling_evals"] = _total(counts) * mcmc.thinning
        bill["sampling_evals_exact"] = int(mcmc.thinning == 1)
    return bill


def solve_facts(mcmc: Any) -> dict[str, str | int | float]:
    """What came of QDE's imaginary-time solve; empty for other kernels.

    `solve_outcome` in words (`qdesampler.kernels.adaptation.imaginary_time`; the worst where chains solved
    for themselves), `solve_acceptance` of the trial as an independence proposal, `solve_outliers`, the chains
    whose descent ended outside the trial, and `global_share`, the part of the draws that are global moves.
    """
    shared = getattr(getattr(mcmc.last_state, "adapt_state", None), "shared", None)
    solve = getattr(shared, "solve", None)
    if solve is None:
        return {}
    outcome = int(np.max(np.asarray(solve.outcome)))
    return {
        "solve_outcome": OUTCOMES[outcome],
        "solve_acceptance": float(np.min(np.asarray(solve.acceptance))),
        "solve_outliers": int(np.sum(np.asarray(solve.outliers))),
        "global_share": float(np.mean(np.asarray(shared.global_probability))),  # pyright: ignore[reportOptionalMemberAccess]
    }


def kernel_settings(kernel: Any) -> str:
    """Plain settings of a kernel that differ from what its constructor takes unasked, as `name=value`.

    A parameter `p` of the constructor is looked for as the attribute `p` or `_p`; arrays, functions and what
    is kept under another name are left out.
    """
    words = []
    for name, parameter in inspect.signature(type(kernel).__init__).parameters.items():
        value = getattr(kernel, name, getattr(kernel, f"_{name}", None))
        if isinstance(value, bool | int | float | str) and value != parameter.default:
            words.append(f"{name}={value!r}")
    return ", ".join(words)


def _total(counts: Any) -> int:
    return int(np.sum(np.asarray(jax.device_get(counts)), dtype=np.int64))
