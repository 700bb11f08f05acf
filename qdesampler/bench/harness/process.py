"""What benchmarks of whole processes share: a process for each figure, its peak memory, the header."""

import multiprocessing
import resource
from collections.abc import Callable
from typing import Any

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header

__all__ = ["in_its_own_process", "peak_gibibytes", "print_header"]


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
