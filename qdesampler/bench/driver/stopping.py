"""The command `python -m qdesampler.bench.driver.stopping`: whether `until` keeps what it promises.

python -m qdesampler.bench.driver.stopping --replications 100

Many runs that end at `until={"ess": 400}`, with the same kernel and other keys, on targets whose means and
widths are known. The promise of an effective sample size n is that the mean of the draws is sd/sqrt(n) away
from the truth, root mean square. For every scalar x (and x^2, where its mean is known): the error of its mean
over sd/sqrt(n), n being what the last check found. Root mean square over replications and scalars: 1 where
the promise is kept, more where runs end too early. The same for runs of a fixed number of draws, the median
at which the others ended: what is left between the two is the cost of the checks.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import NUTS
from scipy.special import digamma, polygamma

from qdesampler.bench.harness.process import print_header
from qdesampler.bench.harness.record import Settings
from qdesampler.driver import MCMC
from qdesampler.infer import QDE

__all__ = ["TARGETS", "PromiseErrors", "errors_of", "replicate"]

CHAINS, WARMUP, MAX_DRAWS = 4, 300, 20_000  # of every run; iterations and draws of one chain


class KnownTarget(NamedTuple):
    """A kernel of a potential, its dimension, and the means and widths of x and, with a Gaussian, of x^2."""

    kernel: Callable[[], Any]
    dim: int
    means: np.ndarray
    widths: np.ndarray
    squares: bool


class PromiseErrors(NamedTuple):
    """Errors over promised errors, (replication, scalar), and the draws of each chain at the end."""

    errors: np.ndarray
    draws: np.ndarray


def _correlated(x):
    """Five normal coordinates, each pair correlated by .9."""
    return 0.5 * (10.0 * jnp.sum(x**2) - 90.0 / 46.0 * jnp.sum(x) ** 2)


def _log_gamma(x):
    """Five logarithms of gamma variables of shape 2: skewed, with a long left tail."""
    return jnp.sum(jnp.exp(x) - 2 * x)


def _target(kernel, potential, means, widths, squares):
    return KnownTarget(
        lambda: kernel(potential_fn=potential), 5, np.full(5, means), np.full(5, widths), squares
    )


_GAMMA = float(digamma(2)), float(np.sqrt(polygamma(1, 2)))
TARGETS = {
    "correlated normal, NUTS": _target(NUTS, _correlated, 0.0, 1.0, True),
    "log gamma, NUTS": _target(NUTS, _log_gamma, *_GAMMA, False),
    "log gamma, QDE": _target(QDE, _log_gamma, *_GAMMA, False),
}


def errors_of(target: KnownTarget, draws: np.ndarray) -> np.ndarray:
    """Error of each mean over the promised one, `sd / sqrt(ESS)`.

    Args:
        target: whose means and widths are known.
        draws: of shape `(chain, draw, dim)`.
    """
    found = []
    values = [(draws, target.means, target.widths)]
    if target.squares:
        values.append((draws**2, np.ones(target.dim), np.full(target.dim, np.sqrt(2.0))))
    for x, mean, width in values:
        promised = width / np.sqrt(effective_sample_size(x))
        found.append((x.mean((0, 1)) - mean) / promised)
    return np.concatenate(found)


def replicate(target: KnownTarget, ess: float, replications: int) -> tuple[PromiseErrors, PromiseErrors]:
    """Runs that end by `until`, and runs of their median number of draws."""
    settings = {"num_warmup": WARMUP, "num_chains": CHAINS, "progress_bar": False}
    start = {"init_params": jnp.zeros((CHAINS, target.dim))}

    def errors_and_draws(mcmc, first_seed):
        errors, draws = [], []
        for seed in range(first_seed, first_seed + replications):
            mcmc.run(jax.random.key(seed), **start)
            x = np.asarray(mcmc.get_samples(group_by_chain=True), float)
            errors.append(errors_of(target, x))
            draws.append(x.shape[1])
        return PromiseErrors(np.array(errors), np.array(draws))

    stopped = errors_and_draws(
        MCMC(target.kernel(), num_samples=MAX_DRAWS, until={"ess": ess}, **settings), 0
    )
    length = int(np.median(stopped.draws))
    return stopped, errors_and_draws(MCMC(target.kernel(), num_samples=length, **settings), 10_000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.driver.stopping", description=__doc__)
    parser.add_argument("--replications", type=int, default=100)
    parser.add_argument("--ess", type=float, default=400.0)
    options = parser.parse_args(arguments)
    if options.replications < 2 or not options.ess > 0:
        parser.error("expected --replications of at least 2 and --ess above 0")
    print_header(Settings(CHAINS, WARMUP, 0))
    print(f"- {options.replications} replications, until ess = {options.ess:g}\n")
    print("| target | draws of a chain (range) | error, until | error, fixed | within 1.96, until | fixed |")
    print("| --- | --- | --- | --- | --- | --- |")
    warnings.simplefilter("error")  # a run that does not end by `until` warns
    for name, target in TARGETS.items():
        stopped, fixed = replicate(target, options.ess, options.replications)
        words = []
        for run in (stopped, fixed):
            by_run = np.mean(run.errors**2, axis=1)
            size = np.sqrt(by_run.mean())
            error = by_run.std(ddof=1) / np.sqrt(options.replications) / (2 * size)
            words.append(f"{size:.3f} ± {error:.3f}")
        inside = [f"{np.mean(np.abs(run.errors) < 1.96):.1%}" for run in (stopped, fixed)]
        low, middle, high = np.percentile(stopped.draws, (0, 50, 100))
        print(
            f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {' | '.join(words + inside)} |", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
