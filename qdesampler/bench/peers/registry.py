"""Everything that can run on the bench, by name."""

from collections.abc import Sequence
from importlib.util import find_spec

from qdesampler.bench.harness.outcome import Runner
from qdesampler.bench.peers.blackjax import adjusted_mclmc_runner, nuts_runner, pathfinder_runner
from qdesampler.bench.peers.numpyro import ABLATIONS, KERNELS, numpyro_runner
from qdesampler.bench.peers.nutpie import nutpie_runner

__all__ = ["RUNNERS", "missing_packages"]

RUNNERS: dict[str, Runner] = {
    **{name: numpyro_runner(make) for name, make in (KERNELS | ABLATIONS).items()},
    "blackjax-nuts": nuts_runner(dense=False),
    "blackjax-nuts-dense": nuts_runner(dense=True),
    "blackjax-mams": adjusted_mclmc_runner(),
    "blackjax-mams-8": adjusted_mclmc_runner(integration_steps=8.0, transitions=1),
    "blackjax-pathfinder": pathfinder_runner(),
    "nutpie": nutpie_runner(low_rank=False),
    "nutpie-low-rank": nutpie_runner(low_rank=True),
    "nutpie-low-rank-800": nutpie_runner(low_rank=True, tune=800),
}

PACKAGES = ("blackjax", "nutpie")


def missing_packages(names: Sequence[str]) -> list[str]:
    """The optional packages that some of `names` need and this environment lacks."""
    return [
        package
        for package in PACKAGES
        if find_spec(package) is None and any(name.split("-")[0] == package for name in names)
    ]
