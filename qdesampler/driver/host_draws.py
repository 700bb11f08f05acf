"""Draws that the kernel makes on the host, in the place of a compiled chunk."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from qdesampler.driver.program import ChainProgram, ChunkCounts, read_fields

__all__ = ["HostDraws", "HostSampler", "host_draws"]

_KEPT_TOGETHER = 512  # positions that are mapped to what is kept of them together


class HostSampler(Protocol):
    """What a kernel offers that can make iterations on the host.

    It is asked for by `kernel.host_sampler(state, iterations, model_args, model_kwargs)`, which returns None
    where the kernel prefers a compiled program for so many iterations (0: whatever their number).
    """

    def advance(self, state: Any, count: int) -> tuple[Any, Any]:
        """Make `count` iterations; returns the new state and all states, stacked on a leading axis."""
        ...


class HostDraws:
    """Chunks of one group of chains, with the results of `ChainProgram.advance`.

    Args:
        program: the program in whose place they are made.
        sampler: the kernel's.
        args: the model's arguments.
        kwargs: the model's keyword arguments.
    """

    def __init__(
        self, program: ChainProgram, sampler: HostSampler, args: Sequence[Any], kwargs: Mapping[str, Any]
    ):
        self._program, self._sampler = program, sampler
        keep = program.keep or program.kernel.postprocess_fn(tuple(args), dict(kwargs))
        self._keep = jax.jit(jax.vmap(keep))

    def advance(self, state: Any, rows: int, stride: int, *, keep: bool) -> tuple[Any, ChunkCounts, tuple]:
        """Make `rows * stride` iterations and keep every `stride`-th, if `keep`."""
        state, stacked = self._sampler.advance(state, rows * stride)
        made = (stacked.num_evals, stacked.accept_prob, stacked.diverging)
        counts = ChunkCounts(*(np.sum(leaf, 0) for leaf in made))
        if not keep:
            return state, counts, ()
        names, removed = self._program.fields
        kept = jax.tree.map(lambda leaf: leaf[stride - 1 :: stride], stacked)
        first, *others = read_fields(self._program.kernel, names, kept)
        first = self._mapped(first, rows)
        if removed:
            first = {name: value for name, value in first.items() if name not in removed}
        return state, counts, (first, *others)

    def _mapped(self, positions: Any, rows: int) -> Any:
        """What is kept of positions of shape (row, chain, ...), by one small program for any number."""
        chains = self._program.chains
        axes = (rows,) if chains is None else (rows, chains)
        total = int(np.prod(axes))
        flat = jax.tree.map(lambda leaf: leaf.reshape(total, *leaf.shape[len(axes) :]), positions)
        parts = []
        for first in range(0, total, _KEPT_TOGETHER):
            part = jax.tree.map(lambda leaf, first=first: leaf[first : first + _KEPT_TOGETHER], flat)
            size = min(_KEPT_TOGETHER, total - first)
            padded = jax.tree.map(lambda leaf: np.resize(leaf, (_KEPT_TOGETHER, *leaf.shape[1:])), part)
            parts.append(jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], self._keep(padded)))
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return jax.tree.map(lambda leaf: leaf.reshape(*axes, *leaf.shape[1:]), joined)


def host_draws(
    program: ChainProgram,
    states: Sequence[Any],
    iterations: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> list[HostDraws]:
    """One for each group of chains; empty where a compiled program is to make the draws.

    Args:
        program: the compiled programs.
        states: of the groups.
        iterations: of the whole run; 0: draws on the host are wanted whatever their number.
        args: the model's arguments.
        kwargs: the model's keyword arguments.
    """
    make = getattr(program.kernel, "host_sampler", None)
    if make is None or not program.is_plain or jax.default_backend() != "cpu":
        return []
    samplers = [make(state, iterations, tuple(args), dict(kwargs)) for state in states]
    if any(sampler is None for sampler in samplers):
        return []
    return [HostDraws(program, sampler, args, kwargs) for sampler in samplers]
