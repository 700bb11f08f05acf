"""One entry of the tables, and means by sums over a grid."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import sample
from numpyro.infer.util import log_density


class Kind(NamedTuple):
    """A model, and what its draws should average to.

    Attributes:
        model: of NumPyro, or a potential if `init_params` is given.
        args: arguments of the model.
        expected: label -> mean; a site, or a name in `of`.
        of: label -> function of the draws, a dict with leaves `(chains, draws, ...)`.
        grid: site -> `(low, high)`: the means of these sites are sums over a grid instead.
        density: model for the sums, if not `model`.
        init_params: start of a potential.
        needs: an optional package without which the entry is skipped.
        rounds: whether rounding may leave the support, whose check has little tolerance.
        num_samples: draws of each of four chains that suffice for an effective sample size of 100.
    """

    model: Callable
    args: tuple = ()
    expected: dict[str, Any] = {}
    of: dict[str, Callable] = {}
    grid: dict[str, tuple[float, float]] = {}
    density: Callable | None = None
    init_params: Any = None
    needs: str | None = None
    rounds: bool = False
    num_samples: int = 500

    def means(self) -> dict[str, Any]:
        """Every label with its mean."""
        return {
            **self.expected,
            **(grid_means(self.density or self.model, self.args, self.grid) if self.grid else {}),
        }

    def draws(self, samples: dict[str, Any], label: str) -> np.ndarray:
        """What is averaged."""
        return np.asarray(self.of[label](samples) if label in self.of else samples[label])


class Table(dict[str, Kind]):
    """Entries by name."""

    def add(self, name: str, **entry: Any) -> Callable[[Callable], Callable]:
        """Decorate a model that becomes an entry."""

        def keep(model):
            assert name not in self, name
            self[name] = Kind(model, **entry)
            return model

        return keep

    def prior(self, name: str, make: Callable[[], dist.Distribution], mean: Any = None, **entry: Any) -> None:
        """Add the law of one site `x`, made when the model runs."""
        expected = {**({} if mean is None else {"x": mean}), **entry.pop("expected", {})}
        self.add(name, expected=expected, **entry)(lambda: sample("x", make()))


_POINTS = {1: 4001, 2: 401, 3: 101}  # of each axis of a grid, by the number of axes


def grid_means(model: Callable, args: tuple, grid: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Means of scalar sites by sums of the model's own density over the middles of a grid's cells."""
    count = _POINTS[len(grid)]
    axes = [low + (high - low) * (np.arange(count) + 0.5) / count for low, high in grid.values()]
    points = [np.ravel(axis) for axis in np.meshgrid(*axes, indexing="ij")]

    def log_p(*values):
        return log_density(model, args, {}, dict(zip(grid, values, strict=True)))[0]

    values = np.asarray(jax.jit(jax.vmap(log_p))(*(jnp.asarray(p, float) for p in points)), float)
    p = np.exp(values - np.nanmax(values))
    p = np.where(np.isnan(p), 0, p)
    return {name: float(np.sum(p * x) / np.sum(p)) for name, x in zip(grid, points, strict=True)}
