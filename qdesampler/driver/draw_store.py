"""Draws in a zarr store, written during a run; the only file that imports zarr."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qdesampler.driver.draw_buffer import DrawBuffer, cut_named
from qdesampler.infer.model.field_names import statistic_names, variable_name
from qdesampler.infer.model.trace import leaf_names
from qdesampler.unfinished import UnfinishedFolder, clear_unfinished

__all__ = ["DrawStore", "StoreError", "StoredFields", "refuse_if_there", "require_zarr"]

_MADE_BY = "qdesampler"


class StoreError(RuntimeError):
    """A store cannot be written, or already holds something else; the message says what to do."""


class DrawStore:
    """Takes the place of `DrawBuffer`; memory holds two chunks of draws, the store all draws.

    The store has the layout of ArviZ's tree: groups `posterior` and `sample_stats`, axes (chain, draw, ...).
    `xarray.open_datatree(path, engine="zarr", consolidated=False)` reads it. Chunks are written to the disk
    as soon as they are full, so that a store can be read while it grows.

    Args:
        path: the folder of the store.
        chains: number of chains.
        rows: draws in a chunk; no `put` has more.
        names: names of the collected fields, the sample first.
        facts: further attributes of the store, JSON values; `run` identifies the run.
    """

    def __init__(self, path: Path, chains: int, rows: int, names: Sequence[str], facts: Mapping[str, Any]):
        self._path = path
        self._chains = chains
        self._rows = rows
        self._names = tuple(names)
        self._facts = {"made_by": _MADE_BY, "finished": 0, **facts}  # a netCDF file has no booleans
        self._tail = DrawBuffer(chains, 2 * rows)
        self._first = 0  # index of the first draw of the tail; all earlier draws are in the store
        self._root: Any = None
        self._arrays: list[Any] = []
        self._structure: Any = None
        self._paths: list[str] = []
        self._negated: list[bool] = []
        self.filled: int = 0

    @property
    def not_finite(self) -> set[str]:
        """The sites with draws that are not finite."""
        return self._tail.not_finite

    def put(self, chains: slice, first: int, rows: int, fields: Any) -> None:
        """Take the first `rows` of collected arrays (chain, row, ...) as the draws from `first` on.

        Raises:
            StoreError: the store cannot be made.
        """
        if self._root is None:
            self._make(fields)
        self._tail.put(chains, first - self._first, rows, fields)

    def put_named(self, first: int, arrays: Mapping[str, np.ndarray], like: Any) -> None:
        """Take arrays (chain, draw, ...) that `named` returned, for fields of the structure of `like`."""
        paths, structure = jax.tree.flatten_with_path(like)
        names = [jax.tree_util.keystr(path) for path, _ in paths]
        total = arrays[names[0]].shape[1] if names else 0
        for start in range(0, total, self._rows):
            piece = cut_named(arrays, start, start + self._rows)
            rows = piece[names[0]].shape[1]
            fields = jax.tree.unflatten(structure, [piece[name] for name in names])
            self.put(slice(None), first + start, rows, fields)
            self.reach(first + start + rows)

    def reach(self, draws: int) -> None:
        """Record that every chain has this many draws now, and write full chunks to the store.

        Raises:
            StoreError: a chunk cannot be written. Chunks written before can be read.
        """
        self.filled = draws
        self._tail.reach(draws - self._first)
        while self._tail.filled >= self._rows:
            self._write(self._rows)

    def named(self, first: int, last: int) -> dict[str, np.ndarray]:
        """The draws from `first` up to `last`, under the paths of the collected tree."""
        if first == last:
            return {}
        return {path: self.read(index, first, last) for index, path in enumerate(self._paths)}

    def sample(self) -> Any:
        """The first field, with leaves (chain, draw, ...) that are read when they are sliced."""
        return self._tree(lambda index: _Leaf(self, index))[0]

    def fields(self) -> Any:
        """The collected fields so far, read into memory, or None if no chunk has ended."""
        if self._root is None:
            return None
        return self._tree(lambda index: self.read(index, 0, self.filled))

    def field(self, name: str) -> Any:
        """One collected field, read into memory."""
        wanted = self._tree(lambda index: index)[self._names.index(name)]
        return jax.tree.map(lambda index: self.read(index, 0, self.filled), wanted)

    def close(self) -> None:
        """Write the remaining draws; no further draws may be added.

        Raises:
            StoreError: the draws cannot be written.
        """
        if self._root is None:
            return
        if self._tail.filled:
            self._write(self._tail.filled)
        with _explain_write_errors(self._path):
            for group in {name.partition("/")[0] for name in self._root.attrs["variables"]}:
                for axis, size in (("chain", self._chains), ("draw", self.filled)):
                    self._root[group].create_array(
                        axis, data=np.arange(size), dimension_names=[axis], overwrite=True
                    )
            self._root.update_attributes({"finished": 1, "draws": self.filled})

    def shape(self, index: int) -> tuple[int, ...]:
        """The shape of a collected leaf with the draws so far."""
        return (self._chains, self.filled, *self._arrays[index].shape[2:])

    def read(self, index: int, first: int, last: int, axes: Sequence[slice] = ()) -> np.ndarray:
        """Draws of a collected leaf, sliced along the axes after chain and draw."""
        parts = []
        if first < self._first:
            stored = self._arrays[index][(slice(None), slice(first, min(last, self._first)), *axes)]
            parts.append(-stored if self._negated[index] else stored)
        if last > self._first:
            tail = jax.tree.leaves(self._tail.fields())[index]
            parts.append(tail[(slice(None), slice(max(first - self._first, 0), last - self._first), *axes)])
        if not parts:
            return np.asarray(self._arrays[index][(slice(None), slice(0, 0), *axes)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _tree(self, make: Any) -> Any:
        return jax.tree.unflatten(self._structure, [make(index) for index in range(len(self._arrays))])

    def _make(self, fields: Any) -> None:
        zarr = require_zarr()
        leaves, self._structure = jax.tree.flatten_with_path(fields)
        self._paths = [jax.tree_util.keystr(path) for path, _ in leaves]
        variables = _variables(self._names, fields)
        self._negated = [negated for _, negated in variables]
        for (_, leaf), (name, _) in zip(leaves, variables, strict=True):
            if np.dtype(leaf.dtype).kind not in "biufc":
                raise StoreError(f"{name} has the type {leaf.dtype}, which a zarr store cannot hold.")
        names = [name for name, _ in variables]
        with _explain_write_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            clear_unfinished(self._path.parent, self._path.name)
            # A store that a process was killed in making, or in replacing, never stands at its path.
            with UnfinishedFolder(self._path) as new, UnfinishedFolder(self._path) as old:
                root = zarr.open_group(new.path, mode="a")
                root.update_attributes({**self._facts, "variables": names})
                for (_, leaf), name in zip(leaves, names, strict=True):
                    root.create_array(
                        name,
                        shape=(self._chains, 0, *leaf.shape[2:]),
                        chunks=(self._chains, self._rows, *(max(1, size) for size in leaf.shape[2:])),
                        dtype=leaf.dtype,
                        dimension_names=["chain", "draw", *_axes(name, leaf)],
                    )
                if self._path.exists():
                    self._path.rename(old.path / "store")
                new.rename(self._path)
            self._root = zarr.open_group(self._path, mode="r+")
        self._arrays = [self._root[name] for name in names]

    def _write(self, rows: int) -> None:
        end = self._first + rows
        with _explain_write_errors(self._path):
            tails = jax.tree.leaves(self._tail.fields())
            for array, tail, negated in zip(self._arrays, tails, self._negated, strict=True):
                array.resize((self._chains, end, *array.shape[2:]))
                array[:, self._first : end] = -tail[:, :rows] if negated else tail[:, :rows]
        self._tail.drop(rows)
        self._first = end


class _Leaf:
    """A collected leaf that is read when it is sliced: `leaf[chains, draws, ...]`."""

    def __init__(self, store: DrawStore, index: int):
        self._store = store
        self._index = index

    @property
    def shape(self) -> tuple[int, ...]:
        return self._store.shape(self._index)

    def __getitem__(self, cuts: tuple[slice, ...]) -> np.ndarray:
        chains, draws, *axes = cuts
        first, last, _ = draws.indices(self._store.filled)
        return self._store.read(self._index, first, last, axes)[chains]


class StoredFields(Mapping):
    """The collected fields of a run, from name to arrays (chain, draw, ...), each read when it is used.

    Args:
        store: the store with the draws.
        names: names of the fields.
        flat: whether chains and draws are joined into one axis.
    """

    def __init__(self, store: DrawStore, names: Sequence[str], *, flat: bool = False):
        self._store = store
        self._names = tuple(names)
        self._flat = flat

    def flat(self) -> "StoredFields":
        """The same fields with chains and draws joined into one axis."""
        return StoredFields(self._store, self._names, flat=True)

    def __getitem__(self, name: str) -> Any:
        field = self._store.field(name)
        if not self._flat:
            return field
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), field)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def refuse_if_there(path: Path, run: str | None = None) -> None:
    """Refuse a path where something already exists.

    Args:
        path: the folder of the store.
        run: name of a run whose store may exist there; it will be written anew.

    Raises:
        StoreError: something else exists there.
    """
    if not path.exists():
        return
    attributes = {}
    with suppress(OSError, ValueError):  # a file, or a folder that is not a store
        attributes = require_zarr().open_group(path, mode="r").attrs.asdict()
    if run is not None and (attributes.get("made_by"), attributes.get("run")) == (_MADE_BY, run):
        return
    what = "the draws of another run" if attributes.get("made_by") == _MADE_BY else "something else"
    raise StoreError(f"{path} holds {what} already. Name another store, or remove this one.")


def require_zarr() -> Any:
    """The package.

    Raises:
        ImportError: zarr is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise ImportError("`store` needs zarr: pip install 'qdesampler[store]'") from error
    return zarr


def _variables(names: Sequence[str], fields: Any) -> list[tuple[str, bool]]:
    """The path of each leaf in the store, and whether it is stored with the opposite sign."""
    sample, *others = fields
    has_names = isinstance(sample, dict) or hasattr(sample, "_fields")
    sites = leaf_names(sample, prefix="" if has_names else "z")
    found = [(f"posterior/{variable_name(name)}", False) for name in sites]
    statistics = statistic_names(names[1:])
    for path, value in zip(names[1:], others, strict=True):
        flipped = path != "lp" == statistics[path]
        found += [
            (f"sample_stats/{variable_name(name)}", flipped) for name in leaf_names(value, statistics[path])
        ]
    paths = [name for name, _ in found]
    twice = sorted({name for name in paths if paths.count(name) > 1})
    if twice:
        raise StoreError(f"{', '.join(twice)}: two collected arrays would have this name in the store.")
    return found


def _axes(name: str, leaf: Any) -> list[str]:
    return [f"{name.rpartition('/')[2]}_dim_{axis}" for axis in range(leaf.ndim - 2)]


@contextmanager
def _explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} could not be written: {error.strerror or error}. What it holds can be read; free "
            "space or name another store."
        ) from error
