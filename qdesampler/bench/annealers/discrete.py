"""Inclusion probabilities of spike-and-slab regressions: AnnealerGibbs and NumPyro's kernels, per evaluation.

    python -m qdesampler.bench.annealers.discrete --seeds 3 --chains 32

Each line is the median over chains of a chain's root mean square error of the `p` inclusion probabilities,
after so many evaluations of the log density, the first tenth of its draws left out. The truth is enumerated.
"gain" is the error of DiscreteGibbs at the largest budget over that of the line; "DiscreteHMCGibbs needs" its
evaluations for the line's last error, in units of the largest budget.

Of AnnealerGibbs, all evaluations that the surrogate took are charged to every chain, although the chains
share one; it makes one collective and one local move a draw. Evaluations of NumPyro's kernels as their code
makes them: one for each other value of each site and sweep; one for each leapfrog step, and one after each
sweep, warm-up included.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, NUTS, DiscreteGibbs, DiscreteHMCGibbs

from qdesampler.backends import SimulatedAnnealing
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.bench.targets.discrete import (
    SpikeAndSlab,
    enumerated_inclusion,
    log_marginal,
    spike_and_slab,
    spike_and_slab_data,
    spike_and_slab_uncollapsed,
)
from qdesampler.infer import AnnealerGibbs

__all__ = ["METHODS", "Trajectories", "errors", "evaluations_to_reach", "main"]

SITE = "gamma"
WARMUP = 200  # of NUTS inside DiscreteHMCGibbs


class Trajectories(NamedTuple):
    """Draws of "gamma", `(chains, draws, p)`, and the evaluations that each chain has made by each draw."""

    draws: np.ndarray
    evaluations: np.ndarray


def annealer(**options: Any) -> Callable[..., Trajectories]:
    """A run of AnnealerGibbs with one collective and one local move a draw."""

    def run(data: SpikeAndSlab, budget: int, chains: int, key: jax.Array) -> Trajectories:
        kernel = AnnealerGibbs(spike_and_slab, num_steps=1, **options)
        cost = _steady_cost(kernel, data)
        mcmc = _mcmc(kernel, 0, max(budget // cost, 1), chains, "vectorized")
        mcmc.run(key, data)
        spent = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["num_evals"]).astype(int)
        fit = spent[:, 0].sum() - chains * cost
        return Trajectories(_draws(mcmc), fit + np.cumsum(np.full_like(spent, cost), 1))

    return run


def _steady_cost(kernel: AnnealerGibbs, data: SpikeAndSlab) -> int:
    """Evaluations of a draw that pays for nothing else."""
    mcmc = _mcmc(kernel, 0, 2, 1, "sequential")
    mcmc.run(jax.random.key(0), data)
    return int(mcmc.get_extra_fields()["num_evals"][1])


def single_site(modified: bool) -> Callable[..., Trajectories]:
    """A run of NumPyro's DiscreteGibbs: one site after another in random order."""

    def run(data: SpikeAndSlab, budget: int, chains: int, key: jax.Array) -> Trajectories:
        p = data.x.shape[1]
        mcmc = _mcmc(
            DiscreteGibbs(spike_and_slab, modified=modified), 0, max(budget // p, 1), chains, jax.vmap
        )
        mcmc.run(key, data)
        draws = _draws(mcmc)
        return Trajectories(draws, np.cumsum(np.full(draws.shape[:2], p), 1))

    return run


def every_update(data: SpikeAndSlab, budget: int, chains: int, key: jax.Array) -> Trajectories:
    """Single-site Gibbs in random order, a draw after every site: what recording whole sweeps gives away."""
    p = data.x.shape[1]
    odds = float(np.log(data.inclusion) - np.log1p(-data.inclusion))

    def value(gamma):
        return log_marginal(gamma, data) + odds * jnp.sum(gamma)

    def update(carry, now):
        gamma, here = carry
        site, unit = now
        other = gamma.at[site].set(1 - gamma[site])
        there = value(other)
        taken = unit * (1 + jnp.exp(here - there)) < 1
        carry = jnp.where(taken, other, gamma), jnp.where(taken, there, here)
        return carry, carry[0].astype(jnp.int8)

    def chain(key):
        key_start, key_order, key_units = jax.random.split(key, 3)
        start = jax.random.bernoulli(key_start, data.inclusion, (p,)).astype(jnp.int32)
        orders = jax.vmap(lambda k: jax.random.permutation(k, p))(jax.random.split(key_order, budget // p))
        units = jax.random.uniform(key_units, (orders.size,))
        return jax.lax.scan(update, (start, value(start)), (orders.ravel(), units))[1]

    draws = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(key, chains)))
    return Trajectories(draws, np.tile(np.arange(1, draws.shape[1] + 1), (chains, 1)))


def discrete_hmc_gibbs(data: SpikeAndSlab, budget: int, chains: int, key: jax.Array) -> Trajectories:
    """A run of NumPyro's DiscreteHMCGibbs with NUTS, on the model that has coefficients and variance."""
    p = data.x.shape[1]
    kernel = DiscreteHMCGibbs(NUTS(spike_and_slab_uncollapsed))
    # a draw costs the sweep, a gradient after it, and at least one leapfrog step
    mcmc = _mcmc(kernel, WARMUP, max(budget // (p + 2), 1), chains, jax.vmap)
    fields = ("hmc_state.num_steps",)
    mcmc.warmup(key, data, extra_fields=fields, collect_warmup=True)
    warmup = _steps(mcmc).sum(1, keepdims=True) + WARMUP * (p + 1)
    mcmc.run(jax.random.fold_in(key, 1), data, extra_fields=fields)
    return Trajectories(_draws(mcmc), warmup + np.cumsum(_steps(mcmc) + p + 1, 1))


def _steps(mcmc: MCMC) -> np.ndarray:
    return np.asarray(mcmc.get_extra_fields(group_by_chain=True)["hmc_state.num_steps"]).astype(int)


def _mcmc(kernel: Any, warmup: int, samples: int, chains: int, method: Any) -> MCMC:
    return MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=samples,
        num_chains=chains,
        chain_method=method,
        progress_bar=False,
    )


def _draws(mcmc: MCMC) -> np.ndarray:
    return np.asarray(mcmc.get_samples(group_by_chain=True)[SITE])


METHODS: dict[str, Callable[..., Trajectories]] = {
    "single-site Gibbs (DiscreteGibbs)": single_site(False),
    "DiscreteGibbs(modified=True)": single_site(True),
    "single-site Gibbs, a draw after every site": every_update,
    "DiscreteHMCGibbs(NUTS), not collapsed": discrete_hmc_gibbs,
    "AnnealerGibbs coset, SimulatedAnnealing": annealer(move="coset"),
    "AnnealerGibbs mask, SimulatedAnnealing": annealer(move="mask"),
    "AnnealerGibbs fitted, SimulatedAnnealing": annealer(move="fitted"),
    "AnnealerGibbs annealed, SimulatedAnnealing": annealer(
        move="annealed", num_reads=2, backend=SimulatedAnnealing(30)
    ),
    "AnnealerGibbs surrogate, GibbsSurrogate": annealer(move="surrogate"),
    "AnnealerGibbs independence, ExactEnumeration": annealer(move="independence"),
}
SINGLE_SITE, HMC = list(METHODS)[0], list(METHODS)[3]


def errors(found: Trajectories, truth: np.ndarray, budgets: Sequence[int] | np.ndarray) -> np.ndarray:
    """Median over chains of the root mean square error at each budget; NaN before a chain has ten draws."""
    result = []
    for budget in budgets:
        rows = []
        for draws, spent in zip(found.draws, found.evaluations, strict=True):
            n = int(np.searchsorted(spent, budget, side="right"))
            if n >= 10:
                rows.append(np.sqrt(np.mean((draws[n // 10 : n].mean(0) - truth) ** 2)))
        result.append(np.median(rows) if len(rows) == len(found.draws) else np.nan)
    return np.array(result)


def evaluations_to_reach(found: Trajectories, truth: np.ndarray, error: float) -> float:
    """Evaluations at which the median error falls to `error`; infinite if it never does."""
    most = int(found.evaluations[:, -1].min())
    budgets = np.unique(np.geomspace(max(most / 200, 10), most, 60).astype(int))
    reached = np.flatnonzero(errors(found, truth, budgets) <= error)
    return float(budgets[reached[0]]) if reached.size else np.inf


def table(
    data: SpikeAndSlab, truth: np.ndarray, budgets: list[int], longer: int, chains: int, key: jax.Array
):
    """Yield the lines of one data set."""
    most = budgets[-1]
    found, at = {}, {}
    for name, method in METHODS.items():
        found[name] = method(data, longer * most if name == HMC else most, chains, key)
        at[name] = errors(found[name], truth, budgets)
    for name, values in at.items():
        gain = at[SINGLE_SITE][-1] / values[-1]
        needed = evaluations_to_reach(found[HMC], truth, values[-1])
        limit = int(found[HMC].evaluations[:, -1].min())
        more = f"{needed / most:.1f}" if np.isfinite(needed) else f"> {limit / most:.1f}"
        cells = " | ".join("-" if np.isnan(value) else f"{value:.4f}" for value in values)
        ours = name.startswith("Annealer")
        yield f"| {name} | {cells} | {'-' if np.isnan(gain) else f'{gain:.1f}'} | {more if ours else '-'} |"
    end = int(found[HMC].evaluations[:, -1].min())
    warm = np.median(found[HMC].evaluations[:, 0])
    last = errors(found[HMC], truth, [end])[0]
    yield f"\nDiscreteHMCGibbs: {last:.4f} after {end:,} evaluations, of which {warm:,.0f} are its warm-up."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print tables."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.annealers.discrete", description=__doc__
    )
    parser.add_argument("--budgets", default="4000,8000,16000", help="evaluations of each chain")
    parser.add_argument("--seeds", type=int, default=3, help="data sets")
    parser.add_argument("--chains", type=int, default=32)
    parser.add_argument("--predictors", type=int, default=16)
    parser.add_argument("--longer", type=int, default=2, help="how much longer DiscreteHMCGibbs runs")
    options = parser.parse_args(arguments)
    budgets = options.budgets.split(",")
    if not all(budget.isdecimal() and int(budget) >= 500 for budget in budgets):
        parser.error(f"--budgets {options.budgets}: expected integers of at least 500")
    if options.seeds < 1 or options.chains < 2 or not 2 <= options.predictors <= 16 or options.longer < 1:
        parser.error("expected a seed, two chains, 2 to 16 predictors and --longer of at least 1")
    limits = sorted(map(int, budgets))
    about = header(Settings(options.chains, 0, 0))
    print("\n".join(f"- {name}: {value}" for name, value in about.items() if name != "settings"))
    for seed in range(options.seeds):
        data = spike_and_slab_data(options.predictors, seed=seed)
        truth = enumerated_inclusion(data)
        print(f"\nData set {seed}: inclusion probabilities {', '.join(f'{value:.2f}' for value in truth)}\n")
        print(f"| method | {' | '.join(f'{b:,}' for b in limits)} | gain | DiscreteHMCGibbs needs |")
        print("| --- |" + " --- |" * (len(limits) + 2))
        for line in table(data, truth, limits, options.longer, options.chains, jax.random.key(seed)):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
