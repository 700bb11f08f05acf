"""Stan models as densities, from PyStan or BridgeStan: their log density, gradient and constrained values."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qdesampler.densities.errors import EvaluationError
from qdesampler.densities.named import NamedDensity

__all__ = ["from_stan"]

_OTHER_LENGTH = "does not match the number of unconstrained"  # in PyStan's message
_REJECTED = "Error calling"  # in PyStan's message where the model itself rejects a point


def from_stan(
    model: Any,
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> NamedDensity:
    """The posterior of a Stan model with its data, for `sample`.

    Draws have the parameters and transformed parameters; generated quantities are left out, because they may
    be random. A point that the model rejects has no density, as in Stan. PyStan asks a server in its own
    process, which takes some 6 ms a call; BridgeStan calls the compiled model.

    Args:
        model: what `stan.build` of PyStan returns, or a `bridgestan.StanModel`.
        dims: names of the axes of the parameters; Stan has none.
        coords: labels of these axes.

    Raises:
        ValueError: it is neither, or has no parameters.
    """
    for methods, kind in (
        (("log_density_gradient", "param_constrain", "param_unc_num"), _BridgeStan),
        (("grad_log_prob", "log_prob", "constrain_pars"), _PyStan),
    ):
        if all(hasattr(model, method) for method in methods):
            return kind(model, dims or {}, coords or {})
    raise ValueError(
        f"Expected a model of PyStan (stan.build) or BridgeStan (bridgestan.StanModel); got "
        f"{type(model).__name__}."
    )


class _StanDensity(NamedDensity):
    """What both have in common."""

    def __init__(self, model: Any, names: Sequence[str], dims: Mapping, coords: Mapping):
        self._model = model
        self._places = _places(names)
        self.dims = {name: tuple(axes) for name, axes in dims.items()}
        self.coords = dict(coords)
        if not self.dim:
            raise ValueError("The Stan model has no parameters.")

    @abstractmethod
    def _one(self, point: np.ndarray) -> tuple[float, Any]:
        """Log density and score at a point of shape `(dim,)`; `-inf` where the model rejects it."""

    @abstractmethod
    def _constrained(self, point: np.ndarray) -> Any:
        """All constrained values at a point, in the order of their names."""

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, scores = np.full(len(points), -np.inf), np.full(points.shape, np.nan)
        for row, point in enumerate(points):
            values[row], scores[row] = self._one(point)
        return values, scores

    def constrain(self, points: np.ndarray) -> dict[str, np.ndarray]:
        flat = np.array([np.asarray(self._constrained(point), float) for point in points])
        return {name: flat[:, columns] for name, columns in self._places.items()}


class _BridgeStan(_StanDensity):
    """A `bridgestan.StanModel`."""

    def __init__(self, model: Any, dims: Mapping, coords: Mapping):
        self.name, self.dim = model.name(), model.param_unc_num()
        self.labels = tuple(_label(name) for name in model.param_unc_names())
        super().__init__(model, model.param_names(include_tp=True, include_gq=False), dims, coords)

    def _one(self, point):
        try:
            value, score = self._model.log_density_gradient(point)
        except RuntimeError:  # BridgeStan's word for a point that the model rejects
            return -np.inf, np.nan
        return value, score

    def _constrained(self, point):
        return self._model.param_constrain(point, include_tp=True, include_gq=False)


class _PyStan(_StanDensity):
    """A `stan.model.Model`."""

    def __init__(self, model: Any, dims: Mapping, coords: Mapping):
        self.name = model.model_name
        self.dim = _unconstrained_size(model)
        self.labels = tuple(f"z[{i}]" for i in range(self.dim))
        count = len(model.constrain_pars([0.1] * self.dim, True, False))
        super().__init__(model, model.constrained_param_names[:count], dims, coords)

    def _one(self, point):
        try:
            row = [float(x) for x in point]
            return self._model.log_prob(row), self._model.grad_log_prob(row)
        except ValueError:  # its server cannot send an infinite or undefined number
            return -np.inf, np.nan
        except RuntimeError as error:
            if _REJECTED in str(error):
                return -np.inf, np.nan
            raise EvaluationError(f"PyStan's server failed: {error}") from error

    def _constrained(self, point):
        return self._model.constrain_pars([float(x) for x in point], True, False)


def _unconstrained_size(model: Any) -> int:
    """The only number of coordinates that PyStan accepts: at most that of the constrained values."""
    for size in range(len(model.constrained_param_names), 0, -1):
        try:
            model.log_prob([0.1] * size)
        except RuntimeError as error:
            if _OTHER_LENGTH in str(error):
                continue
        except ValueError:  # no finite value there
            pass
        return size
    return 0


def _label(name: str) -> str:
    """Stan's `theta.1.2`, which counts from 1, as `theta[0, 1]`."""
    stem, *index = name.split(".")
    return f"{stem}[{', '.join(str(int(i) - 1) for i in index)}]" if index else stem


def _places(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Where the entries of each parameter are among the columns, in an array of its shape.

    Raises:
        ValueError: a parameter is a tuple or complex.
    """
    found: dict[str, dict[tuple[int, ...], int]] = {}
    for column, name in enumerate(names):
        stem, *index = name.split(".")
        if ":" in name or not all(part.isdigit() for part in index):
            raise ValueError(f"The parameter {name} is a tuple or a complex number; give it as real arrays.")
        found.setdefault(stem, {})[tuple(int(part) - 1 for part in index)] = column
    places = {}
    for stem, columns in found.items():
        shape = tuple(np.max(list(columns), 0) + 1)
        array = np.empty(shape, int)
        for index, column in columns.items():
            array[index] = column
        places[stem] = array
    return places
