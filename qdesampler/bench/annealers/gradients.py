"""Kernels that need gradients on three of the problems of working size, at several times the evaluations.

    python -m qdesampler.bench.annealers.gradients --times 5

The posteriors of `qdesampler.bench.targets.discrete_large` with their continuous parts as sites: the levels
between change points; the means and weights of a mixture; coefficients and variance of a regression.
DiscreteHMCGibbs moves labels one after another and
the rest by NUTS; NUTS by itself takes the mixture with its labels summed out, and its errors are those of the
labels' probabilities given means and weights. Evaluations are those of a chain, its warm-up included: one for
each site and other state, one for each leapfrog step. Errors are as in `at_size`.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, DiscreteHMCGibbs

from qdesampler.bench.annealers.at_size import BUDGETS, marginal_error, same_error
from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.bench.targets.discrete import spike_and_slab_data, spike_and_slab_uncollapsed
from qdesampler.bench.targets.discrete_large import LARGE_PROBLEMS, change_point_series, mixture_points

__all__ = [
    "change_points_with_levels",
    "main",
    "mixture_summed",
    "mixture_with_means",
    "spike_and_slab_with_coefficients",
]

_WARMUP = 100  # draws
_PROBLEMS = ("change points", "mixture", "spike and slab")


def change_points_with_levels(seed: int) -> Callable:
    """The model of `change_points`: a level may begin at each point, and the last one begun holds."""
    y, probability, width = change_point_series(seed)
    n = len(y)

    def model():
        level: Any = numpyro.sample("level", dist.Normal(0, np.sqrt(width)).expand([n]).to_event(1))
        with numpyro.plate("sites", n - 1):
            z: Any = numpyro.sample("z", dist.Bernoulli(probability))
        begins = jax.lax.cummax(jnp.where(jnp.append(1, z) == 1, jnp.arange(n), 0))
        numpyro.sample("y", dist.Normal(level[begins], 1.0).to_event(1), obs=y)

    return model


def _means_and_weights(k: int, width: float) -> tuple[Any, Any]:
    means = numpyro.sample("means", dist.Normal(0, np.sqrt(width)).expand([k, 2]).to_event(2))
    return means, numpyro.sample("weights", dist.Dirichlet(jnp.ones(k)))


def _log_shares(means, weights, y):
    """Log probability of each point and label, shape `(n, k)`, up to a constant."""
    return jnp.log(weights) - jnp.sum((y[:, None] - means) ** 2, -1) / 2


def mixture_with_means(seed: int) -> Callable:
    """The model of `mixture_labels`, with means, weights and labels as sites."""
    y, k, width = mixture_points(seed)
    labels: Any = dist.Categorical

    def model():
        means, weights = _means_and_weights(k, width)
        with numpyro.plate("points", len(y)):
            z: Any = numpyro.sample("z", labels(weights))
        numpyro.factor("y", -jnp.sum((y - means[z]) ** 2) / 2)

    return model


def mixture_summed(seed: int) -> Callable:
    """The model of `mixture_labels`, labels summed out; "shares" are their probabilities."""
    y, k, width = mixture_points(seed)

    def model():
        logits = _log_shares(*_means_and_weights(k, width), y)
        numpyro.deterministic("shares", jax.nn.softmax(logits))
        numpyro.factor("y", jnp.sum(jax.nn.logsumexp(logits, 1)))

    return model


def spike_and_slab_with_coefficients(seed: int) -> Callable:
    """The model of `wide_spike_and_slab`, its coefficients and the variance as sites."""
    data = spike_and_slab_data(200, seed=seed, active=6)
    return lambda: spike_and_slab_uncollapsed(data)


def _run(kernel: Any, draws: int, chains: int, seed: int, field: str, each: int) -> tuple[Any, int]:
    """Return the samples and the evaluations of a chain by the last draw, the median over chains."""
    method: Any = "vectorized" if isinstance(kernel, NUTS) else jax.vmap
    mcmc = MCMC(
        kernel,
        num_warmup=_WARMUP,
        num_samples=draws,
        num_chains=chains,
        chain_method=method,
        progress_bar=False,
    )
    key = jax.random.key(seed)
    mcmc.warmup(key, extra_fields=(field,), collect_warmup=True)
    steps = [np.asarray(mcmc.get_extra_fields(group_by_chain=True)[field]).astype(int).sum(1)]
    mcmc.run(jax.random.fold_in(key, 1), extra_fields=(field,))
    steps.append(np.asarray(mcmc.get_extra_fields(group_by_chain=True)[field]).astype(int).sum(1))
    return mcmc.get_samples(group_by_chain=True), int(np.median(sum(steps))) + each * (draws + _WARMUP)


def _share_errors(shares: np.ndarray, problem: Any) -> tuple[float, float]:
    """The errors of marginals and of shared labels by probabilities, `(chains, draws, n, k)`."""
    found = np.sqrt(np.mean((shares.mean(1) - problem.truth) ** 2, (1, 2)))
    together = np.mean(np.sum(shares[:, :, 1:] * shares[:, :, :-1], -1), 1)
    same = np.sqrt(np.mean((together - problem.same) ** 2, 1))
    return float(np.median(found)), float(np.median(same))


def rows(times: float, chains: int, seed: int, problems: Sequence[str]):
    """Yield the lines of the table."""
    known = {name: LARGE_PROBLEMS[name](seed) for name in problems}
    for name, model, site in (
        ("change points", change_points_with_levels, "z"),
        ("mixture", mixture_with_means, "z"),
        ("spike and slab", spike_and_slab_with_coefficients, "gamma"),
    ):
        if name not in known:
            continue
        problem = known[name]
        sweep = len(problem.truth) * (problem.num_states - 1)
        draws = max(int(times * BUDGETS[name]) // (sweep + 8) - _WARMUP, 20)
        began = time.process_time()
        kernel = DiscreteHMCGibbs(NUTS(model(seed)))
        samples, used = _run(kernel, draws, chains, seed, "hmc_state.num_steps", sweep + 1)
        z = np.asarray(samples[site])
        errors = marginal_error(z, problem), same_error(z, problem)
        yield name, "DiscreteHMCGibbs(NUTS)", *errors, used, time.process_time() - began
    if "mixture" not in known:
        return
    problem, began = known["mixture"], time.process_time()
    draws = max(int(times * BUDGETS["mixture"]) // 8 - _WARMUP, 20)  # a tree of seven steps
    draws = min(draws, 2_000)  # of probabilities, 2000 numbers each
    samples, used = _run(NUTS(mixture_summed(seed)), draws, chains, seed, "num_steps", 0)
    errors = _share_errors(np.asarray(samples["shares"]), problem)
    yield "mixture", "NUTS, labels summed out", *errors, used, time.process_time() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.annealers.gradients", description=__doc__
    )
    parser.add_argument("--times", type=float, default=5.0, help="the evaluations of at_size")
    parser.add_argument("--problems", nargs="+", choices=_PROBLEMS, default=_PROBLEMS)
    parser.add_argument("--seeds", type=int, default=1, help="data sets")
    parser.add_argument("--first", type=int, default=0, help="number of the first data set")
    parser.add_argument("--chains", type=int, default=8)
    given = parser.parse_args(arguments)
    if given.seeds < 1 or given.chains < 2 or not given.times > 0:
        parser.error("expected a seed, two chains, and --times above 0")
    about = header(Settings(given.chains, _WARMUP, 0))
    print("\n".join(f"- {name}: {value}" for name, value in about.items() if name != "settings"))
    print("\n| problem | data set | method | error | same | used | CPU seconds |\n" + "| --- " * 7 + "|")
    for seed in range(given.first, given.first + given.seeds):
        for name, method, error, same, used, seconds in rows(given.times, given.chains, seed, given.problems):
            print(
                f"| {name} | {seed} | {method} | {error:.4f} | {same:.4f} | {used:,} | {seconds:.0f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
