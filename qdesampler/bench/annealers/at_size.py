"""AnnealerGibbs on problems of working size, against single-site Gibbs sampling at equal evaluations.

    python -m qdesampler.bench.annealers.at_size --seeds 3
    python -m qdesampler.bench.annealers.at_size --problems "change points" --size 50 --moves scan coset

Five posteriors with known marginals (`qdesampler.bench.targets.discrete_large`). Each line is the root mean
square error of all marginals, the median over chains, after so many evaluations of the log density, a tenth
of the draws left out. Evaluations are those that the kernel counts: chains share what the surrogate took.
"used" is less than the budget where draws would fill the memory; "of Gibbs" is the error in units of
single-site Gibbs at the budget. "same" is the error of whether neighbours share a label, where labels have no
meaning of their own. Seconds are CPU seconds of the whole run, compilation included.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, DiscreteGibbs

from qdesampler.backends import SimulatedAnnealing
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.bench.targets.discrete_large import LARGE_PROBLEMS, LargeProblem
from qdesampler.infer import AnnealerGibbs

__all__ = ["MOVES", "Measured", "main", "marginal_error", "measure", "same_error"]

_MOST_NUMBERS = 70_000_000  # in the draws of a run: 280 MB, 2000 draws of eight images
BUDGETS = {  # evaluations of a chain, about 40 to 2000 sweeps
    "change points": 40_000,
    "network": 40_000,
    "mixture": 150_000,
    "image": 164_000,
    "spike and slab": 40_000,
}
MOVES: dict[str, dict[str, Any]] = {
    "scan": {},
    "coset": {},
    "mask": {},
    "fitted": {},
    "permutation": {},
    "surrogate": {"num_steps": 1},
    "annealed": {"num_steps": 1, "num_reads": 2, "backend": SimulatedAnnealing(30)},
    "local": {},
}


class Measured(NamedTuple):
    """Error of the marginals, evaluations of a chain, CPU seconds, error of `LargeProblem.same` or NaN."""

    error: float
    evaluations: int
    seconds: float
    same: float


def marginal_error(draws: np.ndarray, problem: LargeProblem) -> float:
    """Median over chains of the root mean square error; `draws` are `(chains, draws, n)`."""
    kept = draws[:, draws.shape[1] // 10 :]
    if problem.num_states == 2:
        means = kept.mean(1)
    else:
        means = np.stack([(kept == state).mean(1) for state in range(problem.num_states)], -1)
    axes = tuple(range(1, means.ndim))
    return float(np.median(np.sqrt(np.mean((means - problem.truth) ** 2, axes))))


def same_error(draws: np.ndarray, problem: LargeProblem) -> float:
    """As `marginal_error`, of whether neighbours share a label; NaN where labels have a meaning."""
    if problem.same is None:
        return float("nan")
    kept = draws[:, draws.shape[1] // 10 :]
    found = (kept[..., 1:] == kept[..., :-1]).mean(1)
    return float(np.median(np.sqrt(np.mean((found - problem.same) ** 2, 1))))


def _run(
    kernel: Any,
    method: Any,
    draws: int,
    chains: int,
    problem: LargeProblem,
    seed: int,
    fields: Any = (),
    after: Any = None,
):
    mcmc = MCMC(
        kernel, num_warmup=0, num_samples=draws, num_chains=chains, chain_method=method, progress_bar=False
    )
    start = None
    if problem.start is not None:
        start = {"z": jnp.asarray(np.tile(problem.start, (chains, 1)) if chains > 1 else problem.start)}
    mcmc.post_warmup_state = after
    mcmc.run(jax.random.key(seed), extra_fields=fields, init_params=start)
    return mcmc


def measure(name: str, problem: LargeProblem, budget: int, chains: int, seed: int) -> Measured:
    """Run one method, "single-site Gibbs" or a move of `MOVES`, until the budget is spent."""
    began = time.process_time()
    if name == "single-site Gibbs":
        sweep = len(problem.truth) * (problem.num_states - 1)
        draws = max(budget // sweep, 10)
        mcmc = _run(DiscreteGibbs(problem.model), jax.vmap, draws, chains, problem, seed)
        used = draws * sweep
    else:
        options = dict(MOVES[name])
        if problem.surrogate is not None and name != "scan":  # "scan" finds it by itself
            options["surrogate"] = problem.surrogate
        kernel = AnnealerGibbs(problem.model, move=name, **options)
        short = _run(kernel, "vectorized", 2, chains, problem, seed, ("num_evals",))
        first, cost = np.asarray(short.get_extra_fields(group_by_chain=True)["num_evals"])[0]
        most = _MOST_NUMBERS // (chains * len(problem.truth))
        draws = int(np.clip((budget - first) // cost - 1, 10, most))
        # the run goes on where the short one ended, which had the evaluations of learning
        mcmc = _run(kernel, "vectorized", draws, chains, problem, seed, ("num_evals",), short.last_state)
        runs = (run.get_extra_fields(group_by_chain=True)["num_evals"] for run in (short, mcmc))
        used = sum(int(np.asarray(evals)[0].astype(int).sum()) for evals in runs)
    found = np.asarray(mcmc.get_samples(group_by_chain=True)["z"])
    return Measured(
        marginal_error(found, problem), used, time.process_time() - began, same_error(found, problem)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print tables."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.annealers.at_size", description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=tuple(LARGE_PROBLEMS), default=tuple(LARGE_PROBLEMS))
    parser.add_argument("--moves", nargs="+", choices=tuple(MOVES), default=tuple(MOVES))
    parser.add_argument("--seeds", type=int, default=3, help="data sets")
    parser.add_argument("--first", type=int, default=0, help="number of the first data set")
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.0, help="of the budget")
    parser.add_argument("--size", type=int, help="points, nodes, predictors or the side of the image")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or given.chains < 2 or not 0 < given.share <= 1:
        parser.error("expected a seed, two chains, and a share between 0 and 1")
    about = header(Settings(given.chains, 0, 0))
    print("\n".join(f"- {name}: {value}" for name, value in about.items() if name != "settings"))
    for name in given.problems:
        budget = int(BUDGETS[name] * given.share)
        print(f"\n{name}, {budget:,} evaluations a chain\n")
        print("| data set | method | error | of Gibbs | used | CPU seconds | same |\n" + "| --- " * 7 + "|")
        for seed in range(given.first, given.first + given.seeds):
            problem = LARGE_PROBLEMS[name](*((seed,) if given.size is None else (seed, given.size)))
            gibbs = None
            for method in ("single-site Gibbs", *given.moves):
                found = measure(method, problem, budget, given.chains, seed)
                gibbs = gibbs or found.error
                print(
                    f"| {seed} | {method} | {found.error:.4f} | {found.error / gibbs:.2f} | "
                    f"{found.evaluations:,} | {found.seconds:.0f} | {found.same:.4f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
