"""What a peer hands back, and what every peer is: a function of a model, a seed and the settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qdesampler.bench.harness.record import Settings
from qdesampler.infer import ModelCase

__all__ = ["Outcome", "Runner"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Draws and the log-density evaluations that they cost.

    Attributes:
        samples: constrained values of all sites, deterministic ones too, each `(chains, draws, *event)`.
        sites: the latent sites among them.
        dim: unconstrained dimension.
        warmup_evals: log-density evaluations before the first kept draw, all chains together.
        draw_evals: evaluations of each kept draw, integers of shape `(chains, draws)`.
        divergences: number of divergent draws among the kept; None for methods without divergences.
        log_weights: log of the normalised, Pareto-smoothed importance weights, shape `(chains, draws)`, where
            the draws are independent and weighted; None where they are chains.
        pareto_k: tail index of the raw weights, None for chains.
    """

    samples: Mapping[str, np.ndarray]
    sites: tuple[str, ...]
    dim: int
    warmup_evals: int
    draw_evals: np.ndarray
    divergences: int | None
    log_weights: np.ndarray | None = None
    pareto_k: float | None = None


Runner = Callable[[ModelCase, int, Settings], Outcome]
