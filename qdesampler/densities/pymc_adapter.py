"""PyMC models as densities: its compiled log density and gradient, its names, dims and coords."""

from typing import Any

import numpy as np

from qdesampler.densities.named import NamedDensity

__all__ = ["from_pymc"]


def from_pymc(model: Any) -> NamedDensity:
    """The posterior of a PyMC model, for `sample`.

    Nothing of PyMC is imported here: the model compiles its own functions, for the default linker of
    PyTensor. Deterministic variables are among the draws.

    Args:
        model: a `pymc.Model` whose free variables are continuous.

    Raises:
        ValueError: it is no such model.
    """
    needed = ("logp_dlogp_function", "initial_point", "compile_fn", "unobserved_value_vars")
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        raise ValueError(f"Expected a pymc.Model; got {type(model).__name__}, without {', '.join(missing)}.")
    discrete = [variable.name for variable in model.discrete_value_vars]
    if discrete:
        raise ValueError(
            f"The model has discrete variables: {', '.join(discrete)}. Sum them out, for instance with "
            "pymc_extras.marginalize, or sample them with PyMC."
        )
    if not model.continuous_value_vars:
        raise ValueError("The model has no free variables.")
    return _PyMCDensity(model)


class _PyMCDensity(NamedDensity):
    """See `from_pymc`."""

    def __init__(self, model: Any):
        self.name = model.name or "pymc"
        point = model.initial_point()
        order = [variable.name for variable in model.continuous_value_vars]
        self._shapes = {name: np.shape(point[name]) for name in order}
        self.start = np.concatenate([np.ravel(point[name]).astype(float) for name in order])
        self.dim = self.start.size
        self.labels = tuple(
            f"{name}[{', '.join(map(str, index))}]" if index else name
            for name, shape in self._shapes.items()
            for index in np.ndindex(shape)
        )
        self._evaluate = model.logp_dlogp_function(ravel_inputs=True)
        self._evaluate.set_extra_values({})
        values = {variable.name for variable in model.value_vars}
        shown = [variable for variable in model.unobserved_value_vars if variable.name not in values]
        # A variable without a transform is its own value.
        shown += [v for v in model.unobserved_value_vars if v.name in {free.name for free in model.free_RVs}]
        names = [variable.name for variable in [*model.free_RVs, *model.deterministics]]
        shown = {variable.name: variable for variable in shown}
        self._names = [name for name in names if name in shown]
        self._values = model.compile_fn(
            [shown[name] for name in self._names], inputs=model.value_vars, point_fn=True
        )
        self.dims = {
            name: tuple(dims)
            for name, dims in model.named_vars_to_dims.items()
            if name in shown and all(dim is not None for dim in dims)
        }
        used = {dim for dims in self.dims.values() for dim in dims}
        self.coords = {
            dim: list(labels) for dim, labels in model.coords.items() if dim in used and labels is not None
        }

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, scores = np.empty(len(points)), np.empty(points.shape)
        with np.errstate(all="ignore"):
            for row, point in enumerate(points):
                values[row], scores[row] = self._evaluate(point)
        return values, scores

    def constrain(self, points: np.ndarray) -> dict[str, np.ndarray]:
        rows = []
        for point in points:
            parts, at = {}, 0
            for name, shape in self._shapes.items():
                size = int(np.prod(shape, dtype=int))
                parts[name] = point[at : at + size].reshape(shape)
                at += size
            rows.append([np.asarray(value) for value in self._values(parts)])
        return {
            name: np.stack(column) for name, column in zip(self._names, zip(*rows, strict=True), strict=True)
        }
