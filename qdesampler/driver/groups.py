"""Chains in groups: their keys and starts, their devices, and their joined states."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro.util import is_prng_key

from qdesampler.driver.processes import Processes, spread
from qdesampler.infer.model.fingerprint import is_typed_key
from qdesampler.validation import check_key

__all__ = ["ChainGroups", "key_text", "keys_of_text", "mesh_of"]


class ChainGroups:
    """The order in which chains are run: all at once, one batch after another, or one after another.

    Args:
        chains: number of chains.
        method: `chain_method` of the driver.
        batch: number of chains in a batch, or None.
        mesh: devices that vectorized chains are spread over, or None; each batch is spread over all of them.
    """

    def __init__(self, chains: int, method: str | Callable, batch: int | None, mesh: Mesh | None):
        self.chains = chains
        single = chains == 1 or method == "sequential"
        size = 1 if single else batch or chains
        self.slices: list[slice] = [slice(first, first + size) for first in range(0, chains, size)]
        self.batch_size: int | None = None if single or method != "vectorized" else size
        self.transformed: bool = not single and method != "vectorized"
        self._single = single
        self.mesh = mesh
        self.processes: Processes = Processes(mesh, len(self.slices))

    def part(self, tree: Any, chains: slice) -> Any:
        """The entries of a group in arrays whose leading axis is the chains (no axis for a single chain)."""
        if self.chains == 1:
            return tree
        first = chains.start
        return jax.tree.map(lambda leaf: leaf[first] if self._single else leaf[chains], tree)

    def placed(self, tree: Any) -> Any:
        """Arrays on the devices; arrays with the group's chains as leading axis are spread over them."""
        mesh = self.mesh
        if mesh is None:
            return tree
        return jax.tree.map(lambda leaf: spread(leaf, mesh, self.layout(leaf, 0)), tree)

    def constrained(self, tree: Any, axis: int = 0) -> Any:
        """The same layout for arrays inside a program; `axis` is the axis of the chains."""
        mesh = self.mesh
        if mesh is None:
            return tree
        return jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, self.layout(leaf, axis))),
            tree,
        )

    def layout(self, leaf: Any, axis: int) -> PartitionSpec:
        """Layout of an array on the mesh: spread along the axis of the chains, or whole on each device."""
        if jnp.ndim(leaf) > axis and leaf.shape[axis] == self.batch_size:
            return PartitionSpec(*[None] * axis, "chains")
        return PartitionSpec()

    def joined(self, states: Sequence[Any]) -> Any:
        """The state of all chains; parts that belong to a batch get a leading axis of batches.

        If batches are spread over several processes, every process has to call this.
        """
        if len(states) == 1:
            return states[0]
        if self._single:
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

        def join(*leaves):
            by_chain = leaves[0].ndim and leaves[0].shape[0] == self.batch_size
            return jnp.concatenate(leaves) if by_chain else jnp.stack(leaves)

        def join_all(*states):
            return jax.tree.map(join, *states)

        if self.processes.count == 1:
            return join_all(*states)
        assert self.mesh is not None
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(join_all, out_shardings=everywhere)(*states)

    def parted(self, state: Any) -> list[Any]:
        """The inverse of `joined`, for chains that run one after another or all at once.

        Raises:
            ValueError: for batches, as the parts of a batch cannot be distinguished from those of chains.
        """
        if len(self.slices) == 1:
            return [state]
        if not self._single:
            raise ValueError(
                "A state of batches cannot be taken apart: continue a batched run in the object that ran it."
            )
        return [jax.tree.map(itemgetter(group.start), state) for group in self.slices]

    def keys(self, rng_key: jax.Array) -> jax.Array:
        """A key for each chain, split as NumPyro splits it.

        Raises:
            TypeError: `rng_key` is not a JAX key.
            ValueError: the number of keys is neither 1 nor the number of chains.
        """
        check_key("rng_key", rng_key)
        if is_prng_key(rng_key):
            return rng_key if self.chains == 1 else jax.random.split(rng_key, self.chains)
        if rng_key.shape[0] != self.chains:
            raise ValueError(
                f"{rng_key.shape[0]} keys for {self.chains} chains; expected one key or one each."
            )
        return rng_key[0] if self.chains == 1 else rng_key

    def starts(self, init_params: Any) -> Any:
        """The starts as arrays, one for each chain.

        Raises:
            ValueError: the leading axis does not have the size `num_chains`.
        """
        if init_params is None:
            return None
        init_params = jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), init_params)
        for leaf in jax.tree.leaves(init_params):
            if self.chains > 1 and (leaf.ndim == 0 or leaf.shape[0] != self.chains):
                raise ValueError(
                    f"`init_params` has an array of shape {leaf.shape}; expected a leading axis of "
                    f"num_chains = {self.chains}."
                )
        return init_params


def mesh_of(devices: int | str | Sequence[Any] | None, chains: int, method: str | Callable) -> Mesh | None:
    """The devices to spread chains over, or None.

    Raises:
        ValueError: `devices` are not devices, the chains are not vectorized, or the number of chains is not a
            multiple of the number of devices.
    """
    if devices is None:
        return None
    if isinstance(devices, str) and devices == "all":
        devices = jax.devices()
    if not isinstance(devices, int) and not (devices and all(isinstance(d, jax.Device) for d in devices)):
        raise ValueError(f"devices is {devices!r}; expected a number, 'all', or some of {jax.devices()}.")
    if isinstance(devices, int) and not 1 <= devices <= len(jax.devices()):
        raise ValueError(f"devices={devices}; this process sees {len(jax.devices())}: {jax.devices()}.")
    chosen: list[Any] = jax.devices()[:devices] if isinstance(devices, int) else list(devices)
    chosen.sort(key=lambda device: device.process_index)
    if method != "vectorized" or chains == 1 or chains % len(chosen):
        raise ValueError(
            f"{chains} chains at a time ({method!r}) over {len(chosen)} devices; expected vectorized chains, "
            "in a number that the devices divide."
        )
    return Mesh(np.array(chosen), ("chains",))


def key_text(keys: jax.Array) -> dict[str, Any]:
    """Keys as data for a JSON header."""
    typed = is_typed_key(keys)
    return {
        "data": np.asarray(jax.random.key_data(keys) if typed else keys).tolist(),
        "impl": str(jax.random.key_impl(keys)) if typed else None,
    }


def keys_of_text(text: dict[str, Any]) -> jax.Array:
    """The inverse of `key_text`."""
    data = jnp.asarray(np.array(text["data"], np.uint32))
    return data if text["impl"] is None else jax.random.wrap_key_data(data, impl=text["impl"])
