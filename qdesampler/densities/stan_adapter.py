"""Stan models as densities, from PyStan or BridgeStan: their log density, gradient and constrained values."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qdesampler.densities.errors import EvaluationError
from qdesampler.densities.named import NamedDensity

__all__ = ["from_stan"]

_OTHER_LENGTH = "does not match the number of unconstrained"  # in httpstan's message


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
    """A `stan.model.Model`. Its compiled module is loaded when it is first called, in each process."""

    def __init__(self, model: Any, dims: Mapping, coords: Mapping):
        self.name = model.model_name
        self._data = dict(model.data)
        self._loaded: Any = None
        self.dim = self._size(len(model.constrained_param_names))
        self.labels = tuple(f"z[{i}]" for i in range(self.dim))
        count = len(self._module.write_array(self._data, [0.1] * self.dim, True, False))
        super().__init__(model, model.constrained_param_names[:count], dims, coords)

    @property
    def _module(self) -> Any:
        if self._loaded is None:
            self._loaded = _compiled(self.name)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        """What a worker is sent: modules cannot be pickled."""
        return self.__dict__ | {"_loaded": None}

    def _size(self, most: int) -> int:
        """The only number of coordinates that the module accepts: at most that of the constrained values."""
        for size in range(most, 0, -1):
            try:
                self._module.log_prob(self._data, [0.1] * size, True)
            except (ArithmeticError, IndexError, RuntimeError, ValueError) as error:
                if _OTHER_LENGTH in str(error):
                    continue
            return size
        return 0

    def _one(self, point):
        module, row = self._module, [float(x) for x in point]
        try:
            return module.log_prob(self._data, row, True), module.log_prob_grad(self._data, row, True)
        except (
            ArithmeticError,
            IndexError,
            RuntimeError,
            ValueError,
        ):  # exceptions of C++: the model rejects it
            return -np.inf, np.nan

    def _constrained(self, point):
        return self._module.write_array(self._data, [float(x) for x in point], True, False)


def _compiled(name: str) -> Any:
    """The module that `stan.build` has compiled.

    Raises:
        EvaluationError: it is not on this machine.
    """
    import httpstan.models

    try:
        return httpstan.models.import_services_extension_module(name)
    except KeyError as error:
        raise EvaluationError(
            f"The compiled {name} is not in the cache of PyStan on this machine: call stan.build here."
        ) from error


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
