"""Many chains on the default device: seconds, evaluations and effective draws of QDE and NUTS.

    python -m qdesampler.bench.driver.accelerator
    python -m qdesampler.bench.driver.accelerator --targets logistic --chains 64 1024 --out accelerator.json

Every run is made twice in this process: the first time includes compiling, the second is with another key.
QDE runs under our driver, NUTS under NumPyro's, both vectorized. Needs NumPyro and JAX only.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC as NumPyroMCMC
from numpyro.infer import NUTS

from qdesampler.driver.mcmc import MCMC
from qdesampler.infer.qde.kernel import QDE

__all__ = ["TARGETS", "Measured", "measure"]


class Measured(NamedTuple):
    """One sampler on one target.

    Attributes:
        first: seconds of the first run, compiling included.
        second: seconds of the second run, with another key.
        evaluations: of the draws of the second run, all chains.
        ess: least effective draws of a scalar of the second run.
        rhat: largest split R-hat of the second run.
    """

    first: float
    second: float
    evaluations: int
    ess: float
    rhat: float


def _logistic(rows: int, columns: int) -> tuple[Callable, tuple]:
    rng = np.random.default_rng(0)
    design = rng.normal(size=(rows, columns)).astype(np.float32)
    slopes = rng.normal(size=columns) / np.sqrt(columns)
    response = (rng.random(rows) < 1 / (1 + np.exp(-design @ slopes))).astype(np.int32)

    def model(design, response):
        slopes = numpyro.sample("slopes", dist.Normal(0.0, 1.0).expand([columns]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=design @ slopes), obs=response)

    return model, (jnp.asarray(design), jnp.asarray(response))


def _eight_schools() -> tuple[Callable, tuple]:
    effect = np.array([28.0, 8, -3, 7, -1, 1, 18, 12], np.float32)
    error = np.array([15.0, 10, 16, 11, 9, 11, 10, 18], np.float32)

    def model(error, effect):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        scale = numpyro.sample("scale", dist.HalfCauchy(5.0))
        noise = numpyro.sample("noise", dist.Normal(0.0, 1.0).expand([8]).to_event(1))
        numpyro.sample("y", dist.Normal(mean + scale * noise, error), obs=effect)

    return model, (jnp.asarray(error), jnp.asarray(effect))


TARGETS: dict[str, Callable[[], tuple[Callable, tuple]]] = {
    "eight_schools": _eight_schools,
    "logistic": lambda: _logistic(1_000, 25),
    "large_logistic": lambda: _logistic(100_000, 50),
}


def measure(sampler: str, target: str, chains: int, warmup: int, draws: int) -> Measured:
    """Two runs of one sampler, "qde" or "nuts", and what the second one drew."""
    model, data = TARGETS[target]()
    options: dict[str, Any] = {
        "num_warmup": warmup,
        "num_samples": draws,
        "num_chains": chains,
        "chain_method": "vectorized",
        "progress_bar": False,
    }
    mcmc = MCMC(QDE(model), **options) if sampler == "qde" else NumPyroMCMC(NUTS(model), **options)
    count = "num_evals" if sampler == "qde" else "num_steps"
    seconds: list[float] = []
    for seed in (0, 1):
        begin = time.perf_counter()
        mcmc.run(jax.random.key(seed), *data, extra_fields=(count,))
        jax.block_until_ready(mcmc.get_samples(group_by_chain=True))
        seconds.append(time.perf_counter() - begin)
    samples = mcmc.get_samples(group_by_chain=True)
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(samples)]
    used = [leaf[: min(chains, 256)] for leaf in leaves]  # R-hat of more chains says no more
    ess = min(float(np.min(effective_sample_size(leaf))) for leaf in used) * chains / min(chains, 256)
    rhat = max(float(np.max(split_gelman_rubin(leaf))) for leaf in used)
    evaluations = int(np.sum(mcmc.get_extra_fields()[count]))
    return Measured(seconds[0], seconds[1], evaluations, ess, rhat)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, a row as soon as it is measured."""
    parser = argparse.ArgumentParser(
        prog="python -m qdesampler.bench.driver.accelerator", description=__doc__
    )
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--samplers", nargs="+", choices=("qde", "nuts"), default=["qde", "nuts"])
    parser.add_argument("--chains", type=int, nargs="+", default=[4, 64, 1024])
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    device = jax.devices()[0]
    print(f"- {time.strftime('%Y-%m-%d')}, {device.platform}, {device.device_kind}, jax {jax.__version__}")
    print(f"- {options.warmup} + {options.draws} iterations of each chain, float32\n")
    print("| target | sampler | chains | first, s | second, s | evaluations | least ESS | ESS / s | R-hat |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for target in options.targets:
        for chains in options.chains:
            for sampler in options.samplers:
                found = measure(sampler, target, chains, options.warmup, options.draws)
                print(
                    f"| {target} | {sampler} | {chains:,} | {found.first:.2f} | {found.second:.2f} | "
                    f"{found.evaluations:,} | {found.ess:,.0f} | {found.ess / found.second:,.0f} | "
                    f"{found.rhat:.3f} |",
                    flush=True,
                )
                rows.append({"target": target, "sampler": sampler, "chains": chains, **found._asdict()})
                if options.out:
                    options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
