"""Names of array axes: from the user, from the plates of the model, or `<site>_dim_<i>`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qdesampler.infer.model.field_names import variable_name
from qdesampler.infer.model.trace import Plate, Site

__all__ = ["SAMPLE_DIMS", "AxisNames"]

SAMPLE_DIMS = ("chain", "draw")
_MOST_NAMES = 20  # names of variables in a message


class AxisNames:
    """Names for the axes of many variables that share one set of dimensions.

    A dimension has one size in the whole tree, and no dimension has the name of a variable, `chain` or
    `draw`. If the name of a plate is taken, `_dim` is appended to it; if the plate has another size than the
    first one of its name, its axis gets the default name.

    Args:
        taken: names of variables, which no dimension may have.
        dims: the user's names for the axes of each variable (without chain and draw).
        coords: the user's labels for each dimension.

    Raises:
        ValueError: from `of` and `coordinates`, if the user's names or labels do not fit the arrays.
    """

    def __init__(
        self,
        taken: Sequence[str],
        dims: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Sequence[Any]] | None = None,
    ):
        self._taken = {*taken, *SAMPLE_DIMS}
        self._dims = {variable_name(name): list(names) for name, names in (dims or {}).items()}
        unknown = [name for name in self._dims if name not in taken]
        if unknown:
            raise ValueError(
                f"dims names {', '.join(unknown)}, which the run does not have; it has "
                f"{', '.join(taken[:_MOST_NAMES])}{' and others' * (len(taken) > _MOST_NAMES)}."
            )
        self._coords = dict(coords or {})
        self._sizes: dict[str, int] = {}

    def of(
        self, name: str, shape: Sequence[int], site: Site | None = None, *, batch_only: bool = False
    ) -> list[str]:
        """Names for the axes of the variable `name`, an array of the given shape (without chain and draw).

        `batch_only`: the array has only the batch axes of the site, like a log likelihood.
        """
        if name in self._dims:
            return self._of_user(name, shape, self._dims[name][: len(shape) if batch_only else None])
        names = [f"{name}_dim_{axis}" for axis in range(len(shape))]
        if site is not None:
            self._name_plates(names, shape, site.plates, site.event_ndim or 0)
            self._name_events(names, shape, site)
        for dim, size in zip(names, shape, strict=True):
            self._sizes.setdefault(dim, size)
        return names

    def coordinates(self) -> dict[str, Sequence[Any]]:
        """The user's labels, after a check that each belongs to a dimension and has its length."""
        for dim, labels in self._coords.items():
            if dim not in self._sizes:
                known = ", ".join(sorted(self._sizes)) or "none"
                raise ValueError(
                    f"coords names the dimension {dim!r}, which no variable has. Known: {known}."
                )
            if any(np.ndim(label) for label in labels):
                raise ValueError(
                    f"coords[{dim!r}] holds {labels[0]!r}; a label is one number or one text, for instance "
                    f"{str(labels[0])!r}."
                )
            if len(set(labels)) < len(labels):
                raise ValueError(
                    f"coords[{dim!r}] holds equal labels; the labels of a dimension must differ."
                )
            if len(labels) != self._sizes[dim]:
                raise ValueError(
                    f"coords[{dim!r}] has {len(labels)} labels; the dimension has size {self._sizes[dim]}."
                )
        return self._coords

    def _of_user(self, name: str, shape: Sequence[int], names: list[str]) -> list[str]:
        if len(names) != len(shape):
            raise ValueError(
                f"dims[{name!r}] names {len(names)} axes; one draw of {name!r} has shape {tuple(shape)}."
            )
        for dim, size in zip(names, shape, strict=True):
            if dim in self._taken:
                raise ValueError(f"dims[{name!r}]: {dim!r} is the name of a variable; choose another.")
            if self._sizes.setdefault(dim, size) != size:
                raise ValueError(
                    f"dims[{name!r}]: {dim!r} has size {self._sizes[dim]} elsewhere and {size} here."
                )
        return names

    def _name_plates(
        self, names: list[str], shape: Sequence[int], plates: Sequence[Plate], event_ndim: int
    ) -> None:
        for plate in plates:
            axis = len(shape) - event_ndim + plate.dim
            if 0 <= axis < len(shape) and shape[axis] == plate.size:
                self._name(names, axis, plate.name, plate.size)

    def _name_events(self, names: list[str], shape: Sequence[int], site: Site) -> None:
        first = len(shape) - (site.event_ndim or 0)
        for axis, dim in enumerate(site.event_dims, start=first):
            if axis < len(shape):
                self._name(names, axis, dim, shape[axis])

    def _name(self, names: list[str], axis: int, wanted: str, size: int) -> None:
        dim = variable_name(wanted)
        while dim in self._taken:
            dim += "_dim"
        if self._sizes.setdefault(dim, size) == size and dim not in names:
            names[axis] = dim
