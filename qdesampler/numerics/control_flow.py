"""Control flow that stays cheap when chains are mapped by `jax.vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["update_if"]


def update_if(predicate: jax.Array, update: Callable[[Any], Any], operand: Any) -> Any:
    """`update(operand)` if `predicate` holds, else `operand`; skipped if no mapped chain needs the update.

    `vmap` of `lax.cond` with a mapped predicate computes both branches every time. Rare, costly updates (a
    matrix decomposition at the end of an adaptation window) would then run on every iteration of every chain.

    Args:
        predicate: boolean scalar.
        update: pure function of the operand that closes over no traced values and keeps structure, shapes and
            dtypes.
        operand: pytree of arrays.
    """

    @jax.custom_batching.custom_vmap
    def choose(predicate, operand):
        return jax.lax.cond(predicate, update, lambda same: same, operand)

    @choose.def_vmap
    def choose_mapped(axis_size, mapped, predicate, operand):
        operand = jax.tree.map(
            lambda leaf, is_mapped: (
                leaf if is_mapped else jnp.broadcast_to(leaf, (axis_size, *jnp.shape(leaf)))
            ),
            operand,
            mapped[1],
        )
        every = predicate if mapped[0] else jnp.broadcast_to(predicate, (axis_size,))

        def update_mapped(pair):
            each, values = pair
            updated = jax.vmap(update)(values)

            def pick(new, old):
                return jnp.where(each.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

            return each, jax.tree.map(pick, updated, values)

        _, result = update_if(jnp.any(every), update_mapped, (every, operand))
        return result, jax.tree.map(lambda _: True, result)

    return choose(predicate, operand)
