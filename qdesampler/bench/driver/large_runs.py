"""Time and peak memory of what follows a large run.

python -m qdesampler.bench.driver.large_runs
python -m qdesampler.bench.driver.large_runs --sizes 4x1000x10000

The draws are hyperbolic sines of independent normal ones, a law with a known potential, so that no sampling
is timed: conversion, summary with zero-variance means, diagnosis, and the report with its plots. Each size
runs in a process of its own, so that the peak of its memory is its own; the interpreter and its libraries are
part of it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qdesampler.bench.harness.process import in_its_own_process, peak_gibibytes, print_header
from qdesampler.diagnostics import Analysis, report

__all__ = ["ReportCost", "large_run", "measure_large_run"]

SIZES = ("4x1000x10000", "4x250000x50")
MAX_SECONDS, MAX_GIBIBYTES = 60.0, 4.0  # of one task, above which the command fails; results/large_runs.md


class ReportCost(NamedTuple):
    """Seconds of each stage, of all of them, and the largest resident memory of the process in GiB."""

    stages: dict[str, float]
    seconds: float
    gibibytes: float


class _KnownKernel:
    """A kernel without a model whose potential is known: `sinh` of normal numbers."""

    model = None
    sample_field = "z"

    def get_potential_fn(self, model_args: tuple[Any, ...], model_kwargs: dict[str, Any]) -> Any:
        """The potential energy of one draw."""
        del model_args, model_kwargs
        return lambda z: jnp.sum(jnp.arcsinh(z["x"]) ** 2 + jnp.log1p(z["x"] ** 2)) / 2


def large_run(chains: int, draws: int, dim: int) -> Any:
    """What `qdesampler.diagnostics` reads of a finished run of that size, float32."""
    x = jnp.sinh(jax.random.normal(jax.random.key(0), (chains, draws, dim), jnp.float32))
    fields = {"energy": jax.random.normal(jax.random.key(1), (chains, draws))}
    return SimpleNamespace(
        sampler=_KnownKernel(),
        last_state=SimpleNamespace(z={"x": x[:, -1]}),
        post_warmup_state=None,
        get_samples=lambda group_by_chain: {"x": x},
        get_extra_fields=lambda group_by_chain: fields,
        num_warmup=0,
        num_samples=draws,
        num_chains=chains,
        thinning=1,
        chain_method="vectorized",
        _args=(),
        _kwargs={},
        _cache={},
    )


def measure_large_run(chains: int, draws: int, dim: int) -> ReportCost:
    """Convert, summarise, diagnose and report one run; call it in a fresh process for its memory."""
    run = large_run(chains, draws, dim)
    jax.block_until_ready(run.get_samples(group_by_chain=True))
    stages, start = {}, time.perf_counter()

    def done(stage: str) -> None:
        stages[stage] = time.perf_counter() - start - sum(stages.values())

    found = Analysis(run)
    _ = found.tree
    done("conversion")
    _ = found.table
    done("summary")
    _ = found.findings
    done("diagnosis")
    with tempfile.TemporaryDirectory() as folder:
        report(found, Path(folder) / "report.html")
    done("report")
    return ReportCost(stages, time.perf_counter() - start, peak_gibibytes())


def _size(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: expected CHAINSxDRAWSxPARAMETERS, such as {SIZES[0]}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code is 1 if a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.driver.large_runs", description=__doc__)
    parser.add_argument("--sizes", type=_size, nargs="+", default=[_size(size) for size in SIZES])
    options = parser.parse_args(arguments)
    print("# Summaries and reports of large runs\n\n## Result\n")
    names = " ".join("x".join(map(str, size)) for size in options.sizes)
    print(f"    python -m qdesampler.bench.driver.large_runs --sizes {names}\n")
    print_header()
    print(f"- limits: {MAX_SECONDS:g} s, {MAX_GIBIBYTES:g} GiB\n")
    print("| chains x draws x parameters | conversion | summary | diagnosis | report | all, s | peak, GiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    broken = False
    for size in options.sizes:
        cost = in_its_own_process(measure_large_run, *size)
        broken |= cost.seconds > MAX_SECONDS or cost.gibibytes > MAX_GIBIBYTES
        stages = " | ".join(f"{seconds:.1f}" for seconds in cost.stages.values())
        label = " x ".join(f"{part:,}" for part in size)
        print(f"| {label} | {stages} | {cost.seconds:.1f} | {cost.gibibytes:.2f} |", flush=True)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
