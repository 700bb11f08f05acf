"""The compiled programs of a run: start a group of chains, and continue it for any number of iterations.

One program serves warm-up and draws and every chunk length, because the number of rows and the number of
iterations between them are arguments. The division of a run into chunks does not change its draws.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro.infer import HMC, NUTS
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import nested_attrgetter

from qdesampler.driver.groups import ChainGroups
from qdesampler.driver.split_arguments import SplitArguments
from qdesampler.infer.model.fingerprint import is_typed_key

__all__ = [
    "ChainProgram",
    "ChunkCounts",
    "CollectedFields",
    "ProgramSettings",
    "fresh_copy",
    "over_devices",
    "read_fields",
]

_MOST_ROWS = 1024  # rows that a chunk has room for
_MOST_BYTES = 64 * 2**20  # bytes of all chunks that are on the host together


class CollectedFields(NamedTuple):
    """The fields of the state that are collected.

    Attributes:
        names: names of the fields; the first is the kernel's `sample_field`.
        removed: sites left out of the first field.
    """

    names: tuple[str, ...]
    removed: tuple[str, ...]


class ProgramSettings(NamedTuple):
    """The settings that all programs of one driver share.

    Attributes:
        pristine: a copy of the kernel that was never initialised.
        num_warmup: iterations before the first draw.
        postprocess: maps one position to what is kept of it, or None for the kernel's own function.
        transform: maps the single-chain programs over the leading axis (`jax.vmap`, `over_devices(...)`), or
            None.
        trace_args: whether arrays and floats among the model's arguments are arguments of the programs (new
            data of the same shapes compile nothing) instead of constants in them.
        groups: the groups of chains; chunks of all of them are on the host together.
    """

    pristine: MCMCKernel
    num_warmup: int
    postprocess: Callable | None
    transform: Callable | None
    trace_args: bool
    groups: ChainGroups


class ChunkCounts(NamedTuple):
    """Counts of one chunk: one number for each chain of the group, or one for the group.

    Attributes:
        evaluations: log-density evaluations: the kernel's `num_evals`, or the leapfrog steps of NumPyro's
            HMC; zeros if the kernel counts neither.
        accept: sum of the acceptance probabilities; zeros if the kernel does not report them.
        diverging: number of iterations that the kernel marked as divergent.
    """

    evaluations: jax.Array
    accept: jax.Array
    diverging: jax.Array


class ChainProgram:
    """Programs for groups of chains of one kernel, for one set of model arguments.

    Args:
        kernel: the kernel, which this program initialises and uses.
        settings: what all programs of the driver share.
        args: the model's arguments.
        kwargs: the model's keyword arguments.
        fields: the fields of the state to collect.
        most_rows: number of rows that no chunk exceeds.
    """

    def __init__(
        self,
        kernel: MCMCKernel,
        settings: ProgramSettings,
        *,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        fields: CollectedFields,
        most_rows: int,
    ):
        groups, transform = settings.groups, settings.transform
        self._pristine = settings.pristine
        self._kernel = kernel
        self._ready = False
        self._num_warmup = settings.num_warmup
        self._fields = fields
        self._postprocess = settings.postprocess
        self._chains = groups.batch_size  # None if the kernel takes a single key
        self._groups = groups
        self._transform = transform
        # HMC over chains is `vmap` of one chain. Started with one key it searches for its start one operation
        # after another; with many keys it compiles the search, and JAX never frees that program and its data.
        self._mapped = self._chains is not None and type(kernel) in (HMC, NUTS)
        self._one_prepares = self._mapped or (
            self._chains is not None and bool(getattr(kernel, "one_chain_prepares", False))
        )
        # Under a transform such a kernel traces its start as well as it can, or refuses.
        self._on_host = transform is None and bool(getattr(kernel, "init_on_host", False))
        self._split = SplitArguments(args, kwargs, trace=settings.trace_args)
        self._most_rows = most_rows
        self._most_bytes = _MOST_BYTES // len(groups.slices)
        self._init = jax.jit(self._traced_init)
        self._advance = jax.jit(self._traced_advance, static_argnames="capacity")
        self._capacity: int | None = None

    def init(self, keys: jax.Array, init_params: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The state of a group before its first iteration.

        Raises:
            RuntimeError: a chain has no start with a finite density; or an error of the kernel's `init`.
        """
        if self._on_host:
            return self._start_on_host(keys, init_params, args, kwargs)
        values = self._split.values(args, kwargs)
        state = self._init(*self._groups.placed((keys, init_params)), values)
        self.prepare(keys, init_params, args, kwargs)
        must_be_finite = [getattr(state, "potential_energy", 0.0)]
        if init_params is None:  # the kernel found the start, and requires a finite gradient too
            must_be_finite.append(getattr(state, "z_grad", None))
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(must_be_finite)):
            # Outside a trace the kernel raises an error with its own explanation.
            self._start(fresh_copy(self._pristine), keys, init_params, args, kwargs)
            raise RuntimeError(
                "A chain starts where the density or its gradient is not finite. Give `init_params` inside "
                "the support, or a kernel with another `init_strategy`."
            )
        return state

    def like(self, keys: jax.Array, init_params: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Shapes and types of the result of `init`."""
        if self._on_host:  # the shapes depend on what `init` finds
            return self.init(keys, init_params, args, kwargs)
        state = jax.eval_shape(self._traced_init, keys, init_params, self._split.values(args, kwargs))
        self.prepare(keys, init_params, args, kwargs)
        return state

    @property
    def kernel(self) -> MCMCKernel:
        """The kernel that this program initialises and uses."""
        return self._kernel

    @property
    def fields(self) -> CollectedFields:
        """The fields of the state that are collected."""
        return self._fields

    @property
    def is_plain(self) -> bool:
        """Whether the chains are neither transformed nor spread over devices."""
        return self._transform is None and self._groups.mesh is None

    @property
    def keep(self) -> Callable | None:
        """Maps one position to what is kept of it; None: the kernel's own function."""
        return self._postprocess

    @property
    def chains(self) -> int | None:
        """Chains of a group; None for a single one without an axis."""
        return self._chains

    def advance(
        self, state: Any, rows: int, stride: int, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ChunkCounts, tuple]:
        """Make `rows * stride` iterations and keep every `stride`-th.

        Returns:
            The new state, the counts, and the fields with `capacity` rows, the first `rows` of them filled.
        """
        values = self._split.values(args, kwargs)
        return self._advance(state, rows, stride, values, capacity=self.capacity(state, args, kwargs))

    def capacity(self, state: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        """Rows that a chunk has room for: at most 1024, and 64 MiB for all groups together."""
        if self._capacity is None:
            fields = self._fields_like(state, args, kwargs)
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(fields))
            self._capacity = int(max(1, min(_MOST_ROWS, self._most_bytes // max(size, 1), self._most_rows)))
        return self._capacity

    def fields_like(self, state: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Shapes and types of the collected fields, with axes (chain, row, ...)."""
        return jax.eval_shape(
            lambda fields: jax.tree.map(self.by_chain, fields), self._fields_like(state, args, kwargs)
        )

    def scalars(self, state: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
        """Number of scalars in one draw of one chain."""
        leaves = jax.tree.leaves(self.fields_like(state, args, kwargs)[0])
        return sum(leaf.size // leaf.shape[0] for leaf in leaves)

    def _fields_like(self, state, args, kwargs):
        if self._transform is None:  # the fields of a state, without a trace of its transition
            fields = jax.eval_shape(lambda state: self._collect(self._kernel, state, args, kwargs), state)
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), fields)
        call = partial(self._traced_advance, capacity=1)
        return jax.eval_shape(call, state, 1, 1, self._split.values(args, kwargs))[2]

    def by_chain(self, leaf: Any) -> Any:
        """A collected array with axes (chain, row, ...)."""
        if self._chains is not None:
            return leaf.swapaxes(0, 1)
        return leaf[None] if self._transform is None else leaf

    def prepare(
        self, keys: jax.Array, init_params: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Call `init` with concrete values for a kernel whose `init` makes functions that `sample` uses.

        Under a transformation such functions could keep tracers. NumPyro's driver recognises these kernels by
        the same attribute.
        """
        if not self._ready and getattr(self._kernel, "_sample_fn", None) is None:
            if self._one_prepares:
                keys, init_params = jax.tree.map(lambda leaf: leaf[0], (keys, init_params))
            self._start(self._kernel, keys, init_params, args, kwargs)
        self._ready = True

    def _start(self, kernel, keys, init_params, args, kwargs):
        if self._transform is not None:
            keys, init_params = jax.tree.map(lambda leaf: leaf[0], (keys, init_params))
        kernel.init(keys, self._num_warmup, init_params, model_args=tuple(args), model_kwargs=dict(kwargs))

    def _start_on_host(self, keys, init_params, args, kwargs):
        """The start of a kernel whose `init` reads values that it computes.

        A process cannot read arrays on the devices of another process. If there are several, each process
        starts all chains by itself, and then the chains are spread over the processes.
        """
        self._ready = True
        processes, groups = self._groups.processes, self._groups
        state = self._kernel.init(
            keys if processes.count > 1 else groups.placed(keys),
            self._num_warmup,
            init_params,
            model_args=tuple(args),
            model_kwargs=dict(kwargs),
        )
        state = jax.tree.map(_strong, state)
        if processes.count == 1:
            return state
        processes.check_same(state, f"The start of {type(self._kernel).__name__}")
        return groups.placed(state)

    def _traced_init(self, keys, init_params, values):
        args, kwargs = self._split.arguments(values)

        def start(keys_and_params):
            key, params = keys_and_params
            kernel = fresh_copy(self._pristine)  # a traced `init` leaves tracers in its kernel
            state = kernel.init(key, self._num_warmup, params, model_args=args, model_kwargs=kwargs)
            return jax.tree.map(_strong, state)

        return self._groups.constrained((self._transform or _unchanged)(start)((keys, init_params)))

    def _traced_advance(self, state, rows, stride, values, *, capacity):
        args, kwargs = self._split.arguments(values)

        def chunk(state):
            return self._chunk(state, rows, stride, capacity, args, kwargs)

        state, counts, fields = (self._transform or _unchanged)(chunk)(state)
        if self._groups.mesh is not None:
            everywhere = NamedSharding(self._groups.mesh, PartitionSpec())
            counts = jax.lax.with_sharding_constraint(counts, everywhere)
        return self._groups.constrained(state), counts, self._groups.constrained(fields, axis=1)

    def _chunk(self, state, rows, stride, capacity, args, kwargs):
        kernel = self._kernel
        like = jax.eval_shape(lambda state: self._collect(kernel, state, args, kwargs), state)
        buffers = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), like)
        counts = jax.tree.map(jnp.zeros_like, _count(state))

        def sample(state):
            return kernel.sample(state, args, kwargs)

        def step(_, carry):
            state, counts = carry
            state = (jax.vmap(sample) if self._mapped else sample)(state)
            return state, jax.tree.map(jnp.add, counts, _count(state))

        def row(index, carry):
            state, counts, buffers = carry
            state, counts = jax.lax.fori_loop(0, stride, step, (state, counts))
            kept = self._collect(kernel, state, args, kwargs)
            buffers = jax.tree.map(lambda buffer, leaf: buffer.at[index].set(leaf), buffers, kept)
            return state, counts, buffers

        return jax.lax.fori_loop(0, rows, row, (state, counts, buffers))

    def _collect(self, kernel, state, args, kwargs):
        names, removed = self._fields
        first, *others = read_fields(kernel, names, state)
        keep = self._postprocess or kernel.postprocess_fn(args, kwargs)
        if self._chains is None:
            first = keep(first)
        elif jax.tree.leaves(first):
            first = jax.vmap(keep)(first)
        else:  # a model without latent sites
            first = jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (self._chains, *jnp.shape(leaf))), keep(first)
            )
        if removed:
            first = {name: value for name, value in first.items() if name not in removed}
        return (first, *others)


def read_fields(kernel: MCMCKernel, names: tuple[str, ...], state: Any) -> tuple[Any, ...]:
    """These fields of a state, the first of them the sample.

    Raises:
        ValueError: the state has no such field.
    """
    try:
        fields = nested_attrgetter(*names)(state)
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{', '.join(names[1:])}: not all are fields of {type(kernel).__name__}'s state, "
            f"which has {', '.join(getattr(state, '_fields', ()))}. Mend `extra_fields`."
        ) from error
    return (fields,) if len(names) == 1 else tuple(fields)


def fresh_copy(kernel: MCMCKernel) -> MCMCKernel:
    """A copy of a kernel and the kernels inside it, without what NumPyro's kernels leave out of a pickle."""

    def renewed(value):
        if isinstance(value, MCMCKernel):
            return fresh_copy(value)
        if type(value) in (list, tuple):
            return type(value)(map(renewed, value))
        return value

    twin = copy.copy(kernel)
    for name, value in list(vars(twin).items()):
        if isinstance(value, (MCMCKernel, list, tuple)):
            setattr(twin, name, renewed(value))
    return twin


def over_devices(mesh: Mesh) -> Callable:
    """The transform that gives each device of a one-dimensional mesh one entry of the leading axis."""
    spec = PartitionSpec(mesh.axis_names[0])

    def transform(function: Callable) -> Callable:
        def each(batch):
            outcome = function(jax.tree.map(lambda leaf: leaf[0], batch))
            return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], outcome)

        return jax.shard_map(each, mesh=mesh, in_specs=(spec,), out_specs=spec, check_vma=False)

    return transform


def _strong(leaf: Any) -> jax.Array:
    """The same numbers without weak types, so that a new state has the types of one read from a file."""
    leaf = jnp.asarray(leaf)
    if is_typed_key(leaf):
        return leaf
    return jax.lax.convert_element_type(leaf, leaf.dtype)


def _unchanged(function: Callable) -> Callable:
    """The transform of programs that already take the whole group."""
    return function


def _count(state: Any) -> ChunkCounts:
    """The counts of one iteration, read from the fields that exist in the state."""
    evaluations = getattr(state, "num_evals", getattr(state, "num_steps", jnp.zeros((), int)))
    accept = getattr(state, "accept_prob", jnp.zeros(()))
    diverging = getattr(state, "diverging", jnp.zeros((), bool))
    return ChunkCounts(jnp.asarray(evaluations), jnp.asarray(accept), jnp.asarray(diverging, int))
