"""Memory of a process that runs again and again on new data.

python -m qdesampler.bench.driver.soak --minutes 60
python -m qdesampler.bench.driver.soak --minutes 60 --ways constants

Each run has data that were never seen. Ways: `arguments`, one driver whose programs take the data
(`jit_model_args=True`) and compile nothing, QDE; `constants`, one driver that makes a new program for new
data, NUTS; `constants-qde`, the same of QDE; `fresh`, a new driver each time, with a checkpoint, NUTS; and as
a peer `numpyro`, a new `numpyro.infer.MCMC` each time, NUTS. The resident memory is noted (Linux); it is flat
if its mean over the last fifth is at most 5% above that over the second. The first is left out: caches fill.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS

from qdesampler.bench.harness.process import print_header
from qdesampler.bench.harness.record import Settings
from qdesampler.driver import MCMC
from qdesampler.infer import QDE

__all__ = ["Soak", "growth", "soak"]

MAX_GROWTH = 0.05  # of the memory after the first runs; results/long_runs.md
WAYS = ("arguments", "constants", "constants-qde", "fresh", "numpyro")
SETTINGS = {"num_warmup": 100, "num_samples": 200, "num_chains": 4, "progress_bar": False}


class Soak(NamedTuple):
    """Runs that were made, and the resident memory in MiB after each round."""

    runs: int
    mebibytes: list[float]


def model(y):
    """A normal mean and width."""
    mean = numpyro.sample("mean", dist.Normal(0, 3))
    width = numpyro.sample("width", dist.HalfNormal(2))
    numpyro.sample("y", dist.Normal(mean, width), obs=y)


def soak(seconds: float, ways: Sequence[str] = WAYS[:1], report: Callable[[str], None] = print) -> Soak:
    """Run on new data until the time is over.

    Args:
        seconds: how long.
        ways: of `WAYS`, in turn.
        report: gets a line of progress each minute.

    Raises:
        FloatingPointError: a run has draws that are not finite.
    """
    rng, runs, memory = np.random.default_rng(0), 0, []
    kept = {
        "arguments": MCMC(QDE(model), jit_model_args=True, **SETTINGS),
        "constants": MCMC(NUTS(model), **SETTINGS),
        "constants-qde": MCMC(QDE(model), **SETTINGS),
    }
    end, next_word = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end or not memory:
        with tempfile.TemporaryDirectory() as folder:
            for way in ways:
                mcmc = kept.get(way) or _new(way, Path(folder) / "run.ckpt")
                mcmc.run(jax.random.key(runs), rng.normal(size=50))
                if not np.isfinite(mcmc.get_samples()["mean"]).all():
                    raise FloatingPointError(f"run {runs} has draws that are not finite")
                runs += 1
        if len(ways) > 1 or ways[0] != "arguments" or runs % 20 == 0:
            gc.collect()
            memory.append(_resident())
        if memory and time.monotonic() > next_word:
            report(f"{runs} runs, {memory[-1]:.0f} MiB")
            next_word += 60
    return Soak(runs, memory)


def _new(way: str, checkpoint: Path) -> numpyro.infer.MCMC:
    if way == "numpyro":
        return numpyro.infer.MCMC(NUTS(model), chain_method="vectorized", **SETTINGS)
    return MCMC(NUTS(model), checkpoint=checkpoint, **SETTINGS)


def growth(mebibytes: Sequence[float]) -> float:
    """Fraction by which memory grew from the second fifth of the rounds to the last."""
    fifth = max(1, len(mebibytes) // 5)
    early, late = mebibytes[fifth : 2 * fifth] or mebibytes[:1], mebibytes[-fifth:]
    return float(np.mean(late) / np.mean(early) - 1)


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the memory and its growth; the exit code is 1 if memory grew."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.driver.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS[:1]))
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes is {options.minutes}; expected a positive number")
    print_header(Settings(4, 100, 200))
    result = soak(60 * options.minutes, options.ways, lambda text: print(text, flush=True))
    grown = growth(result.mebibytes)
    print(
        f"{' '.join(options.ways)}: {options.minutes:g} minutes, {result.runs} runs, "
        f"{len(result.mebibytes)} rounds: "
        f"{result.mebibytes[0]:.0f} MiB after the first, {result.mebibytes[-1]:.0f} after the last; "
        f"growth from the second fifth to the last {grown:+.1%} (bar: {MAX_GROWTH:.0%})"
    )
    return int(grown > MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
