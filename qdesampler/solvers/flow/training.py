"""Adam over the real numbers of a pytree, all steps in one compiled scan."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["minimise"]

_FINAL_RATE = 0.05  # learning rate at the end of the cosine, in units of the first
_CLIP = 5.0  # norm to which larger gradients are scaled down


@functools.partial(jax.jit, static_argnames=("loss", "steps"))
def minimise(
    loss: Callable[..., jax.Array], start: Any, key: jax.Array, steps: int, rate: float, *data: Any
) -> tuple[Any, jax.Array]:
    """The pytree after `steps` steps of Adam on `loss(tree, key, *data)`, and the losses, shape `(steps,)`.

    Leaves that are not real numbers (permutations) stay as they are. A step whose gradient is not finite is
    left out. The rate falls as a cosine.

    Args:
        loss: a scalar; static, so give the same function again.
        start: where the steps begin.
        key: a new one is derived for each step.
        steps: number of steps.
        rate: learning rate of the first step.
        *data: what the loss needs, such as scored points.

    Raises:
        ModuleNotFoundError: optax is not installed.
    """
    try:
        import optax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "FlowTrial needs the package optax, an optional extra: pip install 'qdesampler[flow]'.",
            name=error.name,
        ) from error
    leaves, tree = jax.tree.flatten(start)
    free = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def whole(numbers):
        rest = iter(numbers)
        return jax.tree.unflatten(
            tree, [next(rest) if f else leaf for f, leaf in zip(free, leaves, strict=True)]
        )

    schedule = optax.cosine_decay_schedule(1.0, steps, _FINAL_RATE)
    optimiser = optax.chain(
        optax.clip_by_global_norm(_CLIP), optax.scale_by_adam(), optax.scale_by_schedule(schedule)
    )

    def step(carry, key):
        numbers, state = carry
        value, slope = jax.value_and_grad(lambda n: loss(whole(n), key, *data))(numbers)
        sound = jnp.isfinite(value) & jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in slope]))
        update, moved = optimiser.update([jnp.where(sound, g, 0) for g in slope], state)
        numbers = jax.tree.map(lambda n, u: jnp.where(sound, n - rate * u, n), numbers, update)
        state = jax.tree.map(lambda new, old: jnp.where(sound, new, old), moved, state)
        return (numbers, state), value

    numbers = [leaf for f, leaf in zip(free, leaves, strict=True) if f]
    (numbers, _), losses = jax.lax.scan(
        step, (numbers, optimiser.init(numbers)), jax.random.split(key, steps)
    )
    return whole(numbers), losses
