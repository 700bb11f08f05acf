"""The command `python -m qdesampler.bench.zero_variance`: what control variates gain, by repetition.

python -m qdesampler.bench.zero_variance --models eight_schools,kidiq_interaction --repeats 20

Every model is sampled `repeats` times by QDE with other keys. The gain of a scalar's mean is the variance
of the plain means over the repetitions over that of the zero-variance ones: what is measured, not what an
estimator says of itself. Coverage is how often the zero-variance mean lies within two of its reported
errors of the mean of all repetitions, the error of which is counted too. With `--save` every model's
figures are kept in a folder as soon as they are there, and read from it the next time: a long table can be
made in pieces.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from numpyro.infer import MCMC

from qdesampler.bench.harness.record import Settings
from qdesampler.bench.harness.table import header
from qdesampler.diagnostics import zero_variance
from qdesampler.infer import QDE, ModelCase, load_model

__all__ = ["Gains", "measure_gains"]


class Gains(NamedTuple):
    """What control variates gain, one entry for each scalar of a model.

    Attributes:
        gain: variance of the plain means over that of the zero-variance ones.
        reported: median over the repetitions of the gain that the estimator reported.
        inside: fraction of repetitions whose mean is within two reported errors.
        order: mean order of the control variates.
    """

    gain: np.ndarray
    reported: np.ndarray
    inside: np.ndarray
    order: np.ndarray


def measure_gains(case: ModelCase, repeats: int, warmup: int = 500, draws: int = 1000) -> Gains:
    """Sample a model `repeats` times with 4 vectorized chains and compare both kinds of means."""
    mcmc = MCMC(
        QDE(case.model),
        num_warmup=warmup,
        num_samples=draws,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    tables, orders = [], []
    for seed in range(repeats):
        mcmc.run(jax.random.key(seed), **case.data, extra_fields=("z_grad",))
        found = zero_variance(mcmc)
        names = [name for name in found.data_vars if "estimate" in found[name].dims]
        tables.append(np.concatenate([np.asarray(found[n]).reshape(-1, 5) for n in names]))
        orders.append(np.concatenate([np.asarray(found[f"{n}_order"]).reshape(-1) for n in names]))
    table = np.stack(tables)
    moving = table[..., 3].min(0) > 0
    table, order = table[:, moving], np.stack(orders)[:, moving]
    mean, mcse, plain, _, reported = np.moveaxis(table, 2, 0)
    # a mean over repetitions has an error of its own, of which this repetition is a part
    width = 2 * mcse * np.sqrt(1 - 1 / repeats)
    return Gains(
        plain.var(0, ddof=1) / mean.var(0, ddof=1),
        np.median(reported, 0),
        np.mean(np.abs(mean - mean.mean(0)) < width, 0),
        order.mean(0),
    )


def _kept_or_measured(model: Path, repeats: int, folder: Path | None) -> Gains:
    file = folder / f"{model.name}-{repeats}.npz" if folder is not None else None
    if file is not None and file.is_file():
        with np.load(file) as kept:
            return Gains(**{name: kept[name] for name in Gains._fields})
    gains = measure_gains(load_model(model), repeats)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **gains._asdict())
    return gains


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.zero_variance", description=__doc__)
    parser.add_argument("--models", required=True, help="folders in --folder, separated by commas")
    parser.add_argument("--folder", type=Path, default=Path("models"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--save", type=Path, help="folder that keeps finished models; made if need be")
    options = parser.parse_args(arguments)
    if options.repeats < 4:
        parser.error("--repeats must be at least 4: variances are compared.")
    print("# Zero-variance means against plain means of the same draws\n")
    names = options.models.split(",")
    command = f"--models {options.models} --repeats {options.repeats}"
    print(f"    python -m qdesampler.bench.zero_variance {command}\n")
    for name, value in header(Settings(chains=4, warmup=500, draws=1000)).items():
        print(f"- {name}: {value}")
    print("\n| model | scalars | least gain | median gain | reported | within 2 errors | order |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    medians, scalars, inside = [], [], []
    for name in names:
        gains = _kept_or_measured(options.folder / name, options.repeats, options.save)
        medians.append(np.median(gains.gain))
        scalars.append(gains.gain)
        inside.append(gains.inside)
        print(
            f"| {name} | {gains.gain.size} | {gains.gain.min():.3g} | {medians[-1]:.3g} | "
            f"{np.median(gains.reported):.3g} | {gains.inside.mean():.1%} | {gains.order.mean():.2f} |",
            flush=True,
        )
        jax.clear_caches()
    everything = np.concatenate(scalars)
    print(
        f"| all | {everything.size} | {everything.min():.3g} | {np.median(everything):.3g} (median of models "
        f"{np.median(medians):.3g}) | | {np.concatenate(inside).mean():.1%} | |"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
