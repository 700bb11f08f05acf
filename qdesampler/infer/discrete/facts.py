"""Facts about a finished run of AnnealerGibbs: the annealer behind it and the diversity of its pool."""

import numpy as np

from qdesampler.backends import AnnealingBackend
from qdesampler.infer.discrete.state import AnnealerState

__all__ = ["backend_facts"]


def backend_facts(backend: AnnealingBackend | None, state: AnnealerState) -> dict[str, str | int | float]:
    """The annealer's name and law, and what its pool can do.

    `backend` and `backend_law`; of a pool also `pool_reads`, `pool_different` (different reads among them)
    and `pool_diversity`, the probability that two reads drawn from the pool differ, `1 - sum_s (c_s / R)^2`
    with `c_s` reads of state `s`: only then does their difference move the chain. Of chains with pools of
    their own the least diverse is described. No evaluation and no call of the annealer.

    Args:
        backend: of the kernel; None if the reads were given, of whatever law.
        state: the last state of the run.
    """
    facts: dict[str, str | int | float] = {
        "backend": "given reads" if backend is None else type(backend).__name__,
        "backend_law": "unknown" if backend is None else backend.capabilities.law,
    }
    if state.adapt_state.pool is None:
        return facts
    pools = np.asarray(state.adapt_state.pool)
    pools = pools.reshape(-1, *pools.shape[-2:])
    counts = [np.unique(pool, axis=0, return_counts=True)[1] for pool in pools]
    reads = pools.shape[1]
    diversity = [1 - float(np.sum((count / reads) ** 2)) for count in counts]
    worst = int(np.argmin(diversity))
    return facts | {
        "pool_reads": reads,
        "pool_different": int(counts[worst].size),
        "pool_diversity": diversity[worst],
    }
