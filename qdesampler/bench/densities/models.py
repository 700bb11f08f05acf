"""The command `python -m qdesampler.bench.densities.models`: models of Stan and PyMC, by QDE and by NUTS.

python -m qdesampler.bench.densities.models models/eight_schools models/pumps
python -m qdesampler.bench.densities.models models/eight_schools --methods qde-stan,stan

Each folder is a NumPyro model with reference values; its forms in Stan and PyMC are in
`qdesampler/bench/densities/forms.py`. QDE takes both forms by `from_stan` and `from_pymc`; Stan's own NUTS is
run by PyStan, nutpie on the log density that PyMC compiled. All have their default settings, 4 chains of 1000
draws. A cell has the evaluations until the worst parameter, x and x², has 400 effective draws, `warm-up +
draws * 400 / reached`, and in brackets those of the warm-up; and the largest difference of a mean from the
reference of the NumPyro form, in standard errors. Stan's evaluations are the leapfrog steps that it reports;
those of its searches for a first step size are not among them.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qdesampler.bench.densities.arguments import some_of
from qdesampler.bench.densities.forms import PYMC, STAN, stan_data
from qdesampler.bench.densities.pymc_peer import model_of
from qdesampler.bench.densities.stan_peer import build_stan, stan_nuts
from qdesampler.bench.harness.record import TARGET_ESS, Settings
from qdesampler.bench.peers.nutpie import sample_function
from qdesampler.densities import NamedDensity, from_pymc, from_stan, sample
from qdesampler.infer import ModelCase, compare_with_reference, load_model

__all__ = ["METHODS", "Cell", "main"]

_NUTPIE_TUNE = 400  # nutpie's default for its diagonal metric


class Cell(NamedTuple):
    """What one method needed on one model.

    Attributes:
        of_warmup: evaluations of the warm-up.
        of_draws: evaluations of the draws.
        ess: effective draws of the worst parameter, of x and x².
        error: largest difference from the reference, in standard errors.
    """

    of_warmup: int
    of_draws: int
    ess: float
    error: float

    @property
    def total(self) -> float:
        """Evaluations until there are 400 effective draws."""
        return self.of_warmup + self.of_draws * TARGET_ESS / self.ess

    def __str__(self) -> str:
        """The text of the cell."""
        return f"{self.total:,.0f} ({self.of_warmup:,}); {self.error:.1f}"


def _cell(case: ModelCase, draws: Mapping[str, np.ndarray], of_warmup: int, of_draws: int) -> Cell:
    assert case.reference is not None
    found = compare_with_reference(draws, case.reference)
    return Cell(of_warmup, of_draws, found.smallest_ess, found.largest_error)


def _qde(case: ModelCase, density: NamedDensity) -> Cell:
    run = sample(density, progress=False)
    before = run.costs.of_warmup
    return _cell(case, run.get_samples(group_by_chain=True), before, run.costs.evaluations - before)


def _pymc_density(case: ModelCase) -> NamedDensity:
    return from_pymc(model_of(PYMC[case.name], case.data))


class _ValuesAlone(NamedDensity):
    """A density without its scores."""

    def __init__(self, whole: NamedDensity):
        self.name, self.dim, self.labels, self.start = whole.name, whole.dim, whole.labels, whole.start
        self._whole = whole

    def __call__(self, points):
        return self._whole(points)[0]

    def constrain(self, points):
        return self._whole.constrain(points)


def _qde_values(case: ModelCase) -> Cell:
    return _qde(case, _ValuesAlone(_pymc_density(case)))


def _stan(case: ModelCase) -> Any:
    return build_stan(STAN[case.name], stan_data(case.data))


def _stan_nuts(case: ModelCase) -> Cell:
    run = stan_nuts(_stan(case), Settings())
    return _cell(case, run.draws, run.of_warmup, run.of_draws)


def _nutpie(case: ModelCase) -> Cell:
    density, calls = _pymc_density(case), [0]

    def gradient(x: np.ndarray) -> tuple[float, np.ndarray]:
        calls[0] += 1
        values, scores = density(np.asarray(x, float)[None])
        return float(values[0]), scores[0]

    tree = sample_function(gradient, density.dim, 0, Settings(), low_rank=False, tune=_NUTPIE_TUNE, cores=1)
    positions = np.asarray(tree["posterior"]["x"], float)
    steps = int(np.sum(np.asarray(tree["sample_stats"]["n_steps"])))
    draws = {
        name: value.reshape(*positions.shape[:2], *value.shape[1:])
        for name, value in density.constrain(positions.reshape(-1, density.dim)).items()
    }
    return _cell(case, draws, calls[0] - steps, steps)


# Name: its column, and `model -> Cell`.
METHODS: dict[str, tuple[str, Callable[[ModelCase], Cell]]] = {
    "qde-stan": ("QDE, form in Stan", lambda case: _qde(case, from_stan(_stan(case)))),
    "qde-pymc": ("QDE, form in PyMC", lambda case: _qde(case, _pymc_density(case))),
    "qde-values": ("QDE, log densities of the form in PyMC alone", _qde_values),
    "stan": ("Stan's NUTS", _stan_nuts),
    "nutpie": ("nutpie, form in PyMC", _nutpie),
}


_USUAL = ["qde-stan", "qde-pymc", "stan", "nutpie"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m qdesampler.bench.densities.models", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="folders of models with forms in Stan and PyMC")
    parser.add_argument("--methods", type=some_of(METHODS), default=_USUAL, help=", ".join(METHODS))
    given = parser.parse_args(arguments)
    unknown = [folder.name for folder in given.models if folder.name not in STAN]
    if unknown:
        parser.error(f"no forms of {', '.join(unknown)}; there are {', '.join(STAN)}")
    names = [METHODS[method][0] for method in given.methods]
    ratios = [f"{name} / first" for name in names[1:]]
    print("| " + " | ".join(["model", *names, *ratios]) + " |")
    print("| --- " * (1 + len(names) + len(ratios)) + "|")
    logs = []
    for folder in given.models:
        case = load_model(folder)
        cells = [METHODS[method][1](case) for method in given.methods]
        totals = np.array([cell.total for cell in cells])
        logs.append(np.log(totals[1:] / totals[0]))
        shown = [f"{ratio:.1f}" for ratio in totals[1:] / totals[0]]
        print("| " + " | ".join([case.name, *map(str, cells), *shown]) + " |", flush=True)
    means = [f"{ratio:.1f}" for ratio in np.exp(np.mean(logs, 0))]
    print("| " + " | ".join(["geometric mean", *("" for _ in names), *means]) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
