"""The folder of a run: its draws in files that are never rewritten, and its last two states."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qdesampler.driver.checkpoint import CheckpointError, read_arrays, write_arrays
from qdesampler.driver.draw_buffer import cut_named
from qdesampler.driver.processes import Processes, whole
from qdesampler.infer.model.fingerprint import is_typed_key
from qdesampler.unfinished import clear_unfinished

__all__ = ["RunFiles", "begun", "holds_run", "named_leaves", "restored"]

_STATE = re.compile(r"state-(\d{12})\.qde")
_KEY = re.compile(r"(.*)<(\w+)>")


class RunFiles:
    """The checkpoints of one run, `state-ITERATION.qde`, and its draws, `draws-FIRST.qde`.

    Draws are written before the state that counts them, and each file is synced and renamed into place.
    Whenever a process dies, the folder holds all draws that the newest state counts; files that it left
    unfinished are removed when the run is resumed.

    Args:
        folder: the folder, made when the first file is written; each of several processes has a folder in it.
        processes: the processes that run together.
    """

    def __init__(self, folder: Path, processes: Processes):
        self.folder: Path = processes.own_folder(folder)
        self._processes = processes

    def refuse_if_used(self) -> None:
        """Refuse a folder that already holds a run.

        Raises:
            CheckpointError: the folder holds a run, or it is a file.
        """
        if self.folder.is_file():
            raise CheckpointError(f"{self.folder} is a file; a checkpoint is a folder. Name another.")
        clear_unfinished(self.folder)
        states = self._states()
        if states:
            raise CheckpointError(
                f"{self.folder} holds a run already, at iteration {states[-1][0]}. Continue it with "
                f"`resume({str(self.folder)!r}, ...)`, name another folder, or remove this one."
            )

    def write(
        self,
        iteration: int,
        header: Mapping[str, Any],
        state: Mapping[str, np.ndarray],
        first: int,
        draws: Mapping[str, np.ndarray],
    ) -> None:
        """Write the draws since the last call, then the state; delete all states but the last two.

        Args:
            iteration: iterations so far.
            header: further facts about the present state.
            state: arrays of the state by name.
            first: index of the first new draw.
            draws: arrays (chain, draw, ...) by name; empty if there are no new draws.

        Raises:
            CheckpointError: a file could not be written; earlier files are unchanged.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder} could not be made: {error.strerror or error}.") from error
        if draws:
            rows = next(iter(draws.values())).shape[1]
            write_arrays(self.folder / f"draws-{first:012d}.qde", {"first": first, "rows": rows}, draws)
        write_arrays(self.folder / f"state-{iteration:012d}.qde", header, state)
        for _, path in self._states()[:-2]:
            path.unlink()

    def latest(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Header and arrays of the newest state that every process can read; warns of damaged states.

        Raises:
            CheckpointError: no state can be read.
        """
        clear_unfinished(self.folder)
        states = self._states()
        if not states:
            self._processes.common([])
            raise CheckpointError(f"{self.folder} holds no state of a run: there is nothing to resume.")
        failures, found = [], {}
        for iteration, path in reversed(states):
            try:
                found[iteration] = read_arrays(path)
            except CheckpointError as error:
                failures.append(str(error))
        common = self._processes.common(list(found)[:2])
        if not common:
            raise CheckpointError("No state of the run can be read. " + " ".join(failures))
        for failure in failures:
            warnings.warn(f"{failure} Resuming from iteration {common[0]}.", RuntimeWarning, stacklevel=4)
        return found[common[0]]

    def draws(self, rows: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """The first `rows` draws in pieces, each with the index of its first draw.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        reached = 0
        while reached < rows:
            header, arrays = read_arrays(self.folder / f"draws-{reached:012d}.qde")
            yield reached, cut_named(arrays, 0, rows - reached)
            reached += header["rows"]

    def remove_states(self) -> None:
        """Delete all states; draws stay."""
        for _, path in self._states():
            path.unlink()

    def _states(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        found = [(_STATE.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted((int(match[1]), path) for match, path in found if match)


def holds_run(folder: Path) -> bool:
    """Whether a folder holds a state of a run, of one process or of one of several."""
    return any(_STATE.fullmatch(path.name) for path in folder.glob("**/state-*.qde"))


@contextmanager
def begun(files: RunFiles | None, header: Mapping[str, Any]) -> Iterator[None]:
    """Write down that a run has begun, so that it can be resumed if its process dies in the warm-up.

    An exception takes the note back, because then the caller is there to begin anew.

    Raises:
        CheckpointError: the note could not be written.
    """
    if files is None:
        yield
        return
    files.write(0, header, {}, 0, {})
    try:
        yield
    except BaseException:
        files.remove_states()
        raise


def named_leaves(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a state as numeric arrays by their paths; typed keys as data by `path<kind>`.

    Arrays that are spread over several processes are joined, so every process has to call this.
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    named = {}
    for path, leaf in leaves:
        if is_typed_key(leaf):
            named[f"{jax.tree_util.keystr(path)}<{jax.random.key_impl(leaf)}>"] = jax.random.key_data(leaf)
        else:
            named[jax.tree_util.keystr(path)] = leaf
    return {name: whole(leaf) for name, leaf in named.items()}


def restored(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A state of the structure of `like` from the arrays that `named_leaves` returned.

    Raises:
        CheckpointError: the arrays have other names, shapes or types.
    """
    values = {}
    for name, array in arrays.items():
        if kind := _KEY.fullmatch(name):
            values[kind[1]] = jax.random.wrap_key_data(jnp.asarray(array), impl=kind[2])
        else:
            values[name] = jnp.asarray(array)
    paths, structure = jax.tree.flatten_with_path(like)
    expected = {jax.tree_util.keystr(path): leaf for path, leaf in paths}
    wrong = [f"{name} is in one of them only" for name in sorted({*expected} ^ {*values})]
    for name in {*expected} & {*values}:
        leaf, value = expected[name], values[name]
        if (value.shape, value.dtype) != (leaf.shape, leaf.dtype):
            wrong.append(f"{name} has {value.dtype}{value.shape}, expected {leaf.dtype}{leaf.shape}")
    if wrong:
        raise CheckpointError(
            f"The state in the checkpoint is not one of this kernel and model: {'; '.join(wrong[:8])}."
        )
    return jax.tree.unflatten(structure, [values[name] for name in expected])
