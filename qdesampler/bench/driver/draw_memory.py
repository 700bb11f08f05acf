"""The command `python -m qdesampler.bench.driver.draw_memory`: memory and time of a run of very many draws.

python -m qdesampler.bench.driver.draw_memory
python -m qdesampler.bench.driver.draw_memory --draws 250000 --parameters 100 --keep store

Normal draws by a short Hamiltonian trajectory, 4 vectorized chains: what is measured is the driver. Each way
of keeping the draws runs in a process of its own; the peak of its memory, interpreter and libraries included,
is the kernel's figure (Linux).
"""

import argparse
import multiprocessing
import resource
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

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.driver import MCMC

__all__ = ["Cost", "measure_run"]

CHAINS = 4  # of every run
MAX_GIBIBYTES = 1.5  # peak memory of the process above which the command fails; results/long_runs.md


class Cost(NamedTuple):
    """Largest resident memory in GiB before the run, after compiling and after the run; seconds; ESS."""

    before: float
    compiled: float
    after: float
    seconds: float
    ess: float


def measure_run(keep: str, draws: int, parameters: int) -> Cost:
    """Draw so many in all; call it in a fresh process.

    Args:
        keep: "memory" or "store".
        draws: of all chains together.
        parameters: of the model.
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
            compiled.append(_peak())

    with tempfile.TemporaryDirectory() as folder:
        mcmc = MCMC(
            kernel,
            num_warmup=10,
            num_samples=draws // CHAINS,
            num_chains=CHAINS,
            progress_bar=False,
            store=Path(folder) / "draws.zarr" if keep == "store" else None,
            until={"ess": 2.0 * draws},  # never met; every look is made
            callbacks=[note],
        )
        before, start = _peak(), time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The run ended by num_samples")
            mcmc.run(jax.random.key(0), init_params=jnp.zeros((CHAINS, parameters)))
        seconds = time.perf_counter() - start
    check = mcmc.report.check
    return Cost(before, compiled[0], _peak(), seconds, check.ess if check else 0.0)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes, on Linux


def _in_its_own_process(keep: str, draws: int, parameters: int) -> Cost:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_run, (keep, draws, parameters))


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
    for name, value in header(Settings(CHAINS, 0, 0)).items():
        if name != "settings":
            print(f"- {name}: {value}")
    print(f"- {options.draws:,} draws of {options.parameters} parameters; limit: {MAX_GIBIBYTES} GiB\n")
    print("| draws kept in | before, GiB | compiled, GiB | peak, GiB | seconds | least ESS, last look |")
    print("| --- | --- | --- | --- | --- | --- |")
    broken = False
    for keep in options.keep:
        cost = _in_its_own_process(keep, options.draws, options.parameters)
        broken |= cost.after > MAX_GIBIBYTES
        memory = " | ".join(f"{value:.2f}" for value in (cost.before, cost.compiled, cost.after))
        print(f"| {keep} | {memory} | {cost.seconds:.1f} | {cost.ess:.0f} |", flush=True)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
