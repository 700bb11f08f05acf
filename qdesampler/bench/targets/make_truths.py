"""Moments of a target from long runs of NUTS.

    python -m qdesampler.bench.targets.make_truths TARGET --draws N --out FILE

Stored are mean and standard deviation of x and x^2 with their Monte Carlo errors, for each unconstrained
scalar, and the settings of the run. A run is refused whose R-hat, of x or of x^2, is not below 1.01
everywhere.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from arviz_stats.base.array import array_stats
from numpyro.infer import MCMC, NUTS

from qdesampler.bench.harness.unconstrained import unconstrain
from qdesampler.bench.targets.closed_form import TARGETS
from qdesampler.bench.targets.hard import HARD_TARGETS, data_digest
from qdesampler.bench.targets.truths import FOLDER, write_truth
from qdesampler.infer import ModelCase, flatten_draws

__all__ = ["LongRun", "NotConverged", "main", "moments_of_draws", "run_nuts"]

CONVERGED = 1.01  # largest R-hat of a run whose moments are kept


class NotConverged(RuntimeError):
    """The chains disagree, or some scalar never moved: no truth can be taken from them."""


@dataclass(frozen=True)
class LongRun:
    """Settings of a run; draws are those kept, of `draws * thinning` made a chain."""

    draws: int
    chains: int = 4
    warmup: int = 2000
    thinning: int = 1
    target_accept: float = 0.9
    dense: bool = False
    seed: int = 0


def run_nuts(case: ModelCase, settings: LongRun) -> tuple[dict[str, np.ndarray], int]:
    """Unconstrained draws `(chains, draws, *event)` of every latent site, and how many draws diverged."""
    mcmc = MCMC(
        NUTS(case.model, target_accept_prob=settings.target_accept, dense_mass=settings.dense),
        num_warmup=settings.warmup,
        num_samples=settings.draws * settings.thinning,
        thinning=settings.thinning,
        num_chains=settings.chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(settings.seed), **case.data, extra_fields=("diverging",))
    samples = mcmc.get_samples(group_by_chain=True)
    state: Any = mcmc.last_state
    sites = {site: samples[site] for site in state.z}
    divergences = int(np.sum(np.asarray(mcmc.get_extra_fields()["diverging"])))
    return unconstrain(case, sites), divergences


def moments_of_draws(draws: dict[str, np.ndarray]) -> tuple[dict[str, dict[str, float]], float]:
    """Reference entries of all scalars, and the largest R-hat of x and x^2.

    Raises:
        NotConverged: an R-hat is not below 1.01.
    """
    flat = flatten_draws(draws)
    values = np.stack(list(flat.values()), axis=-1)
    square = values**2
    both = values, square
    rhat = np.max([array_stats.rhat(f, chain_axis=0, draw_axis=1) for f in both], axis=0)
    ess, ess_sq = (array_stats.ess(f, chain_axis=0, draw_axis=1, method="mean") for f in both)
    bad = np.flatnonzero(~(rhat < CONVERGED) | ~(np.ptp(values, axis=1) > 0).all(axis=0))
    if bad.size:
        name = list(flat)[int(bad[np.argmax(rhat[bad])])]
        raise NotConverged(
            f"R-hat is not below {CONVERGED} for {bad.size} of {len(flat)} scalars, largest for {name}: "
            f"{np.max(rhat[bad]):.4f}. Take more draws or a longer warm-up."
        )
    mean, mean_sq = values.mean(axis=(0, 1)), square.mean(axis=(0, 1))
    sd, sd_sq = values.std(axis=(0, 1), ddof=1), square.std(axis=(0, 1), ddof=1)
    columns = (mean, sd, mean_sq, sd_sq, np.minimum(ess, ess_sq), sd / np.sqrt(ess), sd_sq / np.sqrt(ess_sq))
    keys = ("mean", "sd", "mean_sq", "sd_sq", "ess", "mcse", "mcse_sq")
    entries = {
        name: {key: float(column[i]) for key, column in zip(keys, columns, strict=True)}
        for i, name in enumerate(flat)
    }
    return entries, float(np.max(rhat))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    targets = TARGETS | HARD_TARGETS
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.targets.make_truths", description=__doc__
    )
    parser.add_argument("target", choices=list(targets))
    parser.add_argument("--draws", type=int, default=10_000, help="kept draws a chain")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=2000)
    parser.add_argument("--thinning", type=int, default=1)
    parser.add_argument("--target-accept", type=float, default=0.9)
    parser.add_argument("--dense", action="store_true", help="a dense metric")
    parser.add_argument("--x64", action="store_true", help="in double precision")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: where the benchmark looks for it")
    options = parser.parse_args(arguments)
    for name, least in (("draws", 100), ("chains", 2), ("warmup", 100), ("thinning", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} {getattr(options, name)}: expected at least {least}")
    if options.x64:
        jax.config.update("jax_enable_x64", True)
    case = targets[options.target]()
    settings = LongRun(
        options.draws,
        options.chains,
        options.warmup,
        options.thinning,
        options.target_accept,
        options.dense,
        options.seed,
    )
    out = options.out or FOLDER / f"{case.name}.npz"
    start = time.perf_counter()
    draws, divergences = run_nuts(case, settings)
    try:
        parameters, rhat = moments_of_draws(draws)
    except NotConverged as error:
        print(f"{case.name}: {error}", file=sys.stderr)
        return 1
    about = {
        "kernel": "numpyro NUTS",
        **vars(settings),
        "x64": bool(jax.config.jax_enable_x64),
        "versions": {package: version(package) for package in ("jax", "numpyro")},
        "data": data_digest(case.data),
        "rhat": rhat,
        "divergences": divergences,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_truth(out, parameters, about)
    least = min(entry["ess"] for entry in parameters.values())
    print(
        f"{out}: {len(parameters)} scalars, R-hat {rhat:.4f}, least ESS {least:.0f}, "
        f"{divergences} divergences"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
