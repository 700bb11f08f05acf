"""Time from the shell's prompt to finished draws.

    python -m qdesampler.bench.driver.startup models/eight_schools

Every repeat starts one new process for each kernel in turn, so that a change of the machine's load meets them
all. A process imports only what its kernel needs: NUTS's never imports qdesampler.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.infer import load_model

__all__ = ["IMPORTS", "Timing", "main", "time_process"]

# The kernel's class under one name.
IMPORTS = {
    "qde": "from qdesampler import QDE as Kernel",
    "nuts": "from numpyro.infer import NUTS as Kernel",
}

# The model's own two files, run as they are: a loader would belong to one side.
PROGRAM = """
import json, runpy, sys, time
begin = time.perf_counter()
import jax, numpy
from numpyro.infer import MCMC
{kernel}
imported = time.perf_counter()
folder, seed, chains, warmup, draws = sys.argv[1], *map(int, sys.argv[2:])
names = runpy.run_path(folder + "/model.py")
with open(folder + "/data.json") as file:
    data = {{k: numpy.asarray(v) if isinstance(v, list) else v for k, v in json.load(file).items()}}
if "prepare" in names:
    data = names["prepare"](data)
mcmc = MCMC(Kernel(names["model"]), num_warmup=warmup, num_samples=draws, num_chains=chains,
            chain_method="vectorized", progress_bar=False)
mcmc.run(jax.random.key(seed), **data)
samples = jax.block_until_ready(mcmc.get_samples())
print(json.dumps({{"import": imported - begin, "run": time.perf_counter() - imported,
                  "draws": len(jax.tree.leaves(samples)[0])}}))
"""


@dataclass(frozen=True)
class Timing:
    """Seconds of one process: all of it, its imports, and from the model's load to the last draw."""

    total: float
    imports: float
    run: float


def time_process(kernel: str, folder: Path, seed: int, settings: Settings) -> Timing:
    """Sample the model in `folder` in a new process.

    Raises:
        RuntimeError: the process failed, with its error, or did not return all draws.
    """
    numbers = [str(n) for n in (seed, settings.chains, settings.warmup, settings.draws)]
    program = PROGRAM.format(kernel=IMPORTS[kernel])
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), *numbers],
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},  # every process compiles for itself
        capture_output=True,
        text=True,
        check=False,
    )
    total = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"the {kernel} process failed:\n{done.stderr.strip()}")
    report = json.loads(done.stdout.splitlines()[-1])
    expected = settings.chains * settings.draws
    if report["draws"] != expected:
        raise RuntimeError(f"the {kernel} process returned {report['draws']} draws, expected {expected}.")
    return Timing(total, report["import"], report["run"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Time all kernels in alternation and print medians with their ranges."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.driver.startup", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=Path("models/eight_schools"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}: expected at least 1")
    settings = Settings(options.chains, options.warmup, options.draws)
    case = load_model(options.model)  # says what is wrong with the folder, if anything is
    if not (case.path / "data.json").is_file():
        parser.error(f"{options.model}: expected a folder with model.py and data.json")

    timings: dict[str, list[Timing]] = {kernel: [] for kernel in IMPORTS}
    for repeat in range(options.repeats):
        for kernel, found in timings.items():
            found.append(time_process(kernel, case.path, repeat, settings))
            print(f"{kernel} {repeat}: {found[-1].total:.2f} s", file=sys.stderr, flush=True)

    print("\n".join(f"- {name}: {value}" for name, value in {"model": case.name, **header(settings)}.items()))
    print("\n| kernel | total s (range) | imports s | run s |\n| --- | --- | --- | --- |")
    for kernel, found in timings.items():
        totals = [timing.total for timing in found]
        imports, run = (statistics.median(getattr(t, name) for t in found) for name in ("imports", "run"))
        print(
            f"| {kernel} | {statistics.median(totals):.2f} ({min(totals):.2f} to {max(totals):.2f}) "
            f"| {imports:.2f} | {run:.2f} |"
        )
    print(f"\nMedians of {options.repeats} processes each, in alternation, without a compilation cache.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
