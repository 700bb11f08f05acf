"""The command `python -m qdesampler.bench.driver.draw_memory`: memory and time of a run of very many draws.

python -m qdesampler.bench.driver.draw_memory
python -m qdesampler.bench.driver.draw_memory --draws 250000 --parameters 100 --keep store

Normal draws by a short Hamiltonian trajectory, 4 vectorized chains: what is measured is the driver. Each way
of keeping the draws runs in a process of its own; the peak of its memory, interpreter and libraries included,
is the kernel's figure (Linux).
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from numpyro.infer import HMC

from qdesampler.bench.harness.process import in_its_own_process, peak_gibibytes, print_header
from qdesampler.driver import MCMC

__all__ = ["MemoryCost", "measure_run"]

CHAINS = 4  # of every run
MAX_GIBIBYTES = 1.5  # peak memory of the process above which the command fails; results/long_runs.md


class MemoryCost(NamedTuple):
    """Largest resident memory in GiB before the run, after compiling and after the run; seconds; ESS."""

    before: float
    compiled: float
    after: float
    seconds: float
    ess: float


def measure_run(keep: str, draws: int, parameters: int) -> MemoryCost:
    """Make one run of the driver and measure it; call it in a fresh process.

    Args:
        keep: "memory" or "store": where the run keeps its draws.
        draws: number of draws of all chains together.
        parameters: dimension of the model.
    """
    kernel = HMC(
        potential_fn=lambda z: jnp.sum(z**2) / 2,
        step_size=0.5,
        trajectory_length=1.5,
        adapt_step_size=False,
        adapt_mass_matrix=False,
    )
    compiled: list[float] = []

    def note(_):
        if not compiled:
            compiled.append(peak_gibibytes())

    with tempfile.TemporaryDirectory() as folder:
        mcmc = MCMC(
            kernel,
            num_warmup=10,
            num_samples=draws // CHAINS,
            num_chains=CHAINS,
            progress_bar=False,
            store=Path(folder) / "draws.zarr" if keep == "store" else None,
            until={"ess": 2.0 * draws},  # never reached: every check of the effective draws is made
            callbacks=[note],
        )
        before, start = peak_gibibytes(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The run ended by num_samples")
            mcmc.run(jax.random.key(0), init_params=jnp.zeros((CHAINS, parameters)))
        seconds = time.perf_counter() - start
    check = mcmc.report.check
    return MemoryCost(before, compiled[0], peak_gibibytes(), seconds, check.ess if check else 0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 1 if a limit is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.driver.draw_memory", description=__doc__
    )
    parser.add_argument("--draws", type=int, default=10**6, help="of all chains together")
    parser.add_argument("--parameters", type=int, default=100)
    parser.add_argument("--keep", choices=("memory", "store"), nargs="+", default=["memory", "store"])
    options = parser.parse_args(arguments)
    if min(options.draws // CHAINS, options.parameters) < 1:
        parser.error(f"--draws is at least {CHAINS} and --parameters at least 1")
    print_header()
    print(f"- {options.draws:,} draws of {options.parameters} parameters; limit: {MAX_GIBIBYTES} GiB\n")
    print("| draws kept in | before, GiB | compiled, GiB | peak, GiB | seconds | least ESS, last check |")
    print("| --- | --- | --- | --- | --- | --- |")
    broken = False
    for keep in options.keep:
        cost = in_its_own_process(measure_run, keep, options.draws, options.parameters)
        broken |= cost.after > MAX_GIBIBYTES
        memory = " | ".join(f"{value:.2f}" for value in (cost.before, cost.compiled, cost.after))
        print(f"| {keep} | {memory} | {cost.seconds:.1f} | {cost.ess:.0f} |", flush=True)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
