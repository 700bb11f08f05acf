"""What benchmarks of whole processes share: a process for each figure, its peak memory, the header."""

import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header

__all__ = ["in_its_own_process", "peak_gibibytes", "print_header", "run_cold"]


def in_its_own_process[T](function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a fresh process, so that the peak of its memory is its own.

    Args:
        function: one that pickles, so at the top of its module.
        arguments: of the function, which pickle too.

    Raises:
        Exception: whatever the function raises.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def run_cold(
    arguments: Sequence[str], timeout: float | None = None, cache: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run this Python with `arguments` in a new process.

    Programs of XLA are compiled by every process for itself, the bytecode of packages once and for all.

    Args:
        arguments: after the name of the interpreter.
        timeout: wall seconds, after which the process is ended; None waits.
        cache: leave JAX's compilation cache as the environment has it: for counts, not for seconds.

    Raises:
        subprocess.TimeoutExpired: the time was over.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=kept if cache else {**kept, "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def peak_gibibytes() -> float:
    """Largest resident memory of this process so far, in GiB, interpreter and libraries included (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes, on Linux


def print_header(settings: Settings | None = None) -> None:
    """Print what the figures depend on as a Markdown list.

    Args:
        settings: of the runs; None leaves the line out, where a table states them row by row.
    """
    for name, value in header(settings or Settings()).items():
        if settings is not None or name != "settings":
            print(f"- {name}: {value}", flush=True)
