"""Chains on the devices of several processes: the part of each process, and their common decisions.

`jax.distributed` joins the processes; each runs the same script, and each program runs on all of them at
once. They must therefore take the same decisions: whatever only one process knows (its clock, a signal, the
answer of a callback) is first sent to the others.
"""

import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qdesampler.infer.model.fingerprint import describe, is_typed_key

__all__ = ["LostProcessError", "Processes", "local_part", "spread", "whole", "whole_leaf"]

_PATIENCE = 15.0  # seconds to wait for a chunk, which takes about half a second, before a warning


class LostProcessError(RuntimeError):
    """Another process of the run has ended or cannot be reached; the message says which draws are kept."""


class Processes:
    """The processes whose devices the chains are spread over: one, or all that `jax.distributed` joined.

    Args:
        mesh: the devices, ordered by process, or None.
        batches: number of batches of chains that run one after another; every process has a part of each.

    Raises:
        ValueError: some processes are left out, or have fewer of the devices than others.
    """

    def __init__(self, mesh: Mesh | None, batches: int = 1):
        owners = [device.process_index for device in mesh.devices.flat] if mesh is not None else [0]
        self.count: int = len(set(owners))
        shares = {owners.count(owner) for owner in owners}
        if self.count > 1 and (len(shares) > 1 or self.count != jax.process_count()):
            raise ValueError(
                f"The devices belong to the processes {owners}, of {jax.process_count()}; expected devices "
                "of this process alone, or as many of each."
            )
        self.index: int = jax.process_index() if self.count > 1 else 0
        self._batches = batches

    def own_folder(self, folder: Path) -> Path:
        """The folder itself if there is one process, else a folder inside it for this process."""
        return folder if self.count == 1 else folder / f"process-{self.index}"

    def gathered(self, leaf: np.ndarray) -> np.ndarray:
        """The chains of all processes in the order of their numbers; all processes give equal shapes."""
        if self.count == 1:
            return leaf
        all_chains = np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        by_process = all_chains.reshape(self.count, self._batches, -1, *all_chains.shape[1:])
        return by_process.swapaxes(0, 1).reshape(all_chains.shape)

    def own(self, chains: slice) -> slice:
        """Positions, among the chains of this process, of those that belong to a batch."""
        return slice(chains.start // self.count, chains.stop // self.count)

    def check_same(self, tree: Any, what: str) -> None:
        """Make sure that all processes computed the same values.

        Raises:
            ValueError: the values differ in a bit or in a shape.
        """
        if self.count == 1:
            return
        digest = zlib.crc32(repr(jax.tree.map(describe, tree)).encode())
        if len(np.unique(multihost_utils.process_allgather(np.uint32(digest)))) > 1:
            raise ValueError(
                f"{what} differs between the processes: expected the same arguments and devices of one kind."
            )

    def agreed(self, reasons: Sequence[str], reason: str, length: int) -> tuple[str, int]:
        """The strongest reason of all processes to end the run, and the shortest proposed chunk length.

        Args:
            reasons: all possible reasons, the strongest last.
            reason: the reason of this process.
            length: the length that this process proposes.
        """
        if self.count == 1:
            return reason, length
        all_own = multihost_utils.process_allgather(np.array([reasons.index(reason), length], np.int32))
        return reasons[int(all_own[:, 0].max())], int(all_own[:, 1].min())

    def common(self, numbers: Sequence[int]) -> list[int]:
        """Those of at most two non-negative numbers that every process has, in their order."""
        if self.count == 1:
            return list(numbers)
        own = np.full(2, -1, np.int32)
        own[: len(numbers)] = numbers
        all_own = multihost_utils.process_allgather(own)
        return [number for number in numbers if (all_own == number).any(axis=1).all()]

    @contextmanager
    def patience(self, kept: Callable[[], str], seconds: float = _PATIENCE) -> Iterator[None]:
        """Warn when work of several processes takes very long; `kept()` says which draws are kept.

        A process that died without an error can leave the others waiting until JAX ends them, also without an
        error in Python.
        """
        if self.count == 1:
            yield
            return

        def warn():
            text = (
                f"qdesampler: process {self.index} of {self.count} has waited {seconds:g} s for a chunk. If "
                "another one ended, JAX ends this one too (`heartbeat_timeout_seconds` of "
                f"`jax.distributed.initialize`). {kept()}"
            )
            print(text, file=sys.stderr, flush=True)

        timer = threading.Timer(seconds, warn)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    @contextmanager
    def watched(self, kept: Callable[[], str]) -> Iterator[None]:
        """Turn JAX's errors into one that says that another process is lost; `kept()` says what is kept.

        Raises:
            LostProcessError: in place of JAX's errors, if there are several processes.
        """
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if self.count == 1:
                raise
            raise LostProcessError(
                f"Process {self.index} of {self.count} stops: another one ended or cannot be reached. "
                f"{kept()} ({str(error).splitlines()[0]})"
            ) from error


def whole(leaf: Any) -> np.ndarray:
    """The whole array on every process; every process has to call this."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def whole_leaf(leaf: Any) -> Any:
    """The same for an array of a state, which may hold typed keys."""
    if not is_typed_key(leaf):
        return whole(leaf)
    data = jnp.asarray(whole(jax.random.key_data(leaf)))
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def local_part(leaf: Any) -> np.ndarray:
    """The part of an array that this process holds: all of it, or its entries along the spread axis."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    assert isinstance(leaf.sharding, NamedSharding)  # from `ChainGroups.layout`
    axis = next(axis for axis, name in enumerate(leaf.sharding.spec) if name is not None)
    shards = {shard.index[axis].start or 0: shard.data for shard in leaf.addressable_shards}
    return np.concatenate([np.asarray(shards[first]) for first in sorted(shards)], axis=axis)


def spread(leaf: Any, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """Spread an array that every process has in full over the devices of all processes."""
    sharding = NamedSharding(mesh, spec)
    if all(device.process_index == jax.process_index() for device in mesh.devices.flat):
        return jax.device_put(leaf, sharding)
    if is_typed_key(jnp.asarray(leaf)):
        data = spread(jax.random.key_data(leaf), mesh, spec)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
