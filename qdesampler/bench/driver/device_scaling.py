"""Weak scaling of chains over devices of one CPU.

python -m qdesampler.bench.driver.device_scaling --devices 1 2

Each number of devices runs in a process of its own, with a fixed number of chains for each device: the work
of a device stays the same, and evaluations a second would grow as the number of devices. XLA's own threads
are switched off, so that a device is one core. The second of two runs is timed; it compiles nothing.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence

from qdesampler.bench.harness.process import print_header
from qdesampler.bench.harness.record import Settings

__all__ = ["TARGETS", "measure"]

TARGETS = ("normal, 100 dimensions, NUTS", "logistic regression, QDE")

PROGRAM = """
import json, sys, time
import jax
name, devices, chains, warmup, draws = sys.argv[1], *map(int, sys.argv[2:])
jax.config.update("jax_num_cpu_devices", devices)
import jax.numpy as jnp, numpyro, numpyro.distributions as dist
from numpyro.infer import HMC, NUTS
from qdesampler import MCMC, QDE

def normal():
    numpyro.sample("x", dist.Normal(0, jnp.geomspace(0.5, 2.0, 100)).to_event(1))

def logistic():
    x = jax.random.normal(jax.random.key(1), (500, 20))
    b = numpyro.sample("b", dist.Normal(0, 1).expand([20]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=(x[:, 0] > 0).astype(int))

kernel = NUTS(normal) if "NUTS" in name else QDE(logistic)
mcmc = MCMC(kernel, num_warmup=warmup, num_samples=draws, num_chains=chains * devices, progress_bar=False,
            devices=devices if devices > 1 else None)
mcmc.run(jax.random.key(0))
start = time.perf_counter()
mcmc.run(jax.random.key(0))
print(json.dumps({"seconds": time.perf_counter() - start, "evaluations": mcmc.report.evaluations}))
"""


def measure(target: str, devices: int, chains: int, warmup: int, draws: int) -> tuple[float, int]:
    """Seconds and log-density evaluations of the second of two runs, in a process of its own.

    Raises:
        RuntimeError: the process failed, with its error.
    """
    flags = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    numbers = map(str, (devices, chains, warmup, draws))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, target, *numbers],
        capture_output=True,
        text=True,
        env={**os.environ, **flags},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{target} on {devices} devices failed: {done.stderr[-2000:]}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return figures["seconds"], figures["evaluations"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.driver.device_scaling", description=__doc__
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--chains", type=int, default=16, help="a device")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--draws", type=int, default=500)
    options = parser.parse_args(arguments)
    if min(*options.devices, options.chains, options.draws) < 1 or options.warmup < 0:
        parser.error("expected positive numbers")
    print_header(Settings(options.chains, options.warmup, options.draws))
    print(f"\n| target, {options.chains} chains a device | devices | s | evaluations/s | efficiency |")
    print("| --- | --- | --- | --- | --- |")
    for target in TARGETS:
        first = None
        for devices in options.devices:
            seconds, evaluations = measure(target, devices, options.chains, options.warmup, options.draws)
            rate = evaluations / seconds
            first = first or rate / devices
            efficiency = rate / devices / first
            print(f"| {target} | {devices} | {seconds:.2f} | {rate:.3g} | {efficiency:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
