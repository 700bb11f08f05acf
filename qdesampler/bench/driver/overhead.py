"""The command `python -m qdesampler.bench.driver.overhead`: the driver against NumPyro's own loop.

python -m qdesampler.bench.driver.overhead --repeats 7

The same kernel, keys and draws by `numpyro.infer.MCMC` and by `qdesampler.MCMC`, in turn; the time that JAX
spends on tracing and compiling is taken off both (NumPyro's loop compiles anew in each run, the driver does
not). Draws are on the host at the end. Run it on an idle machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import HMC, NUTS
from numpyro.infer import MCMC as NumPyroMCMC

from qdesampler.bench.harness.process import print_header
from qdesampler.bench.harness.timing import compile_time
from qdesampler.driver import MCMC

__all__ = ["TARGETS", "seconds_of"]

MAX_OVERHEAD = 0.05  # of the time of NumPyro's driver; results/long_runs.md
CHAINS = 4  # of every run
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools():
    """Eight schools, non-centred."""
    mean = numpyro.sample("mean", dist.Normal(0, 5))
    spread = numpyro.sample("spread", dist.HalfCauchy(5))
    with numpyro.plate("school", 8):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mean + spread * offset, ERRORS), obs=EFFECTS)


def thousand():
    """A thousand normal sites of unequal widths."""
    numpyro.sample("x", dist.Normal(0, jnp.geomspace(0.5, 2.0, 1000)).to_event(1))


# name: (kernel, warm-up, draws of each chain)
TARGETS: dict[str, tuple[Callable[[], Any], int, int]] = {
    "eight schools, NUTS": (lambda: NUTS(schools), 500, 20_000),
    "eight schools, HMC": (
        lambda: HMC(schools, trajectory_length=1.6, step_size=0.2, adapt_step_size=False),
        500,
        50_000,
    ),
    "1000 dimensions, NUTS": (lambda: NUTS(thousand), 500, 2000),
}


def seconds_of(mcmc: Any, seed: int) -> float:
    """Wall time of a run with its draws on the host, without what JAX spends on compiling."""
    start = time.perf_counter()
    with compile_time() as compiling:
        mcmc.run(jax.random.key(seed))
        jax.tree.map(np.asarray, mcmc.get_samples(group_by_chain=True))
    return time.perf_counter() - start - compiling.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 1 if the driver's overhead is above its limit."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.driver.overhead", description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--targets", type=int, nargs="+", default=list(range(len(TARGETS))))
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; expected at least 1")
    print_header()
    print(f"- medians of {options.repeats} runs of each in turn, {CHAINS} chains; limit {MAX_OVERHEAD:.0%}\n")
    print("| target | NumPyro, s | driver, s | overhead, median of pairs (range) |")
    print("| --- | --- | --- | --- |")
    broken = False
    for name in [list(TARGETS)[index] for index in options.targets]:
        make, warmup, draws = TARGETS[name]
        settings: dict[str, Any] = {"num_warmup": warmup, "num_samples": draws, "num_chains": CHAINS}
        theirs = NumPyroMCMC(make(), **settings, chain_method="vectorized", progress_bar=False)
        ours = MCMC(make(), **settings, progress_bar=False)
        times = [(seconds_of(theirs, seed), seconds_of(ours, seed)) for seed in range(options.repeats + 1)]
        times = times[1:]  # the first runs warm everything up
        pairs = [own / other - 1 for other, own in times]
        overhead = statistics.median(pairs)
        broken |= overhead > MAX_OVERHEAD
        other, own = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"| {name} | {other:.2f} | {own:.2f} "
            f"| {overhead:+.1%} ({min(pairs):+.1%} to {max(pairs):+.1%}) |",
            flush=True,
        )
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
