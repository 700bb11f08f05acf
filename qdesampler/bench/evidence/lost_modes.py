"""How often the search before AnnealedQDE's ladder loses a mode.

    python -m qdesampler.bench.evidence.lost_modes --keys 20

The target is forty Gaussians of equal weight in the plane. For every key the populations are annealed, and
the reference that the ladder would start from is compared with the target at each of the forty modes. A mode
counts as lost if `log p/q` is above 4 nats there, because draws of the reference then hardly come there.
Where the ladder starts from the prior reference, none is lost so. No draws are made.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.bench.targets.evidence import mixture_40, mixture_40_means
from qdesampler.diagnostics.checks.ladder import MOST_SURPRISING
from qdesampler.infer import AnnealedQDE
from qdesampler.kernels.references import reference as references

__all__ = ["Lost", "lost_modes", "main"]

CHAINS, WARMUP = 1, 300  # chains and iterations of warm-up that the kernel is started for
LOST = 4.0  # nats of log p/q at a mode above which it counts as lost


class Lost(NamedTuple):
    """The modes lost with one key.

    Attributes:
        count: number of modes lost.
        worst: largest log p/q at a mode, in nats.
        is_fitted: whether the ladder starts from the fitted reference.
        missed_mass: mass of modes that descents found and particles missed.
        alarmed: whether `few_particles` speaks.
        num_evals: evaluations spent.
    """

    count: int
    worst: float
    is_fitted: bool
    missed_mass: float
    alarmed: bool
    num_evals: int


def lost_modes(seeds: Sequence[int], particles: int | None) -> Iterator[Lost]:
    """Search with each seed, and compare the reference with the target.

    Args:
        seeds: of the searches.
        particles: particles of each of four populations; None for AnnealedQDE's default.
    """
    target = mixture_40()
    modes = np.asarray(mixture_40_means(), float)
    log_p = np.asarray(jax.vmap(target.log_density)(jnp.asarray(modes)), float) - target.log_evidence
    start = jnp.full((target.dim,), 0.1)
    for seed in seeds:
        kernel = AnnealedQDE(
            potential_fn=lambda x: -target.log_density(x),
            reference=(0.0, target.reference),
            num_particles=particles,
            search_seed=seed,
        )
        state = kernel.init(jax.random.key(seed), WARMUP, init_params=start)
        found = state.adapt_state.shared
        log_q = references.log_density(found.ladder.reference, jnp.asarray(modes))
        log_ratio = log_p - np.asarray(log_q)
        is_fitted = int(found.kind) != 0
        yield Lost(
            int(np.sum(log_ratio > LOST)) if is_fitted else 0,
            float(log_ratio.max()) if is_fitted else 0.0,
            is_fitted,
            float(found.missed_mass),
            float(found.surprising) > MOST_SURPRISING,
            int(state.pending_evals),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a key, and a table over the keys."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.evidence.lost_modes", description=__doc__
    )
    parser.add_argument("--keys", type=int, default=20, help="number of keys")
    parser.add_argument("--first", type=int, default=100, help="seed of the first key")
    parser.add_argument(
        "--particles",
        default="default",
        help="particles of a chain, separated by commas; default: AnnealedQDE's own number",
    )
    options = parser.parse_args(arguments)
    sizes = options.particles.split(",")
    if not all(size == "default" or (size.isdecimal() and int(size) >= 16) for size in sizes):
        parser.error(f"--particles {options.particles}: expected default, or integers of at least 16")
    if options.keys < 1 or options.first < 0:
        parser.error(f"--keys {options.keys} --first {options.first}: expected at least 1, and at least 0")
    print("\n".join(f"- {name}: {value}" for name, value in header(Settings(CHAINS, WARMUP, 0)).items()))
    print(f"- keys {options.first} to {options.first + options.keys - 1}\n")
    lines = [
        "| particles | keys with a mode lost | modes lost | of these keys with an alarm | other alarms "
        "| from the prior reference | worst, nats | evaluations |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in sizes:
        found = []
        seeds = range(options.first, options.first + options.keys)
        runs = lost_modes(seeds, None if size == "default" else int(size))
        for seed, one in zip(seeds, runs, strict=True):
            found.append(one)
            print(
                f"  particles {size}, key {seed}: {one.count} lost, worst {one.worst:.1f} nats, missed mass "
                f"{one.missed_mass:.3f}, alarm {one.alarmed}, {one.num_evals:,} evaluations",
                flush=True,
            )
        lines.append(
            f"| {size} | {sum(one.count > 0 for one in found)} of {len(found)} | "
            f"{sum(one.count for one in found)} of {40 * len(found)} | "
            f"{sum(one.alarmed and one.count > 0 for one in found)} | "
            f"{sum(one.alarmed and one.count == 0 for one in found)} | "
            f"{sum(not one.is_fitted for one in found)} | {max(one.worst for one in found):.1f} | "
            f"{np.mean([one.num_evals for one in found]):,.0f} |"
        )
    print("\n" + "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
